"""Launching programs through NVIDIA's driver (libcuda.so.1), in the CUDA context that is current.

torch makes its own current with the first use of a CUDA tensor; addresses are data_ptr() of its tensors, streams
torch.cuda.current_stream().cuda_stream.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from typing import Mapping, Sequence

from ..errors import LaunchError, ToolchainError
from .program import ENTRY, UNSET, Program, slots

MAX_THREADGROUPS = 2**31 - 1  # of one launch, in one row


@functools.lru_cache(maxsize=None)
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise ToolchainError("no NVIDIA driver here: libcuda.so.1 cannot be loaded") from None
    library.cuInit(0)
    return library


def _call(name: str, *arguments) -> None:
    result = getattr(_library(), name)(*arguments)
    if result:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(result, ctypes.byref(text))
        reason = text.value.decode() if text.value else "unknown error"
        raise LaunchError(f"{name}: {reason} (CUDA error {result})")


def threadgroups(grid: Sequence[int]) -> int:
    """How many a grid (x, y, z) has. Raises LaunchError for more than CUDA launches at once."""
    count = math.prod(grid)
    if count > MAX_THREADGROUPS:
        raise LaunchError(f"a grid of {tuple(grid)} is {count} threadgroups; CUDA's limit is {MAX_THREADGROUPS}")
    return count


class LoadedProgram:
    """A program on the GPU, ready to launch. constants: of those that it was built without. Raises LaunchError."""

    def __init__(self, program: Program, constants: Mapping[str, bool]):
        self.description = program.description
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuModuleLoadData", ctypes.byref(self._module), program.cubin)
        _call("cuModuleGetFunction", ctypes.byref(self._function), self._module, ENTRY.encode())
        for name in self.description["unset"]:
            self._set(name, constants)
        self._buffers, self._arguments = slots((p["kind"], p["index"]) for p in self.description["parameters"])
        if self._arguments > 1:
            raise LaunchError("kernels with more than one threadgroup argument are not supported on NVIDIA GPUs")

    def _set(self, name: str, constants: Mapping[str, bool]) -> None:
        if not isinstance(constants.get(name), bool):
            raise LaunchError(f"function constant {name} needs a bool, not {constants.get(name)!r}")
        address, size = ctypes.c_uint64(), ctypes.c_size_t()
        _call("cuModuleGetGlobal_v2", ctypes.byref(address), ctypes.byref(size), self._module, (UNSET + name).encode())
        value = struct.pack("?", constants[name])
        _call("cuMemcpyHtoD_v2", address, value, ctypes.c_size_t(len(value)))

    def launch(
        self,
        addresses: Sequence[int],
        grid: Sequence[int],
        threads: Sequence[int],
        stream: int = 0,
        threadgroup_memory: int = 0,
    ) -> None:
        """Starts the kernel. addresses: of the buffers, by index, 0 for unbound ones; grid: threadgroups (x, y, z);
        threads: of a threadgroup; threadgroup_memory: bytes of the [[threadgroup(0)]] argument.

        Raises LaunchError for more threads than the program was built for, and for grids that `threadgroups` refuses.
        """
        total, limit = threads[0] * threads[1] * threads[2], self.description["threads"]
        if total > limit:
            raise LaunchError(f"{total} threads per threadgroup; the kernel was built for {limit}")
        count = threadgroups(grid)
        if not count:
            return
        values = list(addresses)[: self._buffers]
        values += [0] * (self._buffers - len(values) + self._arguments)
        parameters = [*map(ctypes.c_uint64, values), *map(ctypes.c_uint32, grid)]
        table = (ctypes.c_void_p * len(parameters))(*(ctypes.addressof(p) for p in parameters))
        sizes = (*map(ctypes.c_uint, (count, 1, 1)), *map(ctypes.c_uint, threads), ctypes.c_uint(threadgroup_memory))
        _call("cuLaunchKernel", self._function, *sizes, ctypes.c_void_p(stream), table, None)
