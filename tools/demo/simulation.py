"""The attention of one real batch on the simulated Metal kernels, against float64."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from types import ModuleType

import torch
from simulated_launcher import SimulatedLauncher


@dataclass
class AttentionCall:
    """The tensors of one call of flash_attn_varlen_func: q, k, v [total, heads, head_dim], cu_seqlens [batch + 1]."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    cu_seqlens: torch.Tensor
    longest: int
    scale: float

    def to(self, dtype: torch.dtype) -> AttentionCall:
        """The same call with q, k, v rounded to `dtype`."""
        q, k, v = (tensor.to(dtype) for tensor in (self.q, self.k, self.v))
        return AttentionCall(q, k, v, self.cu_seqlens, self.longest, self.scale)


class Recorder:
    """Stands in for a kernel's flash_attn_varlen_func: counts the calls and keeps the tensors of the first."""

    def __init__(self, kernel: ModuleType) -> None:
        self.calls = 0
        self.first: AttentionCall | None = None
        attention = kernel.flash_attn_varlen_func

        @functools.wraps(attention)  # transformers reads the signature
        def recorded(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **features):
            self.calls += 1
            if self.first is None:
                scale = features["softmax_scale"]
                self.first = AttentionCall(q.clone(), k.clone(), v.clone(), cu_seqlens_q, max_seqlen_q, scale)
            return attention(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **features)

        setattr(kernel, attention.__name__, recorded)


def simulate(kernel: ModuleType, call: AttentionCall) -> tuple[torch.Tensor, float]:
    """Runs `call` through the planner and the simulated shaders: the output, and the seconds it took."""
    start = time.perf_counter()
    with kernel.launchers.use_launcher(SimulatedLauncher()):
        output = kernel.flash_attn_varlen_func(
            call.q, call.k, call.v, call.cu_seqlens, call.cu_seqlens, call.longest, call.longest,
            softmax_scale=call.scale,
        )  # fmt: skip
    return output, time.perf_counter() - start


def reference(call: AttentionCall) -> torch.Tensor:
    """The same attention in float64, [total, heads, head_dim]: sequence by sequence, by the definition."""
    outputs = []
    bounds = call.cu_seqlens.tolist()
    for start, end in zip(bounds, bounds[1:]):
        q, k, v = (tensor[start:end].double().transpose(0, 1) for tensor in (call.q, call.k, call.v))
        weights = torch.softmax(call.scale * q @ k.transpose(1, 2), dim=-1)
        outputs.append((weights @ v).transpose(0, 1))
    return torch.cat(outputs)


def error_bound(call: AttentionCall, expected: torch.Tensor) -> float:
    """The largest error allowed: 5e-6 of the largest value in fp32, hardly more than the output's rounding in fp16."""
    largest = float(call.v.abs().max())
    if call.v.dtype == torch.float32:
        return 5e-6 * largest
    rounding = float((expected.to(call.v.dtype).double() - expected).abs().max())
    return 1.1 * rounding + 4e-6 * largest
