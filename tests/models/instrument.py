"""Stands in for a kernel's functions: counts and keeps the calls, and may spoil them or run them elsewhere."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from .situations import DENSE, PACKED, PAGED

Arguments = dict[str, Any]


def recordable(arguments: Arguments) -> Arguments:
    """Continuous batching writes the next lengths into the same tensors: copies, one for each tensor."""
    copies = {id(value): value.clone() for key, value in arguments.items() if key.startswith("cu_seqlens")}
    return {key: copies.get(id(value), value) for key, value in arguments.items()}


class Instrument:
    """While it is in place, the functions of `kernel` that transformers takes lead through here.

    calls: how often each function was called, by name.
    recorded: each call's function and arguments by name, in order.
    spoil: changes the arguments of a call as a wrong kernel would misunderstand them.
    launcher: runs the plans of calls on CPU tensors; None: the CPU implementation. Set for each call anew, as
        continuous batching calls from a thread of its own.
    """

    def __init__(self, kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel = kernel
        self.functions = [name for name in (DENSE, PACKED, PAGED) if hasattr(kernel, name)]
        self.spoil: Callable[[str, Arguments], Arguments] | None = None
        self.launcher: Callable | None = None
        self.reset()
        for name in self.functions:
            monkeypatch.setattr(kernel, name, self._stand_in(name, getattr(kernel, name)))

    def reset(self) -> None:
        """Forgets the calls."""
        self.calls: Counter = Counter()
        self.recorded: list[tuple[str, Arguments]] = []

    def _stand_in(self, name: str, function: Callable) -> Callable:
        signature = inspect.signature(function)

        @functools.wraps(function)  # transformers reads the signature
        def called(*args, **kwargs):
            arguments = dict(signature.bind(*args, **kwargs).arguments)
            self.calls[name] += 1
            self.recorded.append((name, recordable(arguments)))
            if self.spoil is not None:
                arguments = self.spoil(name, arguments)
            with self._launching():
                return function(**arguments)

        return called

    def _launching(self) -> contextlib.AbstractContextManager:
        if self.launcher is None:
            return contextlib.nullcontext()
        return self.kernel.launchers.use_launcher(self.launcher)
