"""PyTorch's own Metal attention, compiled from the headers in the installed wheel: the peer that ours is compared with.

    from pytorch_attention import decode, prefill
    library, host_name, constants, buffers, grid, threads = prefill(query, key, value, softmax_scale, causal)
    library.kernel(host_name, constants).launch(buffers, grid, threads)
    output = buffers[OUTPUT]

The kernels are not copied and not changed. Tensors are CPU tensors of float16, bfloat16 or float32:
query [batch, num_heads, seqlen_q, head_dim], key and value [batch, num_heads_kv, seqlen_k, head_dim], with num_heads a
multiple of num_heads_kv and elements of the last dimension adjacent.
"""

from __future__ import annotations

import pathlib
import struct
from typing import NamedTuple

import torch
from metal_simulator import Library

INCLUDE = pathlib.Path(torch.__file__).parent / "include"
SOURCE = pathlib.Path(__file__).with_suffix(".metal")
OUTPUT = 3  # its place among the buffers of both kernels
_TILES = {32: (32, 32, 4), 64: (32, 32, 4), 72: (32, 32, 4), 80: (32, 32, 4), 96: (32, 32, 4), 128: (32, 16, 4)}
_TILES[256] = (16, 8, 2)  # by head_dim: rows of query, rows of key, SIMD groups
_DECODE_HEAD_DIMS = (64, 96, 128, 256)
_METAL = {torch.float16: "half", torch.bfloat16: "bfloat", torch.float32: "float"}


class Dispatch(NamedTuple):
    """Everything of one launch; buffers[OUTPUT] is the output [batch, num_heads, seqlen_q, head_dim]."""

    library: Library
    host_name: str
    constants: dict
    buffers: list
    grid: tuple
    threads: tuple


def available() -> bool:
    """Whether the installed torch brings the headers."""
    return (INCLUDE / "ATen/native/mps/kernels/PrefillAttention.h").exists()


def prefill(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, softmax_scale: float, causal: bool
) -> Dispatch:
    """The kernel for many queries. causal: query i sees keys 0 to i, whatever the lengths.

    Raises ValueError for a head_dim or dtype that PyTorch has no kernel for.
    """
    batch, heads, seqlen_q, head_dim = query.shape
    if head_dim not in _TILES or query.dtype not in _METAL:
        raise ValueError(f"PyTorch has no prefill kernel for head_dim {head_dim}, {query.dtype}")
    rows, columns, simdgroups = _TILES[head_dim]
    output = torch.full(query.shape, float("nan"), dtype=query.dtype)
    strides = [n for tensor in (query, key, value, output) for n in tensor.stride()[:3]]
    sizes = (batch, heads, head_dim, seqlen_q, key.shape[2], heads // key.shape[1])
    parameters = struct.pack("6i2f12i", *sizes, softmax_scale, 1.0, *strides)
    kind = str(query.dtype).replace("torch.", "")
    name = f"prefill_attention_{kind}_bq{rows}_bk{columns}_bd{head_dim}_wm{simdgroups}_wn1_hm0_dc{causal:d}_mask{kind}"
    grid = (-(-seqlen_q // rows), heads, batch)
    buffers = [query, key, value, output, parameters, None, None]
    return Dispatch(Library(SOURCE, [INCLUDE]), name, {}, buffers, grid, (32, simdgroups, 1))


def decode(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, softmax_scale: float) -> Dispatch:
    """The kernel for few queries, without a mask: a threadgroup of 1024 threads for each query and head.

    Raises ValueError for a head_dim or dtype that PyTorch has no kernel for.
    """
    batch, heads, seqlen_q, head_dim = query.shape
    if head_dim not in _DECODE_HEAD_DIMS or query.dtype not in _METAL:
        raise ValueError(f"PyTorch has no decode kernel for head_dim {head_dim}, {query.dtype}")
    output = torch.full(query.shape, float("nan"), dtype=query.dtype)
    strides = [[tensor.stride(i) for tensor in (query, key, value)] for i in range(3)]
    buffers = [
        query,
        key,
        value,
        output,
        struct.pack("I", heads // key.shape[1]),
        struct.pack("I", key.shape[2]),
        struct.pack("4I", *strides[1], 0),
        struct.pack("4I", *strides[2], 0),
        struct.pack("f", softmax_scale),
        None,
        struct.pack("4I", 0, 0, 0, 0),
        struct.pack("4I", *strides[0], heads),
    ]
    name = f"sdpa_vector_{_METAL[query.dtype]}_{head_dim}_{head_dim}_masknone"
    return Dispatch(Library(SOURCE, [INCLUDE]), name, {}, buffers, (batch * heads, seqlen_q, 1), (1024, 1, 1))
