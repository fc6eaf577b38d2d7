"""Stage `huge_bias`: biases and masks of more than 2^31 elements, with either loader, beside float64 in the rows
that lie farthest apart; NaN in the columns of no key."""

from __future__ import annotations

import math
from typing import NamedTuple, Set, Tuple

import torch
from calls import LOADERS, Call, Recorder, launch, make_call, run_each
from package import Specialisation

LIMIT = 2**31
HEAD_DIM = 64
ROWS = 64  # of each end, beside float64


class Case(NamedTuple):
    name: str
    num_heads: int
    bias_heads: int
    length: int
    columns: int
    dtype: torch.dtype  # of the bias


CASES = (
    Case("bias in fp16, of four heads", 4, 4, 23_200, 23_300, torch.float16),
    Case("mask, of one row for all heads", 2, 1, 46_400, 46_400, torch.bool),
)


def make(case: Case, device: str) -> Tuple[Call, torch.Tensor]:
    """(the call, its output)."""
    generator = None if device == "meta" else torch.Generator(device).manual_seed(0)
    shape = (1, case.length, case.num_heads, HEAD_DIM)
    tensors = [torch.empty(shape, dtype=torch.float16, device=device).normal_(generator=generator) for _ in "qkv"]
    bias = torch.empty(1, case.bias_heads, case.length, case.columns, dtype=case.dtype, device=device)
    for part in bias.view(-1).split(2**28):
        part.bernoulli_(0.5, generator=generator) if case.dtype == torch.bool else part.normal_(generator=generator)
    if case.dtype != torch.bool:
        bias[..., case.length :] = math.nan
    call = make_call(*tensors, attn_bias=bias)
    return call, torch.full(shape, math.nan, dtype=torch.float16, device=device)


def specialisations() -> Set[Specialisation]:
    """What the cases will launch."""
    recorder = Recorder()
    for case in CASES:
        call, output = make(case, "meta")
        assert call.attn_bias is not None and call.attn_bias.numel() > LIMIT, case.name
        for device in LOADERS.values():
            launch(recorder, device, output, None, call)
    return recorder.seen


def expected(call: Call, rows: slice) -> torch.Tensor:
    """Of those rows, float64 [rows, heads, head_dim], from the definition."""
    query, key, value = (tensor[0].transpose(0, 1).double() for tensor in (call.query[:, rows], call.key, call.value))
    scores = HEAD_DIM**-0.5 * query @ key.transpose(1, 2)
    bias = call.attn_bias[0, :, rows, : key.shape[1]]
    scores = scores.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else scores + bias.double()
    return (scores.softmax(dim=2) @ value).transpose(0, 1)


def run_case(case: Case, device: Tuple[int, int], launcher) -> str:
    from reference import assert_output

    call, output = make(case, "cuda")
    launch(launcher, device, output, None, call)
    assert all(bool(part.isfinite().all()) for part in output.view(-1).split(2**28)), "not all of the output is finite"
    error = 0.0
    middle = case.length // 2
    for rows in (slice(0, ROWS), slice(middle, middle + ROWS), slice(case.length - ROWS, case.length)):
        right = expected(call, rows)
        assert_output(output[0, rows], right, call.value)
        error = max(error, (output[0, rows].double() - right).abs().max().item())
    return f"{call.attn_bias.numel():.3g} elements; {3 * ROWS} rows of each head, error {error:.2g}"


def run(archive) -> dict:
    """On the GPU."""
    return run_each(CASES, run_case, archive)
