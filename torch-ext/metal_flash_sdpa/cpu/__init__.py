"""Attention on the CPU, composed of PyTorch's operators.

Works through the batch in groups of sequences of equal length, packed ones one by one, and through a long sequence in
chunks of query rows, so that no matrix of all scores is ever held; the keys of a paged cache are gathered for one chunk
at a time. A chunk that needs neither the log-sum-exp nor anything else that PyTorch's own fused attention lacks goes
there; otherwise, and for the gradients, its weights are formed. The fused operator is called by its own name, as
F.scaled_dot_product_attention obeys switches. All arithmetic is fp32: on fp16 and bf16 PyTorch's fused attention would
round the weights, and be no faster. It is float64 where fp32 does not hold the results (careful.py) and where PyTorch
is allowed to multiply fp32 matrices in less.

Inside, tensors are [batch, heads, seqlen, head_dim] (a paged cache [pages, heads, page_size, head_dim]) and lse is
[batch, heads, seqlen_q].
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch

from ..call import Call, Dropout, Gradients
from ..planning.plan import DropoutParams
from .careful import careful_backward, careful_forward
from .dropout import factors
from .weights import Chunk, Scoring, chunk_forward, integers, is_good

CHUNK_SCORES = 2**20  # scores (or elements of a mask) of a chunk: with more of them they leave the caches
MIN_ROWS = 64  # of a chunk, even with more scores: with fewer, products of matrices become as slow as of vectors
MAX_SCORES = 2**24  # of a chunk, even with fewer rows: bounds the memory
FUSED_BLOCK = 512  # keys that PyTorch's fused attention takes at once, or fewer

_EVERYTHING = slice(None)


class _Sequences(NamedTuple):
    """One sequence, or several of a dense batch that have as many keys."""

    numbers: slice  # in cu_seqlens, seqused_k, block_table, ...
    batch: slice
    queries: slice
    keys: slice  # in a paged cache: of the tokens that `pages` hold
    pages: Optional[torch.Tensor]  # in the order of their tokens; None if the keys are not paged

    def lengths(self) -> Tuple[int, int]:
        return self.queries.stop - self.queries.start, self.keys.stop - self.keys.start

    def rows(self, rows: slice) -> Tuple[slice, slice, slice]:
        """Index of some of the queries in a tensor [batch, heads, seqlen, ...]."""
        return self.batch, _EVERYTHING, slice(self.queries.start + rows.start, self.queries.start + rows.stop)


def attention_forward(output: torch.Tensor, lse: Optional[torch.Tensor], call: Call, dropout: Dropout) -> None:
    """Fills every row of `output`, and of `lse` unless it is None."""
    output, query, key, value = map(_heads_first, (output, call.query, call.key, call.value))
    lse = lse[None] if lse is not None and lse.dim() == 2 else lse
    scoring = _scoring(call)
    dropout_params = DropoutParams.of(dropout) if dropout.dropout_p > 0 else None
    dtype = _dtype_of_products()
    plain = call.alibi_slopes is call.sinks is call.attn_bias is dropout_params is None and call.softcap == 0
    fused = lse is None and plain and query.shape[3] == value.shape[3] and dtype == torch.float32
    attend = _fused_forward if fused else chunk_forward
    for sequences in _groups(call, fused):
        seeing = _seeing_rows(sequences, call)
        for blind in (slice(0, seeing.start), slice(seeing.stop, sequences.lengths()[0])):
            if blind.start < blind.stop:
                rows = sequences.rows(blind)
                output[rows] = 0
                if lse is not None:
                    lse[rows] = -torch.inf
        for chunk in _chunks(sequences, call, seeing, fused):
            rows = sequences.rows(chunk.rows)
            q = query[rows].to(dtype)
            k, v = _read(key, sequences, chunk.keys).to(dtype), _read(value, sequences, chunk.keys).to(dtype)
            dropped = _dropped(dropout_params, sequences, q.shape[1], chunk)
            of_chunk = scoring.of(sequences.numbers, _bias_index(call, sequences, chunk))
            output[rows], chunk_lse = careful_forward(attend, q, k, v, chunk, of_chunk, dropped)
            if lse is not None:
                lse[rows] = chunk_lse


def attention_backward(
    grad_output: torch.Tensor,
    grad_lse: Optional[torch.Tensor],
    call: Call,
    dropout: Dropout,
    wants_attn_bias: bool,
) -> Gradients:
    """From the gradients of the output and (unless None) of lse; without wants_attn_bias that of attn_bias is [0]."""
    grads = {
        name: tensor.new_zeros(tensor.shape, dtype=torch.float32)
        for name, tensor in (("query", call.query), ("key", call.key), ("value", call.value))
    }
    grad_sinks = grads["query"].new_zeros(0 if call.sinks is None else call.sinks.shape[0])
    attn_bias = call.query if call.attn_bias is None else call.attn_bias
    grad_bias = attn_bias.new_zeros(attn_bias.shape if wants_attn_bias else 0, dtype=torch.float32)
    grad_output, query, key, value = map(_heads_first, (grad_output, call.query, call.key, call.value))
    grad_query, grad_key, grad_value = map(_heads_first, (grads["query"], grads["key"], grads["value"]))
    grad_lse = grad_lse[None] if grad_lse is not None and grad_lse.dim() == 2 else grad_lse
    scoring = _scoring(call)
    dropout_params = DropoutParams.of(dropout) if dropout.dropout_p > 0 else None
    dtype = _dtype_of_products()
    for sequences in _groups(call, fused=False):
        for chunk in _chunks(sequences, call, _seeing_rows(sequences, call), fused=False):
            rows = sequences.rows(chunk.rows)
            q = query[rows].to(dtype)
            k, v = _read(key, sequences, chunk.keys).to(dtype), _read(value, sequences, chunk.keys).to(dtype)
            dropped = _dropped(dropout_params, sequences, q.shape[1], chunk)
            grad_out, grad_sums = grad_output[rows].to(dtype), None if grad_lse is None else grad_lse[rows].to(dtype)
            bias_index = _bias_index(call, sequences, chunk)
            of_chunk = scoring.of(sequences.numbers, bias_index)
            chunk_grads = careful_backward(grad_out, grad_sums, q, k, v, chunk, of_chunk, dropped)
            grad_query[rows] += chunk_grads.query
            _accumulate(grad_key, sequences, chunk.keys, chunk_grads.key)
            _accumulate(grad_value, sequences, chunk.keys, chunk_grads.value)
            if call.sinks is not None:
                grad_sinks += chunk_grads.sinks.sum(dim=0)
            if wants_attn_bias:
                part = _with_batch(grad_bias)[bias_index]
                part += chunk_grads.attn_bias.sum_to_size(part.shape)
    by_input = {name: grad.to(query.dtype) for name, grad in grads.items()}
    return Gradients(**by_input, sinks=grad_sinks, attn_bias=grad_bias.to(attn_bias.dtype))


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
        return output, lse, is_good(lse, output)
    return output, lse.masked_fill(lse == 0, torch.nan), False


def _dropped(
    params: Optional[DropoutParams], sequences: _Sequences, num_heads: int, chunk: Chunk
) -> Optional[torch.Tensor]:
    """Factors of the chunk's weights, or None without dropout."""
    return None if params is None else factors(params, sequences.numbers, num_heads, chunk.rows, chunk.keys)


