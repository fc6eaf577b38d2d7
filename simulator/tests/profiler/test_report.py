"""The report: text, JSON, picture, and the buffers of a command line."""

import argparse
import json
import struct
import sys

import numpy
import pytest
from clangs import since
from metal_simulator import LaunchError, SimulatorError
from metal_simulator.command_line import report as report_command
from metal_simulator.command_line import specification
from metal_simulator.profiler import cost_model, report
from metal_simulator.profiler.counters import Profile
from metal_simulator.profiler.plot import plot

KERNEL = """
constant float factor [[function_constant(0)]];
kernel void scale(device const half* x [[buffer(0)]], device half* out [[buffer(1)]],
                  constant uint& count [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i < count) out[i] = half(x[i] * factor);
}
"""
BUFFERS = ["x:half[100]=random", "out:half[100]=zeros", "count:uint=100"]


def command(*arguments):
    parser = argparse.ArgumentParser()
    report_command.add_command(parser.add_subparsers(required=True))
    options = parser.parse_args(["report", *map(str, arguments)])
    return options.run(options)


@pytest.fixture
def profile(written):
    kernel = written(KERNEL).kernel("scale", {"factor": 2.0})
    x, out = numpy.ones((2, 100), numpy.float16)
    return kernel.profile([x, out, struct.pack("I", 100)], (4, 1, 1), (32, 1, 1))


def test_profiles_survive_json(profile):
    assert Profile.from_json(profile.to_json()) == profile
    both = json.loads(json.dumps(report.as_fields(profile)))
    assert Profile.from_json(json.dumps(both["profile"])) == profile
    assert [p["chip"] for p in both["predictions"]] == [chip.name for chip in cost_model.CHIPS]
    assert both["label"] == cost_model.LABEL


def test_json_of_something_else_is_refused():
    with pytest.raises(ValueError, match="not a profile"):
        Profile.from_json("{}")


@since(18, "needs a register more for this kernel")
def test_text_shows_counters_memory_and_times(profile):
    text = report.text(profile)
    assert "kernel scale" in text and "4 x 1 x 1 threadgroups of 32 x 1 x 1 threads" in text
    words = [line.split() for line in text.splitlines()]
    assert ["x", "4", "200", "0", "200", "0", "1.00", "0"] in words
    assert cost_model.LABEL in text and report.LOADS in text
    assert "M1, M2: about 3 live, 3 as LLVM orders it; M3, M4, M5: about 3 live" in text
    assert "KB of machine code" in text and profile.instructions > 0
    assert all(any(chip.name in line for line in text.splitlines()) for chip in cost_model.CHIPS)


def test_command(written, tmp_path, capsys):
    library = written(KERNEL)
    target = tmp_path / "out.json"
    arguments = [library.source.path, "scale", *BUFFERS, "--grid", "4", "--threads", "32,1", "-c", "factor=2.0"]
    assert command(*arguments, "--chip", "m1 max", "--json", target) == 0
    shown = capsys.readouterr().out
    assert "M1 Max" in shown and "M4" not in shown.split("Time")[1].split("M1 Max")[1]
    assert Profile.from_json(json.dumps(json.loads(target.read_text())["profile"])).grid == (4, 1, 1)


@pytest.mark.parametrize(("change", "message"), [
    ({"--chip": "M9"}, "no chip 'M9'"),
    ({"--grid": "a"}, "--grid is up to three numbers"),
    ({"--grid": "1,2,3,4"}, "--grid is up to three numbers"),
    ({"-c": "factor"}, "cannot read constant 'factor'"),
    ({"-c": "factor=red"}, "cannot read constant 'factor=red'"),
])  # fmt: skip
def test_command_errors(written, change, message):
    options = {"--grid": "4", "--threads": "32", "-c": "factor=2.0", **change}
    flat = [text for pair in options.items() for text in pair]
    with pytest.raises(SimulatorError, match=message):
        command(written(KERNEL).source.path, "scale", *BUFFERS, *flat)


