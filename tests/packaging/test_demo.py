"""The parts of `make demo`, on fewer sentences; and that it would notice what it claims to notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from demo.embedding import batches, embed_packed, embed_padded, load_model
from demo.neighbours import compare
from demo.report import Report
from demo.sentences import first_sentences, standard_library_sentences
from demo.simulation import Recorder, error_bound, reference, simulate
from transformers import modeling_flash_attention_utils as flash_attention

REPOSITORY = "org/metal-flash-sdpa"
SENTENCES = 48


@pytest.fixture
def recorder(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Records the kernel's calls until the test ends; the repository name leads to this kernel."""
    monkeypatch.setenv("LOCAL_KERNELS", f"{REPOSITORY}={Path(kernel.__file__).parent.parent}")
    monkeypatch.setattr(kernel, "flash_attn_varlen_func", kernel.flash_attn_varlen_func)  # undone afterwards
    flash_attention._loaded_implementation = None  # transformers keeps the functions it loaded last
    yield Recorder(kernel)
    flash_attention._loaded_implementation = None


def test_the_real_model_agrees_with_eager_attention(kernel: ModuleType, recorder: Recorder) -> None:
    encodings = list(batches(standard_library_sentences(SENTENCES)))
    eager = embed_padded(load_model("eager"), encodings)
    ours = embed_packed(load_model(REPOSITORY), encodings)
    assert recorder.calls == 6 * len(encodings)
    assert ours.tokens == sum(int(encoding["attention_mask"].sum()) for encoding in encodings) < eager.tokens
    assert float((ours.vectors - eager.vectors).abs().max()) <= 1e-5
    agreement = compare(eager.vectors, ours.vectors)
    assert agreement.different == 0 and agreement.identical + agreement.ties == SENTENCES


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_recorded_call_on_the_simulator(kernel: ModuleType, recorder: Recorder, dtype: torch.dtype) -> None:
    embed_packed(load_model(REPOSITORY), list(batches(standard_library_sentences(4))))
    call = recorder.first.to(dtype)
    output, _ = simulate(kernel, call)
    expected = reference(call)
    assert output.dtype == dtype
    assert float((output.double() - expected).abs().max()) <= error_bound(call, expected)


def test_sentences_are_different_and_the_same_again() -> None:
    sentences = standard_library_sentences(SENTENCES)
    assert len(set(sentences)) == SENTENCES
    assert sentences == standard_library_sentences(SENTENCES)


def test_more_sentences_than_there_are() -> None:
    with pytest.raises(ValueError, match="1000000 sentences wanted"):
        standard_library_sentences(1_000_000)


def test_first_sentences() -> None:
    source = '''
def documented():
    """Give back the
    same thing. And more.

    Nothing here."""

def example():
    """>>> Some example that is no prose"""

def short():
    """Too short"""
'''
    assert list(first_sentences(source)) == ["Give back the same thing"]


def test_a_changed_neighbour_is_no_tie() -> None:
    first = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [0.1, 0.9], [0.0, 1.0]])
    agreement = compare(torch.nn.functional.normalize(first), torch.nn.functional.normalize(second))
    assert (agreement.identical, agreement.ties, agreement.different) == (2, 0, 1)


def test_equally_near_neighbours_are_a_tie() -> None:
    first = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    second = first + torch.tensor([[0.0, 0.0], [0.0, 1e-8], [1e-7, 0.0]])
    agreement = compare(first, second)
    assert (agreement.identical, agreement.ties, agreement.different) == (2, 1, 0)


@pytest.mark.parametrize(("value", "missed"), [(1.0, []), (2.1, ["error"]), (float("nan"), ["error"])])
def test_a_missed_bound_is_remembered(capsys: pytest.CaptureFixture, value: float, missed: list[str]) -> None:
    report = Report()
    report.bound("simulation", "error", value, 2.0)
    assert report.missed == missed
    assert ("MISSED" in capsys.readouterr().out) == bool(missed)
