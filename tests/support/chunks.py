"""For tests of the CPU implementation: how it divides its work, and what memory that takes."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operator makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        old = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}  # views
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in old:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def chunk_sizes(kernel, monkeypatch, scores: int, rows: int) -> None:
    monkeypatch.setattr(kernel.operators.cpu, "CHUNK_SCORES", scores)
    monkeypatch.setattr(kernel.operators.cpu, "MAX_SCORES", scores)
    monkeypatch.setattr(kernel.operators.cpu, "MIN_ROWS", rows)


def call_directly(kernel, monkeypatch) -> None:
    """Past the dispatcher: within an operator of our own, LargestTensor sees nothing."""
    monkeypatch.setattr(kernel.operators, "attention_forward", kernel.operators._forward)
    monkeypatch.setattr(kernel.operators, "attention_backward", kernel.operators._backward)
