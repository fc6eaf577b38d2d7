"""Buffers, constants and sizes of a launch as text, for command lines."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..errors import LaunchError
from ..launch import matrix_unit
from ..library import Library
from ..strict import language

_FORMS = """A buffer is  NAME:dtype[shape]=value  where

    NAME    the kernel parameter's name, or its buffer index
    dtype   half, bfloat, float, char, uchar, short, ushort, int, uint, long, ulong, bool (float16, int32, ... as well)
    shape   numbers separated by commas; without [shape] it is a scalar
    value   random (normal for floating-point types, small numbers for integers; the same at every run), zeros,
            FILE.npy, or numbers separated by commas (one number fills the shape)

Shorter forms: NAME=FILE.npy takes type and shape from the file, NAME=FILE the bytes of any other file (for structs).
bfloat has no type in NumPy: its 16 bits are kept as uint16.

    x:half[4,1024]=random    count:uint=4096    out:float[4]=zeros    weights=weights.npy    params=params.bin"""
EXIT_STATUS = """exit status: 0 when all is well, 1 when check or run found something, 2 for
wrong input or a kernel that cannot be compiled or run. Errors go to the
standard error."""
_TYPES = {
    "half": "float16",
    "bfloat": "uint16",
    "float": "float32",
    "char": "int8",
    "uchar": "uint8",
    "short": "int16",
    "ushort": "uint16",
    "int": "int32",
    "uint": "uint32",
    "long": "int64",
    "ulong": "uint64",
    "bool": "uint8",
    "bfloat16": "uint16",
}
_TYPES.update({name: name for name in list(_TYPES.values())})
_FORM = re.compile(r"(?P<name>\w+)(?::(?P<dtype>\w+)(?:\[(?P<shape>[\d, ]*)\])?)?=(?P<value>.+)")


class Specification(NamedTuple):
    """One buffer: dtype is "" and shape None where the file decides."""

    name: str
    dtype: str
    shape: Optional[Tuple[int, ...]]
    value: str


def parse(text: str) -> Specification:
    """Raises LaunchError for text that is not NAME:dtype[shape]=value."""
    match = _FORM.fullmatch(text.strip())
    if not match:
        raise LaunchError(f"cannot read buffer {text!r}; write NAME:dtype[shape]=random, zeros, FILE.npy or numbers")
    name, dtype, shape, value = match.group("name", "dtype", "shape", "value")
    if dtype and dtype not in _TYPES:
        raise LaunchError(f"buffer {name}: no type {dtype!r}; known are {', '.join(_TYPES)}")
    sizes = tuple(int(n) for n in shape.split(",") if n.strip()) if shape is not None else None
    return Specification(name, dtype or "", sizes, value.strip())


def make(specification: Specification, index: int = 0):
    """The buffer as a NumPy array (bytes for a file that is none). index: of the buffer, varies the random numbers.

    Raises LaunchError for a missing file, numbers of a wrong count, or a type that is missing.
    """
    numpy = _numpy()
    name, dtype, shape, value = specification
    if not dtype:
        return _from_file(name, value)
    kind = numpy.dtype(_TYPES[dtype])
    if value == "zeros":
        return numpy.zeros(shape or 1, kind)
    if value == "random":
        return _random(dtype, shape or (1,), index)
    if value.endswith(".npy"):
        array = _from_file(name, value)
        if array.dtype != kind or (shape and array.shape != shape):
            wanted = f"{dtype}{list(shape or ())}"
            raise LaunchError(f"buffer {name}: {value} holds {array.dtype}{list(array.shape)}, not {wanted}")
        return array
    return _from_numbers(specification, kind)


def _numpy():
    try:
        import numpy
    except ImportError:
        raise LaunchError("buffers on the command line need NumPy: pip install numpy") from None
    return numpy


def _from_file(name: str, value: str):
    path = Path(value)
    try:
        return _numpy().load(path) if path.suffix == ".npy" else path.read_bytes()
    except (OSError, ValueError) as error:
        raise LaunchError(f"buffer {name}: cannot read {value}: {error}") from None


def _random(dtype: str, shape: Tuple[int, ...], index: int):
    numpy = _numpy()
    generator = numpy.random.default_rng(index)
    if dtype in ("bfloat", "bfloat16"):
        return (generator.standard_normal(shape).astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)
    kind = numpy.dtype(_TYPES[dtype])
    if kind.kind == "f":
        return generator.standard_normal(shape).astype(kind)
    return generator.integers(0, 2 if dtype == "bool" else 100, shape).astype(kind)


def _from_numbers(specification: Specification, kind):
    numpy = _numpy()
    name, dtype, shape, value = specification
    try:
        numbers = [float(n) if kind.kind == "f" or "bfloat" in dtype else _integer(n) for n in value.split(",")]
        array = numpy.array(numbers, numpy.float32 if "bfloat" in dtype else kind)
    except (ValueError, OverflowError) as error:
        wanted = f"random, zeros, a .npy file or {dtype} numbers"
        raise LaunchError(f"buffer {name}: {value!r} is not {wanted}: {error}") from None
    if "bfloat" in dtype:
        array = (array.view(numpy.uint32) >> 16).astype(numpy.uint16)
    if len(numbers) == 1:
        return numpy.full(shape or 1, array[0])
    if shape and math.prod(shape) != len(numbers):
        raise LaunchError(f"buffer {name}: {len(numbers)} numbers for shape {list(shape)}")
    return array.reshape(shape) if shape else array


def _integer(text: str) -> int:
    words = {"true": 1, "false": 0}
    return words[text.strip()] if text.strip() in words else int(text, 0)


def buffers(parameters: Sequence[dict], texts: Sequence[str]) -> List[object]:
    """Buffers by index for a kernel with these parameters (Kernel.parameters).

    Raises LaunchError for a name that the kernel does not have, one given twice, and one that is missing.
    """
    indices = {p["name"]: p["index"] for p in parameters if p["kind"] == "buffer"}
    found: Dict[int, object] = {}
    for text in texts:
        specification = parse(text)
        name = specification.name
        index = int(name) if name.isdigit() else indices.get(name)
        if index is None:
            raise LaunchError(f"the kernel has no buffer {name!r}; it has {', '.join(indices) or 'none'}")
        if index in found:
            raise LaunchError(f"buffer {name} is given twice")
        found[index] = make(specification, index)
    missing = [p["name"] for p in parameters if p["kind"] == "buffer" and not p["gate"] and p["index"] not in found]
    if missing:
        raise LaunchError(f"the kernel needs buffer {', '.join(missing)}; write {missing[0]}:dtype[shape]=value")
    return [found.get(i) for i in range(max(found, default=-1) + 1)]


def constants(texts: Sequence[str]) -> Dict[str, Union[bool, int, float]]:
    """Function constants from NAME=value: true and false, integers, other numbers. Raises LaunchError."""
    found: Dict[str, Union[bool, int, float]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            found[name.strip()] = _scalar(value.strip())
        except ValueError:
            equals = ""
        if not equals:
            raise LaunchError(f"cannot read constant {text!r}; write NAME=value, with true, false or a number")
    return found


def _scalar(text: str) -> Union[bool, int, float]:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text, 0)
    except ValueError:
        return float(text)


def three(name: str, text: str) -> Tuple[int, int, int]:
    """A size of up to three dimensions: 8 or 8,4 or 8,4,1. Raises LaunchError."""
    try:
        sizes = [int(n) for n in re.split(r"[,x]", text)]
    except ValueError:
        sizes = []
    if not 1 <= len(sizes) <= 3:
        raise LaunchError(f"{name} is up to three numbers, like 8,4,1; not {text!r}")
    return tuple(sizes + [1] * (3 - len(sizes)))


def launch_parser(subparsers, name: str, summary: str) -> argparse.ArgumentParser:
    """A command that launches a kernel, with the arguments that every such command has."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary}\n\n{_FORMS}",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="the .metal file")
    parser.add_argument("kernel", help="host name of the kernel")
    parser.add_argument("buffers", nargs="*", metavar="NAME:dtype[shape]=value", help="a buffer; see above")
    parser.add_argument("--grid", required=True, help="threadgroups, like 8,4,1")
    parser.add_argument("--threads", required=True, help="threads per threadgroup, like 128")
    parser.add_argument("--include", "-I", action="append", default=[], help="folder for #include lines")
    parser.add_argument("--constant", "-c", action="append", default=[], metavar="NAME=value", help="function constant")
    parser.add_argument("--fast-math", action="store_true", help="compile as Metal does by default; see Library")
    add_target(parser)
    parser.add_argument("--language", choices=language.NAMES, help="what the source is told; see Library")
    parser.add_argument("--matrix-unit", choices=matrix_unit.LAYOUTS, help="lane layout of cooperative tensors")
    sizes = {"action": "append", "type": int, "default": [], "metavar": "BYTES"}
    parser.add_argument("--threadgroup-memory", help="size of the next [[threadgroup(n)]] argument", **sizes)
    return parser


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--deployment-target", metavar="VERSION", help="of macOS, like 26.2; see Library")


def library(options: argparse.Namespace) -> Library:
    """The library that a launching command names. Raises SimulatorError."""
    chosen = {name: getattr(options, name) for name in ("fast_math", "language", "deployment_target")}
    return Library(options.file, options.include, **chosen)
