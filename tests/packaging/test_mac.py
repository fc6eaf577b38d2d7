"""`make mac`, on stand-ins for Apple's tools: it asks about everything, and fails when anything is refused."""

from __future__ import annotations

import itertools
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import mac
import native_code
import pytest
import specialisations
from shader_library import ShaderLibrary

XCRUN = """\
#!/bin/sh
# xcrun -sdk macosx TOOL ...: records its arguments; refuses what holds $REFUSE; makes what follows -o.
echo "$*" >> "$LOG"
case "$3" in
    --find) exit ${NO_TT:-0} ;;
    metal-tt)
        [ -n "$TT_FAILS" ] && { echo "unknown family" >&2; exit 1; }
        for last; do :; done
        cp "$NATIVE" "$last"
        exit ;;
esac
case "$*" in
    *--version*)
        [ -n "$NO_METAL" ] && { echo "cannot execute tool 'metal'" >&2; exit 1; }
        echo "Apple metal 0"
        exit ;;
esac
[ -n "$REFUSE" ] && case "$*" in
    *$REFUSE*) echo "somewhere.metal:3:1: error: expected unqualified-id" >&2; exit 1 ;;
esac
[ -n "$REFUSE" ] && for argument; do
    [ -f "$argument" ] && grep -q "$REFUSE" "$argument" && { echo "$argument:9:1: error: no" >&2; exit 1; }
done
[ -n "$SILENT" ] && exit 0
for last; do :; done
[ "$3" = clang++ ] || echo made > "$last"
"""
SELFTEST = "import os, sys\nprint('tested', *sys.argv[1:], flush=True)\nsys.exit(int(os.environ.get('SELFTEST', 0)))\n"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch) -> Path:
    """Stand-ins; returns the log of what is asked of them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "xcrun").write_text(XCRUN)
    (folder / "xcrun").chmod(0o755)
    (tmp_path / "native").write_bytes(native(71, 0))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("NATIVE", str(tmp_path / "native"))
    monkeypatch.setattr(mac, "PROBE", "raise SystemExit('the GPU is a picture of one')")
    monkeypatch.setattr(specialisations, "PROBLEMS", 9)
    return tmp_path / "log"


def check(metal_kernel, folder: Path) -> int:
    installed = folder / "installed" / "metal_flash_sdpa" / "selftest"
    installed.mkdir(parents=True)
    (installed.parent / "__init__.py").touch()
    (installed / "__init__.py").touch()
    (installed / "__main__.py").write_text(SELFTEST)
    return mac.check(metal_kernel, folder / "installed", folder, folder / "reports" / "selftest.json", 7)


def test_everything_is_asked(metal_kernel, tools: Path, tmp_path: Path, capfd) -> None:
    assert check(metal_kernel, tmp_path) == 0
    printed, asked = capfd.readouterr().out, tools.read_text().splitlines()
    compiled = [line for line in asked if line.startswith("-sdk macosx metal -std")]
    for source in ("attention_forward.metal", "attention_combine.metal", "primitives.metal"):
        flags = sorted(line.split(" -c ")[0] for line in compiled if f"/{source} -o" in line)
        assert flags == ["-sdk macosx metal -std=metal3.1", "-sdk macosx metal -std=metal4.0 -O2"], source
    sample = specialisations.sample(metal_kernel)
    shaders = [*(mac.ROOT / "flash_sdpa").glob("*.metal"), "primitives.metal"]
    assert len(compiled) == 2 * (len(shaders) + len(sample)) and len(sample) > 5
    assert f"Apple's compiler: {len(compiled)} of {len(compiled)} accepted" in printed
    for chosen in sample:
        assert f"[native code] {chosen.kernel} with" in printed
    assert printed.count("apple7 71 registers, 0 bytes spilled; apple9 71 registers") == len(sample)
    checked = [line for line in asked if line.startswith("-sdk macosx clang++")]
    assert [line.split("/")[-1] for line in checked] == ["launch.mm", "torch_binding.cpp"]
    assert all("-fsyntax-only" in line and "tools/apple/generated" in line for line in checked)
    assert not any("tools/apple " in line or "nostdinc" in line for line in checked)  # Apple's own headers
    assert "self-test: not run, this machine's GPU is not usable: the GPU is a picture of one" in printed


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ("attention_combine.metal", "attention_combine.metal, -std=metal3.1"),
        ("-std=metal4.0", "attention_forward.metal, -std=metal4.0 -O2"),
        ("constant constexpr bool is_paged = true", r"attention_forward_\w+ with [\w+]*is_paged[\w+]*, -std=metal3.1"),
        ("launch.mm", None),
    ],
)
def test_whatever_is_refused_is_named(metal_kernel, tools, tmp_path, monkeypatch, capfd, refused, named) -> None:
    monkeypatch.setenv("REFUSE", refused)
    assert check(metal_kernel, tmp_path) == 1
    printed = capfd.readouterr().out
    if named:
        assert re.search(f"(?m)^  REFUSED {named}$", printed) and "error: " in printed
        assert "Apple's headers: right" in printed
    else:
        assert "[Apple's headers] launch.mm: WRONG" in printed and "Apple's headers: WRONG" in printed
        assert "REFUSED" not in printed


def test_a_compiler_that_makes_nothing_has_accepted_nothing(metal_kernel, tools, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("SILENT", "yes")
    assert check(metal_kernel, tmp_path) == 1
    assert "Apple's compiler: 0 of " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("NO_TT=1", "no metal-tt here: nothing is known of registers and spills"),
        ("TT_FAILS=yes", "apple7 not made: unknown family; apple9 not made: unknown family"),
        (f"NATIVE={__file__}", "apple7 made, "),
    ],
)
def test_native_code_is_never_required(metal_kernel, tools, tmp_path, monkeypatch, capfd, setting, words) -> None:
    monkeypatch.setenv(*setting.split("="))
    assert check(metal_kernel, tmp_path) == 0
    printed = capfd.readouterr().out
    assert words in printed and "registers, " not in printed


@pytest.mark.parametrize(("status", "outcome"), [(0, "passed, report in "), (1, "WRONG: status 1, report in ")])
def test_the_self_test_counts_where_the_gpu_is_usable(
    metal_kernel, tools, tmp_path, monkeypatch, capfd, status: int, outcome: str
) -> None:
    monkeypatch.setattr(mac, "PROBE", "pass")
    monkeypatch.setenv("SELFTEST", str(status))
    assert check(metal_kernel, tmp_path) == status
    printed = capfd.readouterr().out
    assert f"tested --no-timing --count 7 --report {tmp_path}/reports/selftest.json\n" in printed
    assert f"self-test: {outcome}" in printed


def test_the_probe_says_why_the_gpu_is_not_usable() -> None:
    result = subprocess.run([sys.executable, "-c", mac.PROBE], capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr == "torch finds none\n"


def command(environment: dict) -> subprocess.CompletedProcess:
    tool = [sys.executable, str(mac.ROOT / "tools" / "mac.py")]
    environment = {**environment, "PYTHONPATH": str(mac.ROOT / "simulator")}
    return subprocess.run(tool, env=environment, capture_output=True, text=True, check=False)


def test_without_apple_s_tools_it_says_so(tools: Path) -> None:
    elsewhere = command({"PATH": "/usr/bin:/bin"})
    assert elsewhere.returncode == 2
    assert elsewhere.stderr.startswith("make mac: xcrun is not there: this needs a Mac with Xcode 26")
    no_component = command({**os.environ, "NO_METAL": "yes"})
    assert no_component.returncode == 2
    assert "cannot execute tool 'metal'; run xcodebuild -downloadComponent MetalToolchain" in no_component.stderr


@pytest.fixture(scope="module")
def sample(metal_kernel):
    return specialisations.sample(metal_kernel)


def test_the_sample_meets_every_loader_dtype_and_feature(metal_kernel, sample) -> None:
    words = {word for chosen in sample for word in chosen.kernel.split("_")}
    assert {"f16", "bf16", "f32", "staged", "direct", "combine", "d32", "d64", "d72", "d80", "d96", "d128"} <= words
    for pair in itertools.product(("f16", "bf16", "f32"), ("staged", "direct")):
        assert any(set(pair) <= set(chosen.kernel.split("_")) for chosen in sample), pair
    constants = set(re.findall(r"constant bool (\w+)", (mac.ROOT / "flash_sdpa" / "function_constants.h").read_text()))
    met = {constant for chosen in sample for constant in chosen.constants}
    assert met >= {(name, value) for name in constants for value in (True, False)}
    assert len(sample) < 60 and len(set(sample)) == len(sample)


@pytest.mark.nightly
def test_the_texts_of_the_sample_have_their_kernels_and_pass_the_strict_check(
    metal_kernel, sample, tmp_path: Path
) -> None:
    """Every fifth is checked: their text is that of the shaders, which `make check` checks whole."""
    for number, chosen in enumerate(sample):
        folder = tmp_path / str(number)
        folder.mkdir()
        library = ShaderLibrary(specialisations.text(metal_kernel, chosen), folder).library
        assert chosen.kernel in library.kernels
        if number % 5 == 0:
            assert [found for found in library.check() if found.severity == "error"] == [], chosen


def native(registers: int, spilled: int, kind: bytes = b"__GPU_METADATA") -> bytes:
    """A Mach-O that holds another one, with a FlatBuffer of two tables, as metal-tt's files are said to be."""
    places = [0] * 15
    places[0], places[3], places[14] = 4, 8, 12 if spilled else 0
    kernel = struct.pack("<2H15H", 34, 16, *places) + struct.pack("<i3I", 34, registers, 7, spilled)
    other = struct.pack("<2H2H", 8, 8, 4, 0) + struct.pack("<iI", 8, 900)
    inner = mach_o(kind, b"\x10\0\0\0" + other + kernel)
    return mach_o(b"__TEXT", inner) + inner  # an object for each of two GPUs


