"""`import flash_attn`: names, signatures and results of flash-attn 2.8.3; what others think of it; and its end."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
import reference
import torch
from cases import packed, random_tensor

SCORING = (
    "dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, "
    "deterministic=False"
)
LENGTHS = "cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k"
SIDES = "dropout_p, softmax_scale, causal, window_size_left, window_size_right, softcap, alibi_slopes"
CACHE = (
    "q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None, cache_batch_idx=None, "
    "cache_leftpad=None, block_table=None, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, "
    "rotary_interleaved=True, alibi_slopes=None, num_splits=0, return_softmax_lse=False"
)
PUBLISHED = {  # of flash-attn 2.8.3, by module
    "flash_attn": {
        "flash_attn_func": f"q, k, v, {SCORING}, return_attn_probs=False",
        "flash_attn_kvpacked_func": f"q, kv, {SCORING}, return_attn_probs=False",
        "flash_attn_qkvpacked_func": f"qkv, {SCORING}, return_attn_probs=False",
        "flash_attn_varlen_func": f"q, k, v, {LENGTHS}, {SCORING}, return_attn_probs=False, block_table=None",
        "flash_attn_varlen_kvpacked_func": f"q, kv, {LENGTHS}, {SCORING}, return_attn_probs=False",
        "flash_attn_varlen_qkvpacked_func": f"qkv, cu_seqlens, max_seqlen, {SCORING}, return_attn_probs=False",
        "flash_attn_with_kvcache": CACHE,
    },
    "flash_attn.flash_attn_interface": {
        "_flash_attn_forward": f"q, k, v, {SIDES}, return_softmax",
        "_flash_attn_varlen_forward": (
            f"q, k, v, {LENGTHS}, dropout_p, softmax_scale, causal, window_size_left=-1, window_size_right=-1, "
            "softcap=0.0, alibi_slopes=None, return_softmax=False, block_table=None, leftpad_k=None, seqused_k=None, "
            "zero_tensors=False"
        ),
        "_flash_attn_backward": f"dout, q, k, v, out, softmax_lse, dq, dk, dv, {SIDES}, deterministic, rng_state=None",
        "_flash_attn_varlen_backward": (
            f"dout, q, k, v, out, softmax_lse, dq, dk, dv, {LENGTHS}, {SIDES}, deterministic, rng_state=None, "
            "zero_tensors=False"
        ),
    },
    "flash_attn.bert_padding": {
        "index_first_axis": "input, indices",
        "index_first_axis_residual": "input, indices",
        "index_put_first_axis": "values, indices, first_axis_dim",
        "unpad_input": "hidden_states, attention_mask, unused_mask=None",
        "unpad_input_for_concatenated_sequences": "hidden_states, attention_mask_in_length",
        "pad_input": "hidden_states, indices, batch, seqlen",
    },
    "flash_attn.layers.rotary": {
        "apply_rotary_emb": (
            "x, cos, sin, interleaved=False, inplace=False, seqlen_offsets=0, cu_seqlens=None, max_seqlen=None"
        ),
    },
}
MODULES = ["flash_attn", "flash_attn.flash_attn_interface", "flash_attn.bert_padding", "flash_attn.layers"]
MODULES += ["flash_attn.layers.rotary"]


@pytest.fixture
def flash_attn(kernel):
    with kernel.install_flash_attn():
        yield importlib.import_module("flash_attn")


@pytest.mark.parametrize("module, name", [(module, name) for module in PUBLISHED for name in PUBLISHED[module]])
def test_signatures_are_the_published_ones(flash_attn, module, name):
    """More arguments than the published ones may follow, by keyword alone."""
    function = getattr(importlib.import_module(module), name)
    signature = inspect.signature(function)
    ours = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert str(signature.replace(parameters=ours, return_annotation=signature.empty)) == f"({PUBLISHED[module][name]})"
    assert all(p.default is not p.empty for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY)


def test_the_modules(flash_attn):
    import flash_attn.layers.rotary
    from flash_attn import flash_attn_func, flash_attn_varlen_func  # noqa: F401
    from flash_attn.bert_padding import index_first_axis, pad_input, unpad_input  # noqa: F401
    from flash_attn.flash_attn_interface import flash_attn_varlen_kvpacked_func  # noqa: F401
    from flash_attn.layers.rotary import apply_rotary_emb_func  # noqa: F401

    assert flash_attn.__version__ == "2.8.3"
    for name in MODULES:
        module = sys.modules[name]
        assert importlib.util.find_spec(name) is module.__spec__ is not None and module.__spec__.name == name
        assert module.__file__ and module.__doc__ and importlib.import_module(name) is module
        parent, _, child = name.rpartition(".")
        assert not parent or getattr(sys.modules[parent], child) is module
    assert pickle.loads(pickle.dumps(flash_attn_func)) is flash_attn_func
    assert inspect.getmodule(flash_attn_func) is not None  # as torch.compile and debuggers ask


@pytest.mark.parametrize(
    "name", ["flash_attn.ops.triton.rotary", "flash_attn.modules.mha", "flash_attn.layers.rotary.x"]
)
def test_what_there_is_not(flash_attn, name):
    with pytest.raises(ModuleNotFoundError, match=r"flash_attn\.layers\.rotary|not a package") as raised:
        importlib.import_module(name)
    assert name.startswith(raised.value.name)
    assert importlib.util.find_spec("flash_attn.cute") is None  # who only asks gets an answer
    with pytest.raises(ImportError, match="cannot import name"):
        from flash_attn import flash_attn_unpadded_func  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="^No module named 'flash_attn_3'$"):
        importlib.import_module("flash_attn_3")


PROBES = """
import sys
from pathlib import Path
import kernels

