"""Whether kernels may use the matrix unit of this machine's GPU: what must be known before any of them runs.

Metal promises nothing of how operands lie on the lanes of a SIMD group; unit.h assumes what public kernels found. On a
system that lays them out in another way, or multiplies wrongly, results would be silently wrong.
"""

from __future__ import annotations

import functools
import os
import platform
import threading
import warnings
from typing import Any, Callable, NamedTuple, Optional

import torch

from ..call import Call
from ..planning.device import SMALLEST, Device
from ..planning.forward import plan_forward
from ..planning.plan import Plan
from ..planning.tiles import MATRIX_UNIT, TABLES, Tile
from .runtime import RuntimeLauncher

VARIABLE = "METAL_FLASH_SDPA_MATRIX_UNIT"  # 0 in the environment forbids the matrix unit
FAMILY = 10  # the first with one
MACOS = (26, 2)  # the first whose interface to it can be relied on

_OPERANDS = ("left", "left transposed", "right", "right transposed", "destination")
_PRODUCTS = ("half", "bfloat", "float by half", "float by bfloat")
_TRANSPOSED = ("", " transposed", " with left transposed")
_HEAD_DIM = 64  # of the attention that is compared


class Verdict(NamedTuple):
    is_usable: bool
    reason: str


_LOCK = threading.Lock()


def verdict(family: int) -> Verdict:
    """On this machine, whose GPU is of this family. The check runs once in a process, whatever the threads that ask,
    and warns if it fails."""
    with _LOCK:
        return _verdict(family)


@functools.lru_cache(maxsize=16)  # families: a machine has one
def _verdict(family: int) -> Verdict:
    reason = _forbidden(family)
    if reason:
        return Verdict(False, reason)
    try:
        reason = _of_this_gpu()
    except RuntimeError as error:  # of the compiler, or of the GPU
        reason = " ".join(str(error).split())[:1000]
    if reason:
        warnings.warn(
            f"attention runs without this GPU's matrix unit, slower but right, as a check failed: {reason}. "
            f"Please report it; {VARIABLE}=0 in the environment skips the check",
            stacklevel=3,
        )
        return Verdict(False, reason)
    return Verdict(True, "layouts, products and an attention are right")


def _of_this_gpu() -> str:
    return why_not(RuntimeLauncher(), torch.device("mps"))


def _forbidden(family: int) -> str:
    """Why there is nothing to check, if so."""
    if os.environ.get(VARIABLE) == "0":
        return f"{VARIABLE} is 0"
    if family < FAMILY:
        return f"a GPU of family {family} has none, {FAMILY} is the first"
    system = macos()
    if system is None or system < MACOS:
        return f"macOS {'of unknown version' if system is None else '.'.join(map(str, system))}, it takes 26.2"
    return ""


def macos() -> Optional[tuple]:
    """(major, minor) of this system, None if it is no macOS."""
    try:
        major, minor = map(int, f"{platform.mac_ver()[0]}.0".split(".")[:2])
    except ValueError:
        return None
    return (26 if major == 16 else major), minor  # so it is told to a Python that was built before 26


def why_not(launcher: Callable[[Plan, Any], None], device: torch.device) -> str:
    """What speaks against the matrix unit on a GPU: "" if nothing. The launcher runs plans on tensors of `device`.

    Raises RuntimeError as the launcher.
    """
    return _wrong_operands(launcher, device) or _wrong_attention(launcher, device)


