"""PyTorch's attention kernels, unmodified: right numbers, no findings. Those of the matrix unit only where the newer
wheel was downloaded (make bench-peers)."""

import pathlib
import sys

import pytest
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
peers = pytest.importorskip("pytorch_attention")
pytestmark = pytest.mark.skipif(not peers.available(), reason="this torch does not bring the Metal headers")

TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 2e-5}
DTYPES = list(TOLERANCE)


def inputs(dtype, head_dim, batch=2, heads=4, heads_kv=2, seqlen_q=37, seqlen_k=37):
    generator = torch.Generator().manual_seed(head_dim)
    shapes = [(batch, heads, seqlen_q), (batch, heads_kv, seqlen_k), (batch, heads_kv, seqlen_k)]
    return [torch.randn(*shape, head_dim, generator=generator).to(dtype) for shape in shapes]


def exact(query, key, value, softmax_scale, causal):
    """float64; query i sees keys 0 to i if causal."""
    q, k, v = (tensor.double() for tensor in (query, key, value))
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], 1) for tensor in (k, v))
    scores = q @ k.transpose(-1, -2) * softmax_scale
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v


def run(dispatch, check, **settings):
    library, host_name, constants, buffers, grid, threads = dispatch
    report = library.kernel(host_name, constants, build="check" if check else "run").launch(
        buffers, grid, threads, check=check, **settings
    )
    assert [str(finding) for finding in report.findings] == []
    return buffers[peers.OUTPUT].double()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_prefill(dtype, head_dim, causal):
    query, key, value = inputs(dtype, head_dim)
    output = run(peers.prefill(query, key, value, head_dim**-0.5, causal), check=True)
    assert (output - exact(query, key, value, head_dim**-0.5, causal)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decode(dtype, head_dim):
    query, key, value = inputs(dtype, head_dim, seqlen_q=2, seqlen_k=150)
    output = run(peers.decode(query, key, value, head_dim**-0.5), check=True)
    assert (output - exact(query, key, value, head_dim**-0.5, False)).abs().max() < TOLERANCE[dtype]


@pytest.mark.skipif(not peers.available("MppAttention"), reason="no wheel with kernels of the matrix unit")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layout, lanes", [("a10", "apple10"), ("a9", "older")])
def test_prefill_on_the_matrix_unit(layout, lanes, causal):
    for dtype in (torch.float16, torch.bfloat16):
        query, key, value = inputs(dtype, 64, seqlen_q=70, seqlen_k=90)
        dispatch = peers.prefill_unit(query, key, value, 0.125, causal, layout)
        expected = exact(query, key, value, 0.125, causal)
        assert (run(dispatch, check=True, matrix_unit=lanes) - expected).abs().max() < TOLERANCE[dtype]
        other = {"apple10": "older", "older": "apple10"}[lanes]
        assert (run(dispatch, check=False, matrix_unit=other) - expected).abs().max() > 0.1


def test_strides_are_the_tensors_own():
    query, key, value = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in inputs(torch.float16, 64))
    want = exact(query, key, value, 0.1, True)
    assert (run(peers.prefill(query, key, value, 0.1, True), check=False) - want).abs().max() < 4e-3
    want = exact(query[:, :, :1], key, value, 0.1, False)
    assert (run(peers.decode(query[:, :, :1], key, value, 0.1), check=False) - want).abs().max() < 4e-3


def test_masks_softcapping_and_other_head_dims_compile():
    library = peers.Library(peers.SOURCE, [peers.include()])
    assert len(library.kernels) == 234
    for name in library.kernels[::13]:
        library.kernel(name)


def test_kernels_that_do_not_exist():
    query, key, value = inputs(torch.float16, 40)
    with pytest.raises(ValueError, match="no prefill kernel for head_dim 40"):
        peers.prefill(query, key, value, 1.0, False)
    with pytest.raises(ValueError, match="no decode kernel for head_dim 40"):
        peers.decode(query, key, value, 1.0)
    with pytest.raises(ValueError, match="no kernel of the matrix unit for head_dim 40"):
        peers.prefill_unit(query, key, value, 1.0, False)
