"""Stage `timing`: our kernels beside PyTorch's own Metal kernels, all through this back end, on equal work.

Only a hint: the GPU is another. Two nearly equal programs differ by up to 7 % here from the compiler's noise, and
matrix products cost much more ("exact") or less ("fast") beside everything else than on an Apple GPU. What both modes
agree on means something.
"""

from __future__ import annotations

import math
import statistics
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

import torch
from calls import LOADERS, Call, Recorder, launch, make_call
from package import Specialisation

NOISE = 0.07  # differences below it mean nothing
REPEATS, WARM_UPS = 15, 3
PEER = "pytorch_attention.metal"
MODES = ("exact", "fast")


class Case(NamedTuple):
    name: str
    kind: str  # prefill or decode
    lengths: Tuple[Tuple[int, int], ...]  # of queries and keys, a pair for each sequence
    num_heads: int
    num_heads_kv: int
    head_dim: int


RAGGED = (37, 4096, 812, 1530, 64, 2900, 333, 1024)
CASES = (
    *(
        Case(f"causal {length} x {length}, 32 heads, d{dim}", "prefill", ((length, length),), 32, 32, dim)
        for dim in (64, 128, 256)
        for length in (1024, 2048, 4096, 8192)
    ),
    *(Case(f"decode {keys} keys, 32/8 heads, d128", "decode", ((1, keys),), 32, 8, 128) for keys in (8192, 32768)),
    Case("ragged causal, 8 sequences, 32/8 heads, d128", "prefill", tuple((n, n) for n in RAGGED), 32, 8, 128),
)


class Dispatch(NamedTuple):
    """One launch of a kernel of PyTorch's, complete but for the tensors."""

    kernel: str
    grid: Tuple[int, int, int]
    threads: Tuple[int, int, int]
    buffers: Tuple[Optional[Tuple[str, str]], ...]  # by index: ("tensor", name), ("bytes", hexadecimal) or None


class Work(NamedTuple):
    """What PyTorch does for one sequence: launches on query, key, value and tensors that it makes."""

    dispatches: Tuple[Dispatch, ...]
    made: Dict[str, Tuple[Tuple[int, ...], str]]  # shape and dtype by name; "output" is one of them


def make(case: Case, device: str) -> Tuple[Call, List[Tuple[torch.Tensor, ...]]]:
    """(our call; for each sequence PyTorch's query, key and value, [1, heads, seqlen, head_dim] and contiguous)."""
    generator = None if device == "meta" else torch.Generator(device).manual_seed(0)

    def numbers(heads: int, length: int) -> torch.Tensor:
        shape = (1, heads, length, case.head_dim)
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float16)

    theirs = [
        (numbers(case.num_heads, q), numbers(case.num_heads_kv, k), numbers(case.num_heads_kv, k))
        for q, k in case.lengths
    ]
    ours = [torch.cat([part.transpose(1, 2)[0] for part in parts]).contiguous() for parts in zip(*theirs)]
    bounds = [[0], [0]]
    for pair in case.lengths:
        for side in (0, 1):
            bounds[side].append(bounds[side][-1] + pair[side])
    cu_q, cu_k = (torch.tensor(b, dtype=torch.int32, device=device) for b in bounds)
    if len(case.lengths) == 1:
        ours, cu_q, cu_k = [tensor[None] for tensor in ours], None, None
    call = make_call(
        *ours,
        cu_seqlens_q=cu_q,
        cu_seqlens_k=cu_k,
        max_seqlen_q=max(length for length, _ in case.lengths),
        max_seqlen_k=max(length for _, length in case.lengths),
        window_right=0,
    )
    return call, theirs


def results_for(call: Call) -> torch.Tensor:
    return torch.full_like(call.query, math.nan)


# On the machine that builds.


def specialisations() -> Set[Specialisation]:
    """What our side will launch."""
    recorder = Recorder()
    for case in CASES:
        call, _ = make(case, "meta")
        for device in LOADERS.values():
            launch(recorder, device, results_for(call), None, call)
    return recorder.seen


def peers() -> Dict[str, List[Work]]:
    """PyTorch's launches, from the headers of the installed torch: by case, for each of its sequences."""
    return {case.name: [_work(case, tensors) for tensors in make(case, "meta")[1]] for case in CASES}


def peer_specialisations(work: Dict[str, List[Work]]) -> Set[Specialisation]:
    """What they launch; their kernels have no function constants."""
    dispatches = (d for works in work.values() for one in works for d in one.dispatches)
    return {Specialisation(PEER, d.kernel, (), math.prod(d.threads)) for d in dispatches}