def mach_o(segment: bytes, contents: bytes) -> bytes:
    header = b"\xcf\xfa\xed\xfe" + struct.pack("<7I", 0, 0, 1, 2, 16 + 152, 0, 0)
    uuid = struct.pack("<2I8x", 0x1B, 16)
    start = len(header) + len(uuid) + 152
    command = struct.pack("<2I16s4Q4I", 0x19, 152, segment, 0, 0, start, len(contents), 7, 7, 1, 0)
    section = struct.pack("<16s16s2Q8I", b"__compute", segment, 0, len(contents), start, *[0] * 7)
    return header + uuid + command + section + contents


def test_registers_and_spills_of_native_code() -> None:
    assert native_code.usages(native(71, 0)) == [native_code.Usage(71, 0)] * 2
    assert native_code.usages(native(128, 400)) == [native_code.Usage(128, 400)] * 2
    assert native_code.usages(native(71, 0, b"__GPU_OTHER")) == []


def test_a_file_that_is_not_understood_gives_nothing() -> None:
    """Whatever is cut off, or changed: at most other numbers, never an exception."""
    whole = native(71, 16)
    for length in range(0, len(whole), 3):
        assert len(native_code.usages(whole[:length])) <= 2
    for place in range(len(whole)):
        for byte in (0, 1, 255):
            native_code.usages(whole[:place] + bytes([byte]) + whole[place + 1 :])
