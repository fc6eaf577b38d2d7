"""Attention on the CPU, composed of PyTorch's operators.

Works through the batch sequence by sequence and through a long sequence in chunks of query rows, so that no matrix of
all scores is ever held; the keys of a paged cache are gathered for one chunk at a time. A chunk that needs neither the
log-sum-exp nor anything else that PyTorch's own fused attention lacks goes there; otherwise, and for the gradients, its
weights are formed. The fused operator is called by its own name, as F.scaled_dot_product_attention obeys switches. All
arithmetic is fp32: on fp16 and bf16 PyTorch's fused attention would round the weights, and be no faster. It is float64
where fp32 does not hold the results (careful.py) and where PyTorch is allowed to multiply fp32 matrices in less.
Dropout draws its mask anew for each chunk, in the forward and again in the backward, which go through the same chunks
in the same order.

Inside, tensors are [batch, heads, seqlen, head_dim] (a paged cache [pages, heads, page_size, head_dim]) and lse is
[batch, heads, seqlen_q].
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch

from ..call import Call, Dropout, Gradients
from .careful import careful_backward, careful_forward
from .weights import Chunk, DropoutMasks, Scoring, all_finite, are_small, chunk_forward, integers

CHUNK_SCORES = 2**20  # scores (or elements of a mask) of a chunk: with more of them they leave the caches
MIN_ROWS = 64  # of a chunk, even with more scores: with fewer, products of matrices become as slow as of vectors
MAX_SCORES = 2**24  # of a chunk, even with fewer rows: bounds the memory
FUSED_BLOCK = 512  # keys that PyTorch's fused attention takes at once, or fewer

_EVERYTHING = slice(None)


class _Sequence(NamedTuple):
    number: int  # in cu_seqlens, block_table, ...
    batch: slice
    queries: slice
    keys: slice  # in a paged cache: of the tokens that `pages` hold
    pages: Optional[torch.Tensor]  # in the order of their tokens; None if the keys are not paged

    def lengths(self) -> Tuple[int, int]:
        return self.queries.stop - self.queries.start, self.keys.stop - self.keys.start

    def rows(self, rows: slice) -> Tuple[slice, slice, slice]:
        """Index of some of the sequence's queries in a tensor [batch, heads, seqlen, ...]."""
        return self.batch, _EVERYTHING, slice(self.queries.start + rows.start, self.queries.start + rows.stop)


def attention_forward(output: torch.Tensor, lse: Optional[torch.Tensor], call: Call, dropout: Dropout) -> None:
    """Fills every row of `output`, and of `lse` unless it is None."""
    output, query, key, value = map(_heads_first, (output, call.query, call.key, call.value))
    lse = lse[None] if lse is not None and lse.dim() == 2 else lse
    scoring = Scoring(call.softmax_scale, call.softcap, call.alibi_slopes, call.sinks)
    masks = DropoutMasks(dropout) if dropout.dropout_p > 0 else None
    dtype = _dtype_of_products()
    plain = call.alibi_slopes is None and call.sinks is None and call.softcap == 0 and masks is None
    fused = lse is None and plain and query.shape[3] == value.shape[3] and dtype == torch.float32
    attend = _fused_forward if fused else chunk_forward
    for sequence in _sequences(call, whole_batch=fused):
        blind = _blind_rows(*sequence.lengths(), call.window_right)
        if blind > 0:
            rows = sequence.rows(slice(0, blind))
            output[rows] = 0
            if lse is not None:
                lse[rows] = -torch.inf
        for chunk in _chunks(*sequence.lengths(), call, blind, fused):
            rows = sequence.rows(chunk.rows)
            q = query[rows].to(dtype)
            k, v = _read(key, sequence, chunk.keys).to(dtype), _read(value, sequence, chunk.keys).to(dtype)
            dropped = None if masks is None else masks.mask(*q.shape[:3], k.shape[2])
            output[rows], chunk_lse = careful_forward(attend, q, k, v, chunk, scoring, sequence.number, dropped)
            if lse is not None:
                lse[rows] = chunk_lse


