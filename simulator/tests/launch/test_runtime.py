"""C and Python agree on what they share, or the runtime does not load."""

import ctypes
import os
import pathlib
import subprocess
import sys

import pytest
from metal_simulator import ToolchainError
from metal_simulator.launch import runtime
from metal_simulator.toolchain.clang import find_clang


@pytest.fixture
def load():
    """Loads the runtime as a new process does."""
    runtime.load.cache_clear()
    yield lambda: runtime.load(find_clang())
    runtime.load.cache_clear()


def changed(struct, change):
    """A struct whose fields are those of another, changed."""
    fields = list(struct._fields_)
    change(fields)
    return type(struct.__name__, (ctypes.Structure,), {"_fields_": fields})


def swap(fields):
    fields[0], fields[-1] = fields[-1], fields[0]


def widen(fields):
    name, kind = fields[0]
    fields[0] = (name, kind * 2)


def test_they_agree(load):
    load()
    assert set(runtime.STRUCTS) == {"Request", "Region", "Slot", "Finding", "Counters"}
    assert len(runtime.layout()) > 150


@pytest.mark.parametrize("change", [swap, widen])
@pytest.mark.parametrize("name", runtime.STRUCTS)
def test_a_struct_that_differs(load, monkeypatch, name, change):
    monkeypatch.setitem(runtime.STRUCTS, name, changed(runtime.STRUCTS[name], change))
    with pytest.raises(ToolchainError, match=rf"does not fit its Python: .*{name}.* is \d+ in C, \d+ in Python"):
        load()


def test_a_field_that_python_lacks(load, monkeypatch):
    monkeypatch.setitem(runtime.STRUCTS, "Slot", changed(runtime.STRUCTS["Slot"], lambda fields: fields.pop()))
    with pytest.raises(ToolchainError, match=r"Python: sizeof\(Slot\) is 16 in C, 8 in Python"):
        load()


def test_kernels_never_see_a_runtime_that_does_not_fit():
    program = """
import ctypes
from metal_simulator import ToolchainError
from metal_simulator.launch import runtime
from metal_simulator.toolchain.clang import find_clang

class Slot(ctypes.Structure):
    _fields_ = runtime.STRUCTS["Slot"]._fields_[:1]

right, runtime.STRUCTS["Slot"] = runtime.STRUCTS["Slot"], Slot
try:
    runtime.load(find_clang())
except ToolchainError as error:
    print(error, hasattr(ctypes.CDLL(None), "metal_launch"))
runtime.STRUCTS["Slot"] = right
runtime.load(find_clang())
print(hasattr(ctypes.CDLL(None), "metal_launch"))
"""
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.endswith("sizeof(Slot) is 16 in C, 8 in Python False\nTrue\n"), done.stdout + done.stderr


def test_a_field_that_c_lacks(load, monkeypatch):
    planted = changed(runtime.STRUCTS["Slot"], lambda fields: fields.append(("planted", ctypes.c_uint64)))
    monkeypatch.setitem(runtime.STRUCTS, "Slot", planted)
    with pytest.raises(ToolchainError, match="no member named 'planted' in 'Slot'"):
        load()


@pytest.mark.parametrize("name", ["MAX_BUFFERS", "QUAD_BALLOT", "DIVERGENT", "TOTAL_LINES", "offsetof(Context, shape)"])
def test_a_constant_that_differs(load, monkeypatch, name):
    right = runtime.CONSTANTS[name]
    monkeypatch.setitem(runtime.CONSTANTS, name, right + 1)
    with pytest.raises(ToolchainError) as error:
        load()
    said = f"{name} is {right} in C, {right + 1} in Python"
    assert str(error.value) == f"the simulator's runtime does not fit its Python: {said}"
