"""DTensors through the operators: heads, or the sequences of a dense batch, divided; values and gradients.

One process stands for the first of two or four: its part must be that part of the whole. Level: CPU implementation and
simulation.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from cases import call_of, random_tensor

distributed = pytest.importorskip("torch.distributed")
COUNT = 2
SUM = "sum"  # over the devices


@pytest.fixture(scope="module")
def mesh():
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=0, world_size=COUNT, store=FakeStore())
    yield distributed.device_mesh.init_device_mesh("cpu", (COUNT,))
    distributed.destroy_process_group()


def divided(mesh, tensors, axes):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    places = [[Replicate()] if axis is None else [Shard(axis)] for axis in axes]
    return [
        None if tensor is None else distribute_tensor(tensor.detach(), mesh, place, src_data_rank=None)
        for tensor, place in zip(tensors, places)
    ]


def results(kernel, query, key, value, sinks, **fields):
    """Output, lse, and gradients of everything."""
    leaves = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
    leaves += [] if sinks is None else [sinks.detach().requires_grad_()]
    call = call_of(kernel, *leaves[:3], sinks=leaves[3] if sinks is not None else None, **fields)
    output, lse, _ = kernel.operators.attention_forward(*call, True, False)
    (output.square().sum() + lse.sum()).backward()
    return [output, lse, *(leaf.grad for leaf in leaves)]


def assert_parts(found, expected, axes) -> None:
    for part, whole, axis in zip(found, expected, axes):
        (placement,) = part.placements
        assert part.shape == whole.shape
        if axis is SUM:
            assert placement.is_partial()
        else:
            assert placement.is_shard(axis)
            bound = 1e-5 * (1 + float(whole.abs().max()))  # of gradients: CONTRIBUTING.md, Numerics
            torch.testing.assert_close(part.to_local(), whole.chunk(COUNT, axis)[0], rtol=0, atol=bound)


@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("axis", [0, 2])
def test_dense(kernel, launcher, mesh, axis, has_sinks):
    query, key, value = random_tensor(0, 2, 5, 4, 32), random_tensor(1, 2, 7, 2, 32), random_tensor(2, 2, 7, 2, 32)
    sinks = random_tensor(3, 4) if has_sinks else None
    of_sinks = 0 if axis == 2 else None
    expected = results(kernel, query, key, value, sinks)
    parts = divided(mesh, (query, key, value, sinks), (axis, axis, axis, of_sinks))
    of_grad = SUM if of_sinks is None else of_sinks
    assert_parts(results(kernel, *parts), expected, (axis, 1 if axis == 2 else 0, axis, axis, axis, of_grad))


def test_features_and_packed(kernel, mesh):
    slopes = random_tensor(4, 2, 4).abs()
    query, key = random_tensor(0, 2, 5, 4, 16), random_tensor(1, 2, 7, 2, 16)
    for axis, of_slopes in ((0, 0), (2, 1)):
        expected = results(kernel, query, key, key, None, alibi_slopes=slopes, window_right=0, softcap=2.0)
        (part_of_slopes,) = divided(mesh, (slopes,), (of_slopes,))
        parts = divided(mesh, (query, key, key), (axis,) * 3)
        found = results(kernel, *parts, None, alibi_slopes=part_of_slopes, window_right=0, softcap=2.0)
        assert_parts(found, expected, (axis, 1 if axis == 2 else 0, axis, axis, axis))
    query, key = random_tensor(0, 9, 4, 16), random_tensor(1, 9, 2, 16)
    lengths = torch.tensor([0, 4, 9], dtype=torch.int32)
    expected = results(kernel, query, key, key, None, cu_seqlens_q=lengths, cu_seqlens_k=lengths)
    (whole,) = divided(mesh, (lengths,), (None,))
    found = results(kernel, *divided(mesh, (query, key, key), (1,) * 3), None, cu_seqlens_q=whole, cu_seqlens_k=whole)
    assert_parts(found, expected, (1, 0, 1, 1, 1))


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (1, 4, 5, 7), (2, 1, 1, 7), (1, 1, 5, 7)])
def test_biases(kernel, mesh, axis, shape):
    """Divided with what is; one for all of what is divided has a gradient that is a sum."""
    query, key = random_tensor(0, 2, 5, 4, 16), random_tensor(1, 2, 7, 2, 16)
    bias = random_tensor(2, *shape)
    of_bias = {0: 0, 2: 1}[axis]
    of_bias = of_bias if shape[of_bias] > 1 else None

    def results_of(query, key, value, bias):
        leaf = bias.detach().requires_grad_()
        return [*results(kernel, query, key, value, None, attn_bias=leaf, aligns_first=True, window_right=0), leaf.grad]

    expected = results_of(query, key, key, bias)
    found = results_of(*divided(mesh, (query, key, key, bias), (axis, axis, axis, of_bias)))
    rows = 1 if axis == 2 else 0
    assert_parts(found, expected, (axis, rows, axis, axis, axis, SUM if of_bias is None else of_bias))


def test_groups_are_never_torn(kernel, mesh):
    """Heads come together where groups cannot be divided; so do tokens of a sequence, and everything with dropout."""
    for heads, heads_kv in ((4, 1), (6, 3)):  # 3 heads on two devices would have 2 and 1 of them, and 3 queries each
        query, key = random_tensor(0, 2, 5, heads, 16), random_tensor(1, 2, 7, heads_kv, 16)
        for of_key in (2, None) if heads_kv > 1 else (None,):
            call = call_of(kernel, *divided(mesh, (query, key, key), (2, of_key, of_key)))
            output, _, _ = kernel.operators.attention_forward(*call, False, False)
            assert not output.placements[0].is_shard(2)
    call = call_of(kernel, *divided(mesh, (query, key, key), (1, 1, 1)))
    output, _, _ = kernel.operators.attention_forward(*call, False, False)
    assert not output.placements[0].is_shard(1)
    (seed,) = divided(mesh, (torch.tensor([3]),), (None,))
    call = call_of(kernel, *divided(mesh, (query, key, key), (0, 0, 0)))
    output, _, _ = kernel.operators.attention_forward(*call, False, False, 0.5, seed)
    assert output.placements[0].is_replicate()


def test_importing_the_kernel_does_not_import_distributed_tensors(build):
    program = (
        "import sys, kernels; from pathlib import Path\n"
        "import torch; before = set(sys.modules)\n"
        "attention = kernels.get_local_kernel(Path(sys.argv[1]))\n"
        "new = {name for name in sys.modules if name not in before and name.startswith('torch.distributed')}\n"
        "assert not new, new\n"
    )
    done = subprocess.run([sys.executable, "-c", program, build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