def attention_backward(
    grad_output: torch.Tensor, grad_lse: Optional[torch.Tensor], call: Call, dropout: Dropout
) -> Gradients:
    """From the gradients of the output and (unless None) of lse."""
    grads = {
        name: tensor.new_zeros(tensor.shape, dtype=torch.float32)
        for name, tensor in (("query", call.query), ("key", call.key), ("value", call.value))
    }
    grad_sinks = grads["query"].new_zeros(0 if call.sinks is None else call.sinks.shape[0])
    grad_output, query, key, value = map(_heads_first, (grad_output, call.query, call.key, call.value))
    grad_query, grad_key, grad_value = map(_heads_first, (grads["query"], grads["key"], grads["value"]))
    grad_lse = grad_lse[None] if grad_lse is not None and grad_lse.dim() == 2 else grad_lse
    scoring = Scoring(call.softmax_scale, call.softcap, call.alibi_slopes, call.sinks)
    masks = DropoutMasks(dropout) if dropout.dropout_p > 0 else None
    dtype = _dtype_of_products()
    for sequence in _sequences(call, whole_batch=False):
        blind = _blind_rows(*sequence.lengths(), call.window_right)
        for chunk in _chunks(*sequence.lengths(), call, blind, fused=False):
            rows = sequence.rows(chunk.rows)
            q = query[rows].to(dtype)
            k, v = _read(key, sequence, chunk.keys).to(dtype), _read(value, sequence, chunk.keys).to(dtype)
            dropped = None if masks is None else masks.mask(*q.shape[:3], k.shape[2])
            grad_out, grad_sums = grad_output[rows].to(dtype), None if grad_lse is None else grad_lse[rows].to(dtype)
            chunk_grads = careful_backward(grad_out, grad_sums, q, k, v, chunk, scoring, sequence.number, dropped)
            grad_query[rows] += chunk_grads.query
            _accumulate(grad_key, sequence, chunk.keys, chunk_grads.key)
            _accumulate(grad_value, sequence, chunk.keys, chunk_grads.value)
            if call.sinks is not None:
                grad_sinks += chunk_grads.sinks
    return Gradients(**{name: grad.to(query.dtype) for name, grad in grads.items()}, sinks=grad_sinks)


def _dtype_of_products() -> torch.dtype:
    """torch.set_float32_matmul_precision and its like may turn products of fp32 matrices into those of bf16."""
    is_reduced = torch.backends.mkldnn.matmul.fp32_precision in ("bf16", "tf32")  # type: ignore[attr-defined]
    return torch.float64 if is_reduced else torch.float32


def _fused_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    chunk: Chunk,
    scoring: Scoring,
    _sequence: int,
    _dropped: None,
) -> Tuple[torch.Tensor, torch.Tensor, bool]:
    """As chunk_forward, by the operator that F.scaled_dot_product_attention takes on the CPU."""
    mask = None if chunk.mask is None else torch.where(chunk.mask, 0.0, -torch.inf).to(q.dtype)
    output, lse = torch._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, is_causal=chunk.is_causal, attn_mask=mask, scale=scoring.softmax_scale
    )
    # The operator leaves out a block of keys where a row has no scores but NaN and -inf; without any block, lse is 0.
    if k.shape[2] > FUSED_BLOCK and k.amax().isnan():
        lse.fill_(torch.nan)
    elif lse.all():
        return output, lse, are_small(lse) and all_finite(output)
    return output, lse.masked_fill(lse == 0, torch.nan), False


def _heads_first(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor[None] if tensor.dim() == 3 else tensor).transpose(1, 2)


def _sequences(call: Call, whole_batch: bool) -> Iterator[_Sequence]:
    """What attends to what. Query rows outside of all sequences come first, with no keys. A dense batch is one piece
    with `whole_batch` if its sequences have the same length, else one for each of them."""
    query, key = _heads_first(call.query), _heads_first(call.key)
    cu_seqlens_q, cu_seqlens_k = call.cu_seqlens_q, call.cu_seqlens_k
    seqused_k, block_table = call.seqused_k, call.block_table
    all_queries = slice(0, query.shape[2])
    if cu_seqlens_q is None:
        if whole_batch and seqused_k is None and query.shape[0] > 0:
            yield _Sequence(0, _EVERYTHING, all_queries, slice(0, key.shape[2]), None)
            return
        places = [(slice(b, b + 1), all_queries) for b in range(query.shape[0])]
    else:
        bounds = _bounds(cu_seqlens_q, query.shape[2])
        places = [(_EVERYTHING, queries) for queries in _ranges(bounds)]
        for begin, end in ((0, bounds[0]), (bounds[-1], query.shape[2])):
            if begin < end:
                yield _Sequence(0, _EVERYTHING, slice(begin, end), slice(0, 0), None)
    if block_table is not None:
        ranges = _paged_ranges(key, block_table, cu_seqlens_k if seqused_k is None else None)
    elif cu_seqlens_k is None:
        ranges = [slice(0, key.shape[2])] * len(places)
    elif cu_seqlens_k is cu_seqlens_q and key.shape[2] == query.shape[2]:
        ranges = [queries for _, queries in places]
    else:
        ranges = _ranges(_bounds(cu_seqlens_k, key.shape[2]))
    if seqused_k is not None:
        lengths = [max(used, 0) for used in seqused_k.tolist()]
        ranges = [slice(keys.start, min(keys.stop, keys.start + length)) for keys, length in zip(ranges, lengths)]
    for b, ((batch, queries), keys) in enumerate(zip(places, ranges)):
        yield _Sequence(b, batch, queries, keys, None if block_table is None else block_table[b])


