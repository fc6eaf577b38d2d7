"""Random small problems on all features, the same ones for the same seed, and how a launcher solves them."""

from __future__ import annotations

import math
import random
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import torch

from .. import interface
from ..planning.backward_tiles import MAX_HEAD_DIM, SHAPES
from . import reference

HEAD_DIMS = tuple(head_dim for head_dim, value_dim in SHAPES if head_dim == value_dim)
WIDE = 12  # number of the problem with head_dim 512, which kernels have no gradients for
EDGES = (0, 1, 7, 8, 31, 32, 33, 63, 64, 65, 100, 128, 130, 700)  # around the sizes of tiles; keys to be divided


class Case(NamedTuple):
    """A call on random tensors of a seed. Lengths are (query, key) tokens of each sequence."""

    seed: int
    layout: str  # "dense", "packed" or "paged"
    dtype: str
    head_dim: int
    value_dim: int
    num_heads: int
    num_heads_kv: int
    lengths: Tuple[Tuple[int, int], ...]
    causal: bool
    window: Tuple[int, int]
    softcap: float
    alibi_dims: int  # of the slopes, 0 = none
    sinks: bool
    strided: bool  # tensors lie in larger ones, amid NaN
    bias: str  # "" = none, "mask", "float32", or "own": that of the query


class Outcome(NamedTuple):
    """Largest errors as parts of what is allowed, and whether a second call gave the same bits."""

    output_error: float
    lse_error: float
    gradient_error: float
    is_repeatable: bool

    @property
    def passed(self) -> bool:
        errors = self.output_error, self.lse_error, self.gradient_error
        return all(error <= 1 for error in errors) and self.is_repeatable  # NaN fails


def random_cases(count: int, seed: int) -> List[Case]:
    """`count` problems; any dtype and layout is met by the first nine."""
    draw = random.Random(seed)
    return [_random_case(number, draw) for number in range(count)]


