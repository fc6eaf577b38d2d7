"""Attention on the CPU, composed of PyTorch's operators.

Works through the batch sequence by sequence and through a long sequence in chunks of query rows, so that no matrix of
all scores is ever held. Without the log-sum-exp a chunk goes to PyTorch's own fused attention, otherwise and for the
gradients its weights are formed. All arithmetic is fp32: on fp16 and bf16 PyTorch's fused attention would round the
weights, and be no faster.

Inside, tensors are [batch, heads, seqlen, head_dim] and lse is [batch, heads, seqlen_q].
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F

CHUNK_SCORES = 2**20  # scores (or elements of a mask) of a chunk: with more of them they leave the caches
MIN_ROWS = 64  # of a chunk, even with more scores: with fewer, products of matrices become as slow as of vectors
MAX_SCORES = 2**24  # of a chunk, even with fewer rows: bounds the memory
UNBOUNDED = 2**62  # a window this wide hides nothing


class _Sequence(NamedTuple):
    batch: slice
    queries: slice
    keys: slice


class _Chunk(NamedTuple):
    rows: slice
    keys: slice  # all that the rows see
    mask: Optional[torch.Tensor]  # [rows, keys], True where seen; None if every row sees every key
    is_causal: bool  # instead of a mask: row r sees the keys up to r


def attention_forward(
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: Optional[torch.Tensor],
    cu_seqlens_k: Optional[torch.Tensor],
    softmax_scale: float,
    window_left: int,
    window_right: int,
) -> None:
    """Fills every row of `output`, and of `lse` unless it is None. Arguments as of operators.attention_forward."""
    if cu_seqlens_q is not None:
        output, query, key, value = output[None], query[None], key[None], value[None]
        lse = None if lse is None else lse[None]
    output, query, key, value = (tensor.transpose(1, 2) for tensor in (output, query, key, value))
    fused = lse is None
    for batch, queries, keys in _sequences(query, key, cu_seqlens_q, cu_seqlens_k, whole_batch=fused):
        q, k, v = query[batch, :, queries], key[batch, :, keys], value[batch, :, keys]
        out, row_lse = output[batch, :, queries], None if fused else lse[batch, :, queries]
        blind = _blind_rows(q.shape[2], k.shape[2], window_right)
        if blind > 0:
            out[:, :, :blind] = 0
            if not fused:
                row_lse[:, :, :blind] = -torch.inf
        for chunk in _chunks(q, k, softmax_scale, window_left, window_right, blind, fused):
            operands = q[:, :, chunk.rows].float(), k[:, :, chunk.keys].float(), v[:, :, chunk.keys].float()
            if fused:
                out[:, :, chunk.rows] = F.scaled_dot_product_attention(
                    *operands,
                    attn_mask=chunk.mask,
                    is_causal=chunk.is_causal,
                    scale=softmax_scale,
                    enable_gqa=query.shape[1] != key.shape[1],
                )
            else:
                weights, row_lse[:, :, chunk.rows] = _weights(*operands[:2], chunk.mask, softmax_scale)
                out[:, :, chunk.rows] = torch.matmul(weights, operands[2]).view(operands[0].shape)


def attention_backward(
    grad_output: torch.Tensor,
    grad_lse: Optional[torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: Optional[torch.Tensor],
    cu_seqlens_k: Optional[torch.Tensor],
    softmax_scale: float,
    window_left: int,
    window_right: int,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value, from those of the output and (unless None) of lse."""
    grads = [torch.zeros(tensor.shape, dtype=torch.float32) for tensor in (query, key, value)]
    tensors = [grad_output, query, key, value, *grads]
    if cu_seqlens_q is not None:
        tensors = [tensor[None] for tensor in tensors]
        grad_lse = None if grad_lse is None else grad_lse[None]
    grad_output, query, key, value, grad_query, grad_key, grad_value = (tensor.transpose(1, 2) for tensor in tensors)
    for batch, queries, keys in _sequences(query, key, cu_seqlens_q, cu_seqlens_k, whole_batch=False):
        q, k, v = query[batch, :, queries], key[batch, :, keys], value[batch, :, keys]
        blind = _blind_rows(q.shape[2], k.shape[2], window_right)
        for chunk in _chunks(q, k, softmax_scale, window_left, window_right, blind, fused=False):
            row_grad_lse = None if grad_lse is None else grad_lse[batch, :, queries][:, :, chunk.rows]
            chunk_grads = _chunk_backward(
                grad_output[batch, :, queries][:, :, chunk.rows].float(),
                row_grad_lse,
                q[:, :, chunk.rows].float(),
                k[:, :, chunk.keys].float(),
                v[:, :, chunk.keys].float(),
                chunk.mask,
                softmax_scale,
            )
            grad_query[batch, :, queries][:, :, chunk.rows] += chunk_grads[0]
            grad_key[batch, :, keys][:, :, chunk.keys] += chunk_grads[1]
            grad_value[batch, :, keys][:, :, chunk.keys] += chunk_grads[2]
    return tuple(grad.to(query.dtype) for grad in grads)


