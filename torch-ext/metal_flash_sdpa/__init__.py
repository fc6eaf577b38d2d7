"""Flash attention for Apple GPUs: exact attention over dense and packed variable-length batches.

The public functions are listed in `__all__`; each documents its arguments. Tensors on `mps` run on Metal kernels,
tensors on the CPU on a composition of PyTorch operators, both with the same results up to rounding.
"""

from . import launchers as launchers
from . import planner as planner
from . import selftest as selftest
from .interface import flash_attention_varlen, flash_attn_func, flash_attn_varlen_func

__all__ = ["flash_attention_varlen", "flash_attn_varlen_func", "flash_attn_func"]
