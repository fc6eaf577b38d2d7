"""The public functions: they check arguments, fill in defaults and call one operator.

Everywhere, query token i of a sequence with seqlen_q queries and seqlen_k keys stands at p = i + seqlen_k - seqlen_q
(the last query lines up with the last key) and sees the keys j with p - left <= j <= p + right. Their scores are

    s_j = softmax_scale * <query_i, key_j>
    s_j = softcap * tanh(s_j / softcap)     with a softcap
    s_j = s_j - alibi_slope * |p - j|       with ALiBi slopes
    s_j = s_j + attn_bias[i, j]             with a floating attn_bias

and the output is sum_j exp(s_j) value_j / sum_j exp(s_j), where a sink adds exp(sink) to the divisor; lse is the
natural logarithm of the divisor. A key is hidden, too, where attn_bias is False or -inf. A query that sees no key gives
0, and -inf. Query head h uses key/value head h // (num_heads // num_heads_kv).
"""

from .dense_and_packed import flash_attention_varlen as flash_attention_varlen
from .dense_and_packed import flash_attn_func as flash_attn_func
from .dense_and_packed import flash_attn_varlen_func as flash_attn_varlen_func
from .kv_cache import flash_attn_with_kvcache as flash_attn_with_kvcache
from .merging import merge_attention_states as merge_attention_states
from .padding import index_first_axis as index_first_axis
from .padding import pad_input as pad_input
from .padding import unpad_input as unpad_input
from .precompiling import precompile as precompile
from .qkv_packed import flash_attn_kvpacked_func as flash_attn_kvpacked_func
from .qkv_packed import flash_attn_qkvpacked_func as flash_attn_qkvpacked_func
from .qkv_packed import flash_attn_varlen_kvpacked_func as flash_attn_varlen_kvpacked_func
from .qkv_packed import flash_attn_varlen_qkvpacked_func as flash_attn_varlen_qkvpacked_func
