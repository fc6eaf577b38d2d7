"""Ask Apple's tools about everything that they alone can judge: `make mac`, on a Mac with Xcode 26.

* Apple's compiler accepts every shader, with the flags of the compiled variant and in the oldest language that the
  run-time variant meets, and a sample of the texts that the run-time launcher makes (specialisations.py);
* the Objective-C++ launcher is right with Apple's own headers;
* metal-tt, where there is one, makes native code of the sample: its registers and spills are printed, as hints;
* where the GPU is usable, the self-test passes.

Exits with status 1 if anything is refused or wrong, 2 without Apple's tools. Needs torch. It has not run on a Mac yet:
what was tried is this file, on stand-ins for Apple's tools.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import native_code
import specialisations
import typecheck
import wheel

ROOT = Path(__file__).resolve().parent.parent
SHADERS = (*sorted((ROOT / "flash_sdpa").glob("*.metal")), ROOT / "tests" / "kernels" / "primitives.metal")
COMPILED = ("-std=metal4.0", "-O2")  # what the kernel builder passes
RUN_TIME = ("-std=metal3.1",)  # the language of macOS 14, the oldest system of the run-time variant
FAMILIES = ("apple7", "apple9")  # M1; M3 and M4
REPORT = ROOT / "build" / "selftest.json"
SECONDS = 900  # for one run of a tool
PROBE = """
import sys, torch
if not torch.backends.mps.is_available():
    sys.exit("torch finds none")
text = '''#include <metal_stdlib>
using namespace metal;
kernel void probe(device float* out [[buffer(0)]]) {
  simdgroup_matrix<bfloat, 8, 8> one = make_filled_simdgroup_matrix<bfloat, 8, 8>(bfloat(1));
  simdgroup_matrix<float, 8, 8> sum = make_filled_simdgroup_matrix<float, 8, 8>(0);
  simdgroup_multiply_accumulate(sum, one, one, sum);
  simdgroup_store(sum, out, 8);
}'''
try:
    out = torch.zeros(64, device="mps")
    torch.mps.compile_shader(text).probe(out, threads=[32, 1, 1], group_size=[32, 1, 1])
    found = out.cpu().tolist()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {str(error).splitlines()[0]}")
sys.exit(None if found == [8.0] * 64 else f"a product of 8x8 matrices is {found}")
"""


class Unit(NamedTuple):
    """One run of Apple's compiler."""

    name: str
    source: Path
    flags: tuple[str, ...]


