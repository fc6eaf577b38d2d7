"""Flash attention for Apple GPUs: exact attention over dense and packed variable-length batches.

The public functions are listed in `__all__`; each documents its arguments. Tensors on `mps` run on Metal kernels,
tensors on the CPU on a composition of PyTorch operators, both with the same results up to rounding.
"""

from . import device as device
from . import launchers as launchers
from . import planner as planner
from . import selftest as selftest
from .interface import flash_attention_varlen, flash_attn_func, flash_attn_varlen_func
from .kv_cache import flash_attn_with_kvcache
from .merging import merge_attention_states
from .padding import index_first_axis, pad_input, unpad_input
from .qkv_packed import (
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

__all__ = [
    "flash_attention_varlen",
    "flash_attn_varlen_func",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_with_kvcache",
    "merge_attention_states",
    "unpad_input",
    "pad_input",
    "index_first_axis",
]
