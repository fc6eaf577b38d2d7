"""Embed real sentences with a real model through the staged kernel, then run its attention on the simulated GPU.

`make demo` calls this. Exits with status 1 when a bound is missed. Nothing is downloaded: the model comes from a
package, the kernel from build/.
"""

from __future__ import annotations

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
from demo.report import Report  # noqa: E402
from demo.sentences import standard_library_sentences  # noqa: E402
from demo.simulation import AttentionCall, Recorder, error_bound, reference, simulate  # noqa: E402

SENTENCES = 400
EMBEDDING_BOUND = 1e-5  # largest difference of an embedding's components from eager attention
SHOWN = 5  # neighbours printed


def main() -> int:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    report = Report()
    kernel = load_kernel(report)
    sentences = read_sentences(report)
    recorder = Recorder(kernel)
    embed_and_compare(report, recorder, sentences)
    if recorder.first is not None:
        run_on_simulator(report, kernel, recorder.first)
    report.step(f"missed: {', '.join(report.missed)}" if report.missed else "every bound was kept")
    print("          Nothing here has run on an Apple GPU.")
    return 1 if report.missed else 0


def load_kernel(report: Report) -> ModuleType:
    report.step(f"loading the kernel with kernels.get_kernel({REPOSITORY!r}, version=1)")
    kernel = get_kernel(REPOSITORY, version=1, trust_remote_code=True)
    identifier = next(loaded.metadata.id for loaded in get_loaded_kernels() if loaded.module is kernel)
    report.fact("loader", f"{Path(kernel.__file__).parent.relative_to(ROOT)}, id {identifier}")
    return kernel


def read_sentences(report: Report) -> list[str]:
    report.step(f"reading {SENTENCES} sentences from the docstrings of the Python standard library")
    sentences = standard_library_sentences(SENTENCES)
    report.fact("input", f"the first: {sentences[0]!r}")
    return sentences


def embed_and_compare(report: Report, recorder: Recorder, sentences: list[str]) -> None:
    encodings = list(batches(sentences))
    report.step(f"embedding with all-MiniLM-L6-v2, eager attention, {len(encodings)} padded batches of {BATCH}")
    eager_model = load_model("eager")
    embed_padded(eager_model, encodings[:1])  # the first call pays for set-up
    eager = embed_padded(eager_model, encodings)

    report.step(f"embedding with attn_implementation={REPOSITORY!r}, the same batches packed without padding")
    model = load_model(REPOSITORY)
    embed_packed(model, encodings[:1])
    recorder.calls = 0
    ours = embed_packed(model, encodings)
    report_embeddings(report, eager, ours)
    expected = len(encodings) * model.config.num_hidden_layers
    report.fact("loader", f"flash_attn_varlen_func was called {recorder.calls} times, batches x layers = {expected}")
    if recorder.calls != expected:
        report.missed.append("calls of flash_attn_varlen_func")

    report.step("nearest neighbours")
    agreement = compare(eager.vectors, ours.vectors)
    report_neighbours(report, agreement, sentences)


def report_embeddings(report: Report, eager: Embeddings, ours: Embeddings) -> None:
    difference = float((eager.vectors - ours.vectors).abs().max())
    report.bound("loader", "largest difference of an embedding from eager", difference, EMBEDDING_BOUND)
    saved = 1 - ours.tokens / eager.tokens
    report.fact("loader", f"{eager.tokens} tokens with padding, {ours.tokens} without: {saved:.0%} saved")
    report.fact(
        "CPU implementation, this machine's time",
        f"eager and padded {eager.seconds:.2f} s, packed {ours.seconds:.2f} s",
    )


def report_neighbours(report: Report, agreement: Agreement, sentences: list[str]) -> None:
    report.fact(
        "loader",
        f"of {len(sentences)} nearest neighbours {agreement.identical} are identical, {agreement.ties} differ by a tie"
        f" (similarity within {TIE:.0e}), {agreement.different} differ: {'MISSED' if agreement.different else 'ok'}",
    )
    if agreement.different:
        report.missed.append("nearest neighbours")
    for index in agreement.similarity.argsort(descending=True)[: 2 * SHOWN * 4 : 8].tolist():
        print(f"            {agreement.similarity[index]:.3f}  {sentences[index]}")
        print(f"                   {sentences[int(agreement.nearest[index])]}")


def run_on_simulator(report: Report, kernel: ModuleType, recorded: AttentionCall) -> None:
    total, heads, head_dim = recorded.q.shape
    report.step(
        f"attention of layer 1 of one batch on the simulated Metal kernels: {len(recorded.cu_seqlens) - 1} sequences,"
        f" {total} tokens, {heads} heads, head_dim {head_dim}"
    )
    for dtype in (torch.float32, torch.float16):
        call = recorded.to(dtype)
        output, seconds = simulate(kernel, call)
        expected = reference(call)
        error = float((output.double() - expected).abs().max())
        name = str(dtype).removeprefix("torch.")
        report.bound("simulation", f"{name}, largest error against float64", error, error_bound(call, expected))
        report.fact("simulation", f"{name}, {seconds:.2f} s (compiling the shader included; says nothing of a GPU)")


if __name__ == "__main__":
    sys.exit(main())
