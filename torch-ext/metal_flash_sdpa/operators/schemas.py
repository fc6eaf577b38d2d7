"""The operators of this build: their schemas, in a namespace of their own."""

from __future__ import annotations

import torch

from .._ops import add_op_namespace_prefix, ops
from ..call import Call, Dropout, schema

library = torch.library.Library(add_op_namespace_prefix("").rstrip(":"), "FRAGMENT")
# attention_forward_inference gives the output alone, for calls without gradients that nothing watches.
# attention_backward takes what the forward returned where a launcher ran it; None where the CPU implementation did,
# which computes the weights again. Without wants_key_value, the gradients of key and value are [0], and
# without wants_attn_bias that of attn_bias.
# attention_over_rows takes a call on a cache: key and value [batch_cache, seqlen_cache, heads, head_dim], and seqused_k
# where each sequence ends in its row, int32 or int64, None for seqlen_cache. Beside it, [batch], int32 or int64: the
# rows of the sequences, None for those in order, and where each begins in its row, None for 0.
# append_to_cache takes arguments of flash_attn_with_kvcache, of cache_seqlens those of each sequence. With
# turns_by_first, a sequence's queries all turn by its first new position. Returns the queries, rotated, [0] without
# rotary_cos and rotary_sin, and the lengths after it, int32 [batch].
for _schema in (
    f"attention_forward({schema(Call)}, bool return_lse, bool return_softmax, {schema(Dropout)}) "
    "-> (Tensor output, Tensor lse, Tensor row_softmax)",
    f"attention_forward_inference({schema(Call)}) -> Tensor",
    f"attention_forward_out(Tensor(a!) output, {schema(Call)}) -> ()",
    f"attention_backward(Tensor grad_output, Tensor? grad_lse, {schema(Call)}, Tensor? output, Tensor? row_softmax, "
    f"bool wants_key_value, bool wants_attn_bias, {schema(Dropout)}) "
    "-> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_sinks, Tensor grad_attn_bias)",
    f"attention_over_rows({schema(Call)}, Tensor? cache_batch_idx, Tensor? cache_leftpad, bool return_lse) "
    "-> (Tensor, Tensor)",
    "append_to_cache(Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor k, Tensor v, Tensor query, Tensor cache_seqlens, "
    "Tensor? cache_batch_idx, Tensor? block_table, Tensor? rotary_cos, Tensor? rotary_sin, bool rotary_interleaved, "
    "bool turns_by_first) -> (Tensor, Tensor)",
    "refuse_backward(Tensor grad, SymInt[] shape) -> Tensor",
):
    library.define(_schema, tags=torch.Tag.pt2_compliant_tag)

attention_forward = ops.attention_forward.default
attention_forward_inference = ops.attention_forward_inference.default
attention_forward_out = ops.attention_forward_out.default
attention_backward = ops.attention_backward.default
attention_over_rows = ops.attention_over_rows.default
append_to_cache = ops.append_to_cache.default
refuse_backward = ops.refuse_backward.default