def _wrong_operands(launcher: Callable[[Plan, Any], None], device: torch.device) -> str:
    generator = torch.Generator().manual_seed(0)  # on the CPU, whatever the caller's default device is
    a = torch.randint(-8, 9, (16, 16), generator=generator, dtype=torch.int32, device="cpu")
    b = torch.randint(-8, 9, (16 * 32,), generator=generator, dtype=torch.int32, device="cpu")
    given = {
        "places": torch.zeros(len(_OPERANDS), 32, 16, dtype=torch.int32, device=device),
        "capacities": torch.zeros(len(_OPERANDS), dtype=torch.int32, device=device),
        "a": a.to(device),
        "b": b.to(device),
        "products": torch.full((len(_PRODUCTS), 3, 16, 32), torch.nan, dtype=torch.float32, device=device),
    }
    grid, threads = (1, 1, 1), (32, 1, 1)
    launcher(Plan("unit_check.metal", "unit_check", (), tuple(given), grid, threads, "before the first use"), given)
    capacities = given["capacities"].tolist()
    if capacities != [8, 8, 16, 16, 16]:
        return f"lanes have {capacities} elements of {', '.join(_OPERANDS)}, not [8, 8, 16, 16, 16]"
    wrong = (given["places"].cpu() != assumed_places()).flatten(1).any(1).tolist()
    if any(wrong):
        return f"another layout of {', '.join(name for name, is_wrong in zip(_OPERANDS, wrong) if is_wrong)}"
    wide = b.view(16, 32)  # integers: exact, also under autocast
    expected = torch.stack([a @ wide, a @ b.view(32, 16).T, a.T @ wide]).to(torch.float32)
    for name, products in zip(_PRODUCTS, given["products"].cpu()):
        for kind, product, right in zip(_TRANSPOSED, products, expected):
            if not torch.equal(product, right):
                return f"wrong products of {name}{kind}"
    return ""


def assumed_places() -> torch.Tensor:
    """int32 [operand, lane, element]: row << 8 | column, as unit.h assumes; -1 for an element that a lane lacks."""
    lane, element = torch.arange(32, device="cpu")[:, None], torch.arange(16, device="cpu")
    row = (lane // 4 & 4) + lane // 2 % 4 + element % 8 // 4 * 8
    column = ((lane // 4 & 2) + lane % 2) * 4 + element % 4
    part = element // 8 * 16
    wide, tall = row << 8 | (part + column), (part + row) << 8 | column
    left = torch.where(element < 8, row << 8 | column, -1)
    return torch.stack([left, left, wide, tall, wide]).to(torch.int32)


def _wrong_attention(launcher: Callable[[Plan, Any], None], device: torch.device) -> str:
    """Beside the tile that would serve without the unit."""
    for dtype in MATRIX_UNIT:
        tiles = [
            next(tile for tile in tables[dtype].large if tile.head_dim >= _HEAD_DIM)
            for tables in (MATRIX_UNIT, TABLES[max(TABLES)])
        ]
        ours, theirs = (_attention(launcher, device, dtype, tile) for tile in tiles)
        largest = (ours - theirs).abs().max().item()
        allowed = 2**-11 + 2 * torch.finfo(dtype).eps  # values are at most 1
        if not largest <= allowed:
            return f"attention in {dtype} differs by {largest:.3g} from what it is without the unit"
    return ""


def _attention(launcher, device: torch.device, dtype: torch.dtype, tile: Tile) -> torch.Tensor:
    """Of 70 x 90, causal, on the CPU in fp32."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, count, 2, _HEAD_DIM) for count in (70, 90, 90)]
    query, key, value = (torch.rand(shape, generator=generator, device="cpu") * 2 - 1 for shape in shapes)
    query, key, value = ((scale * t).to(device, dtype) for scale, t in ((2, query), (2, key), (1, value)))
    output = torch.empty_like(query)
    call = Call(
        query=query,
        key=key,
        value=value,
        **dict.fromkeys(["cu_seqlens_q", "cu_seqlens_k", "seqused_k", "block_table", "alibi_slopes"]),
        sinks=None,
        attn_bias=None,
        max_seqlen_q=70,
        max_seqlen_k=90,
        softmax_scale=_HEAD_DIM**-0.5,
        window_left=-1,
        window_right=0,
        softcap=0.0,
        num_splits=1,
        aligns_first=False,
    )
    planned_for = Device(SMALLEST.family, SMALLEST.cores, preferred=tile)
    for plan in plan_forward(planned_for, output, None, call).launches:
        launcher(plan, {"query": query, "key": key, "value": value, "output": output})
    return output.float().cpu()
