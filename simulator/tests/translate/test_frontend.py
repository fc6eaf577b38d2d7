"""Kernels in the styles that public Metal code is written in: accepted, clean, and right beside NumPy."""

import pathlib
import struct

import numpy as np
import pytest
import torch
from metal_simulator import Library

KERNELS = pathlib.Path(__file__).parents[1] / "kernels" / "frontend"
TYPES = {"half": (torch.float16, 2e-3), "bfloat": (torch.bfloat16, 2e-2), "float": (torch.float32, 1e-5)}


def run(file, name, buffers, grid, threads, constants=None, **keywords):
    kernel = Library(KERNELS / f"{file}.metal").kernel(name, constants)
    report = kernel.launch(buffers, grid, threads, check=True, **keywords)
    assert [str(finding) for finding in report.findings] == []


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("file", sorted(path.stem for path in KERNELS.glob("*.metal")))
def test_the_strict_check_accepts_them(file):
    found = Library(KERNELS / f"{file}.metal").check()
    assert [str(d) for d in found if "no public kernel is known" not in d.message] == []


@pytest.mark.parametrize("name", TYPES)
def test_softmax(name):
    dtype, tolerance = TYPES[name]
    x, out = random(5, 300, dtype=dtype), torch.full((5, 300), float("nan"), dtype=dtype)
    run("normalise", f"softmax_{name}", [x, out, struct.pack("I", 300)], (5, 1, 1), (96, 1, 1))
    assert (out.double() - x.double().softmax(1)).abs().max() < tolerance