kernels.get_local_kernel(Path(sys.argv[1])).install_flash_attn()
from test_flash_attn_2 import answers

assert answers() == NONE, answers()
from transformers import AutoModelForCausalLM, LlamaConfig
config = LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
AutoModelForCausalLM.from_config(config)
try:
    AutoModelForCausalLM.from_config(config, attn_implementation="flash_attention_2")
except (ImportError, ValueError) as error:
    assert "flash" in str(error).lower(), error
else:
    raise AssertionError("flash_attention_2 of transformers asks for CUDA")
"""
NONE = (False,) * 7


def answers() -> tuple:
    """Of transformers and diffusers, on whether there is flash-attn; accelerate and peft are imported, too."""
    import accelerate.utils  # noqa: F401
    import diffusers.models.attention_dispatch as dispatch
    import diffusers.utils.import_utils as of_diffusers
    import peft.import_utils  # noqa: F401
    import transformers.utils.import_utils as of_transformers

    for function in ("is_flash_attn_2_available", "is_flash_attn_4_available", "is_flash_attn_greater_or_equal"):
        getattr(of_transformers, function).cache_clear()
    return (
        of_transformers.is_flash_attn_2_available(),
        of_transformers.is_flash_attn_4_available(),
        of_transformers.is_flash_attn_greater_or_equal("2.1.0"),
        of_diffusers.is_flash_attn_available(),
        of_diffusers._is_package_available("flash_attn")[0],
        of_diffusers.is_flash_attn_version(">=", "2.6.3"),
        dispatch._CAN_USE_FLASH_ATTN,
    )


def test_other_libraries_still_find_no_distribution(flash_attn):
    """transformers and diffusers ask importlib.metadata for flash-attn, and for CUDA; they are imported."""
    assert answers() == NONE


def test_libraries_that_are_imported_later(build):
    here = Path(__file__).parent
    folders = os.pathsep.join([str(here), str(here.parent / "support"), *sys.path])
    command = [sys.executable, "-c", PROBES.replace("NONE", str(NONE)), build]
    environment = {**os.environ, "PYTHONPATH": folders, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_one_is_not_hidden(kernel, tmp_path, monkeypatch):
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("__version__ = '2.0'\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(RuntimeError, match="another flash_attn.*flash_attn/__init__.py"):
            kernel.install_flash_attn()
        assert importlib.import_module("flash_attn").__version__ == "2.0"
        with pytest.raises(RuntimeError, match="another flash_attn"):
            kernel.install_flash_attn()
        del sys.modules["flash_attn"]
    for stub in (types.ModuleType("flash_attn"), None):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "flash_attn", stub)
            with pytest.raises(RuntimeError, match="another flash_attn, and there is a module without a file"):
                kernel.install_flash_attn()


def test_several_users(kernel):
    first, second = kernel.install_flash_attn(), kernel.install_flash_attn()
    first.undo()
    first.undo()
    assert importlib.import_module("flash_attn").__version__ == "2.8.3"
    second.undo()
    assert importlib.util.find_spec("flash_attn") is None


def test_two_builds(kernel, metal_kernel):
    with kernel.install_flash_attn(), pytest.raises(RuntimeError, match="another flash_attn"):
        metal_kernel.install_flash_attn()


def leaves(*shapes):
    return [random_tensor(seed, *shape).requires_grad_() for seed, shape in enumerate(shapes)]


SETTINGS = {
    "plain": (0.0, None, False, -1, -1, 0.0, None),
    "causal": (0.0, 0.3, True, -1, -1, 0.0, None),
    "all": (0.0, 0.5, False, 3, 1, 5.0, torch.tensor([0.25, 0.5])),
    "dropout": (0.4, 0.3, True, -1, -1, 0.0, None),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_private_functions_are_the_public_one_in_two_calls(flash_attn, launcher, settings):
    from flash_attn.flash_attn_interface import _flash_attn_backward, _flash_attn_forward

    dropout_p, scale, causal, left, right, softcap, slopes = settings
    q, k, v = leaves((2, 9, 2, 32), (2, 12, 1, 32), (2, 12, 1, 32))
    grad = random_tensor(5, 2, 9, 2, 32)
    torch.manual_seed(0)
    expected, expected_lse, _ = flash_attn.flash_attn_func(
        q, k, v, dropout_p, scale, causal, (left, right), softcap, slopes, False, True
    )
    expected_grads = torch.autograd.grad(expected, (q, k, v), grad)
    torch.manual_seed(0)
    with torch.no_grad():
        output, lse, weights, rng_state = _flash_attn_forward(q, k, v, *settings, False)
        torch.testing.assert_close((output, lse), (expected, expected_lse), rtol=0, atol=1e-6)
        assert weights.numel() == 0 and rng_state.dtype == torch.int64 and rng_state.shape == (2,)
        assert (rng_state[0] != 0) == (dropout_p > 0)
        stacked = torch.full((2, 12, 2, 1, 32), torch.nan)
        grads = torch.empty_like(q), stacked[:, :, 0], stacked[:, :, 1]
        sums = _flash_attn_backward(grad, q, k, v, output, lse, *grads, *settings, False, rng_state)
    for found, wanted in zip(grads, expected_grads):
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)
    torch.testing.assert_close(sums, (grad * output).sum(-1).transpose(1, 2), rtol=0, atol=1e-5)


def test_private_packed_functions(flash_attn, launcher):
    from flash_attn.flash_attn_interface import _flash_attn_varlen_backward, _flash_attn_varlen_forward

    q, k, v, cu_q, cu_k = packed([(5, 7), (0, 3), (9, 4)], 2, 1, 32, torch.float32)
    lengths, settings, grad = (cu_q, cu_k, 9, 7), (0.0, 0.3, True, -1, -1, 0.0, None), torch.ones_like(q)
    output, lse, _, rng_state = _flash_attn_varlen_forward(q, k, v, *lengths, *settings)
    expected, expected_lse = reference.attention(q, k, v, cu_q, cu_k, 0.3, (-1, 0))
    reference.assert_output(output, expected, v)
    reference.assert_lse(lse, expected_lse)
    found = [torch.empty_like(tensor) for tensor in (q, k, v)]
    _flash_attn_varlen_backward(grad, q, k, v, output, lse, *found, *lengths, *settings, False, rng_state)
    arguments = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "softmax_scale": 0.3, "window": (-1, 0)}
    wanted = reference.gradients((q, k, v), grad, **arguments)
    reference.assert_gradients(found, wanted, (q, k, v), torch.float32)


def test_gradients_of_a_part_of_the_keys(flash_attn, launcher):
    """With the output and lse over all keys, as ring attention gives them; rows that see none of a part among them."""
    from flash_attn.flash_attn_interface import _flash_attn_backward, _flash_attn_forward

    q, k, v = (random_tensor(seed, 1, 8, 2, 32) for seed in range(3))
    grad, settings = random_tensor(4, 1, 8, 2, 32), (0.0, 2.0, True, -1, -1, 0.0, None)
    wanted = reference.gradients((q, k, v), grad, softmax_scale=2.0, window=(-1, 0))
    output, lse, _, _ = _flash_attn_forward(q, k, v, *settings, False)
    found = [torch.zeros_like(tensor) for tensor in (q, k, v)]
    for rows, keys in ((slice(0, 8), slice(4, 8)), (slice(0, 4), slice(0, 4)), (slice(4, 8), slice(0, 4))):
        part = [torch.empty_like(t) for t in (q[:, rows], k[:, keys], v[:, keys])]
        whole = (grad[:, rows], q[:, rows], k[:, keys], v[:, keys], output[:, rows], lse[:, :, rows])
        is_causal = rows != slice(4, 8)
        _flash_attn_backward(*whole, *part, 0.0, 2.0, is_causal, -1, -1, 0.0, None, False, None)
        for total, of_part, place in zip(found, part, (rows, keys, keys)):
            total[:, place] += of_part
    reference.assert_gradients(found, wanted, (q, k, v), torch.float32)


def test_no_weight_exceeds_that_of_its_own_keys(flash_attn, launcher):
    """A log-sum-exp that is too small, as by rounding, makes no weight larger than without other keys."""
    from flash_attn.flash_attn_interface import _flash_attn_backward, _flash_attn_forward

    q, k, v = (random_tensor(seed, 1, 8, 2, 32) for seed in range(3))
    grad, settings = random_tensor(4, 1, 8, 2, 32), (0.0, 2.0, True, -1, -1, 0.0, None)
    output, lse, _, _ = _flash_attn_forward(q, k, v, *settings, False)
    right, small = ([torch.empty_like(tensor) for tensor in (q, k, v)] for _ in range(2))
    for grads, less in ((right, 0.0), (small, 1.0)):
        _flash_attn_backward(grad, q, k, v, output, lse - less, *grads, *settings, False)
    for found, wanted in zip(small, right):
        assert torch.equal(found, wanted)


def test_wrong_calls_of_the_private_functions(flash_attn):
    from flash_attn import flash_attn_interface as private

    q = random_tensor(0, 1, 4, 2, 16)
    settings = (0.5, 0.3, False, -1, -1, 0.0, None)
    output, lse, _, rng_state = private._flash_attn_forward(q, q, q, *settings, False)
    with pytest.raises(NotImplementedError, match="return_softmax must be False"):
        private._flash_attn_forward(q, q, q, *settings, True)
    for out, sums, error in ((output[:, :3], lse, "out must have"), (output, lse[0], "softmax_lse must have")):
        with pytest.raises(ValueError, match=error):
            private._flash_attn_backward(output, q, q, q, out, sums, None, None, None, *settings, False, rng_state)
    with pytest.raises(ValueError, match="rng_state must be what the forward returned"):
        private._flash_attn_backward(output, q, q, q, output, lse, None, None, None, *settings, False)
    cu_seqlens = torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(NotImplementedError, match="leftpad_k"):
        private._flash_attn_varlen_forward(
            q[0], q[0], q[0], cu_seqlens, cu_seqlens, 4, 4, *settings, leftpad_k=cu_seqlens
        )


def test_positions_of_softcap_and_slopes(flash_attn, kernel):
    """Where this kernel's own function and flash-attn 2 differ."""
    q, k, v, cu_q, cu_k = packed([(5, 7), (9, 4)], 2, 1, 32, torch.float32)
    slopes = torch.tensor([0.5, 0.25])
    found = flash_attn.flash_attn_varlen_func(q, k, v, cu_q, cu_k, 9, 7, 0.0, 0.3, True, (-1, -1), 3.0, slopes)
    expected = kernel.flash_attn_varlen_func(
        q, k, v, cu_q, cu_k, 9, 7, softmax_scale=0.3, causal=True, softcap=3.0, alibi_slopes=slopes
    )
    assert torch.equal(found, expected)


