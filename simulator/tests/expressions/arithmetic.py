"""What Metal's operators compute, by its specification: C++ on scalars, component by component on vectors."""

from __future__ import annotations

from typing import Optional

import numpy as np

from .types import FLOATS, SCALARS, Type, Undefined, convert, integers, limits, rounded, wrapped

COMPARISONS = {
    "<": np.less,
    ">": np.greater,
    "<=": np.less_equal,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


def promoted(scalar: str) -> str:
    return "int" if SCALARS[scalar].kind != "float" and SCALARS[scalar].bits < 32 else scalar


def common(a: str, b: str) -> Optional[str]:
    """The type in which two scalars meet; None where Metal has none without a cast."""
    if a in FLOATS or b in FLOATS:
        if a == b:
            return a
        if a in FLOATS and b in FLOATS:
            return None if {a, b} == {"half", "bfloat"} else "float"
        floating = a if a in FLOATS else b
        return None if floating == "bfloat" else floating
    a, b = promoted(a), promoted(b)
    order = ("int", "uint", "long", "ulong")
    return max(a, b, key=order.index)


def operands(a: Type, b: Type) -> Optional[Type]:
    """The type in which two operands meet: a scalar takes the type of a vector's components."""
    if a.size == b.size == 1:
        scalar = common(a.scalar, b.scalar)
        return Type(scalar) if scalar else None
    if a.size > 1 and b.size > 1:
        return a if a == b else None
    vector, scalar = (a, b) if a.size > 1 else (b, a)
    return vector if converts(scalar.scalar, vector.scalar) else None


def converts(source: str, target: str) -> bool:
    """Whether a scalar converts without a cast: bfloat comes from bfloat alone, and becomes float alone."""
    if source == target:
        return True
    return target != "bfloat" and (source != "bfloat" or target == "float")


def binary(operator: str, scalar: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Both operands in one type, which is that of the result, too; comparisons give 0 and 1."""
    if operator in COMPARISONS:
        return integers(COMPARISONS[operator](a, b))
    if scalar in FLOATS:
        with np.errstate(all="ignore"):
            if operator == "/" and (b == 0).any():
                raise Undefined("division by zero")
            exact = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}[operator](a, b)
        return rounded(scalar, exact)
    if operator == "%":
        in_range(scalar, _divide(a, b))
    return in_range(scalar, _INTEGER[operator](a, b))


def in_range(scalar: str, values: np.ndarray) -> np.ndarray:
    if SCALARS[scalar].kind == "unsigned":
        return wrapped(scalar, values)
    low, high = limits(scalar)
    if (values < low).any() or (values > high).any():
        raise Undefined("signed overflow")
    return values


def shift(operator: str, scalar: str, a: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """`scalar` is the type of what is shifted."""
    if (amount < 0).any() or (amount >= SCALARS[scalar].bits).any():
        raise Undefined("shift beyond the width")
    if operator == ">>":
        return a >> amount
    if (a < 0).any():
        raise Undefined("left shift of a negative number")
    return in_range(scalar, a << amount)


def is_exact_product(scalar: str, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a floating-point product needs no rounding: a fused multiply-add does not round it."""
    exact = a.astype(np.float64) * b.astype(np.float64)
    return bool((rounded(scalar, exact).astype(np.float64) == exact).all())


def _divide(a, b):
    if (b == 0).any():
        raise Undefined("division by zero")
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient)


_INTEGER = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "%": lambda a, b: a - _divide(a, b) * b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
}


def converted(values: np.ndarray, source: Type, target: Type) -> np.ndarray:
    """A conversion, scalar to vector included."""
    values = convert(values, source.scalar, target.scalar)
    return np.repeat(values, target.size, 1) if source.size < target.size else values
