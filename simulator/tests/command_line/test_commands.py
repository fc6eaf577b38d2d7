"""The command line: what it prints, and its exit status: 0, 1 for findings, 2 for wrong input without a traceback."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from metal_simulator import __version__

PACKAGE = pathlib.Path(__file__).parents[2]
KERNEL = """#include <metal_stdlib>
using namespace metal;
constant float factor [[function_constant(0)]];
kernel void scale(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                  constant uint& count [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i < count) out[i] = x[i] * factor;
}
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command("check", "scale.metal") runs it in a folder that holds scale.metal: (status, output, errors)."""
    (tmp_path / "scale.metal").write_text(KERNEL)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE) + os.pathsep + os.environ.get("PYTHONPATH", ""))

    def run(*arguments):
        line = [sys.executable, "-m", "metal_simulator", *arguments]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    run.folder = tmp_path
    return run


GOOD = ["run", "scale.metal", "scale", "x:float[64]=random", "out:float[64]=zeros", "count:uint=64"]
SIZES = ["--grid", "2", "--threads", "32"]
CONSTANT = ["-c", "factor=2.0"]


def test_version(command):
    status, output, _ = command("--version")
    assert status == 0 and re.search(rf"^metal_simulator {re.escape(__version__)} with .*clang version \d+", output)


@pytest.mark.parametrize("line", [["--help"], ["check", "--help"], ["run", "--help"], ["report", "--help"]])
def test_help(command, line):
    status, output, errors = command(*line)
    assert (status, errors) == (0, "") and "exit status: 0 when all is well" in output


def test_check(command):
    assert command("check", "scale.metal") == (0, "", "")
    (command.folder / "bad.metal").write_text(KERNEL.replace("x[i] *", "y[i] *"))
    status, output, _ = command("check", "scale.metal", "bad.metal")
    assert status == 1 and re.search(r"bad.metal:6:27: error: use of undeclared identifier 'y'", output)


def test_check_as_json(command):
    (command.folder / "bad.metal").write_text(KERNEL.replace("x[i] *", "y[i] *"))
    status, output, _ = command("check", "scale.metal", "bad.metal", "--json", "-")
    (found,) = json.loads(output)["diagnostics"]
    assert status == 1 and found["file"].endswith("bad.metal") and (found["line"], found["severity"]) == (6, "error")
    assert command("check", "scale.metal", "--json", "-") == (0, '{"diagnostics": []}\n', "")
    status, output, _ = command("check", "bad.metal", "--json", "found.json")
    assert status == 1 and "bad.metal:6:27: error" in output
    assert json.loads((command.folder / "found.json").read_text())["diagnostics"] == [found]


def test_run_as_json(command):
    short = [*GOOD[:5], "count:uint=65", *CONSTANT, "--grid", "3", "--threads", "32", "--json", "-"]
    status, output, _ = command(*short)
    result = json.loads(output)
    assert status == 1 and result["kernel"] == "scale" and result["threadgroups"] == 3 and result["checked"]
    assert {finding["memory"] for finding in result["findings"]} == {"buffer 0 (x)", "buffer 1 (out)"}
    assert all(finding["element"] == 64 and finding["count"] == 1 for finding in result["findings"])


def test_report_as_json(command):
    status, output, _ = command("report", *GOOD[1:], *SIZES, *CONSTANT, "--chip", "M1", "--json", "-")
    result = json.loads(output)
    assert status == 0 and result["profile"]["kernel"] == "scale" and len(result["predictions"]) == 1


def test_a_reader_that_has_seen_enough(command):
    """`head` closes the pipe before the report is printed."""
    line = [sys.executable, "-m", "metal_simulator", "report", *GOOD[1:], *SIZES, *CONSTANT]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(line, cwd=command.folder, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "")


def test_run_writes_outputs(command):
    np.save(command.folder / "x.npy", np.arange(64, dtype=np.float32))
    line = ["run", "scale.metal", "scale", "x=x.npy", *GOOD[4:], *SIZES, *CONSTANT, "--output", "out=out.npy"]
    status, output, errors = command(*line)
    assert (status, errors) == (0, "") and "2 threadgroups, 0 findings" in output
    assert np.array_equal(np.load(command.folder / "out.npy"), 2 * np.arange(64))


def test_run_reports_findings(command):
    status, output, _ = command(*GOOD[:5], "count:uint=65", *CONSTANT, "--grid", "3", "--threads", "32")
    assert status == 1 and "out" in output and "65" not in output.split("finding")[-1]


@pytest.mark.parametrize(
    "line, message",
    [
        (["check", "absent.metal"], "cannot read .*absent.metal"),
        (["run", "absent.metal", "scale", *SIZES], "cannot read .*absent.metal"),
        (["run", "scale.metal", "scael", *SIZES], "no kernel 'scael'.*did you mean scale"),
        ([*GOOD[:4], *SIZES, *CONSTANT], "out"),
        ([*GOOD, *SIZES], "function constant factor has no value"),
        ([*GOOD, *SIZES, "-c", "factr=1"], "no function constant 'factr'.*did you mean factor"),
        ([*GOOD, *SIZES, "-c", "factor=true"], "factor is float"),
        ([*GOOD, *CONSTANT, "--grid", "2", "--threads", "2048"], "1024"),
        ([*GOOD, *CONSTANT, "--grid", "2"], "--threads"),
        ([*GOOD, *SIZES, *CONSTANT, "--order", "sideways"], "--order is forward, reverse or a number"),
        ([*GOOD, *SIZES, *CONSTANT, "--output", "nothing=x.npy"], "no buffer 'nothing'"),
        ([*GOOD[:3], "x:float[64]=sometimes", *SIZES, *CONSTANT], "sometimes"),
        ([*GOOD[:3], "x:float[99999999999999]=zeros", *GOOD[4:], *SIZES, *CONSTANT], "not enough memory"),
        ([*GOOD, *SIZES, *CONSTANT, "--timeout", "0"], "timeout is a number of seconds above 0"),
        ([*GOOD, *SIZES, *CONSTANT, "--timeout", "soon"], "--timeout"),
        ([*GOOD, *SIZES, *CONSTANT, "--no-check", "--check-nan"], "--no-check goes with neither"),
        (["report", *GOOD[1:], *SIZES, *CONSTANT, "--chip", "M0"], "no chip 'M0'; known are M1,"),
        (["report", *GOOD[1:], *SIZES, *CONSTANT, "--json", "absent/x.json"], "cannot write absent/x.json"),
        (["check", "scale.metal", "--json", "absent/x.json"], "--json: cannot write absent/x.json: no folder absent"),
        (["check", "scale.metal", "--json", "."], "cannot write .: Is a directory"),
        ([*GOOD, *SIZES, *CONSTANT, "--print", "out", "--json", "-"], "give --json a file"),
        ([], "a command is needed"),
    ],
)
def test_wrong_input(command, line, message):
    status, output, errors = command(*line)
    assert status == 2 and output == "" and re.search(message, errors, re.DOTALL), errors


def test_compile_error(command):
    (command.folder / "bad.metal").write_text(KERNEL.replace("x[i] *", "y[i] *"))
    status, _, errors = command("run", "bad.metal", *GOOD[2:], *SIZES, *CONSTANT)
    assert status == 2 and re.search(r"bad.metal:6:27: error: use of undeclared identifier 'y'", errors)


def test_optional_checks(command):
    short = [*GOOD[:5], "count:uint=60", *CONSTANT, *SIZES]
    assert command(*short)[0] == 0
    status, output, _ = command(*short, "--check-written")
    assert status == 1 and "element never written: buffer 1 (out), element 60" in output
    (command.folder / "root.metal").write_text(KERNEL.replace("x[i] * factor", "sqrt(x[i])"))
    line = ["run", "root.metal", "scale", "x:float[64]=-1", *GOOD[4:], *SIZES]
    assert command(*line)[0] == 0
    status, output, _ = command(*line, "--check-nan")
    assert status == 1 and "NaN made from numbers" in output and "root.metal:6" in output


def test_fast_math(command):
    (command.folder / "nan.metal").write_text(KERNEL.replace("x[i] * factor", "isnan(x[i])"))
    line = ["run", "nan.metal", "scale", "x:float[3]=nan", "out:float[3]=zeros", "count:uint=3", *SIZES]
    line += ["--print", "out"]
    assert "out = [1. 1. 1.]" in command(*line)[1]
    assert "out = [0. 0. 0.]" in command(*line, "--fast-math")[1]
    status, _, errors = command(*line, "--fast-math", "--check-nan")
    assert status == 2 and "check_nan needs a build without fast math" in errors
    status, output, _ = command("report", *line[1:-2], "--fast-math", "--chip", "M1")
    assert status == 0 and "M1" in output


def test_endless_kernels_are_stopped(command):
    text = "#include <metal_stdlib>\nkernel void f(device float* x) {\n  while (true) {}\n}\n"
    (command.folder / "endless.metal").write_text(text)
    line = ["run", "endless.metal", "f", "x:float=0", "--grid", "1", "--threads", "1", "--timeout", "0.2"]
    status, _, errors = command(*line)
    assert status == 2 and "stopped after 0.2 seconds" in errors and "endless.metal:3" in errors


def test_cache_that_cannot_be_written(command, monkeypatch):
    monkeypatch.setenv("METAL_SIMULATOR_CACHE", "/proc/nowhere")
    status, output, errors = command(*GOOD, *SIZES, *CONSTANT)
    assert status == 2 and output == "" and "cannot write compiled kernels to /proc/nowhere" in errors


def test_missing_clang(command, monkeypatch):
    monkeypatch.setenv("METAL_SIMULATOR_CLANG", "/nowhere/clang")
    for line in (["--version"], ["check", "scale.metal"], [*GOOD, *SIZES, *CONSTANT]):
        status, _, errors = command(*line)
        assert status == 2 and "METAL_SIMULATOR_CLANG names '/nowhere/clang'" in errors


def test_the_guide(command, monkeypatch):
    """The README's five minutes, as written: its file, its commands, its Python."""
    guide = (PACKAGE / "README.md").read_text().split("## Five minutes")[1].split("\n## ")[0]
    blocks = re.findall(r"(?:^    .*\n|^\n)+", guide, re.MULTILINE)
    blocks = [re.sub("^    ", "", block, flags=re.MULTILINE).strip("\n") for block in blocks if block.strip()]
    kernel = next(block for block in blocks if block.startswith("#include"))
    python = next(block for block in blocks if block.startswith("import"))
    (command.folder / "scale.metal").write_text(kernel + "\n")
    commands = [
        line for block in blocks for line in block.replace("\\\n", "").splitlines() if "metal_simulator " in line
    ]
    commands = [line for line in commands if line.startswith("python -m metal_simulator")]
    assert len(commands) >= 3
    for line in commands:
        status, _, errors = command(*shlex.split(line, comments=True)[3:])
        assert status == 0, (line, errors)
    done = subprocess.run([sys.executable, "-c", python], cwd=command.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
