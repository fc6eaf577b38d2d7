"""The parts of `make demo`, on fewer sentences; and that it would notice what it claims to notice."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from demo.embedding import batches, embed_packed, embed_padded, load_model
from demo.neighbours import compare
from demo.report import Report, shortened
from demo.sentences import first_sentences, standard_library_sentences
from demo.simulation import Recorder, error_bound, reference, simulate
from transformers import modeling_flash_attention_utils as flash_attention

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def report(kernel: ModuleType, out: io.StringIO) -> Report:
    return Report(kernel.selftest.display, kernel.selftest.display.Show(stream=out))


@pytest.mark.parametrize(("value", "missed"), [(1.0, []), (2.1, ["error"]), (float("nan"), ["error"])])
def test_a_missed_bound_is_remembered(report: Report, out: io.StringIO, value: float, missed: list[str]) -> None:
    report.bound("simulation", "error", value, 2.0)
    assert report.missed == missed
    assert ("MISSED" in out.getvalue()) == bool(missed)
    report.conclude()
    verdict, line, end = out.getvalue().split("\n")[2:5]
    assert verdict.split(" s  ")[1] == ("MISSED, see below" if missed else "every bound was kept")
    assert line == f"          {'MISSED' if missed else 'ok':8}[simulation] error"
    assert end == "          Nothing here has run on an Apple GPU."


def test_a_wrong_count_is_remembered(report: Report, out: io.StringIO) -> None:
    report.same("loader", "calls", 78, 78)
    report.same("loader", "more calls", 79, 78)
    assert report.missed == ["more calls"] and "more calls: 79, expected 78: MISSED" in out.getvalue()


def test_times_have_a_bar_and_no_verdict(report: Report, out: io.StringIO) -> None:
    report.faster("CPU implementation", "eager, packed", 2.0, 4.0)
    assert "eager, packed: 4.00 s, 2.00 s\n          2.00 times as fast  ========|=======\n" in out.getvalue()
    assert report.missed == [] and report.figures[0]["seconds"] == 2.0


def test_items_are_those_given(report: Report, out: io.StringIO) -> None:
    assert list(report.each([3, 1], "batch")) == [3, 1] and out.getvalue() == ""  # no terminal


def test_sentences_are_cut_to_a_line() -> None:
    assert shortened("a" * 60) == "a" * 60 and shortened("a" * 61) == "a" * 56 + " ..."


def test_the_figures_for_programs(build: Path, tmp_path: Path) -> None:
    """stdout has the figures and nothing else; what people read keeps to 80 columns."""
    code = f"""
import os, pathlib, sys
import demo.__main__ as demo
os.environ["LOCAL_KERNELS"] = {f"{REPOSITORY}={build}"!r}
demo.ROOT, demo.SENTENCES = pathlib.Path({str(build.parent)!r}), 40
sys.argv = ["demo", "--json"]
sys.exit(demo.main())
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tools'}:{ROOT / 'simulator'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["passed"] is True and {figure["level"] for figure in figures["figures"]} == {
        "loader", "CPU implementation", "simulation",
    }  # fmt: skip
    assert max(map(len, done.stderr.splitlines())) <= 80 and "every bound was kept" in done.stderr
