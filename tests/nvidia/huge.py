"""Stage `huge`: tensors of more than 2^31 elements, each with either loader, inside sentinels that must
stay as they are."""

from __future__ import annotations

import math
from typing import List, NamedTuple, Optional, Set, Tuple

import torch
from calls import LOADERS, SENTINEL, Call, Recorder, launch, make_call, run_each
from package import Specialisation

GUARD = 2**16  # elements before and after every tensor
LIMIT = 2**31


class Case(NamedTuple):
    name: str
    layout: str  # packed, dense or paged
    batch: int
    length_q: int
    length_k: int
    num_heads: int
    num_heads_kv: int
    head_dim: int
    dtype: torch.dtype
    over: Tuple[str, ...]  # tensors above the limit


EVERYTHING = ("query", "key", "value", "output")
CASES = (
    Case("packed, all four tensors", "packed", 4099, 257, 257, 16, 16, 128, torch.float16, EVERYTHING),
    Case("dense, all four tensors", "dense", 1030, 1030, 1030, 8, 8, 256, torch.bfloat16, EVERYTHING),
    Case("packed, query and output", "packed", 1030, 1030, 33, 32, 2, 64, torch.float16, ("query", "output")),
    Case("paged, key and value", "paged", 70, 5, 32768, 32, 8, 128, torch.float16, ("key", "value")),
    Case("paged decode, key and value", "paged", 70, 1, 32768, 32, 8, 128, torch.bfloat16, ("key", "value")),
)
PAGE = 256


class Guarded(NamedTuple):
    """A tensor inside sentinels."""

    tensor: torch.Tensor
    storage: torch.Tensor

    @classmethod
    def of(cls, shape, dtype, device, fill: Optional[float] = None, generator=None) -> "Guarded":
        count = math.prod(shape)
        storage = torch.empty(count + 2 * GUARD, dtype=dtype, device=device)
        storage[:GUARD] = storage[-GUARD:] = SENTINEL
        inside = storage[GUARD:-GUARD]
        if fill is None:
            for part in inside.split(2**28):
                part.normal_(generator=generator)
        else:
            inside.fill_(fill)
        return cls(inside.view(shape), storage)

    def intact(self) -> bool:
        return bool((self.storage[:GUARD] == SENTINEL).all() and (self.storage[-GUARD:] == SENTINEL).all())

    def checksum(self) -> List[int]:
        """Of the bits, to see that nothing changed them."""
        words = self.storage.view(torch.int16 if self.storage.element_size() == 2 else torch.int32)
        return [int(part.to(torch.int64).sum()) for part in words.split(2**28)]


def make(case: Case, device: str) -> Tuple[Call, Guarded, List[Guarded]]:
    """(the call, its output, its inputs)."""
    generator = None if device == "meta" else torch.Generator(device).manual_seed(0)
    tokens_q, tokens_k = case.batch * case.length_q, case.batch * case.length_k
    leading = {"packed": (tokens_q,), "paged": (tokens_q,), "dense": (case.batch, case.length_q)}[case.layout]
    leading_kv = {"packed": (tokens_k,), "paged": (tokens_k // PAGE, PAGE), "dense": (case.batch, case.length_k)}
    shape_q = (*leading, case.num_heads, case.head_dim)
    shape_kv = (*leading_kv[case.layout], case.num_heads_kv, case.head_dim)
    inputs = [Guarded.of(s, case.dtype, device, generator=generator) for s in (shape_q, shape_kv, shape_kv)]
    output = Guarded.of(shape_q, case.dtype, device, fill=math.nan)
    cu_q, cu_k, used, table = (None,) * 4
    if case.layout != "dense":
        cu_q, cu_k = (
            torch.arange(case.batch + 1, dtype=torch.int32, device=device) * length
            for length in (case.length_q, case.length_k)
        )
    if case.layout == "paged":  # the first page of a sequence is far behind its last
        pages = torch.arange(tokens_k // PAGE, dtype=torch.int32, device=device).flip(0)
        table = pages.view(case.batch, -1).contiguous()
        used = torch.full((case.batch,), case.length_k, dtype=torch.int32, device=device)
    call = make_call(
        *(guarded.tensor for guarded in inputs),
        cu_seqlens_q=cu_q,
        cu_seqlens_k=cu_k,
        seqused_k=used,
        block_table=table,
        max_seqlen_q=case.length_q,
        max_seqlen_k=case.length_k,
        window_right=0,
    )
    return call, output, inputs


def specialisations() -> Set[Specialisation]:
    """What the cases will launch."""
    recorder = Recorder()
    for case in CASES:
        call, output, _ = make(case, "meta")
        sizes = dict(zip(EVERYTHING, (call.query, call.key, call.value, output.tensor)))
        assert all(sizes[name].numel() > LIMIT for name in case.over), case.name
        for device in LOADERS.values():
            launch(recorder, device, output.tensor, None, call)
    return recorder.seen


def sequence(case: Case, call: Call, output: torch.Tensor, b: int) -> Tuple[torch.Tensor, ...]:
    """(query, key, value, output) of a sequence, [1, length, heads, head_dim]."""
    if case.layout == "dense":
        return tuple(t[b : b + 1] for t in (call.query, call.key, call.value, output))
    rows = slice(b * case.length_q, (b + 1) * case.length_q)
    if case.layout == "paged":
        key, value = (t[call.block_table[b].long()].flatten(0, 1) for t in (call.key, call.value))
    else:
        key, value = (t[b * case.length_k : (b + 1) * case.length_k] for t in (call.key, call.value))
    return tuple(t[None] for t in (call.query[rows], key, value, output[rows]))


def run_case(case: Case, device: Tuple[int, int], launcher) -> str:
    from reference import assert_output, attention

    call, output, inputs = make(case, "cuda")
    before = [guarded.checksum() for guarded in inputs]
    launch(launcher, device, output.tensor, None, call)
    assert [guarded.checksum() for guarded in inputs] == before, "the kernel wrote to its inputs"
    assert all(guarded.intact() for guarded in (output, *inputs)), "the kernel wrote beside a tensor"
    flat = output.tensor.view(-1)
    assert all(bool(part.isfinite().all()) for part in flat.split(2**28)), "not all of the output is finite"
    error = 0.0
    for b in (0, 1, case.batch // 2, case.batch - 2, case.batch - 1):
        query, key, value, result = sequence(case, call, output.tensor, b)
        with torch.device("cuda"):
            expected, _ = attention(query, key, value, window=(-1, 0))
        assert_output(result, expected, value)
        error = max(error, (result.double() - expected).abs().max().item())
    sizes = f"query {call.query.numel():.3g}, key {call.key.numel():.3g} elements"
    return f"{sizes}; 5 sequences, error {error:.2g}; surroundings intact"


def run(archive) -> dict:
    """On the GPU."""
    return run_each(CASES, run_case, archive)
