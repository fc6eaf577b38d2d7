"""A call as a program that somebody else can run: what a report of a wrong result needs."""

from __future__ import annotations

import sys
from typing import Any, Callable

import torch

from . import machine

_WHOLE = 4096  # elements of an integer tensor that is written out; of a longer one the range
_TENSOR = '''
def tensor(shape, stride, dtype, device, offset=0):
    """Random values, or trues and falses, at these strides."""
    elements = 1 + offset + sum((size - 1) * step for size, step in zip(shape, stride)) if 0 not in shape else offset
    values = torch.randn(elements)
    return (values > 0 if dtype == torch.bool else values.to(dtype)).to(device).as_strided(shape, stride, offset)
'''


def describe_call(function: Callable, *arguments: Any, **keywords: Any) -> str:
    """Prints a program that makes the same call on random values, and returns its text.

    function: a public one of this package, not called here; arguments, keywords: as for it. Of floating and bool
    tensors the text tells shape, strides, offset within 16 elements, dtype, device and whether a gradient is wanted,
    and no value; integers, such as cu_seqlens and block_table, are written out, as they decide what is computed (above
    4096 elements: others of the same range). Raises TypeError for a function without a name.
    """
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise TypeError(f"function must be a public function of this package, got {type(function).__name__}")
    lines = [f"# {key}: {value}" for key, value in machine.describe().items()]
    lines += ["import torch", _TENSOR, "# attention = get_kernel(...), or import metal_flash_sdpa as attention"]
    lines.append(f"torch.manual_seed(0)\nresult = attention.{name}(")
    lines += [f"    {_text_of(value)}," for value in arguments]
    lines += [f"    {key}={_text_of(value)}," for key, value in keywords.items()]
    text = "\n".join([*lines, ")"])
    print(text, file=sys.stderr, flush=True)
    return text


def _text_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return _text_of_tensor(value)
    if isinstance(value, (tuple, list)):
        texts = [_text_of(one) for one in value]
        return f"({', '.join(texts)}{',' * (len(texts) == 1)})" if isinstance(value, tuple) else f"[{', '.join(texts)}]"
    return repr(value)


def _text_of_tensor(tensor: torch.Tensor) -> str:
    kind, device = str(tensor.dtype), repr(str(tensor.device))
    if not tensor.dtype.is_floating_point and tensor.dtype != torch.bool:
        if tensor.numel() <= _WHOLE:
            return f"torch.tensor({tensor.tolist()}, dtype={kind}, device={device})"
        lowest, highest = tensor.min().item(), tensor.max().item()
        return f"torch.randint({lowest}, {highest + 1}, {tuple(tensor.shape)}, dtype={kind}, device={device})"
    fields = [str(tuple(tensor.shape)), str(tuple(tensor.stride())), kind, device]
    if tensor.storage_offset() % 16:
        fields.append(f"offset={tensor.storage_offset() % 16}")
    return f"tensor({', '.join(fields)})" + ".requires_grad_()" * tensor.requires_grad
