"""What NVIDIA's checkers watch: python race_target.py forward | backward | append | mutant NAME; sanitizer.py runs it
under them.

forward, backward: each kernel of the archive that plans can reach, on small inputs. append: what the harness runs the
kernel's mutants on. mutant: what it runs this mutant on.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import types
from typing import Dict, Iterator, NamedTuple, Set, Tuple

import torch
from calls import Call, Recorder, dropout_of, launch, launch_backward, make_call
from package import ARCHIVE, Specialisation, load_variant, package

# isort: split
from metal_simulator.nvidia.archive import Archive, Key
from metal_simulator.nvidia.driver import LoadedProgram
from nvidia_launcher import NvidiaLauncher

LENGTHS = ((33, 40), (40, 33), (75, 75), (1, 130), (5, 0))
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
DEVICES = ((7, 1), (7, 64), (9, 40))  # Apple GPU family, cores
CHUNKS = (2**18, 128)  # bytes of stored weights, and keys
APPEND = "cache_append.metal"


class Case(NamedTuple):
    head_dims: Tuple[int, int]
    dtype: torch.dtype
    device: Tuple[int, int]
    gap: int  # elements between rows
    num_splits: int
    features: bool = False


def cases() -> Iterator[Case]:
    """Aligned and unaligned, whole and split."""
    for dims, dtype, device in itertools.product(package().planning.tiles.SHAPES, DTYPES, DEVICES):
        yield Case(dims, dtype, device, 0, 1)
        yield Case(dims, dtype, device, 1, 2)


def backward_cases() -> Iterator[Case]:
    """Aligned, in one chunk; and unaligned, in several, with every feature."""
    for dims, dtype in itertools.product(package().planning.backward_tiles.SHAPES, DTYPES):
        for device in ((7, 1), (9, 1))[: 2 if dtype == torch.bfloat16 else 1]:  # only its tiles differ
            yield Case(dims, dtype, device, 0, 0)
            yield Case(dims, dtype, device, 1, 0, features=True)


def make(case: Case, place: str) -> Tuple[Call, Dict[str, torch.Tensor]]:
    """(a call; its output, lse and row_softmax, and that output's gradient). Tensors end where their last element does,
    so that nothing outside goes unseen."""
    totals = [sum(pair[side] for pair in LENGTHS) for side in (0, 1)]
    bounds = [[0, *itertools.accumulate(pair[side] for pair in LENGTHS)] for side in (0, 1)]
    cu_q, cu_k = (torch.tensor(b, dtype=torch.int32, device=place) for b in bounds)

    def rows(total: int, heads: int, dim: int) -> torch.Tensor:
        storage = torch.zeros(total * heads * (dim + case.gap) - case.gap, dtype=case.dtype, device=place)
        return storage.as_strided((total, heads, dim), (heads * (dim + case.gap), dim + case.gap, 1))

    head_dim, value_dim = case.head_dims
    results = {name: rows(totals[0], 4, value_dim) for name in ("output", "grad_output")}
    results["lse"] = torch.zeros(4, totals[0], device=place)
    # Of rows with large scores, for which the backward counts anew; the last sequence has no keys.
    results["row_softmax"] = torch.full((4, totals[0], 2), 1e3 if case.features else 0.0, device=place)
    results["row_softmax"][:, -LENGTHS[-1][0] :] = torch.tensor(package().planner.SOFTMAX_OF_NO_KEY, device=place)
    slopes = {"alibi_slopes": torch.ones(4, device=place), "sinks": torch.zeros(4, device=place), "softcap": 1.0}
    call = make_call(
        rows(totals[0], 4, head_dim),
        rows(totals[1], 2, head_dim),
        rows(totals[1], 2, value_dim),
        cu_seqlens_q=cu_q,
        cu_seqlens_k=cu_k,
        max_seqlen_q=max(length for length, _ in LENGTHS),
        max_seqlen_k=max(length for _, length in LENGTHS),
        window_left=-1 if case.features else 20,
        window_right=0,
        num_splits=case.num_splits,
        **(slopes if case.features else {}),
    )
    return call, results


def run_forward(case: Case, launcher, place: str) -> None:
    call, results = make(case, place)
    launch(launcher, case.device, results["output"], results["lse"], call)


def run_backward(case: Case, launcher, place: str) -> None:
    from backward.problem import budgets

    call, tensors = make(case, place)
    for name in ("query", "key", "value"):
        tensors[f"grad_{name}"] = torch.zeros(getattr(call, name).shape, dtype=case.dtype, device=place)
    tensors["grad_lse"] = tensors.pop("lse")
    if case.features:
        tensors["dropout"] = package().planning.plan.DropoutParams.of(dropout_of((0.5, 1))).pack()
    with budgets(package().planning.backward, *(CHUNKS if case.features else (None, None))):
        launch_backward(launcher, case.device, call, tensors)


TARGETS = {"forward": (cases, run_forward), "backward": (backward_cases, run_backward)}


def specialisations() -> Set[Specialisation]:
    """What the cases will launch, with constants set after loading."""
    recorder = Recorder()
    for every, run_case in TARGETS.values():
        for case in every():
            run_case(case, recorder, "meta")
    return {seen._replace(constants=()) for seen in recorder.seen} | target_specialisations(APPEND)


class NvidiaLibrary:
    """In the place of metal_simulator.Library: the teaching kernels of an archive."""

    def __init__(self, archive: Archive, source: str, variant: str):
        self._archive, self._source, self._variant = archive, source, variant

    def kernel(self, name: str) -> "NvidiaLibrary":
        self._program = LoadedProgram(self._archive.get(Key.of(self._source, name, {}, "exact", self._variant)), {})
        return self

    def launch(self, buffers, grid, threads, threadgroup_memory=(0,), **_settings):
        contents = [bytearray(b if isinstance(b, bytes) else b.tobytes()) for b in buffers]
        moved = [torch.frombuffer(content, dtype=torch.uint8).cuda() for content in contents]
        stream = torch.cuda.current_stream().cuda_stream
        self._program.launch([m.data_ptr() for m in moved], grid, threads, stream, sum(threadgroup_memory))
        torch.cuda.synchronize()
        return types.SimpleNamespace(findings=())


class RecordingLibrary:
    """In the same place on the machine that builds."""

    def __init__(self, source: str, recorder: Recorder):
        self._source, self._recorder = source, recorder

    def kernel(self, name: str) -> "RecordingLibrary":
        self._name = name
        return self

    def launch(self, buffers, grid, threads, **_settings):
        self._recorder.seen.add(Specialisation(self._source, self._name, (), math.prod(threads)))
        return types.SimpleNamespace(findings=())


def run_target(file: str, launcher, library) -> None:
    """What the harness runs mutants of a file on. launcher: for plans; library: of a teaching file, by its name."""
    kernels = types.ModuleType("kernels")
    kernels.get_local_kernel = load_variant
    sys.modules.setdefault("kernels", kernels)
    from mutants import targets

    for cases in (targets, targets.append_cases, targets.backward_cases, targets.bias_cases):
        cases.SimulatedLauncher = lambda *_how, **_settings: launcher
    targets.Library = lambda path: library(path.name)
    targets.run(file, targets.Run(targets.folder_of(file), check=True))


def target_specialisations(file: str) -> Set[Specialisation]:
    """What that needs; of the .metal files, constants set after loading."""
    recorder = Recorder()
    run_target(file, recorder, lambda source: RecordingLibrary(source, recorder))
    return {s._replace(constants=()) for s in recorder.seen}


def run_mutant(name: str, archive: Archive) -> None:
    from mutants import MUTANTS
    from mutants.backward_cases import Found

    file = next(mutant.file for mutant in MUTANTS if mutant.name == name)
    with contextlib.suppress(Found):  # wrong numbers, which are not the tool's to find
        run_target(file, NvidiaLauncher(archive, variant=name), lambda source: NvidiaLibrary(archive, source, name))


def main() -> None:
    torch.ones(1, device="cuda")  # makes the context that programs are loaded into
    archive = Archive(ARCHIVE)
    if sys.argv[1] == "mutant":
        run_mutant(sys.argv[2], archive)
    elif sys.argv[1] == "append":
        run_target(APPEND, NvidiaLauncher(archive), lambda source: NvidiaLibrary(archive, source, ""))
    else:
        launcher, (every, run_case) = NvidiaLauncher(archive), TARGETS[sys.argv[1]]
        for case in every():
            run_case(case, launcher, "cuda")
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
