"""Embed real sentences with a real model through the staged kernel, then run its attention on the simulated GPU.

`make demo` calls this. Exits with status 1 when a bound is missed. Nothing is downloaded: the model comes from a
package, the kernel from build/. With --json, stdout has the figures and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
REPOSITORY = "org/metal-flash-sdpa"
os.environ["LOCAL_KERNELS"] = f"{REPOSITORY}={ROOT / 'build'}"  # stands in for the published repository
os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries below are imported

import torch  # noqa: E402
import transformers  # noqa: E402
from kernels import get_kernel, get_loaded_kernels  # noqa: E402

from demo.embedding import BATCH, Embeddings, batches, embed_packed, embed_padded, load_model  # noqa: E402
from demo.neighbours import TIE, Agreement, compare  # noqa: E402
from demo.report import Report, shortened  # noqa: E402
from demo.sentences import standard_library_sentences  # noqa: E402
from demo.simulation import AttentionCall, Recorder, error_bound, reference, simulate  # noqa: E402

SENTENCES = 400
EMBEDDING_BOUND = 1e-5  # largest difference of an embedding's components from eager attention
SHOWN = 5  # neighbours printed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Embeds sentences, and simulates attention.")
    parser.add_argument("--json", action="store_true", help="print the figures, and nothing else, to stdout")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kernel = get_kernel(REPOSITORY, version=1, trust_remote_code=True)
    display = importlib.import_module(f"{kernel.__name__}.selftest.display")
    report = Report(display, display.Show(stream=sys.stderr if options.json else sys.stdout))
    report_kernel(report, kernel)
    sentences = read_sentences(report)
    recorder = Recorder(kernel)
    embed_and_compare(report, recorder, sentences)
    if recorder.first is not None:
        run_on_simulator(report, kernel, recorder.first)
    report.conclude()
    if options.json:
        print(json.dumps({"passed": not report.missed, "figures": report.figures}, indent=1))
    return 1 if report.missed else 0


def report_kernel(report: Report, kernel: ModuleType) -> None:
    report.step(f"the kernel, by kernels.get_kernel({REPOSITORY!r}, version=1)")
    identifier = next(loaded.metadata.id for loaded in get_loaded_kernels() if loaded.module is kernel)
    report.fact("loader", f"{Path(str(kernel.__file__)).parent.relative_to(ROOT)}, id {identifier}")


def read_sentences(report: Report) -> list[str]:
    report.step(f"reading {SENTENCES} sentences: docstrings of Python's standard library")
    sentences = standard_library_sentences(SENTENCES)
    report.fact("input", f"the first: {shortened(sentences[0], 45)!r}")
    return sentences


def embed_and_compare(report: Report, recorder: Recorder, sentences: list[str]) -> None:
    encodings = list(batches(sentences))
    report.step(f"all-MiniLM-L6-v2, eager attention, {len(encodings)} padded batches of {BATCH}")
    eager_model = load_model("eager")
    embed_padded(eager_model, encodings[:1])  # the first call pays for set-up
    eager = embed_padded(eager_model, report.each(encodings, "batch"))

    report.step(f"the same with attn_implementation={REPOSITORY!r}, packed")
    model = load_model(REPOSITORY)
    embed_packed(model, encodings[:1])
    recorder.calls = 0
    ours = embed_packed(model, report.each(encodings, "batch"))
    report_embeddings(report, eager, ours)
    expected = len(encodings) * model.config.num_hidden_layers
    report.same("loader", "calls of flash_attn_varlen_func", recorder.calls, expected)

    report.step("nearest neighbours, beside those by eager attention")
    agreement = compare(eager.vectors, ours.vectors)
    report_neighbours(report, agreement, sentences)


def report_embeddings(report: Report, eager: Embeddings, ours: Embeddings) -> None:
    difference = float((eager.vectors - ours.vectors).abs().max())
    report.bound("loader", "largest difference from eager", difference, EMBEDDING_BOUND)
    saved = 1 - ours.tokens / eager.tokens
    report.fact("loader", f"{eager.tokens} tokens with padding, {ours.tokens} without: {saved:.0%} saved")
    report.faster("CPU implementation", "eager and padded, then packed", ours.seconds, eager.seconds)


def report_neighbours(report: Report, agreement: Agreement, sentences: list[str]) -> None:
    report.fact("loader", f"{agreement.identical} identical, {agreement.ties} equal within {TIE:.0e}")
    report.same("loader", "other nearest neighbours", agreement.different, 0)
    for index in agreement.similarity.argsort(descending=True)[: 2 * SHOWN * 4 : 8].tolist():
        report.line(f"{agreement.similarity[index]:.3f}  {shortened(sentences[index])}")
        report.line(f"       {shortened(sentences[int(agreement.nearest[index])])}")


def run_on_simulator(report: Report, kernel: ModuleType, recorded: AttentionCall) -> None:
    total, heads, head_dim = recorded.q.shape
    report.step("attention of a layer on the simulated Metal kernels, beside float64")
    sequences = len(recorded.cu_seqlens) - 1
    report.fact("input", f"{sequences} sequences, {total} tokens, {heads} heads, head_dim {head_dim}")
    for dtype in (torch.float32, torch.float16):
        call = recorded.to(dtype)
        output, seconds = simulate(kernel, call)
        expected = reference(call)
        error = float((output.double() - expected).abs().max())
        name = str(dtype).removeprefix("torch.")
        report.bound("simulation", f"{name}, error", error, error_bound(call, expected))
        report.fact("simulation", f"{name}, {seconds:.2f} s with compiling; says nothing of a GPU")


if __name__ == "__main__":
    sys.exit(main())
