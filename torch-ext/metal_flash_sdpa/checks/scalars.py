"""Numbers and flags as Python's own, from Python, NumPy and torch; and what to call everything else in a message.

A bool is no number and a number is no bool. A tensor is read where that waits for nothing: on the CPU.
"""

from __future__ import annotations

import operator
from typing import Any, Tuple

import torch

_FLAGS = (bool, torch.SymBool)


def as_flag(value: object, name: str) -> bool:
    if isinstance(value, _FLAGS):
        return bool(value)
    flag = _item(value, name)
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be a bool, got {kind_of(value)}")
    return flag


def as_integer(value: object, name: str) -> int:
    """An int, or a SymInt while shapes are symbolic."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]  # a SymInt does what an int does
    number = _item(value, name)
    try:
        if isinstance(number, bool):
            raise TypeError
        return operator.index(number)
    except TypeError:
        raise TypeError(f"{name} must be of integer type, got {kind_of(value)}") from None


def as_float(value: object, name: str, allowed: str = "a float") -> float:
    if type(value) is float or type(value) is int:
        return value
    number = _item(value, name)
    if isinstance(number, bool) or not isinstance(number, (float, int, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"{name} must be {allowed}, got {kind_of(value)}")
    return number  # type: ignore[return-value]  # a SymFloat does what a float does


def as_pair(value: object, name: str) -> Tuple[int, int]:
    """Of a tuple, list, tensor or array of two integers."""
    items: Any = value
    if not isinstance(value, (tuple, list)):
        if not hasattr(value, "tolist") or getattr(value, "ndim", 0) != 1:
            raise TypeError(f"{name} must be a pair of ints (left, right), got {kind_of(value)}")
        if isinstance(value, torch.Tensor):
            _check_readable(value, name)
        items = value.tolist()
    if len(items) != 2:
        raise ValueError(f"{name} must be a pair of ints (left, right), got {tuple(items)}")
    return as_integer(items[0], name), as_integer(items[1], name)


def kind_of(value: object) -> str:
    """Its type, with the module unless it is one of Python's own; of a tensor, also what it holds."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def refuse_gradient(tensor: torch.Tensor, name: str) -> None:
    """An argument without a derivative must not ask for one."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(
            f"the gradient of {name} is not implemented: {name} must not require grad, pass {name}.detach()"
        )


def _item(value: Any, name: str) -> Any:
    """What a scalar or an array or tensor without dimensions holds; anything else as it is."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    if isinstance(value, torch.Tensor):
        _check_readable(value, name)
    return value.item()


def _check_readable(tensor: torch.Tensor, name: str) -> None:
    refuse_gradient(tensor, name)
    if not tensor.is_cpu:
        raise ValueError(f"{name} must be on the CPU, as reading it would wait for the device, got {tensor.device}")
