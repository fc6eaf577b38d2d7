"""What each mutant is run on: inputs that reach every line, and the numbers that must come out."""

from __future__ import annotations

import functools
import pathlib
import struct
import tempfile
from typing import Iterator

import kernels
import numpy as np
import stage
import torch
from cases import dense, max_lengths, packed, random_tensor
from metal_simulator import Library
from reference import assert_lse, assert_output, attention
from simulated_launcher import SimulatedLauncher

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TIMEOUT = 3  # seconds of processor time for one threadgroup
BETWEEN_GROUPS = "race between threadgroups"  # what cu_seqlens that lie may lead to


class Found(Exception):
    """The checker found something."""


def folder_of(file: str) -> pathlib.Path:
    """The folder of sources that a mutated file belongs to."""
    forward = ROOT / "flash_sdpa"
    return forward if (forward / file).exists() else ROOT / "tests" / "simulator" / "kernels"


def run(file: str, folder: pathlib.Path, check: bool) -> None:
    """Runs the kernel of `file` from a folder of sources.

    check: raises Found or LaunchError for what the checker finds, and does not look at numbers; else raises
    AssertionError for wrong numbers.
    """
    if folder_of(file).name == "flash_sdpa":
        for case in forward_cases(check):
            case(folder, check)
    else:
        TEACHING[file](functools.partial(_launch, Library(folder / file), check), not check)


@functools.lru_cache(maxsize=None)
def _kernel():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mutants-")) / "build"
    stage.stage(folder)
    return kernels.get_local_kernel(folder)


def prepare() -> None:
    """Loads what all mutants share."""
    torch.set_num_threads(1)
    _kernel()


def _call(folder, check, function, *arguments, lying=False, **keywords):
    options = {"check": check, "check_written": check and not lying, "ignore": [BETWEEN_GROUPS] if lying else []}
    launcher = SimulatedLauncher(kernels=folder, timeout=TIMEOUT, **options)
    with _kernel().launchers.use_launcher(launcher):
        if not check:
            return getattr(_kernel(), function)(*arguments, **keywords)
        try:
            return getattr(_kernel(), function)(*arguments, **keywords)
        except AssertionError as error:
            raise Found(str(error)) from None


LENGTHS = [(1, 1), (33, 40), (7, 75), (70, 70), (40, 20), (5, 0), (45, 140), (20, 63)]


def _packed(folder, check, window, unaligned=False):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 4, 2, 32, torch.float16)
    if unaligned:
        query, key, value = (torch.cat([t, t[..., :1]], dim=-1)[..., :-1] for t in (query, key, value))
    keywords = {"window_size": window, "return_attn_probs": True, "softmax_scale": -0.2}
    lengths = max_lengths(cu_q, cu_k)
    output, lse, _ = _call(folder, check, "flash_attn_varlen_func", query, key, value, cu_q, cu_k, *lengths, **keywords)
    if not check:
        expected, expected_lse = attention(query, key, value, cu_q, cu_k, window=window, softmax_scale=-0.2)
        assert_output(output, expected, value)
        assert_lse(lse, expected_lse)


def _dense(folder, check, window):
    query, key, value = dense(2, 40, 100, 4, 2, 32, torch.float16)
    keywords = {"window_size": window, "return_attn_probs": True}
    output, lse, _ = _call(folder, check, "flash_attn_func", query, key, value, **keywords)
    if not check:
        expected, expected_lse = attention(query, key, value, window=window)
        assert_output(output, expected, value)
        assert_lse(lse, expected_lse)


def _features(folder, check):
    """Softcap, ALiBi, sinks and a head_dim without a kernel of its own, on keys long enough to be split."""
    query, key, value = dense(1, 5, 600, 4, 2, 70, torch.float32)
    slopes, sinks = torch.tensor([0.1, 0.02, 0.03, 0.2]), torch.tensor([-1.0, 0.0, 2.0, 5.0])
    keywords = {"softcap": 3.0, "alibi_slopes": slopes, "causal": True, "return_attn_probs": True}
    for tokens, length in ((5, 600), (5, 70), (5, 3)):  # split; whole; with rows that see nothing
        tensors = query[:, :tokens], key[:, :length], value[:, :length]
        output, lse, _ = _call(folder, check, "flash_attn_func", *tensors, s_aux=sinks, **keywords)
        if not check:
            features = {"softcap": 3.0, "alibi_slopes": slopes, "sinks": sinks}
            expected, expected_lse = attention(*tensors, window=(-1, 0), **features)
            assert_output(output, expected, value)
            assert_lse(lse, expected_lse)


def _paged(folder, check):
    """Pages in any order, some keys unused."""
    query, cache = dense(1, 9, 96, 4, 2, 32, torch.float16)[0][0], random_tensor(1, 6, 16, 2, 32, dtype=torch.float16)
    table, used = torch.tensor([[5, 0, 3], [1, 4, 2]], dtype=torch.int32), torch.tensor([40, 21], dtype=torch.int32)
    cu_q, cu_k = torch.tensor([0, 2, 9], dtype=torch.int32), torch.tensor([0, 48, 96], dtype=torch.int32)
    keywords = {"block_table": table, "seqused_k": used, "causal": True}
    output = _call(folder, check, "flash_attn_varlen_func", query, cache, cache, cu_q, cu_k, 7, 48, **keywords)
    if not check:
        lengths = {"seqused_k": used, "block_table": table}
        assert_output(output, attention(query, cache, cache, cu_q, cu_k, window=(-1, 0), **lengths)[0], cache)


