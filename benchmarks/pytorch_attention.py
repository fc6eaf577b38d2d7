"""PyTorch's own Metal attention, compiled from the headers in its wheel: the peer that ours is compared with.

The wheel is that of WHEEL, for macOS, if it was downloaded, else the installed one, with what is in it.

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
from peer_wheel import Wheel

INSTALLED = pathlib.Path(torch.__file__).parent / "include"
WHEEL = Wheel("torch", "2.15.0", "macosx_14_0_arm64", "torch/include/")
SOURCE = pathlib.Path(__file__).with_suffix(".metal")
UNIT_SOURCE = pathlib.Path(__file__).with_name("pytorch_attention_unit.metal")
OUTPUT = 3  # its place among the buffers of all kernels
UNIT_HEAD_DIMS = (64, 96, 128, 256)
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


def include() -> pathlib.Path:
    """Folder of the headers."""
    downloaded = WHEEL.include()
    return downloaded / "torch" / "include" if downloaded else INSTALLED


def version() -> str:
    return torch.__version__ if include() == INSTALLED else WHEEL.version


def available(name: str = "PrefillAttention") -> bool:
    """Whether there are headers, and one of that name."""
    return _header(name).exists()


def _header(name: str) -> pathlib.Path:
    return include() / "ATen/native/mps/kernels" / f"{name}.h"


def prefill(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, softmax_scale: float, causal: bool
) -> Dispatch:
    """The kernel for many queries. causal: query i sees keys 0 to i, whatever the lengths.

    Raises ValueError for a head_dim or dtype that PyTorch has no kernel for.
    """
    head_dim = query.shape[3]
    if head_dim not in _TILES or query.dtype not in _METAL:
        raise ValueError(f"PyTorch has no prefill kernel for head_dim {head_dim}, {query.dtype}")
    library = Library(SOURCE, [include()])
    return _prefill(library, "prefill_attention", _TILES[head_dim], query, key, value, softmax_scale, causal)


def prefill_unit(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    softmax_scale: float,
    causal: bool,
    layout: str = "a10",
) -> Dispatch:
    """As prefill, on the matrix unit. layout: "a10", of Apple10's lanes, or "a9", of those before it.

    Raises ValueError for a head_dim or dtype that PyTorch has no such kernel for.
    """
    head_dim = query.shape[3]
    if head_dim not in UNIT_HEAD_DIMS or query.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"PyTorch has no kernel of the matrix unit for head_dim {head_dim}, {query.dtype}")
    library = Library(UNIT_SOURCE, [include()], language="metal4.0", deployment_target="26.2")
    name = f"prefill_attention_mpp_{layout}"
    return _prefill(library, name, (64, 32, 4), query, key, value, softmax_scale, causal)


def _prefill(library, function: str, tile: tuple, query, key, value, softmax_scale: float, causal: bool) -> Dispatch:
    """tile: rows of query, rows of key, SIMD groups."""
    batch, heads, seqlen_q, head_dim = query.shape
    rows, columns, simdgroups = tile
    output = torch.full(query.shape, float("nan"), dtype=query.dtype)
    strides = [n for tensor in (query, key, value, output) for n in tensor.stride()[:3]]
    sizes = (batch, heads, head_dim, seqlen_q, key.shape[2], heads // key.shape[1])
    wide = "int64_t Q_strides" in _header("PrefillAttention").read_text()  # torch 2.13 has strides of 32 bits
    parameters = struct.pack("6i2f12q" if wide else "6i2f12i", *sizes, softmax_scale, 1.0, *strides)
    kind = str(query.dtype).replace("torch.", "")
    name = f"{function}_{kind}_bq{rows}_bk{columns}_bd{head_dim}_wm{simdgroups}_wn1_hm0_dc{causal:d}_mask{kind}"
    grid = (-(-seqlen_q // rows), heads, batch)
    buffers = [query, key, value, output, parameters, None, None]
    return Dispatch(library, name, {}, buffers, grid, (32, simdgroups, 1))


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
    return Dispatch(Library(SOURCE, [include()]), name, {}, buffers, (batch * heads, seqlen_q, 1), (1024, 1, 1))
