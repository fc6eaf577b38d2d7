"""A launcher that runs plans on an NVIDIA GPU: the same .metal kernels, prebuilt by tests/nvidia/build.py.

with kernel.launchers.use_launcher(NvidiaLauncher(archive)):
    kernel.flash_attn_func(q, k, v)     # CPU tensors travel to the GPU and back

On CUDA tensors it is called with plans of the planners: operators send it CPU tensors only. Launches follow one another
on torch's current stream; it waits for none of them.
"""

from __future__ import annotations

import functools
from typing import Dict, Mapping, Tuple

import torch
from metal_simulator.nvidia.archive import Archive, Key
from metal_simulator.nvidia.driver import LoadedProgram


class NvidiaLauncher:
    """Runs each plan with the program built for its kernel and function constants, else with the kernel's program whose
    constants are set after loading; raises KeyError when the archive has neither.

    matrix: "exact" or "fast", see metal_simulator.nvidia.compile.build. variant: of the sources.
    launches, unspecialised: how many launches so far, and how many of them with constants set after loading.
    """

    def __init__(self, archive: Archive, matrix: str = "exact", variant: str = ""):
        self.archive, self.matrix, self.variant = archive, matrix, variant
        self.launches = self.unspecialised = 0

    def __call__(self, plan, given: Mapping[str, object]) -> None:
        on_device = _OnDevice()
        addresses = [on_device.address(buffer) for buffer in plan.buffers(given)]
        program, specialised = self._program(plan.source, plan.kernel, plan.constants)
        self.launches += 1
        self.unspecialised += not specialised
        stream = torch.cuda.current_stream()
        program.launch(addresses, plan.grid, plan.threads, stream.cuda_stream)
        on_device.copy_back()

    @functools.lru_cache(maxsize=None)  # noqa: B019  a launcher lives as long as its programs
    def _program(self, source: str, kernel: str, constants) -> Tuple[LoadedProgram, bool]:
        for given in (constants, ()):
            program = self.archive.get(Key.of(source, kernel, dict(given), self.matrix, self.variant))
            if program is not None:
                return LoadedProgram(program, dict(constants)), bool(given) or not constants
        raise KeyError(f"the archive has no {self.matrix} program of {kernel} of {source}: build it again")


class _OnDevice:
    """A plan's buffers on the GPU: CUDA tensors themselves, of CPU tensors a copy of their whole storage, so that
    strides and surroundings stay."""

    def __init__(self):
        torch.cuda.init()
        self._storages: Dict[int, Tuple[torch.Tensor, torch.Tensor]] = {}

    def address(self, buffer) -> int:
        """Of a tensor or a parameter struct; 0 for None."""
        if isinstance(buffer, torch.Tensor):
            return (buffer if buffer.is_cuda else self._moved(buffer)).data_ptr()
        return 0 if buffer is None else _parameters(buffer.data).data_ptr()

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            whole = torch.empty(0, dtype=torch.uint8).set_(storage)
            self._storages[storage.data_ptr()] = whole, whole.cuda()
        copied = self._storages[storage.data_ptr()][1].untyped_storage()
        moved = torch.empty(0, dtype=tensor.dtype, device="cuda")
        return moved.set_(copied, tensor.storage_offset(), tensor.shape, tensor.stride())

    def copy_back(self) -> None:
        for whole, copied in self._storages.values():
            whole.copy_(copied)


@functools.lru_cache(maxsize=4096)
def _parameters(data: bytes) -> torch.Tensor:
    """A parameter struct in the GPU's memory."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).cuda()