def _lying_pages(folder, check):
    """block_table and seqused_k that point anywhere."""
    query, cache = random_tensor(0, 9, 4, 32), random_tensor(1, 6, 16, 2, 32)
    table, used = torch.tensor([[900, -1], [2, 3]], dtype=torch.int32), torch.tensor([-3, 33], dtype=torch.int32)
    cu = torch.tensor([0, 2, 9], dtype=torch.int32)
    keywords = {"block_table": table, "causal": True, "lying": True}
    _call(folder, check, "flash_attn_varlen_func", query, cache, cache, cu, cu, 7, 32, seqused_k=used, **keywords)
    _call(folder, check, "flash_attn_varlen_func", query, cache, cache, cu, cu * 100, 7, 32, **keywords)


def _lying(folder, check):
    """cu_seqlens that point anywhere."""
    query, key, value = (t[0] for t in dense(1, 40, 100, 4, 2, 32, torch.float16))
    for bounds in ([-5, 3, 2**31 - 1, 50, -(2**31), 500], [12, 30, 35]):
        cu = torch.tensor(bounds, dtype=torch.int32)
        _call(folder, check, "flash_attn_varlen_func", query, key, value, cu, cu, 40, 100, lying=True)


def forward_cases(check: bool) -> Iterator:
    yield functools.partial(_packed, window=(-1, 0))
    yield functools.partial(_packed, window=(9, 3))
    yield functools.partial(_packed, window=(100, 3))
    yield functools.partial(_dense, window=(-1, -1))
    yield functools.partial(_packed, window=(9, 3), unaligned=True)
    yield _features
    yield _paged
    if check:
        yield _lying
        yield _lying_pages


def _launch(library, check, name, buffers, grid, threads, **keywords):
    report = library.kernel(name).launch(
        buffers, grid, threads, check=check, check_written=check, timeout=TIMEOUT, **keywords
    )
    if report.findings:
        raise Found("\n".join(map(str, report.findings)))


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _compare(compare: bool, actual, expected, tolerance: float) -> None:
    if compare:
        error = np.abs(np.asarray(actual, np.float64) - expected).max()
        assert error <= tolerance, f"error {error:.3g}"


def matmul(launch, compare):
    a, b = _random(32, 24), _random(24, 48, seed=1)
    c = np.full((32, 48), np.nan, np.float32)
    launch("matmul_float", [a, b, c, struct.pack("3i", 32, 48, 24)], (3, 2, 1), (32, 1, 1))
    _compare(compare, c, a.astype(np.float64) @ b, 1e-4)


def row_sum(launch, compare):
    x, out = _random(9, 32), np.full(9, np.nan, np.float32)
    launch("row_sum_float", [x, out], (9, 1, 1), (32, 1, 1))
    _compare(compare, out, x.astype(np.float64).sum(1), 1e-4)


def reduce(launch, compare):
    x, out = _random(5, 256).astype(np.float16), np.full(5, np.nan, np.float32)
    launch("reduce_half", [x, out], (5, 1, 1), (256, 1, 1), order=1)
    _compare(compare, out, x.astype(np.float64).mean(1), 1e-4)


def transpose(launch, compare):
    a, c = _random(16, 40), np.full((40, 16), np.nan, np.float32)
    launch("transpose_float", [a, c, np.array([16, 40], np.uint32)], (2, 5, 1), (32, 1, 1))
    _compare(compare, c, a.T, 0)


def collectives(launch, compare):
    x = np.random.default_rng(0).integers(0, 256, 640).astype(np.uint8)
    counts, total = np.zeros(16, np.uint32), np.zeros(1, np.float32)
    launch("histogram", [x, counts, total], (10, 1, 1), (64, 1, 1))
    _compare(compare, counts, np.bincount(x % 16, minlength=16), 0)
    _compare(compare, total, 320, 0)


def scan(launch, compare):
    x, out = _random(1000), np.full(1000, np.nan, np.float32)
    launch("scan", [x, out, struct.pack("I", 1000)], (4, 1, 1), (256, 1, 1))
    blocks = np.split(x.astype(np.float64), [256, 512, 768])
    _compare(compare, out, np.concatenate([block.cumsum() for block in blocks]), 1e-4)


def stencil(launch, compare):
    x, out = _random(150).astype(np.float16), np.full(150, np.nan, np.float16)
    launch("stencil", [x, out, struct.pack("i", 150)], (3, 1, 1), (64, 1, 1))
    padded = np.pad(x.astype(np.float64), 1)
    _compare(compare, out, padded[:-2] + 2 * padded[1:-1] + padded[2:], 2e-2)


def norm(launch, compare):
    x, weight, out = _random(3, 300), _random(300, seed=1), np.full((3, 300), np.nan, np.float16)
    launch("norm", [x, out, weight, struct.pack("I", 300)], (3, 1, 1), (64, 1, 1))
    x = x.astype(np.float64)
    _compare(compare, out, x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5) * weight, 1e-2)


TEACHING = {f"{f.__name__}.metal": f for f in (matmul, row_sum, reduce, transpose, collectives, scan, stencil, norm)}