def _paged_ranges(key: torch.Tensor, block_table: torch.Tensor, cu_seqlens_k: Optional[torch.Tensor]) -> List[slice]:
    """Each sequence's keys in its pages: by cu_seqlens_k, or all there are."""
    batch, max_pages = block_table.shape
    capacity = max_pages * key.shape[2] if key.shape[0] else 0
    if cu_seqlens_k is None:
        return [slice(0, capacity)] * batch
    bounds = cu_seqlens_k.tolist()
    return [slice(0, min(max(end - begin, 0), capacity)) for begin, end in zip(bounds, bounds[1:])]


def _bounds(cu_seqlens: torch.Tensor, total: int) -> List[int]:
    """The values, clamped to the tensor they index."""
    return [min(max(bound, 0), total) for bound in cu_seqlens.tolist()]


def _ranges(bounds: List[int]) -> List[slice]:
    """From each bound to the next; a decreasing pair makes an empty one."""
    return [slice(begin, max(begin, end)) for begin, end in zip(bounds, bounds[1:])]


def _read(tensor: torch.Tensor, sequence: _Sequence, keys: slice) -> torch.Tensor:
    """Those rows of a sequence's keys or values, [batch, heads, keys, head_dim]."""
    begin, end = keys.start, keys.stop
    if sequence.pages is None:
        start = sequence.keys.start
        return tensor[sequence.batch, :, start + begin : start + end]
    page_size = tensor.shape[2]
    first = begin // page_size
    begin, end = begin - first * page_size, end - first * page_size
    pages = sequence.pages[first : first - (-end // page_size)].clamp(0, tensor.shape[0] - 1)
    if pages.shape[0] == 1:  # nothing to put together
        return tensor[int(pages)][None, :, begin:end]
    tokens = tensor.transpose(1, 2).index_select(0, pages).flatten(0, 1)
    return tokens[begin:end].transpose(0, 1)[None]


def _accumulate(grad: torch.Tensor, sequence: _Sequence, keys: slice, chunk_grad: torch.Tensor) -> None:
    """Adds to those rows of the gradient of the keys or values; several of them may be one row of a page."""
    if sequence.pages is None:
        start = sequence.keys.start
        grad[sequence.batch, :, start + keys.start : start + keys.stop] += chunk_grad
        return
    num_pages, page_size = grad.shape[0], grad.shape[2]
    position = integers(keys)
    chunk_grad = chunk_grad.to(grad.dtype)
    pages = sequence.pages[position // page_size].long().clamp_(0, num_pages - 1)
    tokens = grad.transpose(1, 2).flatten(0, 1)  # a view: the gradient is contiguous
    tokens.index_add_(0, pages * page_size + position % page_size, chunk_grad[0].transpose(0, 1))


def _blind_rows(seqlen_q: int, seqlen_k: int, window_right: int) -> int:
    """How many rows see no key. They are always the first ones: the last query lines up with the last key."""
    if seqlen_k == 0:
        return seqlen_q
    return max(0, seqlen_q - seqlen_k - window_right) if window_right >= 0 else 0


def _chunks(seqlen_q: int, seqlen_k: int, call: Call, first_row: int, fused: bool) -> Iterator[Chunk]:
    """The rows of a sequence from first_row on, in chunks of bounded size."""
    if first_row == seqlen_q:
        return
    diagonal = seqlen_k - seqlen_q
    everything = seqlen_q + seqlen_k  # a window this wide hides nothing
    left = everything if call.window_left < 0 else call.window_left
    right = everything if call.window_right < 0 else call.window_right

    def visible(row: int) -> Tuple[int, int]:  # both ends never decrease with the row
        return max(0, row + diagonal - left), min(seqlen_k, row + diagonal + right + 1)

    first, last = visible(first_row), visible(seqlen_q - 1)
    # PyTorch's operator masks the causal scores before it scales them: right for positive scales only.
    is_causal = last[0] == 0 and right == 0 and seqlen_q - first_row == seqlen_k > 1 and call.softmax_scale > 0
    if fused and (first == last or is_causal):
        yield Chunk(slice(first_row, seqlen_q), slice(first[0], last[1]), diagonal, None, is_causal)
        return
    window = min(seqlen_k, left + right + 1)
    rows = max(window, MIN_ROWS)  # of the keys of a chunk under a window, every row sees about half
    scores_of_row = min(seqlen_k, window + rows) * (1 if fused else call.query.shape[-2])
    rows = min(rows, max(1, CHUNK_SCORES // scores_of_row, min(MIN_ROWS, MAX_SCORES // scores_of_row)))
    for begin in range(first_row, seqlen_q, rows):
        end = min(begin + rows, seqlen_q)
        first, last = visible(begin), visible(end - 1)
        mask = None
        if first != last:
            position = integers(slice(begin + diagonal, end + diagonal)).unsqueeze(1)
            keys = integers(slice(first[0], last[1]))
            mask = (keys >= position - left) & (keys <= position + right)
        yield Chunk(slice(begin, end), slice(first[0], last[1]), diagonal, mask, False)
