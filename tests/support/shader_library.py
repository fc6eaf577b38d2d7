"""In place of what torch.mps.compile_shader returns: the same text, run by the simulator."""

from __future__ import annotations

import array

import torch
from metal_simulator import Library


class ShaderLibrary:
    """What torch.mps.compile_shader returns, with the simulator in place of the GPU."""

    def __init__(self, text, folder):
        self.path = folder / "specialised.metal"
        self.path.write_text(text, encoding="ascii")
        system = {"language": "metal4.0", "deployment_target": "26.2"} if "MetalPerformancePrimitives" in text else {}
        self.library = Library(self.path, **system)

    def __getattr__(self, name):
        def launch(*arguments, threads, group_size):
            buffers = [self._buffer(argument) for argument in arguments]
            grid = [count // size for count, size in zip(threads, group_size)]
            assert [count % size for count, size in zip(threads, group_size)] == [0, 0, 0]
            self.library.kernel(name).launch(buffers, grid=tuple(grid), threads=tuple(group_size))

        return launch

    @staticmethod
    def _buffer(argument):  # as torch passes them: ints as long, floats as float, lists as arrays
        if isinstance(argument, torch.Tensor):
            return argument
        assert len({type(number) for number in argument}) == 1
        return array.array("q" if isinstance(argument[0], int) else "f", argument).tobytes()