def _random_case(number: int, draw: random.Random) -> Case:
    layout, dtype = ("dense", "packed", "paged")[number % 3], ("float32", "float16", "bfloat16")[number // 3 % 3]
    head_dim = draw.choice(HEAD_DIMS) if draw.random() < 0.75 else draw.randint(1, 256)
    num_heads_kv = draw.choice((1, 2, 3))
    lengths = [(draw.choice(EDGES[1:]), draw.choice(EDGES)) for _ in range(draw.randint(1, 4))]
    case = Case(
        seed=draw.randrange(2**31),
        layout=layout,
        dtype=dtype,
        head_dim=head_dim,
        value_dim=head_dim if draw.random() < 0.8 else draw.randint(1, 256),
        num_heads=num_heads_kv * draw.choice((1, 2, 4, 8)),
        num_heads_kv=num_heads_kv,
        lengths=tuple(lengths[:1] * len(lengths) if layout == "dense" else lengths),
        causal=draw.random() < 0.5,
        window=draw.choice(((-1, -1), (-1, -1), (16, 0), (5, 3), (40, -1))),
        softcap=draw.choice((0.0, 0.0, 0.0, 5.0, 30.0)),
        alibi_dims=draw.choice((0, 0, 0, 1, 2)),
        sinks=draw.random() < 0.25,
        strided=draw.random() < 0.5,
        bias=("", "", "mask", "", "float32", "", "own")[number % 7],
    )
    return case._replace(head_dim=512, value_dim=512) if number == WIDE else case


def solve(case: Case, device: torch.device) -> Outcome:
    """Calls the public function on `device`, without gradients and twice with them, and compares it with the
    reference."""
    tensors = _tensors(case)
    function, arguments = call(case, device)
    forward = function(**arguments)[:2]
    results = output, lse, *grads = with_gradients(case, device)
    is_repeatable = are_equal(forward, results) and are_equal(results, with_gradients(case, device))
    sources = {name: tensors[name].double().requires_grad_() for name in differentiable(case)}
    expected, expected_lse = _expected(case, {**tensors, **sources})
    grad_output, grad_lse = (
        grad.cpu().double().view(result.shape)
        for grad, result in zip(_flowing_back(case, output, lse), (expected, expected_lse))
    )
    leaves = list(sources.values())
    expected_grads: Sequence[torch.Tensor] = [torch.zeros_like(leaf) for leaf in leaves]
    if expected.requires_grad:  # not without leaves, nor without a key
        expected_grads = torch.autograd.grad([expected, expected_lse], leaves, [grad_output, grad_lse])
    return Outcome(
        reference.output_error(output.cpu(), expected.detach().view(output.shape), tensors["v"]),
        reference.lse_error(lse.cpu(), expected_lse.detach()),
        reference.largest(
            reference.gradient_error(grad.cpu(), expected.view(grad.shape))
            for grad, expected in zip(grads, expected_grads)
        ),
        is_repeatable,
    )


def with_gradients(case: Case, device: torch.device, dropout_p: float = 0.0) -> Tuple[torch.Tensor, ...]:
    """What the public function returns on `device`, and the gradients of what `differentiable` names. Dropout is that
    of the case's seed."""
    function, arguments = call(case, device)
    leaves = [arguments[name].requires_grad_() for name in differentiable(case)]
    torch.manual_seed(case.seed)
    output, lse, _ = function(**arguments, dropout_p=dropout_p)
    grads = torch.autograd.grad([output, lse], leaves, _flowing_back(case, output, lse)) if leaves else ()
    return output.detach(), lse.detach(), *grads


def are_equal(results: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    """To the bit, as far as both go."""
    return all(torch.equal(result, other) for result, other in zip(results, others))


def differentiable(case: Case) -> Tuple[str, ...]:
    """Kernels have no gradients for keys in pages, nor for a head_dim above MAX_HEAD_DIM."""
    if case.head_dim > MAX_HEAD_DIM:
        return ()
    return ("q", *(() if case.layout == "paged" else ("k", "v")), *(("s_aux",) if case.sinks else ()))


def _flowing_back(case: Case, output: torch.Tensor, lse: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the output and of lse."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    grads = (torch.randn(tensor.shape, generator=generator) for tensor in (output, lse))
    grad_output, grad_lse = (grad.to(tensor.device, tensor.dtype) for grad, tensor in zip(grads, (output, lse)))
    return grad_output, grad_lse


PAGE_SIZE = 16


def _tensors(case: Case) -> Dict[str, torch.Tensor]:
    """Query, key and value of all sequences end to end, `[total, heads, head_dim]`, and what the features need."""
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(getattr(torch, case.dtype))

    total_q, total_k = (sum(lengths) for lengths in zip(*case.lengths))
    tensors = {
        "q": normal(total_q, case.num_heads, case.head_dim),
        "k": normal(total_k, case.num_heads_kv, case.head_dim),
        "v": normal(total_k, case.num_heads_kv, case.value_dim),
    }
    if case.alibi_dims:
        shape = (len(case.lengths), case.num_heads)[2 - case.alibi_dims :]
        tensors["alibi_slopes"] = torch.rand(shape, generator=generator)
    if case.sinks:
        tensors["s_aux"] = normal(case.num_heads)
    if case.bias:
        shape = case.num_heads, total_q, max(length for _, length in case.lengths)
        bias = torch.randn(shape, generator=generator)
        hidden = bias > 1
        bias = bias.masked_fill(hidden, -math.inf).to(
            getattr(torch, case.dtype) if case.bias == "own" else torch.float32
        )
        tensors["attn_bias"] = ~hidden if case.bias == "mask" else bias
    return tensors


def _expected(case: Case, tensors: Dict[str, torch.Tensor]) -> Tuple[torch.Tensor, torch.Tensor]:
    """Output `[total_q, heads, value_dim]`, and lse as the public function returns it."""
    window = (case.window[0], 0) if case.causal else case.window
    slopes = tensors.get("alibi_slopes")
    lengths_q, lengths_k = (list(lengths) for lengths in zip(*case.lengths))
    rows, keys = tensors["q"].split(lengths_q), tensors["k"].split(lengths_k)
    biases = tensors["attn_bias"].split(lengths_q, dim=1) if case.bias else [None] * len(rows)
    results = [
        reference.attention(
            *(rows[b], keys[b], values),
            softmax_scale=case.head_dim**-0.5,
            window=window,
            softcap=case.softcap,
            alibi_slopes=slopes if slopes is None or slopes.dim() == 1 else slopes[b],
            sinks=tensors.get("s_aux"),
            attn_bias=biases[b],
        )
        for b, values in enumerate(tensors["v"].split(lengths_k))
    ]
    outputs, lses = zip(*results)
    return torch.cat(outputs), torch.stack(lses) if case.layout == "dense" else torch.cat(lses, dim=1)


def call(case: Case, device: torch.device):
    """The public function for the problem, and its arguments by name."""
    tensors = {name: tensor.to(device) for name, tensor in _tensors(case).items()}
    arguments: Dict[str, Any] = {**tensors, "softcap": case.softcap, "causal": case.causal, "window_size": case.window}
    arguments["return_attn_probs"] = True
    if case.layout == "dense":
        for name in ("q", "k", "v"):
            tensor = tensors[name].unflatten(0, (len(case.lengths), case.lengths[0][name != "q"]))
            arguments[name] = _amid_nan(tensor) if case.strided else tensor
        if case.bias:
            arguments["attn_bias"] = tensors["attn_bias"].unflatten(1, (len(case.lengths), -1)).transpose(0, 1)
        return interface.flash_attn_func, arguments
    lengths_q, lengths_k = zip(*case.lengths)
    arguments["max_seqlen_q"], arguments["max_seqlen_k"] = max(lengths_q), max(lengths_k)
    arguments["cu_seqlens_q"], arguments["cu_seqlens_k"] = _bounds(lengths_q, device), _bounds(lengths_k, device)
    if case.layout == "paged":
        arguments["block_table"] = _block_table(case, device)
        for name in ("k", "v"):
            arguments[name] = _in_pages(case, tensors[name], arguments["block_table"])
    if case.strided:
        arguments.update({name: _amid_nan(arguments[name]) for name in ("q", "k", "v")})
    return interface.flash_attn_varlen_func, arguments


def _bounds(lengths: Tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor((0, *lengths)).cumsum(0).to(device, torch.int32)


def _block_table(case: Case, device: torch.device) -> torch.Tensor:
    """Pages in a random order, as a cache hands them out."""
    most = max(1, -(-max(length for _, length in case.lengths) // PAGE_SIZE))
    pages = torch.randperm(len(case.lengths) * most, generator=torch.Generator().manual_seed(case.seed))
    return pages.view(len(case.lengths), most).to(device, torch.int32)


def _in_pages(case: Case, tensor: torch.Tensor, block_table: torch.Tensor) -> torch.Tensor:
    """`[num_pages, page_size, heads, head_dim]` with the rows of each sequence in its pages; the rest is 0."""
    paged = tensor.new_zeros((block_table.numel(), PAGE_SIZE, *tensor.shape[1:]))
    for pages, rows in zip(block_table.long(), tensor.split([length for _, length in case.lengths])):
        places = torch.arange(len(rows), device=tensor.device)
        paged[pages[places // PAGE_SIZE], places % PAGE_SIZE] = rows
    return paged


def _amid_nan(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as a view with an offset, NaN around the outermost axis and behind each inner one."""
    storage = tensor.new_full((tensor.shape[0] + 2, *(size + 3 for size in tensor.shape[1:])), math.nan)
    view = storage[(slice(1, 1 + tensor.shape[0]), *(slice(size) for size in tensor.shape[1:]))]
    return view.copy_(tensor)
