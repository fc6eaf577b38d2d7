"""Flash attention for Apple GPUs: exact attention over dense and packed variable-length batches.

The public functions are listed in `__all__`; each documents its arguments. Tensors on `mps` run on Metal kernels,
tensors on the CPU on a composition of PyTorch operators, both with the same results up to rounding.
"""

from . import launching as launchers  # noqa: F401
from . import selftest as selftest
from .doors import (
    activate_varlen_attn,
    install_flash_attn,
    register_diffusers,
    replace_sdpa,
    scaled_dot_product_attention,
)
from .doors import flash_attn_interface as flash_attn_interface
from .interface import (
    flash_attention_varlen,
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
    flash_attn_with_kvcache,
    index_first_axis,
    merge_attention_states,
    pad_input,
    precompile,
    unpad_input,
)
from .planning import device as device
from .planning import forward as planner  # noqa: F401

__version__ = "1.0.0"  # the first number is build.toml's version, the whole one that of the wheel and its tag

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
    "scaled_dot_product_attention",
    "replace_sdpa",
    "install_flash_attn",
    "register_diffusers",
    "activate_varlen_attn",
    "precompile",
]
