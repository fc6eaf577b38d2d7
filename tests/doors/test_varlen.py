"""torch's varlen_attn on this kernel, through its registry: values, gradients, compiled, undone."""

from __future__ import annotations

import pytest
import reference
import torch
from cases import max_lengths, packed, poisoned, random_tensor

varlen = pytest.importorskip("torch.nn.attention.varlen")
registry = pytest.importorskip("torch.nn.attention._registry")
NAME = "metal_flash_sdpa"


@pytest.fixture(autouse=True)
def active(kernel):
    names = registry.list_flash_attention_impls()
    with kernel.activate_varlen_attn("cpu"):
        assert registry.current_flash_attention_impl() == NAME
        yield
    assert registry.current_flash_attention_impl() is None and registry.list_flash_attention_impls() == names
    with pytest.raises(NotImplementedError):
        varlen.varlen_attn(*(random_tensor(0, 4, 2, 16),) * 3, *(torch.tensor([0, 4]).int(),) * 2, 4, 4)


LENGTHS = [(5, 7), (0, 3), (9, 4), (1, 1)]


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (2, 0), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients(launcher, window, dtype):
    q, k, v, cu_q, cu_k = packed(LENGTHS, 4, 2, 32, dtype)
    leaves = [tensor.requires_grad_() for tensor in (q, k, v)]
    output, lse = varlen.varlen_attn(
        *leaves, cu_q, cu_k, *max_lengths(cu_q, cu_k), scale=0.3, window_size=window, enable_gqa=True,
        return_aux=varlen.AuxRequest(lse=True),
    )  # fmt: skip
    arguments = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "softmax_scale": 0.3, "window": window}
    expected, expected_lse = reference.attention(*(t.detach() for t in leaves), **arguments)
    reference.assert_output(output.detach(), expected, v.detach())
    reference.assert_lse(lse.detach(), expected_lse)
    grad = random_tensor(9, *output.shape, dtype=dtype)
    found = torch.autograd.grad(output, leaves, grad)
    wanted = reference.gradients([t.detach() for t in leaves], grad, **arguments)
    reference.assert_gradients(found, wanted, leaves, dtype)


def test_pages_used_keys_and_a_given_output(launcher):
    q, _, _, cu_q, _ = packed([(3, 0), (2, 0)], 2, 2, 32, torch.float32)
    pages = random_tensor(1, 5, 16, 2, 32), random_tensor(2, 5, 16, 2, 32)
    table, used = torch.tensor([[3, 0], [1, 4]], dtype=torch.int32), torch.tensor([20, 7], dtype=torch.int32)
    expected, _ = reference.attention(q, *pages, cu_q, None, None, (-1, 0), seqused_k=used, block_table=table)
    named = {"window_size": (-1, 0), "seqused_k": used, "block_table": table}
    for splits in (None, 1, 2):
        output = varlen.varlen_attn(q, *pages, cu_q, None, 3, 20, **named, num_splits=splits)
        reference.assert_output(output, expected, pages[1])
    out = torch.full_like(q, torch.nan)
    assert varlen.varlen_attn_out(out, q, *pages, cu_q, None, 3, 20, **named) is out
    reference.assert_output(out, expected, pages[1])


def test_splits_are_as_asked(kernel):
    q, k, v, cu_q, cu_k = packed([(1, 3000)], 2, 2, 32, torch.float32)
    for splits, launches in ((1, 1), (3, 2)):
        plans = []
        with kernel.launchers.use_launcher(lambda plan, given, plans=plans: plans.append(plan)):
            varlen.varlen_attn(q, k, v, cu_q, cu_k, 1, 3000, num_splits=splits)
        assert len(plans) == launches


@pytest.mark.parametrize("make", [poisoned, lambda t: t.transpose(0, 1).contiguous().transpose(0, 1)])
def test_compiled_with_strides(make):
    q, k, v, cu_q, cu_k = packed(LENGTHS, 2, 2, 16, torch.float32)
    leaves = [make(tensor).requires_grad_() for tensor in (q, k, v)]

    def attend(q, k, v):
        return varlen.varlen_attn(q, k, v, cu_q, cu_k, 9, 7)

    output = torch.compile(attend, backend="aot_eager", fullgraph=True)(*leaves)
    eager = attend(*leaves)
    assert torch.equal(output, eager) and output.stride() == eager.stride() == torch.empty_like(leaves[0]).stride()
    found, wanted = (torch.autograd.grad(o.square().sum(), leaves) for o in (output, eager))
    torch.testing.assert_close(found, wanted)
    torch._dynamo.reset()


def test_what_is_not_implemented():
    q, k, v, cu_q, cu_k = packed(LENGTHS, 2, 2, 16, torch.float32)
    forward = torch.ops.aten._flash_attention_forward
    with pytest.raises(NotImplementedError, match="dropout_p must be 0"):
        forward(q, k, v, cu_q, cu_k, 9, 7, 0.5, False, False)
    with pytest.raises(NotImplementedError, match="return_debug_mask must be False"):
        forward(q, k, v, cu_q, cu_k, 9, 7, 0.0, False, True)
    with pytest.raises(ValueError, match="cum_seq_k must be as long as cum_seq_q"):
        forward(q, k, v, cu_q, cu_k[:-1], 9, 7, 0.0, False, False)
    dense = random_tensor(0, 2, 5, 2, 16)
    output, lse, *_ = forward(dense, dense, dense, None, None, 5, 5, 0.0, True, False)
    expected, expected_lse = reference.attention(dense, dense, dense, window=(-1, 0))
    reference.assert_output(output, expected, dense)
    reference.assert_lse(lse, expected_lse)


def test_the_registry_is_left_as_it_was(kernel):
    """Whoever activates another implementation keeps it."""

    class Handle:
        removed = False

        def remove(self):
            self.removed = True

    other = Handle()
    registry.register_flash_attention_impl("other", register_fn=lambda: other)
    undo = kernel.activate_varlen_attn("cpu")
    registry.activate_flash_attention_impl("other")
    undo.undo()
    assert registry.current_flash_attention_impl() == "other" and not other.removed
    registry.restore_flash_attention_impl()
    registry._FLASH_ATTENTION_IMPLS.pop("other")
    kernel.activate_varlen_attn("cpu").undo()
    with pytest.raises(ValueError, match='devices must be "mps", "cpu" or both'):
        kernel.activate_varlen_attn("cuda")
    registry._FLASH_ATTENTION_IMPLS[NAME] = None  # for the fixture, which ends an activation that others ended
    kernel.activate_varlen_attn("cpu")