def _heads_first(tensor: torch.Tensor) -> torch.Tensor:
    return _with_batch(tensor).transpose(1, 2)


def _with_batch(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[None] if tensor.dim() == 3 else tensor


def _scoring(call: Call) -> Scoring:
    bias = None if call.attn_bias is None else _with_batch(call.attn_bias)
    return Scoring(call.softmax_scale, call.softcap, call.alibi_slopes, call.sinks, bias)


def _bias_index(call: Call, sequences: _Sequences, chunk: Chunk) -> Tuple[slice, ...]:
    """Of the chunk's part of attn_bias, with a batch axis; an axis of one element is kept whole."""
    if call.attn_bias is None:
        return ()
    batch, heads, rows = sequences.rows(chunk.rows)
    index = batch, heads, rows, chunk.keys
    return tuple(_EVERYTHING if size == 1 else of for size, of in zip(_with_batch(call.attn_bias).shape, index))


def _groups(call: Call, fused: bool) -> Iterator[_Sequences]:
    """What attends to what. Query rows outside of all sequences come first, with no keys. Of a dense batch, neighbours
    that use as many keys come together: all of them to be fused, else as many as fill a chunk."""
    seqlen_q, batch = call.query.shape[-3], call.query.shape[0]
    key, block_table = _heads_first(call.key), call.block_table
    if call.cu_seqlens_q is None:
        queries = [slice(0, seqlen_q)] * batch
    else:
        bounds = _bounds(call.cu_seqlens_q, seqlen_q)
        queries = _ranges(bounds)
        for begin, end in ((0, bounds[0]), (bounds[-1], seqlen_q)):
            if begin < end:
                yield _Sequences(slice(0, 0), _EVERYTHING, slice(begin, end), slice(0, 0), None)
    keys = _keys_of_sequences(call, key, queries)
    if call.cu_seqlens_q is not None or block_table is not None:
        for b in range(len(queries)):
            number, pages = slice(b, b + 1), None if block_table is None else block_table[b]
            yield _Sequences(number, number if call.cu_seqlens_q is None else _EVERYTHING, queries[b], keys[b], pages)
        return
    begin = 0
    while begin < batch:
        end = begin + 1
        limit = batch if fused else _most_sequences(seqlen_q, keys[begin].stop, call)
        while end < min(batch, begin + limit) and keys[end] == keys[begin]:
            end += 1
        yield _Sequences(slice(begin, end), slice(begin, end), queries[begin], keys[begin], None)
        begin = end


def _keys_of_sequences(call: Call, key: torch.Tensor, queries: List[slice]) -> List[slice]:
    cu_seqlens_k, seqused_k = call.cu_seqlens_k, call.seqused_k
    if call.block_table is not None:
        ranges = _paged_ranges(key, call.block_table, cu_seqlens_k if seqused_k is None else None)
    elif cu_seqlens_k is None:
        ranges = [slice(0, key.shape[2])] * len(queries)
    elif cu_seqlens_k is call.cu_seqlens_q and key.shape[2] == call.query.shape[-3]:
        ranges = queries
    else:
        ranges = _ranges(_bounds(cu_seqlens_k, key.shape[2]))
    if seqused_k is not None:
        lengths = [max(used, 0) for used in seqused_k.tolist()]
        ranges = [slice(keys.start, min(keys.stop, keys.start + length)) for keys, length in zip(ranges, lengths)]
    return ranges


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


def _read(tensor: torch.Tensor, sequences: _Sequences, keys: slice) -> torch.Tensor:
    """Those rows of the sequences' keys or values, [batch, heads, keys, head_dim]."""
    begin, end = keys.start, keys.stop
    if sequences.pages is None:
        start = sequences.keys.start
        return tensor[sequences.batch, :, start + begin : start + end]
    page_size = tensor.shape[2]
    first = begin // page_size
    begin, end = begin - first * page_size, end - first * page_size
    pages = sequences.pages[first : first - (-end // page_size)].clamp(0, tensor.shape[0] - 1)
    if pages.shape[0] == 1:  # nothing to put together
        return tensor[int(pages)][None, :, begin:end]
    tokens = tensor.transpose(1, 2).index_select(0, pages).flatten(0, 1)
    return tokens[begin:end].transpose(0, 1)[None]


def _accumulate(grad: torch.Tensor, sequences: _Sequences, keys: slice, chunk_grad: torch.Tensor) -> None:
    """Adds to those rows of the gradient of the keys or values; several of them may be one row of a page."""
    if sequences.pages is None:
        start = sequences.keys.start
        grad[sequences.batch, :, start + keys.start : start + keys.stop] += chunk_grad
        return
    num_pages, page_size = grad.shape[0], grad.shape[2]
    position = integers(keys)
    chunk_grad = chunk_grad.to(grad.dtype)
    pages = sequences.pages[position // page_size].long().clamp_(0, num_pages - 1)
    tokens = grad.transpose(1, 2).flatten(0, 1)  # a view: the gradient is contiguous
    tokens.index_add_(0, pages * page_size + position % page_size, chunk_grad[0].transpose(0, 1))


class _Reach(NamedTuple):
    """Which keys the rows of a sequence see: as mask.h."""

    keys: int  # that there are to see
    diagonal: int
    left: int
    right: int

    @classmethod
    def of(cls, sequences: _Sequences, call: Call) -> _Reach:
        seqlen_q, seqlen_k = sequences.lengths()
        columns = 1 if call.attn_bias is None else call.attn_bias.shape[-1]
        everything = seqlen_q + seqlen_k  # a window this wide hides nothing
        return cls(
            keys=seqlen_k if columns == 1 else min(seqlen_k, columns),
            diagonal=0 if call.aligns_first else seqlen_k - seqlen_q,
            left=everything if call.window_left < 0 else call.window_left,
            right=everything if call.window_right < 0 else call.window_right,
        )

    def visible(self, row: int) -> Tuple[int, int]:
        """Neither end decreases with the row."""
        position = row + self.diagonal
        return max(0, position - self.left), min(self.keys, position + self.right + 1)


def _seeing_rows(sequences: _Sequences, call: Call) -> slice:
    """The rows that see a key, whatever attn_bias hides; some before and behind them may see none."""
    seqlen_q, _ = sequences.lengths()
    reach = _Reach.of(sequences, call)
    begin = min(seqlen_q, max(0, -reach.diagonal - reach.right))
    end = max(begin, min(seqlen_q, reach.keys + reach.left - reach.diagonal))
    return slice(begin, end if reach.keys else begin)


def _chunks(sequences: _Sequences, call: Call, seeing: slice, fused: bool) -> Iterator[Chunk]:
    """The rows of the sequences that see a key, in chunks of bounded size."""
    if seeing.start == seeing.stop:
        return
    reach = _Reach.of(sequences, call)
    diagonal, seqlen_k, seqlen_q = reach.diagonal, reach.keys, seeing.stop - seeing.start
    first, last = reach.visible(seeing.start), reach.visible(seeing.stop - 1)
    # PyTorch's operator masks the causal scores before it scales them: right for positive scales only.
    is_causal = (
        last[0] == 0 and reach.right == 0 and seqlen_q == seqlen_k > 1 and call.softmax_scale > 0
    ) and seeing.start + diagonal == 0
    if fused and (first == last or is_causal):
        yield Chunk(seeing, slice(first[0], last[1]), diagonal, None, is_causal)
        return
    num_sequences = sequences.numbers.stop - sequences.numbers.start
    rows, _ = _rows_and_scores(seqlen_k, call, 1 if fused else num_sequences * call.query.shape[-2])
    for begin in range(seeing.start, seeing.stop, rows):
        end = min(begin + rows, seeing.stop)
        first, last = reach.visible(begin), reach.visible(end - 1)
        mask = None
        if first != last:
            position = integers(slice(begin + diagonal, end + diagonal)).unsqueeze(1)
            keys = integers(slice(first[0], last[1]))
            mask = (keys >= position - reach.left) & (keys <= position + reach.right)
        yield Chunk(slice(begin, end), slice(first[0], last[1]), diagonal, mask, False)


def _most_sequences(seqlen_q: int, seqlen_k: int, call: Call) -> int:
    """As many as a chunk may have of them."""
    rows, scores_of_row = _rows_and_scores(seqlen_k, call, call.query.shape[-2])
    return max(1, CHUNK_SCORES // max(1, min(rows, seqlen_q) * scores_of_row))


def _rows_and_scores(seqlen_k: int, call: Call, matrices: int) -> Tuple[int, int]:
    """How many rows a chunk of so many matrices of scores may have, and the scores of a row of all of them."""
    left, right = call.window_left, call.window_right
    window = seqlen_k if left < 0 or right < 0 else min(seqlen_k, left + right + 1)
    rows = max(window, MIN_ROWS)  # of the keys of a chunk under a window, every row sees about half
    scores_of_row = max(1, min(seqlen_k, window + rows) * matrices)
    return min(rows, max(1, CHUNK_SCORES // scores_of_row, min(MIN_ROWS, MAX_SCORES // scores_of_row))), scores_of_row
