"""Metal's scalar and vector types, their values in NumPy, and conversions between them.

A value is an array of shape (lanes, components): Python integers for integers and bool, float16 for half, float32 for
float and for bfloat, whose values are kept rounded to 8 bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Undefined(Exception):
    """The Metal specification leaves the result open, or lets it differ in the last bit."""


class Scalar(NamedTuple):
    kind: str  # "bool", "signed", "unsigned" or "float"
    bits: int


SCALARS = {
    "bool": Scalar("bool", 8),
    "char": Scalar("signed", 8),
    "uchar": Scalar("unsigned", 8),
    "short": Scalar("signed", 16),
    "ushort": Scalar("unsigned", 16),
    "int": Scalar("signed", 32),
    "uint": Scalar("unsigned", 32),
    "long": Scalar("signed", 64),
    "ulong": Scalar("unsigned", 64),
    "half": Scalar("float", 16),
    "bfloat": Scalar("float", 16),
    "float": Scalar("float", 32),
}
INTEGERS = tuple(name for name, scalar in SCALARS.items() if scalar.kind in ("signed", "unsigned"))
FLOATS = ("half", "bfloat", "float")


class Type(NamedTuple):
    scalar: str
    size: int = 1  # components

    def __str__(self) -> str:
        return self.scalar + (str(self.size) if self.size > 1 else "")

    @property
    def is_float(self) -> bool:
        return self.scalar in FLOATS

    @property
    def is_integer(self) -> bool:
        return self.scalar in INTEGERS

    @property
    def bytes(self) -> int:
        return SCALARS[self.scalar].bits // 8 * {3: 4}.get(self.size, self.size)


TYPES = tuple(Type(scalar, size) for scalar in SCALARS for size in (1, 2, 3, 4))
BOOL, INT, UINT = Type("bool"), Type("int"), Type("uint")


def parse(name: str) -> Type:
    return next(t for t in TYPES if str(t) == name)


def limits(scalar: str) -> tuple[int, int]:
    """The least and the largest integer."""
    kind, bits = SCALARS[scalar]
    if kind == "bool":
        return 0, 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind == "signed" else (0, 2**bits - 1)


def integers(values) -> np.ndarray:
    return np.vectorize(int, otypes=[object])(values)


def wrapped(scalar: str, values: np.ndarray) -> np.ndarray:
    """Integers modulo 2^bits."""
    low, _ = limits(scalar)
    return (values - low) % 2 ** SCALARS[scalar].bits + low


def rounded(scalar: str, values: np.ndarray) -> np.ndarray:
    """Floating-point values, at most as precise as float32 beyond a rounding, in `scalar`, to nearest even."""
    with np.errstate(over="ignore"):
        values = values.astype(np.float16 if scalar == "half" else np.float32)
    if scalar == "bfloat":
        bits = values.view(np.uint32)
        values = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    if not np.isfinite(values).all():
        raise Undefined("infinity or NaN")
    if scalar != "half" and ((values != 0) & (np.abs(values) < 2.0**-126)).any():
        raise Undefined("a denormal, which may be flushed")
    return values


def convert(values: np.ndarray, source: str, target: str) -> np.ndarray:
    """Between scalar types; shapes stay."""
    if source == target:
        return values
    if target == "bool":
        return integers(values != 0)
    if source in FLOATS:
        if target in FLOATS:
            return rounded(target, values)
        whole = integers(np.trunc(values.astype(np.float64)))
        low, high = limits(target)
        if (whole < low).any() or (whole > high).any():
            raise Undefined("out of the range of an integer")
        return whole
    if target in FLOATS:
        if (np.abs(values) > 2 ** (24 if target == "bfloat" else 53)).any():
            raise Undefined("may be rounded twice")
        return rounded(target, values.astype(np.float64))
    return wrapped(target, values)


def words(type: Type, values: np.ndarray) -> np.ndarray:
    """Two 32-bit words for each component, as put() in runner.py stores them."""
    if type.is_float:
        bits = values.view(np.uint16 if type.scalar == "half" else np.uint32).astype(object)
        low = bits >> 16 if type.scalar == "bfloat" else bits
        high = low * 0
    else:
        low, high = values & 0xFFFFFFFF, values >> 32 & 0xFFFFFFFF
        if SCALARS[type.scalar].bits < 64:
            high = low * 0
    return np.stack([low, high], -1).astype(np.uint32).reshape(len(values), -1)


def memory(type: Type, values: np.ndarray) -> np.ndarray:
    """The bytes of each lane's value, as Metal lays it out: a vector of three takes the room of one of four."""
    if type.scalar == "bfloat":
        raw = (values.view(np.uint32) >> 16).astype(np.uint16)
    elif type.is_float:
        raw = values
    else:
        kind, bits = SCALARS[type.scalar]
        raw = values.astype(f"{'i' if kind == 'signed' else 'u'}{bits // 8}")
    raw = np.ascontiguousarray(raw).view(np.uint8).reshape(len(values), -1)
    return np.pad(raw, ((0, 0), (0, type.bytes - raw.shape[1])))
