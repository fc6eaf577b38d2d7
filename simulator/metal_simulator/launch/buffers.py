"""Arguments of a launch as memory: an address and the bytes behind it that the kernel may touch."""

from __future__ import annotations

import ctypes
import itertools
import sys
from typing import Iterator, List, NamedTuple, Sequence, Set, Tuple

from ..errors import LaunchError
from ..limits import MAX_BUFFERS


class Memory(NamedTuple):
    """address: what the kernel gets; [low, high): bytes from the first to the last element; owner keeps them alive."""

    address: int
    low: int
    high: int
    item: int  # bytes of one element
    owner: object  # bytes, tensor or array
    shape: Tuple[int, ...] = ()
    strides: Tuple[int, ...] = ()  # in bytes

    def runs(self) -> Iterator[Tuple[int, int, int]]:
        """(first byte, end, step) of rows of elements that together are all of them, counted from `low`."""
        if self.low == self.high:
            return
        axes = [(n, s) for n, s in zip(self.shape, self.strides) if n > 1]
        if not axes:
            axes = [((self.high - self.low) // self.item, self.item)]
        axes.sort(key=lambda axis: abs(axis[1]))
        while len(axes) > 1 and axes[0][1] * axes[0][0] == axes[1][1]:  # one behind the other
            axes[:2] = [(axes[0][0] * axes[1][0], axes[0][1])]
        (count, step), outer = axes[0], axes[1:]
        start = self.address - self.low + (min(0, step) * (count - 1))
        for index in itertools.product(*(range(n) for n, _ in outer)):
            first = start + sum(i * s for i, (_, s) in zip(index, outer))
            yield first, first + (count - 1) * abs(step) + self.item, abs(step)


UNBOUND = Memory(0, 0, 0, 1, None)


def memory(kernel: str, index: int, argument: object, writable: bool) -> Memory:
    """The memory of one argument. Raises LaunchError naming the buffer for anything that a kernel cannot use."""
    place = f"kernel {kernel}: buffer {index}"
    if argument is None:
        return UNBOUND
    if isinstance(argument, (bytes, bytearray)):
        return _from_bytes(place, argument, writable)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(argument, torch.Tensor):
        return _from_tensor(place, argument)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(argument, numpy.ndarray):
        return _from_array(place, argument, writable)
    kind = type(argument).__name__
    hint = (
        "; pass a scalar as bytes (struct.pack) or as a NumPy array" if isinstance(argument, (int, float, bool)) else ""
    )
    raise LaunchError(f"{place} is a {kind}, not a torch tensor, NumPy array, bytes or None{hint}")


def _from_bytes(place: str, data: bytes, writable: bool) -> Memory:
    if writable:
        raise LaunchError(f"{place} is bytes, but the kernel may write to it")
    room = (ctypes.c_char * (len(data) + 64))()
    start = (ctypes.addressof(room) + 63) & ~63  # aligned as Metal aligns buffers
    ctypes.memmove(start, bytes(data), len(data))
    return Memory(start, start, start + len(data), 1, room)


def _span(address: int, shape: Sequence[int], strides: Sequence[int], item: int, owner: object) -> Memory:
    """strides in bytes, negative ones included."""
    if 0 in shape:
        return Memory(address, address, address, item, owner, tuple(shape), tuple(strides))
    reach = [(n - 1) * stride for n, stride in zip(shape, strides)]
    low = address + sum(r for r in reach if r < 0)
    high = address + sum(r for r in reach if r > 0) + item
    return Memory(address, low, high, item, owner, tuple(shape), tuple(strides))


def _from_tensor(place: str, tensor) -> Memory:
    if tensor.device.type != "cpu":
        raise LaunchError(f"{place} is a tensor on {tensor.device}; the simulator works on CPU tensors")
    if tensor.layout is not sys.modules["torch"].strided:
        raise LaunchError(f"{place} is a tensor of layout {tensor.layout}; only strided tensors have an address")
    if tensor.is_conj() or tensor.is_neg():
        raise LaunchError(f"{place} is a lazily conjugated or negated tensor; call resolve_conj() or resolve_neg()")
    item = tensor.element_size()
    address = tensor.data_ptr()
    if not address:  # torch has no memory for empty tensors; Metal would have a buffer
        return _from_bytes(place, b"", False)._replace(item=item)
    return _span(address, tensor.shape, [s * item for s in tensor.stride()], item, tensor)


def _from_array(place: str, array, writable: bool) -> Memory:
    if array.dtype.hasobject:
        raise LaunchError(f"{place} is a NumPy array of Python objects")
    if writable and not array.flags.writeable:
        raise LaunchError(f"{place} is a read-only NumPy array, but the kernel may write to it")
    if array.size == 0:
        return _from_bytes(place, b"", False)._replace(item=array.itemsize)
    return _span(array.__array_interface__["data"][0], array.shape, array.strides, array.itemsize, array)


def bind(kernel: str, parameters: Sequence[dict], gates: dict, buffers: Sequence) -> Tuple[List[Memory], Set[int]]:
    """Memory by buffer index, and which the kernel may write. Raises LaunchError for too few buffers or wrong ones."""
    try:
        buffers = list(buffers)
    except TypeError:
        raise LaunchError(f"kernel {kernel}: buffers is a {type(buffers).__name__}, not a sequence") from None
    if len(buffers) > MAX_BUFFERS:
        raise LaunchError(f"kernel {kernel}: {len(buffers)} buffers; Metal has {MAX_BUFFERS}")
    needed = [p for p in parameters if p["kind"] == "buffer" and gates.get(p["gate"], True)]
    for parameter in needed:
        if parameter["index"] >= len(buffers):
            place = f"{parameter['name']} at buffer {parameter['index']}"
            raise LaunchError(f"kernel {kernel} takes {place}, but only {len(buffers)} were given")
    writable = {p["index"] for p in needed if not p["constant"]}
    return [memory(kernel, i, argument, i in writable) for i, argument in enumerate(buffers)], writable