@pytest.mark.parametrize("kind, name", [("layer", "float"), ("layer", "half"), ("rms", "float"), ("rms", "bfloat")])
def test_norms(kind, name):
    dtype, tolerance = TYPES[name]
    x, weight = random(3, 260, dtype=dtype), random(260, dtype=dtype, seed=1)
    out = torch.full_like(x, float("nan"))
    run("normalise", f"{kind}_norm_{name}", [x, out, weight, struct.pack("If", 260, 1e-5)], (3, 1, 1), (64, 1, 1))
    exact = x.double() - (x.double().mean(1, keepdim=True) if kind == "layer" else 0)
    exact = exact / (exact.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert (out.double() - exact).abs().max() < 4 * tolerance


@pytest.mark.parametrize("name, dtype", [("half", np.float16), ("float_interleaved", np.float32)])
def test_rotary(name, dtype):
    x = np.random.default_rng(0).standard_normal((3, 2, 8)).astype(dtype)
    pairs = x.reshape(3, 2, 4, 2) if "interleaved" in name else x.reshape(3, 2, 2, 4).swapaxes(2, 3)
    positions = np.array([0, 5, 9], np.int32)
    angle = positions[:, None, None] * 10000.0 ** (-2 * np.arange(4) / 8)
    a, b = pairs[..., 0].astype(float), pairs[..., 1].astype(float)
    exact = np.stack([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1)
    exact = (exact if "interleaved" in name else exact.swapaxes(2, 3)).reshape(x.shape)
    run("transformer", f"rotary_{name}", [x, positions, struct.pack("2If", 2, 8, 10000)], (1, 1, 3), (4, 2, 1))
    assert np.abs(x - exact).max() < (1e-5 if dtype is np.float32 else 4e-3)


def test_paged_cache():
    key = np.random.default_rng(0).standard_normal((3, 2, 16)).astype(np.float16)
    cache, slots = np.zeros((2, 2, 2, 16, 8), np.float16), np.array([17, -1, 3])
    run("transformer", "reshape_and_cache", [key, cache, slots, struct.pack("2I", 2, 16)], (3, 1, 1), (24, 1, 1))
    exact = np.zeros_like(cache)
    exact[1, :, :, 1], exact[0, :, :, 3] = key[0].reshape(2, 2, 8), key[2].reshape(2, 2, 8)
    assert np.array_equal(cache, exact)


def test_quantised_matrix_vector_product():
    random_ = np.random.default_rng(0)
    blocks = np.zeros((7, 40), np.dtype([("scale", np.float16), ("q", np.int8, 32)]))
    blocks["scale"], blocks["q"] = random_.random((7, 40)) / 64, random_.integers(-127, 128, (7, 40, 32))
    x, y = random_.standard_normal(1280).astype(np.float32), np.zeros(7, np.float32)
    run("transformer", "quantised_matvec", [blocks.view(np.uint8), x, y, struct.pack("I", 1280)], (7, 1, 1), (32, 1, 1))
    weights = blocks["q"].astype(float) * blocks["scale"].astype(float)[..., None]
    assert np.allclose(y, weights.reshape(7, -1) @ x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "name, transposed, has_bias", [("half", False, True), ("float", True, False), ("bfloat", True, True)]
)
def test_gemm(name, transposed, has_bias):
    dtype, tolerance = TYPES[name]
    m, n, k = 45, 50, 48
    a, b, bias = random(m, k, dtype=dtype), random(k, n, dtype=dtype, seed=1), random(n, seed=2)
    c = torch.full((m, n), float("nan"), dtype=dtype)
    right = b.t().contiguous() if transposed else b
    buffers = [a, right, c, struct.pack("4i", m, n, k, 0), bias if has_bias else None]
    constants = {"transposed": transposed, "has_bias": has_bias}
    tile = 32 * 16 * c.element_size()
    run("transformer", f"gemm_{name}", buffers, (2, 2, 1), (128, 1, 1), constants, threadgroup_memory=[tile])
    exact = a.double() @ b.double() + (bias.double() if has_bias else 0)
    assert (c.double() - exact).abs().max() < 16 * tolerance


def test_top_k():
    x = np.random.default_rng(0).integers(0, 50, (3, 200)).astype(np.float32)  # with ties
    values, indices = np.zeros((3, 8), np.float32), np.zeros((3, 8), np.uint32)
    run("algorithms", "top_k", [x, values, indices, struct.pack("2I", 200, 8)], (3, 1, 1), (256, 1, 1))
    order = np.argsort(-x, axis=1, kind="stable")[:, :8]
    assert np.array_equal(indices, order) and np.array_equal(values, np.take_along_axis(x, order, 1))


def test_exclusive_scan():
    x, out = np.random.default_rng(0).integers(-9, 9, 300).astype(np.int32), np.zeros(300, np.int32)
    buffers = [x, out, struct.pack("I", 300)]
    run("algorithms", "exclusive_scan_int", buffers, (1, 1, 1), (128, 1, 1), threadgroup_memory=[64])
    assert np.array_equal(out, np.cumsum(x) - x)


def test_histogram():
    pixels = np.random.default_rng(0).integers(0, 256, (600, 4)).astype(np.uint8)
    bins, total = np.zeros(256, np.uint32), np.zeros(1, np.float32)
    run("algorithms", "histogram", [pixels, bins, total, struct.pack("I", 600)], (3, 1, 1), (256, 1, 1))
    assert np.array_equal(bins, np.bincount(pixels.ravel(), minlength=256))
    assert np.isclose(total[0], pixels.sum() / 255, rtol=1e-4)


def test_fourier_transform():
    random_ = np.random.default_rng(0)
    x = (random_.standard_normal((2, 128)) + 1j * random_.standard_normal((2, 128))).astype(np.complex64)
    exact = np.fft.fft(x)
    run("algorithms", "fft_128", [x.view(np.float32)], (2, 1, 1), (64, 1, 1))
    assert np.abs(x - exact).max() < 1e-4


def test_dequantisation_by_a_function_given_as_template_argument():
    blocks = np.zeros(4, np.dtype([("d", np.float16), ("qs", np.uint8, 16)]))
    blocks["d"], blocks["qs"] = [0.5, 1, 2, 4], np.random.default_rng(0).integers(0, 256, (4, 16))
    out = np.zeros(128, np.float32)
    run("quantised_rows", "get_rows_q4_0", [blocks.view(np.uint8), out, struct.pack("I", 128)], (1, 1, 1), (4, 1, 1))
    low, high = blocks["qs"] & 15, blocks["qs"] >> 4
    exact = (np.concatenate([low, high], 1).astype(float) - 8) * blocks["d"].astype(float)[:, None]
    assert np.array_equal(out, exact.ravel())
