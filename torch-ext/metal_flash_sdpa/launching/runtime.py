"""Runs plans through `torch.mps.compile_shader`: any torch, no compiled extension.

The Metal text is compiled at run time, one tile with one set of function constants at a time.
"""

from __future__ import annotations

import functools
import pathlib
import platform
import re
import time
from typing import Any, Callable, Mapping, Set, Tuple, Union

import torch

from ..planning import backward_tiles, tiles
from ..planning.plan import Given, Parameters, Pipeline, Plan
from . import unit_text

_KERNELS = pathlib.Path(__file__).parent.parent / "flash_sdpa"
_ALL_INSTANCES = r'#include "instances\w*\.h"\n'
_TILES: Mapping[str, Any] = {
    **tiles.KERNELS,
    **tiles.UNIT_KERNELS,
    **backward_tiles.QUERIES_KERNELS,
    **backward_tiles.KEYS_KERNELS,
    **backward_tiles.UNIT_KERNELS,
}
_OLDEST_MACOS = 14  # the first whose Metal has bfloat


class RuntimeLauncher:
    """Launches plans on `mps` tensors. A kernel that does not compile raises RuntimeError with the compiler's words.

    Where a plan waits, torch raises RuntimeError for what the GPU ended with an error, if it looks: up to 2.13 it does
    not, and no other way leads to the command buffer from Python.
    """

    def __call__(self, plan: Plan, given: Given) -> None:
        unbound = given["query"]  # something must stand in for an absent buffer; the kernel never touches it
        _kernel(plan.source, plan.kernel, plan.constants)(
            *(unbound if buffer is None else _argument(buffer) for buffer in plan.buffers(given)),
            threads=[groups * threads for groups, threads in zip(plan.grid, plan.threads)],
            group_size=list(plan.threads),
        )
        if plan.waits:
            _wait_for(plan.kernel)

    def prepare(self, plan: Plan) -> None:
        """Compiles a plan's kernel, unless it is. Raises RuntimeError as a launch does."""
        _kernel(plan.source, plan.kernel, plan.constants)

    def describe(self, plan: Plan) -> Pipeline:
        """The pipeline of a plan, made if need be, and what the GPU allows it without the kernel's own limit.

        The latter is compiled anew. Raises RuntimeError as a launch does.
        """
        started = time.perf_counter()
        self.prepare(plan)
        compile_ms = (time.perf_counter() - started) * 1e3
        text = without_limit(specialised_source(plan.source, plan.kernel, plan.constants))
        free = _compiled(text, plan.kernel, plan.constants)
        return Pipeline(
            compile_ms,
            free.max_threads_per_threadgroup,
            False,
            free.static_thread_group_memory_length,
            free.thread_execution_width,
        )


def _wait_for(kernel: str) -> None:
    try:
        torch.mps.synchronize()
    except RuntimeError as error:
        raise RuntimeError(f"the GPU has ended {kernel} or what came before it: {error}") from error


def _argument(buffer: Union[torch.Tensor, Parameters]):
    if isinstance(buffer, Parameters):
        return list(buffer.values())  # ints become an array of long, floats of float: the struct's own layout
    return buffer


@functools.lru_cache(maxsize=256)  # specialisations; a model uses a few
def _kernel(source: str, kernel: str, constants: Tuple[Tuple[str, bool], ...]) -> Callable:
    return _compiled(specialised_source(source, kernel, constants), kernel, constants)


def _compiled(text: str, kernel: str, constants: Tuple[Tuple[str, bool], ...]) -> Any:
    specialisation = f"{kernel} with {', '.join(name for name, value in constants if value) or 'no feature'}"
    try:
        library = torch.mps.compile_shader(text)
    except SyntaxError as error:
        raise RuntimeError(f"{_system()}, the Metal compiler refuses {specialisation}: {error}") from error
    except RuntimeError as error:
        raise RuntimeError(
            f"{_system()}: {error}. Metal kernels need a Mac with Apple silicon, macOS {_OLDEST_MACOS} or newer and a "
            "torch that can use its GPU; elsewhere, keep the tensors on the CPU"
        ) from error
    try:
        return getattr(library, kernel)
    except (AttributeError, RuntimeError) as error:
        raise RuntimeError(f"{_system()}, the GPU refuses {specialisation}: {error}") from error


def _system() -> str:
    version = platform.mac_ver()[0]
    if version and int(version.partition(".")[0]) < _OLDEST_MACOS:
        return f"on macOS {version} (the kernels need {_OLDEST_MACOS} or newer)"
    return f"on {f'macOS {version}' if version else platform.system()} with torch {torch.__version__}"


def specialised_source(source: str, kernel: str, constants: Tuple[Tuple[str, bool], ...]) -> str:
    """The text of one kernel of a `.metal` file, self-contained, with its function constants as plain constants.

    Constants that are not given, which the kernel does not use, are false. Of the tiles, only the kernel's is
    instantiated. Raises RuntimeError for a kernel of no tile in the table.
    """
    values = dict(constants)

    def definition(declaration) -> str:
        kind, name = declaration.groups()
        return f"constant constexpr {kind} {name} = {str(values.get(name, False)).lower()};"

    text = _read(source)
    if re.search(_ALL_INSTANCES, text):
        if kernel not in _TILES:
            raise RuntimeError(f"no kernel {kernel} in {source}: the tables of tiles in planning/ have none")
        tile, dtype = _TILES[kernel]
        text = re.sub(_ALL_INSTANCES, tile.instance(dtype), text)
    text = re.sub(r"constant (\w+) (\w+) \[\[function_constant\(\d+\)\]\];", definition, _flattened(text, set()))
    return re.sub(r", function_constant\(\w+\)", "", text)


def without_limit(text: str) -> str:
    """A kernel's text without the limit that it sets itself to the threads of a threadgroup."""
    return re.sub(r",\s*max_total_threads_per_threadgroup\((?:[^()]|\([^()]*\))*\)", "", text)


def _flattened(text: str, seen: Set[str]) -> str:
    """A text with each `#include "..."` of our own replaced by that file, once."""

    def contents(include) -> str:
        name = include.group(1)
        if name in seen:
            return ""
        seen.add(name)
        return _flattened(_read(name), seen)

    return re.sub(r'(?m)^#include "(.*)"$', contents, text)


def _read(name: str) -> str:
    text = unit_text.TEXTS.get(name) or (_KERNELS / name).read_text(encoding="ascii")
    return text.replace("#pragma once\n", "")
