"""MLX's attention, compiled from the headers in its wheel for macOS: a peer that ours is compared with.

    from mlx_attention import decode, prefill
    library, host_name, constants, buffers, grid, threads = prefill(query, key, value, softmax_scale, causal)

The kernels are not copied and not changed; launches are those of MLX's own host code. Tensors as for
pytorch_attention.py, of float16 or bfloat16, contiguous.
"""

from __future__ import annotations

import math
import struct
from typing import List

import torch
from metal_simulator import Library
from peer_wheel import Wheel
from pytorch_attention import Dispatch

_KERNELS = "mlx/backend/metal/kernels/"
WHEEL = Wheel("mlx-metal", "0.32.4", "macosx_26_0_arm64", f"mlx/include/{_KERNELS}")
HEAD_DIMS = (64, 96, 128, 256)  # of both prefill kernels; MLX takes separate operations at 256 without the matrix unit
_METAL = {torch.float16: "half", torch.bfloat16: "bfloat"}
_GQA_HEADS = {8: (64, 128), 12: (128,), 16: (128,)}  # head_dims by heads that share keys, of the kernel for such
_HEADS_PER_THREAD = 4  # of that kernel: the most that fits threadgroup memory; the wheel does not tell


def available() -> bool:
    """Whether the wheel was downloaded."""
    return WHEEL.include() is not None


def _library(name: str, headers: List[str], instance: str, **options: str) -> Library:
    """One instantiation, of a file beside the wheel."""
    target = WHEEL.include()
    path = target / f"{name}.metal"
    path.write_text("".join(f'#include "{_KERNELS}{header}"\n' for header in headers) + instance + "\n")
    return Library(path, [target / "mlx" / "include"], **options)


def prefill(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    softmax_scale: float,
    causal: bool,
    matrix_unit: bool = False,
) -> Dispatch:
    """The kernel for many queries. causal: at the last key.

    Raises ValueError for a head_dim or dtype without a kernel.
    """
    batch, heads, seqlen_q, head_dim = query.shape
    seqlen_k = key.shape[2]
    if head_dim not in HEAD_DIMS or query.dtype not in _METAL:
        raise ValueError(f"MLX has no prefill kernel for head_dim {head_dim}, {query.dtype}")
    kind = _METAL[query.dtype]
    widths, options = f"{head_dim}, {head_dim}", {}
    if matrix_unit:
        rows, columns, threads, function = 64, 32, (32, 4, 1), "attention_nax"
        header, options = "steel_attention_nax.h", {"language": "metal4.0", "deployment_target": "26.2"}
        if head_dim == 256:
            threads, function, widths = (32, 4, 2), "attention_nax_dsplit", "256"
    else:
        rows, columns, threads, function = 32, 32 if head_dim < 128 else 16, (32, 4, 1), "attention"
        header = "steel_attention.h"
    name = f"{function}_{kind}_{head_dim}"
    arguments = f"{kind}, {rows}, {columns}, {widths}, {threads[1]}, {threads[2]}, {kind}, float"
    headers = ["utils.h", f"steel/attn/kernels/{header}"]
    library = _library(name, headers, f'instantiate_kernel("{name}", {function}, {arguments})', **options)
    output = torch.full(query.shape, float("nan"), dtype=query.dtype)
    blocks, whole = (math.ceil(seqlen_q / rows), math.ceil(seqlen_k / columns)), (seqlen_q // rows, seqlen_k // columns)
    sizes = [batch, heads, head_dim, seqlen_q, seqlen_k, heads // key.shape[1]]
    rest = [*blocks, *whole, seqlen_q % rows, seqlen_k % columns, seqlen_k - seqlen_q]
    strides = [n for tensor in (query, key, value, output) for n in tensor.stride()[:3]]
    parameters = struct.pack("6if7i12q", *sizes, softmax_scale, *rest, *strides)
    constants = {"align_Q": not rest[4], "align_K": not rest[5], "has_mask": False, "do_causal": causal}
    constants |= {"has_sinks": False, "save_lse": False}
    buffers = [query, key, value, output, parameters]
    return Dispatch(library, name, constants, buffers, (blocks[0], heads, batch), threads)


def decode(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, softmax_scale: float, is_max: bool
) -> List[Dispatch]:
    """The launches for one query token: parts of the keys, then their sum. is_max: on a Max chip, else a smaller one.

    Raises ValueError for what MLX decodes in one launch, or has no kernel for.
    """
    batch, heads, seqlen_q, head_dim = query.shape
    heads_kv, seqlen_k, value_dim = *key.shape[1:3], value.shape[3]
    group = heads // heads_kv
    if seqlen_q != 1 or query.dtype not in _METAL or seqlen_k < (1024 if is_max else 4096):
        raise ValueError(f"no two launches of MLX for {seqlen_q} tokens on {seqlen_k} keys, {query.dtype}")
    blocks = _blocks(seqlen_k, group, is_max)
    kind = _METAL[query.dtype]
    shares = head_dim == value_dim and head_dim in _GQA_HEADS.get(group, ()) and seqlen_k >= 8192
    first = "sdpa_vector_2pass_1_gqa" if shares else "sdpa_vector_2pass_1"
    more = f", {group}, {_HEADS_PER_THREAD}" if shares else ""
    names = [f"{first}_{kind}_{head_dim}_{value_dim}_{group}", f"sdpa_vector_2pass_2_{kind}_{value_dim}"]
    instances = [
        f'instantiate_kernel("{names[0]}", {first}, {kind}, {head_dim}, {value_dim}{more})',
        f'instantiate_kernel("{names[1]}", sdpa_vector_2pass_2, {kind}, {value_dim})',
    ]
    libraries = [_library(name, ["utils.h", "sdpa_vector.h"], text) for name, text in zip(names, instances)]
    partials = torch.zeros(batch * heads, blocks, value_dim, dtype=query.dtype)
    sums, maxima = torch.zeros(2, batch * heads, blocks)
    output = torch.full((*query.shape[:3], value_dim), float("nan"), dtype=query.dtype)
    strides = [struct.pack("Q", tensor.stride(axis)) for tensor in (key, value) for axis in (1, 2)]
    buffers = [query, key, value, partials, sums, maxima, None, struct.pack("i", seqlen_k), *strides]
    buffers.append(struct.pack("f", softmax_scale))
    constants = dict.fromkeys(("has_mask", "query_transposed", "do_causal", "bool_mask", "float_mask"), False)
    constants |= {"has_sinks": False, "blocks": blocks}
    last = [partials, sums, maxima, output, struct.pack("i", blocks)]
    return [
        Dispatch(libraries[0], names[0], constants, buffers, (heads_kv, batch, blocks), (32, group, 1)),
        Dispatch(libraries[1], names[1], {}, last, (batch * heads, 1, 1), (1024, 1, 1)),
    ]


def _blocks(keys: int, group: int, is_max: bool) -> int:
    """Parts of the keys."""
    if not is_max:
        return 64 if group >= 4 else 32
    if group <= 4:
        return 64
    return next((blocks for most, blocks in ((8192, 128), (32768, 256), (65536, 512)) if keys <= most), 1024)
