"""What each launcher would bind for a plan, in one form, recorded by stand-ins for the objects that it calls."""

from __future__ import annotations

import array
import pathlib
import re
from typing import NamedTuple, Union

import torch

CONSTANTS = pathlib.Path(__file__).resolve().parents[2] / "flash_sdpa" / "function_constants.h"
FUNCTION_CONSTANTS = re.findall(r"constant bool (\w+) \[\[function_constant", CONSTANTS.read_text())


class Launch(NamedTuple):
    kernel: str
    constants: dict[str, bool]
    bound: dict[int, Union[int, bytes]]  # by buffer index: the address of a tensor's first element, or a struct
    grid: tuple[int, ...]
    threads: tuple[int, ...]


class Plans:
    """A launcher that keeps the plans it gets, and computes nothing."""

    def __init__(self):
        self.seen = []

    def __call__(self, plan, tensors):
        self.seen.append((plan, dict(tensors)))


class ShaderLibraries:
    """In place of torch.mps.compile_shader: the launches of all kernels of all libraries that it makes."""

    def __init__(self):
        self.texts, self.launches = [], []

    def __call__(self, text: str):
        self.texts.append(text)
        return _ShaderLibrary(text, self.launches)


class _ShaderLibrary:
    def __init__(self, text: str, launches: list):
        self._text, self._launches = text, launches

    def __getattr__(self, kernel: str):
        constants = re.findall(rf"constant constexpr bool ({'|'.join(FUNCTION_CONSTANTS)}) = (true|false);", self._text)

        def launch(*arguments, threads, group_size):
            assert [count % size for count, size in zip(threads, group_size)] == [0, 0, 0]
            self._launches.append(
                Launch(
                    kernel,
                    {name: value == "true" for name, value in constants},
                    {index: _bound(argument) for index, argument in enumerate(arguments)},
                    tuple(count // size for count, size in zip(threads, group_size)),
                    tuple(group_size),
                )
            )

        return launch


def _bound(argument) -> Union[int, bytes]:
    """As torch passes it: ints as an array of long, floats of float."""
    if isinstance(argument, torch.Tensor):
        return argument.data_ptr()
    [kind] = {type(number) for number in argument}
    return array.array({int: "q", float: "f"}[kind], argument).tobytes()


def of_calls(calls: list[str]) -> Launch:
    """The launch that an encoder's calls, as standin/metal.mm records them, make."""
    bound, fields = {}, {}
    for call in calls:
        kind, *words = call.split()
        if kind == "buffer":
            bound[int(words[0])] = int(words[1]) + int(words[2])
        elif kind == "bytes":
            bound[int(words[0])] = bytes.fromhex(words[1])
        else:
            assert kind not in fields, calls
            fields[kind] = words
    assert calls[0].startswith("pipeline") and calls[-1].startswith("dispatch")
    kernel, *constants = fields["pipeline"]
    sizes = tuple(map(int, fields["dispatch"]))
    return Launch(kernel, {name[1:]: name[0] == "+" for name in constants}, bound, sizes[:3], sizes[3:])
