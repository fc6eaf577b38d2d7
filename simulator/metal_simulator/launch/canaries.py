"""The checker's proof: three kernels, each with a mistake that it must find. What it sees depends on what clang puts
into a kernel, so another clang, or an edit of its output that no longer fits, could leave it blind."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path
from typing import Callable, List

from ..errors import LaunchError, ToolchainError
from ..toolchain import cache
from ..toolchain.clang import Clang
from .request import Settings, launch

THREADS = 32
# By the kind of finding: the body of a kernel with one, over x[32] and two threadgroup arrays.
MISTAKES = {
    "race: two writes": "a[0] = i;",
    "read out of bounds": "a[i] = x[i + 1];",
    "read of threadgroup memory never written": (
        "if (i > 0) a[i] = i; threadgroup_barrier(mem_flags::mem_threadgroup); b[i] = a[31 - i];"
    ),
}
_CHECKED = Settings("forward", True, None, 1, 60, False, False)


@functools.lru_cache(maxsize=None)
def require(clang: Clang, load: Callable) -> None:
    """Raises ToolchainError if the checker is blind with this clang. Proved once, then known to the cache.

    load(clang, path, host name) loads the build of a kernel that checks.
    """
    name = f"canaries-{cache.key(clang.version)}"
    if cache.read(name) is None:
        missed = _missed(clang, load)
        if missed:
            raise ToolchainError(
                f"launches cannot be checked with {clang.version} ({clang.path}): in kernels made for this purpose "
                f"the checker misses {' and '.join(map(repr, missed))}; METAL_SIMULATOR_CLANG takes another clang"
            )
        cache.write(name, {"found": list(MISTAKES)})


def _missed(clang: Clang, load: Callable) -> List[str]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "canaries.metal"
        path.write_text("#include <metal_stdlib>\nusing namespace metal;\n" + "".join(map(_text, range(len(MISTAKES)))))
        names = {kind: f"canary_{number}" for number, kind in enumerate(MISTAKES)}
        return [kind for kind, name in names.items() if kind not in _found(name, load(clang, path, name))]


def _text(number: int) -> str:
    return (
        f"kernel void canary_{number}(device const uint* x, uint i [[thread_index_in_threadgroup]]) {{\n"
        f"  threadgroup uint a[{THREADS}], b[{THREADS}];\n  {list(MISTAKES.values())[number]}\n}}\n"
    )


def _found(name: str, kernel) -> List[str]:
    """Kinds of what is found in a launch; one that fails has not found what it should."""
    with contextlib.suppress(LaunchError):
        report = launch(name, kernel, [bytes(4 * THREADS)], (1, 1, 1), (THREADS, 1, 1), _CHECKED)
        return [finding.kind for finding in report.findings]
    return []
