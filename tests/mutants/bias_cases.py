"""What mutants of biases and masks are run on: kernels, and the Python that plans, checks and computes without them."""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import tempfile
from unittest import mock

import cases
import kernels
import stage
import torch
from biases import Bias
from reference import assert_lse, assert_output, attention
from simulated_launcher import SimulatedLauncher

from .backward_cases import TIMEOUT, Found

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "torch-ext" / "metal_flash_sdpa"
DIRECT = (9, 10)  # as in targets.py

EVERY, OF_KEYS, OF_TOKENS, OF_ROWS = (1, 1, 1, 1), (0, 1, 0, 1), (1, 1, 1, 0), (0, 0, 1, 1)  # axes that are whole


def load(package: pathlib.Path):
    """The kernel with another folder of Python sources."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="mutants-"))
    (root / "torch-ext").mkdir()
    (root / "torch-ext" / "metal_flash_sdpa").symlink_to(package)
    for name in ("flash_sdpa", "build.toml"):
        (root / name).symlink_to(ROOT / name)
    stage.stage(root / "build", root)
    return kernels.get_local_kernel(root / "build")


def _launching(kernel, gpu, folder, check, fast_math):
    if gpu is None:
        return contextlib.nullcontext()
    launcher = SimulatedLauncher(check, kernels=folder, timeout=TIMEOUT, fast_math=fast_math, check_written=check)
    return kernel.launchers.use_launcher(launcher, kernel.device.Device(*gpu))


def _run(kernel, gpu, folder, check, fast_math, function, *arguments, **keywords):
    """gpu: None for the CPU implementation."""
    try:
        with _launching(kernel, gpu, folder, check, fast_math):
            return function(*arguments, **keywords)
    except AssertionError as error:
        if check:
            raise Found(str(error)) from None
        raise


def _attend(kernel, gpu, folder, check, fast_math, tensors, bias, window=(-1, 0), **fields):
    """One call of the forward operator, and its numbers."""
    windows = {"window_left": window[0], "window_right": window[1]}
    call = cases.call_of(kernel, *tensors, attn_bias=bias, **windows, **fields)
    forward = importlib.import_module(f"{kernel.__name__}.operators").attention_forward
    output, lse, _ = _run(kernel, gpu, folder, check, fast_math, forward, *call, True, False)
    if not check:
        fields = {name: value for name, value in fields.items() if not name.startswith(("max_", "num_"))}
        expected, expected_lse = attention(*tensors, window=window, attn_bias=bias, **fields)
        assert_output(output, expected, tensors[2])
        assert_lse(lse, expected_lse)


def dense(kernel, gpu, *how):
    """Each axis whole or not, of each dtype; rows that see nothing, for their place or their bias; whole blocks."""
    slopes = torch.tensor([0.1, 0.02, 0.03, 0.2])
    for number, (tokens, keys, bias, window, fields) in enumerate(
        (
            (20, 150, Bias("own", EVERY), (-1, -1), {"softmax_scale": -0.2}),
            (40, 38, Bias("mask", EVERY), (-1, 0), {}),  # the first rows see nothing, those beside them do
            (40, 150, Bias("mask", EVERY, hides=0.98), (-1, -1), {}),  # whole blocks are hidden, others but for a key
            (20, 90, Bias("float", OF_KEYS, more_keys=3), (-1, 0), {"alibi_slopes": slopes, "softmax_scale": 0.3}),
            (70, 75, Bias("float", OF_TOKENS), (-1, -1), {}),
            (70, 30, Bias("own", OF_ROWS, is_transposed=True), (9, 3), {"aligns_first": True, "softmax_scale": 9.0}),
        )
    ):
        tensors = cases.dense(2, tokens, keys, 4, 2, 32, torch.float16, seed=number)
        _attend(
            kernel, gpu, *how, tensors, bias.tensor([(tokens, keys)] * 2, 4, torch.float16, False, 7), window, **fields
        )

    largest = torch.full((1, 1, 20, 40), 3e38)  # beside which scores are nothing
    _attend(kernel, gpu, *how, cases.dense(1, 20, 40, 4, 2, 32, torch.float16), largest, (-1, -1))


def packed(kernel, gpu, *how):
    """A row of the bias for each token; then one that is too short for the keys of some sequences."""
    lengths = [(20, 40), (33, 70), (5, 3)]
    *tensors, cu_q, cu_k = cases.packed(lengths, 4, 2, 32, torch.float16)
    bounds = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "max_seqlen_q": 33, "max_seqlen_k": 70}
    for kind in ("mask", "own"):
        bias = Bias(kind, EVERY).tensor(lengths, 4, torch.float16, True, 1)
        _attend(kernel, gpu, *how, tensors, bias, **bounds)
    bias = Bias("float", EVERY).tensor([(q, min(k, 45)) for q, k in lengths], 4, torch.float16, True, 2)
    _attend(kernel, gpu, *how, tensors, bias, (-1, -1), **bounds)


def cached(kernel, gpu, *how):
    """The bias of a slot of a row that begins behind its first."""
    query, key, value = cases.dense(3, 4, 50, 4, 2, 32, torch.float16)
    left, used = torch.tensor([5, 0, 11], dtype=torch.int32), torch.tensor([50, 20, 30], dtype=torch.int32)
    for bias in (
        Bias("own", EVERY).tensor([(4, 50)] * 3, 4, torch.float16, False, 3),
        Bias("mask", OF_KEYS).tensor([(4, 50)] * 3, 4, torch.float16, False, 4),
    ):
        function = kernel.flash_attn_with_kvcache
        keywords = {"cache_seqlens": used, "cache_leftpad": left, "causal": True, "attn_bias": bias}
        output = _run(kernel, gpu, *how, function, query, key, value, **keywords)
        for b in range(0 if how[1] else 3):
            slots = slice(int(left[b]), int(used[b]))
            own = bias.expand(3, 4, 4, -1)[b : b + 1, ..., slots]
            expected, _ = attention(
                query[b : b + 1], key[b : b + 1, slots], value[b : b + 1, slots], window=(-1, 0), attn_bias=own
            )
            assert_output(output[b : b + 1], expected, value[b : b + 1])


def without_kernels(kernel, *how):
    """The CPU implementation on the same, with sinks; scores too large for fp32, and rows without keys whose lse has a
    gradient; biases of float64, beyond fp32; what is refused."""
    if how[1]:  # check
        return
    for case in (dense, packed, cached, _exact_rows, _blind_rows):
        case(kernel, None, *how)
    query, key, value = cases.dense(1, 7, 20, 4, 2, 32, torch.float32)
    bias = Bias("float", EVERY).tensor([(7, 20)], 4, torch.float32, False, 5)
    _attend(kernel, None, *how, (query, key, value), bias, sinks=torch.tensor([-1.0, 0.0, 2.0, 5.0]))
    low = torch.full((7, 20), -1e300, dtype=torch.float64)  # for all keys alike
    output = kernel.flash_attn_func(query, key, value, attn_bias=low)
    assert output.abs().sum(dim=-1).all(), "the lowest bias hides"
    far = torch.zeros(7, 20)
    far[:, 3:] = torch.finfo(torch.float32).min
    output = kernel.flash_attn_func(query, key * 1e3, value, attn_bias=far)
    expected, _ = attention(query, key * 1e3, value, attn_bias=far[None, None])
    assert_output(output, expected, value)
    for shape in ((7, 19), (2, 7, 20), (6, 20), (1, 1, 1, 7, 20)):
        try:
            kernel.flash_attn_func(query, key, value, attn_bias=torch.zeros(shape))
        except ValueError:
            continue
        raise AssertionError(f"attn_bias of shape {shape} is taken")


def _exact_rows(kernel, gpu, *how):
    """Each row by itself."""
    careful = importlib.import_module(f"{kernel.__name__}.cpu.careful")
    query, key, value = cases.dense(2, 7, 20, 4, 2, 32, torch.float32)
    bias = 1e3 * Bias("float", EVERY).tensor([(7, 20)] * 2, 4, torch.float32, False, 6)
    with mock.patch.object(careful, "PIECE_SCORES", 1):
        _attend(kernel, gpu, *how, (query * 1e3, key, value), bias)


def _blind_rows(kernel, gpu, *how):
    query, key, value = cases.dense(1, 2, 5, 1, 1, 32, torch.float32)
    sinks, mask = torch.zeros(1, requires_grad=True), torch.tensor([[False], [True]])
    _, lse, _ = kernel.flash_attn_func(query, key, value, attn_bias=mask, s_aux=sinks, return_attn_probs=True)
    [grad] = torch.autograd.grad(lse, sinks, torch.tensor([[[1.0, 0.0]]]))
    assert grad.item() == 0, "a row without keys gives its sink a gradient"


def of_python(kernel, *how):
    for case in (dense, packed, cached):
        case(kernel, DIRECT, *how)
    without_kernels(kernel, *how)
