"""The run-time launcher, as far as Linux reaches.

A stand-in for torch.mps.compile_shader runs the text that would go to Apple's compiler on the simulator, with what the
launcher binds.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from cases import LENGTHS, max_lengths, packed
from shader_library import ShaderLibrary
from simulated_launcher import SimulatedLauncher


@pytest.fixture
def runtime(metal_kernel, monkeypatch, tmp_path):
    """The module runtime_launcher of the torch-metal variant, and the libraries it compiled."""
    module = importlib.import_module(f"{metal_kernel.__name__}.runtime_launcher")
    compiled = []

    def compile_shader(text):
        folder = tmp_path / str(len(compiled))
        folder.mkdir()
        compiled.append(ShaderLibrary(text, folder))
        return compiled[-1]

    monkeypatch.setattr(torch.mps, "compile_shader", compile_shader)
    module._kernel.cache_clear()
    yield module, compiled
    module._kernel.cache_clear()


@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_same_bits_as_function_constants(metal_kernel, runtime, dtype, with_lse):
    module, compiled = runtime
    query, key, value, cu_q, cu_k = packed(LENGTHS, 4, 2, 64, dtype)
    results = []
    for launcher in (module.RuntimeLauncher(), SimulatedLauncher()):
        with metal_kernel.launchers.use_launcher(launcher):
            results.append(
                metal_kernel.flash_attn_varlen_func(
                    query, key, value, cu_q, cu_k, *max_lengths(cu_q, cu_k), causal=True, return_attn_probs=with_lse
                )
            )
    outputs = [result[0] if with_lse else result for result in results]
    assert torch.equal(*outputs)
    assert not with_lse or torch.equal(results[0][1], results[1][1])
    assert len(compiled) == 1


def test_text_is_self_contained_and_strict(metal_kernel, runtime):
    module, compiled = runtime
    query = torch.randn(2, 40, 4, 128, dtype=torch.float16)
    with metal_kernel.launchers.use_launcher(module.RuntimeLauncher()):
        for _ in range(3):
            metal_kernel.flash_attn_func(query, query, query)
    [library] = compiled  # compiled once, kept
    text = library.path.read_text()
    assert '#include "' not in text and "function_constant" not in text
    assert library.library.kernels == ("attention_forward_f16_d128_v128_m32_n32_s4",)
    assert not [finding for finding in library.library.check() if finding.severity == "error"]


def test_compiler_errors_name_the_specialisation(metal_kernel, runtime, monkeypatch):
    module, _ = runtime

    def compile_shader(text):
        raise SyntaxError("program_source:3:1: error: unknown type name 'flaot'")

    monkeypatch.setattr(torch.mps, "compile_shader", compile_shader)
    query = torch.randn(1, 4, 1, 64)
    with metal_kernel.launchers.use_launcher(module.RuntimeLauncher()):
        with pytest.raises(RuntimeError, match="attention_forward_f32_d64.*is_aligned.*unknown type name 'flaot'"):
            metal_kernel.flash_attn_func(query, query, query)