def _weights(
    q: torch.Tensor, k: torch.Tensor, mask: Optional[torch.Tensor], softmax_scale: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Softmax weights [batch, heads_kv, group * rows, keys] and lse [batch, heads, rows]; every row sees a key.

    The query heads that share a key/value head are stacked as rows, so that keys are not repeated.
    """
    batch, num_heads, rows, head_dim = q.shape
    num_heads_kv, keys = k.shape[1:3]
    scores = torch.matmul(q.reshape(batch, num_heads_kv, -1, head_dim), k.transpose(2, 3)).mul_(softmax_scale)
    if mask is not None:
        scores.view(batch, num_heads_kv, -1, rows, keys).masked_fill_(~mask, -torch.inf)
    row_max = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(row_max).exp_()
    row_sum = weights.sum(dim=-1, keepdim=True)
    return weights.div_(row_sum), row_sum.log_().add_(row_max).view(batch, num_heads, rows)


def _chunk_backward(grad_output, grad_lse, q, k, v, mask, softmax_scale):
    """Gradients of a chunk's q, k, v. With P the weights: dS = P * (dP - rowsum(P * dP) + dlse)."""
    weights, _ = _weights(q, k, mask, softmax_scale)
    stacked = (*k.shape[:2], -1)  # query heads that share a key/value head, as rows
    grad_out = grad_output.reshape(*stacked, v.shape[-1])
    grad_v = torch.matmul(weights.transpose(2, 3), grad_out)
    grad_weights = torch.matmul(grad_out, v.transpose(2, 3))
    offset = torch.linalg.vecdot(weights, grad_weights).unsqueeze(-1)
    if grad_lse is not None:
        offset = offset - grad_lse.reshape(*stacked, 1)
    grad_scores = grad_weights.sub_(offset).mul_(weights).mul_(softmax_scale)
    grad_q = torch.matmul(grad_scores, k).view(q.shape)
    grad_k = torch.matmul(grad_scores.transpose(2, 3), q.reshape(*stacked, q.shape[-1]))
    return grad_q, grad_k, grad_v


def _sequences(
    query: torch.Tensor,
    key: torch.Tensor,
    cu_seqlens_q: Optional[torch.Tensor],
    cu_seqlens_k: Optional[torch.Tensor],
    whole_batch: bool,
) -> Iterator[_Sequence]:
    """What attends to what. Query rows outside of all sequences come first, with no keys. A dense batch is one piece
    with `whole_batch`, else one for each of its sequences."""
    everything = slice(None)
    if cu_seqlens_q is None:
        batches = [everything] if whole_batch else [slice(b, b + 1) for b in range(query.shape[0])]
        for batch in batches:
            yield _Sequence(batch, everything, everything)
        return
    bounds_q = _bounds(cu_seqlens_q, query.shape[2])
    bounds_k = bounds_q if cu_seqlens_k is cu_seqlens_q else _bounds(cu_seqlens_k, key.shape[2])
    for begin, end in ((0, bounds_q[0]), (bounds_q[-1], query.shape[2])):
        if begin < end:
            yield _Sequence(everything, slice(begin, end), slice(0, 0))
    for b in range(len(bounds_q) - 1):
        yield _Sequence(everything, slice(bounds_q[b], bounds_q[b + 1]), slice(bounds_k[b], bounds_k[b + 1]))


def _bounds(cu_seqlens: torch.Tensor, total: int) -> List[int]:
    """The values, clamped to the tensor they index; a decreasing pair makes an empty slice."""
    return [min(max(bound, 0), total) for bound in cu_seqlens.tolist()]


def _blind_rows(seqlen_q: int, seqlen_k: int, window_right: int) -> int:
    """How many rows see no key. They are always the first ones: the last query lines up with the last key."""
    if seqlen_k == 0:
        return seqlen_q
    return max(0, seqlen_q - seqlen_k - window_right) if window_right >= 0 else 0


def _chunks(
    q: torch.Tensor,
    k: torch.Tensor,
    softmax_scale: float,
    window_left: int,
    window_right: int,
    first_row: int,
    fused: bool,
) -> Iterator[_Chunk]:
    """The rows of a sequence from first_row on, in chunks of bounded size."""
    seqlen_q, seqlen_k = q.shape[2], k.shape[2]
    if first_row == seqlen_q:
        return
    diagonal = seqlen_k - seqlen_q
    left = UNBOUNDED if window_left < 0 else window_left
    right = UNBOUNDED if window_right < 0 else window_right

    def visible(row: int) -> Tuple[int, int]:  # both ends never decrease with the row
        return max(0, row + diagonal - left), min(seqlen_k, row + diagonal + right + 1)

    first, last = visible(first_row), visible(seqlen_q - 1)
    # PyTorch masks the causal scores before it scales them: right for positive scales only.
    is_causal = last[0] == 0 and right == 0 and seqlen_q - first_row == seqlen_k > 1 and softmax_scale > 0
    if fused and (first == last or is_causal):
        yield _Chunk(slice(first_row, seqlen_q), slice(first[0], last[1]), None, is_causal)
        return
    window = min(seqlen_k, left + right + 1)
    rows = max(window, MIN_ROWS)  # of the keys of a chunk under a window, every row sees about half
    scores_of_row = min(seqlen_k, window + rows) * (1 if fused else q.shape[0] * q.shape[1])
    rows = min(rows, max(1, CHUNK_SCORES // scores_of_row, min(MIN_ROWS, MAX_SCORES // scores_of_row)))
    for begin in range(first_row, seqlen_q, rows):
        end = min(begin + rows, seqlen_q)
        first, last = visible(begin), visible(end - 1)
        mask = None
        if first != last:
            position = torch.arange(begin + diagonal, end + diagonal).unsqueeze(1)
            keys = torch.arange(first[0], last[1])
            mask = (keys >= position - left) & (keys <= position + right)
        yield _Chunk(slice(begin, end), slice(first[0], last[1]), mask, False)
