"""Runs plans through `torch.mps.compile_shader`: any torch, no compiled extension.

The Metal text is compiled at run time, one kernel with one set of function constants at a time.
"""

from __future__ import annotations

import functools
import pathlib
import platform
import re
import time
from typing import Any, Callable, Mapping, Tuple

import torch

from ..planning.plan import Parameters, Pipeline, Plan

_KERNELS = pathlib.Path(__file__).parent.parent / "flash_sdpa"
_OLDEST_MACOS = 14  # the first whose Metal has bfloat


class RuntimeLauncher:
    """Launches plans on `mps` tensors. A kernel that does not compile raises RuntimeError with the compiler's words."""

    def __call__(self, plan: Plan, tensors: Mapping[str, torch.Tensor]) -> None:
        unbound = tensors["query"]  # something must stand in for an absent buffer; the kernel never touches it
        _kernel(plan.source, plan.kernel, plan.constants)(
            *(_argument(argument, tensors, unbound) for argument in plan.arguments),
            threads=[groups * threads for groups, threads in zip(plan.grid, plan.threads)],
            group_size=list(plan.threads),
        )

    def describe(self, plan: Plan) -> Pipeline:
        """The pipeline of a plan, made if need be, and what the GPU allows it without the kernel's own limit.

        The latter is compiled anew. Raises RuntimeError as a launch does.
        """
        started = time.perf_counter()
        _kernel(plan.source, plan.kernel, plan.constants)
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


def _argument(argument, tensors: Mapping[str, torch.Tensor], unbound: torch.Tensor):
    if argument is None:
        return unbound
    if isinstance(argument, Parameters):
        return list(argument.values())  # ints become an array of long, floats of float: the struct's own layout
    return tensors[argument]


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

    Constants that are not given, which the kernel does not use, are false. Raises RuntimeError for a kernel that the
    file's table of instantiations lacks.
    """
    values = dict(constants)

    def definition(declaration) -> str:
        kind, name = declaration.groups()
        return f"constant constexpr {kind} {name} = {str(values.get(name, False)).lower()};"

    text = _flattened(source, set())
    text = re.sub(r"constant (\w+) (\w+) \[\[function_constant\(\d+\)\]\];", definition, text)
    return _with_one_row(re.sub(r", function_constant\(\w+\)", "", text), source, kernel)


def without_limit(text: str) -> str:
    """A kernel's text without the limit that it sets itself to the threads of a threadgroup."""
    return re.sub(r",\s*max_total_threads_per_threadgroup\((?:[^()]|\([^()]*\))*\)", "", text)


def _with_one_row(text: str, source: str, kernel: str) -> str:
    """The text without the rows that instantiate other kernels."""
    is_wanted = {row: _names(kernel, row) for row in re.findall(r"(?m)^INSTANTIATE\((.*)\)", text)}
    if is_wanted and not any(is_wanted.values()):
        raise RuntimeError(f"no kernel {kernel} in {source}: files of two versions are mixed, install the package anew")
    return re.sub(r"(?m)^INSTANTIATE\((.*)\)", lambda row: row.group() if is_wanted[row.group(1)] else "", text)


def _names(kernel: str, row: str) -> bool:
    """Whether a row's dtype, numbers in order, and words are a kernel's; the second field is the dtype in Metal."""
    dtype, _, *fields = (field.strip() for field in row.split(","))
    words = {dtype, *(field for field in fields if not field.isdigit())}
    numbers = re.findall(r"\d+", re.sub(r"_b?f\d+", "", kernel))
    return words <= set(kernel.split("_")) and numbers == [field for field in fields if field.isdigit()]


def _flattened(name: str, seen: set) -> str:
    """A file's text with each `#include "..."` of our own replaced by that file, once."""
    if name in seen:
        return ""
    seen.add(name)
    text = (_KERNELS / name).read_text(encoding="ascii").replace("#pragma once\n", "")
    return re.sub(r'(?m)^#include "(.*)"$', lambda include: _flattened(include.group(1), seen), text)
