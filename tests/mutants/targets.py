"""What each mutant is run on: inputs that reach every line, and the numbers that must come out."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pathlib
import struct
import tempfile
from typing import NamedTuple

import kernels
import numpy as np
import philox
import stage
import torch
from cases import call_of, dense, max_lengths, packed, poisoned, random_tensor
from metal_simulator import Library
from reference import assert_lse, assert_output, attention, rounded_weights
from row_softmax import assert_weights
from simulated_launcher import SimulatedLauncher

from . import append_cases, backward_cases, bias_cases
from .backward_cases import Found

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SEED = 2**40 + 12345
TIMEOUT = 3  # seconds of processor time for one threadgroup
BETWEEN_GROUPS = "race between threadgroups"  # what cu_seqlens that lie may lead to


def folder_of(file: str) -> pathlib.Path:
    """The folder of sources that a mutated file belongs to."""
    if file.endswith(".py"):
        return bias_cases.PACKAGE
    forward = ROOT / "flash_sdpa"
    return forward if (forward / file).exists() else ROOT / "simulator" / "tests" / "kernels"


class Run(NamedTuple):
    """How a folder of sources is run.

    check: raises Found or LaunchError for what the checker finds, and does not look at numbers; else raises
    AssertionError for wrong numbers. fast_math: of the fast-math build.
    """

    folder: pathlib.Path
    check: bool
    fast_math: bool = False


def run(file: str, how: Run) -> None:
    """Runs the kernel of `file`."""
    if file.endswith(".py"):
        kernel = _kernel() if how.folder == bias_cases.PACKAGE else bias_cases.load(how.folder)
        bias_cases.of_python(kernel, ROOT / "flash_sdpa", how.check, how.fast_math)
    elif folder_of(file).name == "flash_sdpa":
        for case, files in CASES:
            if file in files:
                case(how)
    else:
        TEACHING[file](functools.partial(_launch, Library(how.folder / file), how.check), not how.check)


def strictly(file: str, folder: pathlib.Path) -> None:
    """Raises Found for what the strict check says of the kernels that a file is part of."""
    for shader in sorted(folder.glob("*.metal") if file.endswith(".h") else [folder / file]):
        for found in Library(shader, include=(folder,)).check("metal3.1"):
            raise Found(found.message)


@functools.lru_cache(maxsize=None)
def _kernel():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mutants-")) / "build"
    stage.stage(folder)
    return kernels.get_local_kernel(folder)


def prepare() -> None:
    """Loads what all mutants share."""
    torch.set_num_threads(1)
    _kernel()


UNIT = (10, 10, None, 10**11, True)  # a GPU whose matrix unit is used
STAGED, DIRECT = (7, 12), (9, 10)  # GPUs (family, cores) with these tiles (tiles.py); they divide the keys of few rows
LENGTHS = [(1, 1), (33, 40), (7, 75), (70, 70), (40, 20), (5, 0), (45, 140), (20, 63)]


def _attend(how, gpu, tensors, bounds=(), window=(-1, 0), lying=None, **features):
    """One call for a GPU on (query, key, value), packed with bounds = (cu_seqlens_q, cu_seqlens_k), and its numbers.

    lying: the max_seqlens to claim; there are no right numbers then, and threadgroups may write one place.
    """
    options = {"check_written": how.check and not lying, "ignore": [BETWEEN_GROUPS] if lying else []}
    launcher = SimulatedLauncher(how.check, kernels=how.folder, timeout=TIMEOUT, fast_math=how.fast_math, **options)
    kernel = _kernel()
    function = kernel.flash_attn_varlen_func if bounds else kernel.flash_attn_func
    lengths = (lying or max_lengths(*bounds)) if bounds else ()
    try:
        with kernel.launchers.use_launcher(launcher, kernel.device.Device(*gpu)):
            output, lse, _ = function(
                *tensors, *bounds, *lengths, window_size=window, return_attn_probs=True, **features
            )
    except AssertionError as error:
        if how.check:
            raise Found(str(error)) from None
        raise
    if not how.check and not lying:
        if "s_aux" in features:
            features["sinks"] = features.pop("s_aux")
        expected, expected_lse = attention(*tensors, *bounds, window=window, **features)
        with rounded_weights() if gpu == UNIT else contextlib.nullcontext():
            assert_output(output, expected, tensors[2])
        assert_lse(lse, expected_lse)


def _int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def _packed(how, gpu):
    """Every kind of window, and cu_seqlens that point anywhere."""
    *tensors, cu_q, cu_k = packed(LENGTHS, 4, 2, 32, torch.float16)
    for window in ((-1, 0), (9, 3), (100, 3), (0, 0)):
        _attend(how, gpu, tensors, (cu_q, cu_k), window, softmax_scale=-0.2)
    if how.check:
        tensors = [tensor[0] for tensor in dense(1, 40, 100, 4, 2, 32, torch.float16)]
        for bounds in (_int32(-5, 3, 2**31 - 1, 50, -(2**31), 500), _int32(12, 30, 35), _int32(0, 50, 60, 70)):
            _attend(how, gpu, tensors, (bounds, bounds), lying=(40, 100))


def _dense(how):
    """Tiles of 64 rows; then scores that are all low, and grow by hundreds within a block of keys and to the next."""
    query, key, value = dense(2, 62, 200, 4, 2, 32, torch.float16)
    gpu = (7, 1)
    _attend(how, gpu, (query, key, value), window=(-1, -1))
    growing = key / 16 + torch.linspace(-50, -40, 200, dtype=torch.float16)[:, None, None]
    growing[:, 77] = -20
    _attend(how, gpu, (1 + query / 16, growing, value), window=(-1, -1), softmax_scale=1.0)


def _unaligned(how, gpu):
    """Rows that are no whole chunks of 16 bytes, of a head_dim without a kernel of its own, with NaN around them."""
    *tensors, cu_q, cu_k = packed(LENGTHS[:4], 4, 2, 69, torch.float16)
    _attend(how, gpu, [poisoned(tensor) for tensor in tensors], (cu_q, cu_k), (30, 3))


def _paged(how, gpu, has_used, lengths, num_heads_kv=2, head_dim=64):
    """Pages in any order, of lengths that seqused_k or cu_seqlens_k tells; then a block_table that points anywhere."""
    query, _, _, cu_q, cu_k = packed(lengths, 4, num_heads_kv, head_dim, torch.float16)
    pages = -(-max(length for _, length in lengths) // 16)
    cache = random_tensor(1, 2 * len(lengths) * pages, 16, num_heads_kv, head_dim, dtype=torch.float16)
    order = torch.randperm(len(cache), generator=torch.Generator().manual_seed(0)).int()
    table = order[: len(lengths) * pages].view(len(lengths), pages).clone()  # nothing lies behind it
    used = {"seqused_k": _int32(*(length for _, length in lengths))} if has_used else {}
    for window in ((-1, 0), (37, 0)):  # the last row of 150 keys sees none of the 16 that the first starts with
        tensors = query, cache, cache.flip(0)
        _attend(how, gpu, tensors, (cu_q, cu_k), window, block_table=table, **used)
    if how.check:
        anywhere = torch.where(table % 2 == 0, table - 900, table + 900)
        used = {"seqused_k": _int32(*range(-3, 999, 999 // len(lengths)))[: len(lengths)]} if has_used else {}
        bounds, claim = (cu_q, cu_k if has_used else cu_k * 100), max_lengths(cu_q, cu_k)
        _attend(how, gpu, (query, cache, cache), bounds, block_table=anywhere, lying=claim, **used)


def _features(how, gpu, tokens, num_heads_kv, head_dim, length):
    """Softcap, ALiBi, sinks and a head_dim without a kernel of its own; keys in parts, or not."""
    query, key, value = dense(1, tokens, length, 4, num_heads_kv, head_dim, torch.float32)
    slopes, sinks = torch.tensor([0.1, 0.02, 0.03, 0.2]), torch.tensor([-1.0, 0.0, 2.0, 5.0])
    for keys, window, softcap in (  # with ALiBi, scores are in units of a softcap above 1
        (length, (-1, 0), 0.7),  # in parts
        (length, (-1, -1), 1.7),
        (100, (-1, 0), 0.7),  # whole
        (3, (-1, 0), 1.7),  # rows that see nothing
    ):
        features = {"softcap": softcap, "alibi_slopes": slopes, "s_aux": sinks}
        _attend(how, gpu, (query, key[:, :keys], value[:, :keys]), window=window, **features)


def _slices(how, gpu, tokens, head_dim, value_dim, length, dtype):
    """Columns divided among SIMD groups, some of which have none."""
    query, key, value = dense(2, tokens, length, 8, 2, head_dim, dtype)
    _attend(how, gpu, (query, key, value[..., :value_dim]))


def _extremes(how, gpu, tokens, num_heads_kv, length, head_dim=32):
    """Equal scores of 2e9; of -1e32, and of 1e37 under a scale of 1e-37, beside masked ones; a column of the largest
    values, which half of the rows see, beside some that smaller weights would turn into 0; nothing but the largest
    value, whose mean rounding may lift above it."""
    query, key, value = dense(1, tokens, length, 4, num_heads_kv, head_dim, torch.float32)
    _attend(how, gpu, (query * 0 + 20000.7, key * 0 + 20000.7, value))
    _attend(how, gpu, (query * 0 + 2e15, key * 0 - 2e15, value), softmax_scale=1.0)
    _attend(how, gpu, (query.abs() * 1e17, key.abs() * -1e19, value), softmax_scale=1e-37)
    later = length - tokens // 2 - 1
    value[:, :later] *= 1e-25
    value[:, later:, :, 5] = torch.finfo(torch.float32).max
    _attend(how, gpu, (query, key, value), window=(length // 2, 0))
    _attend(how, gpu, (query, key, value * 0 + torch.finfo(torch.float32).max))


def _training(how, gpu, tokens, head_dim, length, num_splits=1, dtype=torch.float32):
    """Dropout, and row_softmax with sinks below and far above the scores; rows without keys; values whose mean a factor
    must not be taken apart for."""
    query, key, value = dense(2, tokens, length, 4, 2, head_dim, dtype)
    sinks = torch.tensor([-1.0, 2.0, 60.0, 3e38])
    fields = {"sinks": sinks, "window_right": 0, "num_splits": num_splits}
    for keys in (length, max(1, tokens - 3)):
        call = call_of(_kernel(), query, key[:, :keys], value[:, :keys], **fields)
        output, _, row_softmax = _operator(how, gpu, call)
        if how.check:
            continue
        for b in range(2):
            assert_weights(_kernel(), call, row_softmax[b], query[b], key[b, :keys])
        identity = torch.eye(keys).unsqueeze(1).expand(2, keys, 2, keys)
        weights, _ = attention(query, key[:, :keys], identity, window=(-1, 0), sinks=sinks)
        weights *= torch.stack([philox.kept(0.4, SEED, b, tokens, 4, keys) for b in range(2)])
        means = torch.einsum("bqhk,bkhd->bqhd", weights, value[:, :keys].double().repeat_interleave(2, dim=2))
        with rounded_weights() if gpu == UNIT else contextlib.nullcontext():
            assert_output(output, philox.factor(0.4) * means, value * philox.factor(0.4))
    if dtype != torch.float32:
        return
    no_sinks = torch.full((4,), -1e30)
    large = call_of(_kernel(), query * 0, key, value * 0 + 1.5e38, sinks=no_sinks, num_splits=num_splits)
    output, _, _ = _operator(how, gpu, large)
    if not how.check:
        shares = torch.stack([philox.kept(0.4, SEED, b, tokens, 4, length).double().mean(dim=2) for b in range(2)])
        expected = (1.5e38 * philox.factor(0.4) * shares).unsqueeze(3).expand(output.shape)
        torch.testing.assert_close(output.double(), expected, rtol=5e-6, atol=0)


def _operator(how, gpu, call):
    """All results of the forward operator, with dropout."""
    launcher = SimulatedLauncher(
        how.check, kernels=how.folder, timeout=TIMEOUT, fast_math=how.fast_math, check_written=how.check
    )
    kernel = _kernel()
    try:
        with kernel.launchers.use_launcher(launcher, kernel.device.Device(*gpu)):
            operators = importlib.import_module(f"{kernel.__name__}.operators")
            return operators.attention_forward(*call, True, True, 0.4, torch.tensor([SEED]))
    except AssertionError as error:
        if how.check:
            raise Found(str(error)) from None
        raise


def _unit(how):
    """Values of 1, whose mean is 1 however weights are rounded, in tiles of many rows, of key groups, of slices, of
    rows that are read again, and in bfloat16; rows and columns that are missing; a negative scale; scores that grow by
    hundreds from block to block."""
    for tokens, head_dim, value_dim, dtype in (
        (70, 64, 64, torch.bfloat16),
        (6, 60, 60, torch.float16),
        (40, 200, 200, torch.bfloat16),
        (20, 192, 128, torch.float16),
    ):
        query, key, value = dense(1, tokens, 150, 4, 2, head_dim, dtype)
        for values in (value, torch.ones_like(value)):
            _attend(how, UNIT, (query, key, values[..., :value_dim]), softmax_scale=-0.1)
    query, key, value = dense(1, 70, 150, 4, 2, 64, torch.float16)
    growing = key / 16 + torch.linspace(-10, 10, 150, dtype=torch.float16)[:, None, None]
    _attend(how, UNIT, (1 + query / 16, growing, value), softmax_scale=0.3)


def _narrow(how):
    """A head_dim whose direct loads are of 4 bytes and less."""
    _attend(how, DIRECT, dense(1, 20, 50, 4, 2, 72, torch.float16))


def _widened(how):
    """Elements that are staged as fp32."""
    _attend(how, STAGED, dense(1, 20, 50, 4, 2, 32, torch.bfloat16))


MAIN, COMBINE, TILE, EXCHANGE = "attention_forward.h", "attention_combine.metal", "tile.h", "exchange.h"
DROPOUT = "dropout.h"
STAGED_TILE, DIRECT_TILE, OVERFLOW = "blocks_staged.h", "blocks_direct.h", "overflow.h"
MASK, SOFTMAX, SCORE, PAGES, SEQUENCE = "mask.h", "softmax.h", "score.h", "pages.h", "sequence.h"
BIAS, UNIT_TILE, UNIT_GRADIENTS = "bias.h", "unit.h", "unit_gradients.h"

TERMS, QUERIES, KEYS = "attention_backward_terms.metal", "attention_backward_queries.h", "attention_backward_keys.h"
BACKWARD = GRADIENTS, STORED_WEIGHTS, _ = "gradients.h", "stored_weights.h", "staging.h"

PREFILL = {"lengths": ((9, 21), (70, 80))}  # the last block of 32 keys is half there, and block_table ends with it
DECODE = {"num_heads_kv": 1, "lengths": ((2, 150), (1, 3), (2, 21))}
WIDE = {"tokens": 20, "head_dim": 132, "value_dim": 40, "length": 50, "dtype": torch.float32}
TURNS = {"tokens": 5, "head_dim": 320, "value_dim": 300, "length": 40, "dtype": torch.float16}
WIDE_DECODE = {"tokens": 2, "head_dim": 200, "value_dim": 200, "length": 50, "dtype": torch.float16}
WHOLE = {"tokens": 70, "num_heads_kv": 2, "length": 90}
ONE_ROW_OF_TILES = {"tokens": 2, "num_heads_kv": 1, "length": 600}
MANY = {"tokens": 9, "num_heads_kv": 2, "head_dim": 100, "length": 600}
FEW = {"tokens": 2, "num_heads_kv": 1, "head_dim": 36, "length": 1200}
IN_HALF = {"tokens": 20, "head_dim": 32, "length": 80, "dtype": torch.float16}
IN_PARTS = {"tokens": 3, "head_dim": 64, "length": 200, "num_splits": 3}


def _backward(how, case):
    case(_kernel(), how.folder, how.check, how.fast_math)


def _biases(how, case, gpu):
    case(_kernel(), gpu, how.folder, how.check, how.fast_math)


# The cases, each with the files whose mutants it is for: those of a file reach all of its lines, and no more are run.
CASES = [
    (functools.partial(_packed, gpu=STAGED), {MAIN, TILE, STAGED_TILE, MASK, SOFTMAX, SEQUENCE}),
    (functools.partial(_packed, gpu=DIRECT), {TILE, DIRECT_TILE}),
    (_dense, {MAIN, STAGED_TILE, SOFTMAX, SEQUENCE}),
    # Of 96 columns: a block takes the threads of a threadgroup more than one step, on to another page.
    (functools.partial(_paged, gpu=STAGED, has_used=True, head_dim=96, **PREFILL), {MAIN, TILE, STAGED_TILE, PAGES}),
    (functools.partial(_paged, gpu=DIRECT, has_used=False, **PREFILL), {TILE, DIRECT_TILE, PAGES, SEQUENCE}),
    (functools.partial(_paged, gpu=DIRECT, has_used=True, **DECODE), {MAIN, DIRECT_TILE, EXCHANGE, SOFTMAX, PAGES}),
    (functools.partial(_unaligned, gpu=STAGED), {TILE, STAGED_TILE}),
    (functools.partial(_unaligned, gpu=DIRECT), {TILE, DIRECT_TILE}),
    (_narrow, {TILE, DIRECT_TILE}),
    (_widened, {STAGED_TILE}),
    (functools.partial(_slices, gpu=STAGED, **WIDE), {MAIN, TILE, STAGED_TILE, EXCHANGE}),
    (functools.partial(_slices, gpu=STAGED, **TURNS), {MAIN}),
    (functools.partial(_slices, gpu=DIRECT, **WIDE), {MAIN, TILE, DIRECT_TILE, EXCHANGE}),
    (functools.partial(_slices, gpu=DIRECT, **WIDE_DECODE), {DIRECT_TILE, EXCHANGE}),
    (functools.partial(_features, gpu=DIRECT, **FEW), {MAIN, SCORE, SOFTMAX, EXCHANGE, COMBINE}),
    (functools.partial(_features, gpu=STAGED, **MANY), {MAIN, SCORE, MASK, COMBINE}),
    (functools.partial(_extremes, gpu=STAGED, **WHOLE), {MAIN, MASK, SOFTMAX, OVERFLOW}),
    (functools.partial(_extremes, gpu=DIRECT, **ONE_ROW_OF_TILES), {MAIN, SOFTMAX, OVERFLOW, COMBINE}),
    (functools.partial(_training, gpu=STAGED, **IN_HALF), {MAIN, DROPOUT}),  # blocks of 64
    (functools.partial(_training, gpu=STAGED, tokens=20, head_dim=256, length=40), {DROPOUT}),  # of 8
    (functools.partial(_training, gpu=STAGED, **IN_PARTS), {MAIN, SOFTMAX, DROPOUT, COMBINE}),
    (functools.partial(_biases, case=bias_cases.dense, gpu=STAGED), {BIAS, SEQUENCE}),
    (functools.partial(_biases, case=bias_cases.dense, gpu=DIRECT), {MAIN, BIAS}),
    (functools.partial(_biases, case=bias_cases.packed, gpu=STAGED), {BIAS, SEQUENCE}),
    (functools.partial(_packed, gpu=UNIT), {UNIT_TILE}),
    (_unit, {MAIN, UNIT_TILE, SOFTMAX, EXCHANGE}),
    (functools.partial(_training, gpu=UNIT, **IN_HALF), {UNIT_TILE}),
    (functools.partial(_backward, case=append_cases.all_of), {"cache_append.metal"}),
    (functools.partial(_backward, case=backward_cases.packed), {TERMS, QUERIES, KEYS, *BACKWARD, MASK}),
    (functools.partial(_backward, case=backward_cases.chunks), {QUERIES, KEYS, STORED_WEIGHTS, GRADIENTS}),
    (functools.partial(_backward, case=backward_cases.features), {TERMS, QUERIES, KEYS, *BACKWARD}),
    (functools.partial(_backward, case=backward_cases.dropout), {QUERIES, GRADIENTS}),
    (functools.partial(_backward, case=backward_cases.biases), {QUERIES}),
    (functools.partial(_backward, case=backward_cases.slices), {QUERIES, KEYS, STORED_WEIGHTS}),
    (functools.partial(_backward, case=backward_cases.large), {QUERIES, GRADIENTS, EXCHANGE}),
    (functools.partial(_backward, case=backward_cases.unit_dropout), {QUERIES}),
    (functools.partial(_backward, case=backward_cases.unit), {UNIT_GRADIENTS, UNIT_TILE, GRADIENTS, STORED_WEIGHTS}),
]


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