def _work(case: Case, tensors) -> Work:
    import peers as study
    import pytorch_attention

    scale = case.head_dim**-0.5
    if case.kind == "prefill":
        dispatches = [pytorch_attention.prefill(*tensors, scale, causal=True)]
    else:
        dispatches = study.two_pass_decode(*tensors, scale)
    output = dispatches[-1].buffers[pytorch_attention.OUTPUT]
    names = {id(t): name for t, name in zip((*tensors, output), ("query", "key", "value", "output"))}
    made, described = {}, []
    for dispatch in dispatches:
        buffers = []
        for buffer in dispatch.buffers:
            if isinstance(buffer, torch.Tensor):
                name = names.setdefault(id(buffer), f"made {len(names)}")
                if name not in ("query", "key", "value"):
                    made[name] = tuple(buffer.shape), str(buffer.dtype).removeprefix("torch.")
                buffers.append(("tensor", name))
            else:
                buffers.append(None if buffer is None else ("bytes", buffer.hex()))
        described.append(Dispatch(dispatch.host_name, tuple(dispatch.grid), tuple(dispatch.threads), tuple(buffers)))
    return Work(tuple(described), made)


# On the GPU.


class Peer:
    """PyTorch's launches for one sequence, ready to run."""

    def __init__(self, work, tensors, archive, matrix: str):
        from metal_simulator.nvidia.archive import Key
        from metal_simulator.nvidia.driver import LoadedProgram

        dispatches, made = work
        self.tensors = dict(zip(("query", "key", "value"), tensors))
        for name, (shape, dtype) in made.items():
            self.tensors[name] = torch.full(shape, math.nan, dtype=getattr(torch, dtype), device="cuda")
        self._kept, self._launches = [], []
        for kernel, grid, threads, buffers in dispatches:
            program = LoadedProgram(archive.get(Key.of(PEER, kernel, {}, matrix)), {})
            self._launches.append((program, [self._address(b) for b in buffers], grid, threads))

    def _address(self, buffer) -> int:
        if buffer is None:
            return 0
        kind, content = buffer
        if kind == "tensor":
            return self.tensors[content].data_ptr()
        self._kept.append(torch.frombuffer(bytearray.fromhex(content), dtype=torch.uint8).cuda())
        return self._kept[-1].data_ptr()

    def __call__(self) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        for program, addresses, grid, threads in self._launches:
            program.launch(addresses, grid, threads, stream)


def milliseconds(call, repeats: int = REPEATS, warm_ups: int = WARM_UPS) -> float:
    """Median time of a call's launches on the GPU, without what the host does for them."""
    for _ in range(warm_ups):
        call()
    torch.cuda.synchronize()
    graph, times = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        call()
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


class Measured(NamedTuple):
    ours: Dict[str, float]  # milliseconds by loader
    theirs: float
    difference: float  # largest, between any of our results and theirs


def measure(case: Case, works, archive, matrix: str) -> Measured:
    from nvidia_launcher import NvidiaLauncher

    call, theirs = make(case, "cuda")
    launcher = NvidiaLauncher(archive, matrix)
    sequences = [Peer(work, tensors, archive, matrix) for work, tensors in zip(works, theirs)]
    theirs_ms = milliseconds(lambda: [sequence() for sequence in sequences])
    expected = torch.cat([s.tensors["output"].transpose(1, 2)[0] for s in sequences]).double()
    ours_ms, difference = {}, 0.0
    for loader, device in LOADERS.items():
        output = results_for(call)
        ours_ms[loader] = milliseconds(lambda: launch(launcher, device, output, None, call))  # noqa: B023  called here
        difference = max(difference, (output.view_as(expected).double() - expected).abs().max().item())
    return Measured(ours_ms, theirs_ms, difference)


def verdict(ratios) -> str:
    if all(ratio > 1 + NOISE for ratio in ratios):
        return "ours faster"
    if all(ratio < 1 / (1 + NOISE) for ratio in ratios):
        return "PyTorch's faster"
    return "within the noise, or the modes disagree"


def run(archive) -> dict:
    rows, failures, figures = [], [], {}
    for case in CASES:
        works = archive.notes["peers"][case.name]
        found = {matrix: measure(case, works, archive, matrix) for matrix in MODES}
        figures[case.name] = {matrix: measured._asdict() for matrix, measured in found.items()}
        for loader in LOADERS:
            text = "; ".join(
                f"{mode} {m.ours[loader]:8.3f} ms, PyTorch {m.theirs:8.3f} ms, ratio {m.theirs / m.ours[loader]:5.2f}"
                for mode, m in found.items()
            )
            ratios = [m.theirs / m.ours[loader] for m in found.values()]
            rows.append((f"{case.name}, {loader}", f"{text}; {verdict(ratios)}"))
        worst = max(m.difference for m in found.values())
        if not worst < 1e-2:  # NaN, too
            failures.append((case.name, f"results differ by {worst:.2g}"))
    return {"failed": bool(failures), "rows": rows, "failures": failures, "milliseconds": figures}