def tool(*command: str, env=None) -> subprocess.CompletedProcess:
    """Runs one of Apple's tools to its end. One that does not start or end is one that fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", env=env, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def xcrun(*command: str) -> subprocess.CompletedProcess:
    return tool("xcrun", "-sdk", "macosx", *command)


def compile_unit(unit: Unit, folder: Path) -> bool:
    """Compiles into `folder` and prints what the compiler says."""
    started = time.monotonic()
    done = xcrun("metal", *unit.flags, "-c", f"-I{ROOT / 'flash_sdpa'}", str(unit.source), "-o", str(air(unit, folder)))
    is_accepted = done.returncode == 0 and air(unit, folder).is_file()
    state = "accepted" if is_accepted else "REFUSED"
    lines = [f"[Apple's compiler] {unit.name}, {' '.join(unit.flags)}: {state}, {time.monotonic() - started:.1f} s"]
    print("\n  ".join(lines + done.stderr.splitlines()[:40]), flush=True)
    return is_accepted


def air(unit: Unit, folder: Path) -> Path:
    return folder / f"{unit.source.stem}{unit.flags[0]}.air"


def units(package, folder: Path) -> tuple[list[Unit], dict[Unit, specialisations.Specialisation]]:
    """All that is compiled; those in the sample, as metal-tt gets them, with their specialisations."""
    everything = [Unit(source.name, source, flags) for source in SHADERS for flags in (COMPILED, RUN_TIME)]
    sample = {}
    for number, chosen in enumerate(specialisations.sample(package)):
        source = folder / f"specialised{number}.metal"
        source.write_text(specialisations.text(package, chosen), encoding="ascii")
        features = "+".join(name for name, value in chosen.constants if value) or "no feature"
        name = f"{chosen.kernel} with {features}"
        sample[Unit(name, source, COMPILED)] = chosen
        everything += [Unit(name, source, COMPILED), Unit(name, source, RUN_TIME)]
    return everything, sample


def native(unit: Unit, kernel: str, folder: Path) -> str:
    """What metal-tt makes of one compiled text, in a line."""
    words = []
    library = air(unit, folder).with_suffix(".metallib")
    done = xcrun("metallib", str(air(unit, folder)), "-o", str(library))
    if done.returncode:
        return f"[native code] {unit.name}: no library: {last_line(done)}"
    script = library.with_suffix(".mtlp-json")  # metal-pipelines-script(5); one kernel, so that it is known whose
    script.write_text(json.dumps({"pipelines": {"compute_pipelines": [{"compute_function": kernel}]}}))
    for family in FAMILIES:
        binary = library.with_suffix(f".{family}")
        done = xcrun("metal-tt", "-gpu-family", family, str(library), str(script), "-o", str(binary))
        if done.returncode or not binary.is_file():
            words.append(f"{family} not made: {last_line(done)}")
            continue
        found = native_code.usages(binary.read_bytes())
        if found:  # the worst of a family's GPUs
            registers, spilled = (max(values) for values in zip(*found))
            words.append(f"{family} {registers} registers, {spilled} bytes spilled")
        else:
            words.append(f"{family} made, {binary.stat().st_size} bytes that are not understood")
    return f"[native code] {unit.name}: {'; '.join(words)}"


def last_line(done: subprocess.CompletedProcess) -> str:
    return (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]


def typecheck_launcher() -> bool:
    is_right = True
    for source in typecheck.SOURCES:
        done = tool(*typecheck.command_with_sdk(source))
        state = "WRONG" if done.returncode else "right"
        lines = [f"[Apple's headers] {source.name}: {state}", *done.stderr.splitlines()[:40]]
        print("\n  ".join(lines), flush=True)
        is_right &= done.returncode == 0
    return is_right


def selftest(installed: Path, report: Path, count: int) -> tuple[str, bool]:
    """What happened, and whether nothing is wrong: without a usable GPU, nothing is."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    probe = tool(sys.executable, "-c", PROBE, env=environment)
    if probe.returncode:
        return f"not run, this machine's GPU is not usable: {last_line(probe)}", True
    report.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "metal_flash_sdpa.selftest", "--no-timing"]
    command += ["--count", str(count), "--report", str(report)]
    try:
        status = subprocess.run(command, env=environment, timeout=SECONDS).returncode
    except subprocess.TimeoutExpired:
        return f"WRONG: not done after {SECONDS} s", False
    return ("passed" if status == 0 else f"WRONG: status {status}") + f", report in {report}", status == 0


def check(package, installed: Path, folder: Path, report: Path, count: int) -> int:
    """Everything about the module `package`, in the folder `installed`; what lies in between goes to `folder`.

    Returns the exit status.
    """
    everything, sample = units(package, folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        accepted = list(pool.map(functools.partial(compile_unit, folder=folder), everything))
        refused = [unit for unit, is_accepted in zip(everything, accepted) if not is_accepted]
        if xcrun("--find", "metal-tt").returncode:
            print("[native code] no metal-tt here: nothing is known of registers and spills")
        else:
            kept = [(unit, chosen.kernel, folder) for unit, chosen in sample.items() if unit not in refused]
            for line in pool.map(native, *zip(*kept)) if kept else ():
                print(line, flush=True)
    is_right = typecheck_launcher()
    outcome, passed = selftest(installed, report, count)
    print(f"\nApple's compiler: {len(everything) - len(refused)} of {len(everything)} accepted")
    for unit in refused:
        print(f"  REFUSED {unit.name}, {' '.join(unit.flags)}")
    print(f"Apple's headers: {'right' if is_right else 'WRONG'}\nself-test: {outcome}")
    return 0 if not refused and is_right and passed else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mac", description="Ask Apple's tools; on a Mac with Xcode 26.")
    parser.add_argument("--report", type=Path, default=REPORT, help="of the self-test")
    parser.add_argument("--count", type=int, default=90, help="random problems of the self-test; default: 90")
    options = parser.parse_args()
    if not shutil.which("xcrun"):
        print("make mac: xcrun is not there: this needs a Mac with Xcode 26; elsewhere, make check", file=sys.stderr)
        return 2
    version = xcrun("metal", "--version")
    if version.returncode:
        hint = "run xcodebuild -downloadComponent MetalToolchain"
        print(f"make mac: no Metal compiler: {last_line(version)}; {hint}", file=sys.stderr)
        return 2
    print(version.stdout.splitlines()[0] if version.stdout else "a compiler without a version", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder, installed = Path(temporary), Path(temporary, "installed")
        zipfile.ZipFile(wheel.write_wheel(folder)).extractall(installed)
        sys.path.insert(0, str(installed))
        package = importlib.import_module("metal_flash_sdpa")
        return check(package, installed, folder, options.report.resolve(), options.count)


if __name__ == "__main__":
    sys.exit(main())