def rotated(x, cos, sin, positions, interleaved):
    """One token and pair at a time; x [tokens, heads, head_dim]."""
    result, half = x.double().clone(), cos.shape[1]
    for token, position in enumerate(positions):
        for pair in range(half if 0 <= position < cos.shape[0] else 0):
            first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
            c, s = cos[position, pair].double(), sin[position, pair].double()
            a, b = x[token, :, first].double(), x[token, :, second].double()
            result[token, :, first], result[token, :, second] = a * c - b * s, a * s + b * c
    return result


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_rotary(flash_attn, interleaved, inplace):
    from flash_attn.layers.rotary import apply_rotary_emb

    angles = random_tensor(0, 9, 4)
    cos, sin = angles.cos(), angles.sin()
    x = random_tensor(1, 2, 5, 3, 16)
    offsets = torch.tensor([3, 6])  # the last tokens of the second have no row
    for given, starts in ((0, (0, 0)), (4, (4, 4)), (offsets, (3, 6))):
        expected = torch.stack([rotated(x[b], cos, sin, range(starts[b], starts[b] + 5), interleaved) for b in (0, 1)])
        tensor = x.clone()
        found = apply_rotary_emb(tensor, cos, sin, interleaved, inplace, seqlen_offsets=given)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
        assert (found is tensor) == inplace and torch.equal(tensor, x) != inplace
    packed_x, cu_seqlens = random_tensor(2, 8, 3, 16), torch.tensor([1, 3, 3, 7], dtype=torch.int32)
    found = apply_rotary_emb(
        packed_x.clone(), cos, sin, interleaved, inplace, torch.tensor([2, 0, 1]), cu_seqlens, max_seqlen=4
    )
    expected = rotated(packed_x, cos, sin, [-1, 2, 3, 1, 2, 3, 4, -1], interleaved)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def test_rotary_gradient(flash_attn):
    from flash_attn.layers.rotary import apply_rotary_emb

    angles = random_tensor(0, 5, 4).double()
    x = random_tensor(1, 1, 5, 2, 16).double().requires_grad_()
    for inplace in (False, True):
        given = x.float().clone()
        apply_rotary_emb(given, angles.cos().float(), angles.sin().float(), False, inplace).square().sum().backward()
        torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=0, atol=1e-5)  # rotations keep the length
        x.grad = None
    for cos, error in ((angles[:, :0], "cos must have shape"), (angles[0], "cos must have the dimensions")):
        with pytest.raises(ValueError, match=error):
            apply_rotary_emb(x, cos, cos)


