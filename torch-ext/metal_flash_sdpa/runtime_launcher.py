"""Runs plans through `torch.mps.compile_shader`: any torch, no compiled extension.

The Metal text is compiled at run time, one kernel with one set of function constants at a time.
"""

from __future__ import annotations

import functools
import pathlib
import re
from typing import Callable, Mapping, Tuple

import torch

from .plan import Parameters, Plan

_KERNELS = pathlib.Path(__file__).parent / "flash_sdpa"


class RuntimeLauncher:
    """Launches plans on `mps` tensors. A kernel that fails to compile raises RuntimeError with the compiler's words."""

    def __call__(self, plan: Plan, tensors: Mapping[str, torch.Tensor]) -> None:
        unbound = tensors["query"]  # something must stand in for an absent buffer; the kernel never touches it
        _kernel(plan.source, plan.kernel, plan.constants)(
            *(_argument(argument, tensors, unbound) for argument in plan.arguments),
            threads=[groups * threads for groups, threads in zip(plan.grid, plan.threads)],
            group_size=list(plan.threads),
        )


def _argument(argument, tensors: Mapping[str, torch.Tensor], unbound: torch.Tensor):
    if argument is None:
        return unbound
    if isinstance(argument, Parameters):
        return list(argument.values())  # ints become an array of long, floats of float: the struct's own layout
    return tensors[argument]


@functools.lru_cache(maxsize=256)  # specialisations; a model uses a few
def _kernel(source: str, kernel: str, constants: Tuple[Tuple[str, bool], ...]) -> Callable:
    try:
        library = torch.mps.compile_shader(specialised_source(source, kernel, constants))
    except SyntaxError as error:
        raise RuntimeError(f"Metal compiler, {kernel} with {dict(constants)}: {error}") from error
    return getattr(library, kernel)


def specialised_source(source: str, kernel: str, constants: Tuple[Tuple[str, bool], ...]) -> str:
    """The text of one kernel of a `.metal` file, self-contained, with its function constants as plain constants."""
    text = _flattened(source, set())
    for name, value in constants:
        declaration = rf"constant (\w+) {name} \[\[function_constant\(\d+\)\]\];"
        text = re.sub(declaration, rf"constant constexpr \1 {name} = {str(value).lower()};", text)
    text = re.sub(r", function_constant\(\w+\)", "", text)
    return re.sub(r"(?m)^INSTANTIATE\((.*)\)$", lambda row: row.group() if _makes(row.group(1), kernel) else "", text)


def _makes(row: str, kernel: str) -> bool:
    """Whether a row of the kernels' table has the dtype, the numbers and the loader of this host name."""
    dtype, _, *parts = row.split(", ")
    _, found, sizes = f"{kernel}_".partition(f"_{dtype}_")
    return bool(found) and re.findall(r"\d+|staged|direct", sizes) == parts


def _flattened(name: str, seen: set) -> str:
    """A file's text with each `#include "..."` of our own replaced by that file, once."""
    if name in seen:
        return ""
    seen.add(name)
    text = (_KERNELS / name).read_text(encoding="ascii").replace("#pragma once\n", "")
    return re.sub(r'(?m)^#include "(.*)"$', lambda include: _flattened(include.group(1), seen), text)
