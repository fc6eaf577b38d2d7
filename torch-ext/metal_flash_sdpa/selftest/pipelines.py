"""What the GPU tells of the pipelines that the self-test uses: kernels with their function constants, compiled."""

from __future__ import annotations

import collections
from typing import Any, Callable, Dict, List

from ..planning.plan import Given, Plan

# The most 32-bit registers of a thread, by the threads that a threadgroup may then have: of M1 and M2, as Mesa's
# compiler for them has it. Apple documents only that the threads depend on the registers.
_REGISTERS = {1024: 52, 896: 56, 832: 64, 768: 68, 704: 72, 640: 80, 576: 92, 512: 104, 448: 116, 384: 128}
Entry = Dict[str, Any]  # of the report
_NEWEST_FAMILY = 8  # that the table is about: later GPUs allocate registers while they run


class Described:
    """A launcher that runs plans by another one, and has that one describe each pipeline before its first use."""

    def __init__(self, launcher: Callable[[Plan, Given], None]):
        self._launcher: Any = launcher  # to most, also a `describe` that makes a Pipeline of a Plan
        self._entries: Dict[tuple, Entry] = {}

    def __call__(self, plan: Plan, given: Given) -> None:
        pipeline = plan.source, plan.kernel, plan.constants
        if pipeline not in self._entries:
            self._entries[pipeline] = self._entry(plan)
        self._launcher(plan, given)

    def _entry(self, plan: Plan) -> Entry:
        entry = {"kernel": plan.kernel, "constants": [name for name, value in plan.constants if value]}
        try:
            return {**entry, **self._launcher.describe(plan)._asdict()}
        except (AttributeError, RuntimeError) as error:  # the launch tells whether that is wrong
            return {**entry, "failed": " ".join(str(error).split())[:2000]}

    def entries(self) -> List[Entry]:
        """The part of the report, in order of first use: plan.Pipeline's fields, or why there are none."""
        return list(self._entries.values())


def summary(entries: List[Entry], family: int) -> List[str]:
    """Lines of the table about the entries of one launcher; family: of the GPU."""
    found = [entry for entry in entries if "failed" not in entry]
    failed = [entry for entry in entries if "failed" in entry]
    lines = [f"{len(failed)} pipelines not described, {_name(entry)}: {entry['failed']}" for entry in failed[:1]]
    if not found:
        return lines
    seconds = sum(entry["compile_ms"] for entry in found) / 1e3
    slowest = max(found, key=lambda entry: entry["compile_ms"])
    lines.append(f"{len(found)} pipelines compiled in {seconds:.1f} s, the slowest in {slowest['compile_ms']:.0f} ms:")
    lines.append(f"  {_name(slowest)}")
    is_capped = found[0]["is_capped"]
    lines.append(f"threads that a threadgroup may have, {'within' if is_capped else 'without'} the kernel's own limit:")
    for threads, count in sorted(collections.Counter(entry["max_threads"] for entry in found).items()):
        registers = None if is_capped or family > _NEWEST_FAMILY else _REGISTERS.get(threads)
        hint = f": at most {registers} registers a thread, by Mesa's table of M1 and M2" if registers else ""
        lines.append(f"  {threads:4} in {count} pipelines{hint}")
    return lines


def _name(entry: Entry) -> str:
    return f"{entry['kernel']} with {', '.join(entry['constants']) or 'no feature'}"