def test_padding(flash_attn):
    from flash_attn import bert_padding

    hidden = random_tensor(0, 2, 6, 3).requires_grad_()
    lengths = torch.tensor([[2, 3, 0, 0, 0, 0], [1, 4, 1, 0, 0, 0]])
    tokens, indices, cu_seqlens, longest = bert_padding.unpad_input_for_concatenated_sequences(hidden, lengths)
    assert indices.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11] and longest == 4
    assert cu_seqlens.tolist() == [0, 2, 5, 6, 10, 11] and cu_seqlens.dtype == torch.int32
    assert torch.equal(tokens, hidden.flatten(0, 1)[indices])
    back = bert_padding.index_put_first_axis(tokens, indices, 12)
    assert torch.equal(back[5], torch.zeros(3)) and torch.equal(back[indices], tokens)
    rows, same = bert_padding.index_first_axis_residual(back, indices)
    assert torch.equal(rows, tokens) and same is back
    rows.sum().backward()
    assert hidden.grad.sum() == 33
    assert len(bert_padding.unpad_input(hidden, torch.ones(2, 6).bool())) == 5


def test_a_model_file_written_for_cuda(flash_attn, tmp_path, monkeypatch):
    """As those of TRELLIS and of models with remote code: imported by name, called by position."""
    (tmp_path / "model_for_cuda.py").write_text(
        "import flash_attn\nfrom flash_attn import flash_attn_varlen_qkvpacked_func\n"
        "from flash_attn.bert_padding import pad_input, unpad_input\n\n"
        "def attend(qkv, mask):\n"
        "    packed, indices, cu_seqlens, longest, _ = unpad_input(qkv, mask)\n"
        "    out = flash_attn_varlen_qkvpacked_func(packed, cu_seqlens, longest, 0.0, None, True)\n"
        "    return pad_input(out, indices, *mask.shape)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    attend = importlib.import_module("model_for_cuda").attend
    del sys.modules["model_for_cuda"]
    qkv, mask = random_tensor(0, 2, 6, 3, 2, 16), torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    output = attend(qkv, mask)
    expected, _ = reference.attention(*(qkv[1:].unbind(2)), window=(-1, 0))
    reference.assert_output(output[1:], expected, qkv[:, :, 2])
    assert torch.equal(output[0, 3:], torch.zeros(3, 2, 16))