def test_plot(profile, tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "picture.png"
    plot(str(target), [("M1", report.simdgroup_clocks(profile, 7))], "scale")
    assert target.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SimulatorError, match="cannot write"):
        plot(str(tmp_path / "missing" / "picture.png"), [("M1", {"simple": 1.0})], "scale")


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(SimulatorError, match="pip install matplotlib"):
        plot("x.png", [], "")


PARAMETERS = [
    {"name": "x", "kind": "buffer", "index": 0, "gate": ""},
    {"name": "lse", "kind": "buffer", "index": 2, "gate": "writes_lse"},
    {"name": "lane", "kind": "thread_index_in_simdgroup", "index": -1, "gate": ""},
]


@pytest.mark.parametrize(("text", "dtype", "shape", "first"), [
    ("x:half[2,3]=zeros", "float16", (2, 3), 0),
    ("x:float[4]=1.5", "float32", (4,), 1.5),
    ("x:int[3]=1,-2,3", "int32", (3,), 1),
    ("x:uint=7", "uint32", (1,), 7),
    ("x:bfloat[2]=1.0", "uint16", (2,), 0x3F80),
    ("x:bool=true", "uint8", (1,), 1),
    ("x:long[2,2]=0x10", "int64", (2, 2), 16),
])  # fmt: skip
def test_buffer_specifications(text, dtype, shape, first):
    array = specification.make(specification.parse(text))
    assert (array.dtype, array.shape, array.flat[0]) == (numpy.dtype(dtype), shape, first)


def test_random_buffers_are_the_same_at_every_run():
    a, b = (specification.buffers(PARAMETERS, ["x:half[50]=random"])[0] for _ in range(2))
    assert (a == b).all() and a.std() > 0.5
    assert (specification.make(specification.parse("x:half[50]=random"), 1) != a).any()
    integers = specification.make(specification.parse("x:uchar[50]=random"))
    assert integers.dtype == numpy.uint8 and integers.max() < 100


def test_buffers_from_files(tmp_path):
    array = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
    numpy.save(tmp_path / "a.npy", array)
    (tmp_path / "params.bin").write_bytes(b"12345678")
    for text in (f"x={tmp_path}/a.npy", f"x:float[2,3]={tmp_path}/a.npy"):
        assert (specification.make(specification.parse(text)) == array).all()
    assert specification.make(specification.parse(f"x={tmp_path}/params.bin")) == b"12345678"
    with pytest.raises(LaunchError, match=r"holds float32\[2, 3\], not half\[6\]"):
        specification.make(specification.parse(f"x:half[6]={tmp_path}/a.npy"))
    with pytest.raises(LaunchError, match="cannot read nowhere.npy"):
        specification.make(specification.parse("x=nowhere.npy"))


def test_buffers_by_name_and_by_index():
    found = specification.buffers(PARAMETERS, ["2:float=3", "x:half[4]=zeros"])
    assert [None if b is None else b.dtype.name for b in found] == ["float16", None, "float32"]
    assert len(specification.buffers(PARAMETERS, ["x:half=1"])) == 1  # lse may be absent


@pytest.mark.parametrize(("texts", "message"), [
    (["x"], "cannot read buffer 'x'"),
    (["x:half[a]=zeros"], "cannot read buffer"),
    (["x:quarter=zeros"], "no type 'quarter'"),
    (["y:half=zeros"], "no buffer 'y'; it has x, lse"),
    (["x:half=zeros", "0:half=zeros"], "given twice"),
    (["2:half=zeros"], "needs buffer x"),
    (["x:int=1.5"], "is not random, zeros"),
    (["x:uchar=300"], "is not random, zeros"),
    (["x:int[3]=1,2"], r"2 numbers for shape \[3\]"),
])  # fmt: skip
def test_wrong_buffers(texts, message):
    with pytest.raises(LaunchError, match=message):
        specification.buffers(PARAMETERS, texts)


def test_constants():
    assert specification.constants(["a=true", "b = -3", "c=0x10", "d=1e-3"]) == {"a": True, "b": -3, "c": 16, "d": 1e-3}


def test_sizes():
    assert specification.three("--grid", "8") == (8, 1, 1)
    assert specification.three("--grid", "8,4") == (8, 4, 1)
    assert specification.three("--grid", "8x4x2") == (8, 4, 2)
