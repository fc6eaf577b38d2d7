"""The doors through which people come who never ask for a kernel: other libraries' functions, on this one."""

from . import flash_attn_interface as flash_attn_interface
from .diffusers import register_diffusers as register_diffusers
from .flash_attn_2 import install_flash_attn as install_flash_attn
from .replace import replace_sdpa as replace_sdpa
from .sdpa import scaled_dot_product_attention as scaled_dot_product_attention
from .varlen import activate_varlen_attn as activate_varlen_attn
