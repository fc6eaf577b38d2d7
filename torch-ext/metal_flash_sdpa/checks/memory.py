"""Whether tensors share memory, by their addresses, strides and sizes. Nothing here reads a value."""

from __future__ import annotations

import math
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import torch

Named = Iterable[Tuple[str, Optional[torch.Tensor]]]
MAX_STEPS = 10_000  # of a search; what it leaves undecided counts as shared


class Block(NamedTuple):
    """Bytes of a strided tensor: `itemsize` of them at address + sum(strides * index), for every index below sizes."""

    address: int
    strides: Tuple[int, ...]  # bytes, 0 or more
    sizes: Tuple[int, ...]
    itemsize: int


def check(written: Iterable[Tuple[str, torch.Tensor]], read: Named) -> None:
    """Raises ValueError if one of the tensors written shares memory with itself, with another or with one read.

    Both are pairs of a name and a tensor, or, of those read, None."""
    outputs, inputs = list(written), list(read)
    try:
        _check(outputs, inputs)
    except RuntimeError:  # of tensors that have no memory of their own
        _check(_with_memory(outputs), _with_memory(inputs))


def _check(written: Sequence[Tuple[str, torch.Tensor]], read: Named) -> None:
    for index, (name, tensor) in enumerate(written):
        storage, on_cpu = tensor.untyped_storage(), tensor.is_cpu
        begin = storage.data_ptr()
        if begin == 0:  # empty, or on no device
            continue
        end = begin + (storage.nbytes() if on_cpu else 1)  # elsewhere, addresses only tell storages apart
        if not tensor.is_contiguous() and overlaps_itself(_block(tensor)):
            raise ValueError(
                f"{name} must not overlap itself in memory, got shape {tuple(tensor.shape)}, strides {tensor.stride()}"
            )
        for other_name, other in (*written[index + 1 :], *read):
            if other is None:
                continue
            other_storage = other.untyped_storage()
            other_begin = other_storage.data_ptr()
            if other_begin < begin:
                near = on_cpu and begin < other_begin + other_storage.nbytes()
            else:
                near = other_begin < end
            if near and overlap(_block(tensor), _block(other)):
                raise ValueError(f"{name} is written, so it must not share memory with {other_name}")


def overlap(first: Block, second: Block) -> bool:
    """Whether the two have a byte in common."""
    if 0 in first.sizes or 0 in second.sizes:
        return False
    terms = [(stride, 0, size - 1) for stride, size in zip(first.strides, first.sizes)]
    terms += [(stride, 1 - size, 0) for stride, size in zip(second.strides, second.sizes)]
    return _meets(terms, second.address - first.address, 1 - second.itemsize, first.itemsize - 1)


def overlaps_itself(block: Block) -> bool:
    """Whether two of its elements have a byte in common."""
    if 0 in block.sizes:
        return False
    terms = [(stride, 1 - size, size - 1) for stride, size in zip(block.strides, block.sizes) if size > 1]
    for position, (stride, _, last) in enumerate(terms):  # the first dimension in which the two elements differ
        if _meets([(stride, 1, last), *terms[position + 1 :]], 0, 1 - block.itemsize, block.itemsize - 1):
            return True
    return False


def _meets(terms: Sequence[Tuple[int, int, int]], target: int, low: int, high: int) -> bool:
    """Whether sum(step * index) + rest is the target, for a rest of low to high and an index of first to last for each
    of the terms (step, first, last)."""
    ranges: Dict[int, Tuple[int, int]] = {}
    for step, first, last in terms:
        begin, end = ranges.get(step, (0, 0))
        ranges[step] = begin + first, end + last
    ranges.pop(0, None)
    steps = sorted(ranges, reverse=True)
    reach = [(0, low, high)]  # of the terms from each on: greatest common divisor of the steps, least and largest sum
    for step in reversed(steps):
        divisor, least, largest = reach[-1]
        begin, end = ranges[step]
        reach.append((math.gcd(divisor, step), least + step * begin, largest + step * end))
    reach.reverse()
    budget = MAX_STEPS

    def search(depth: int, target: int) -> bool:
        nonlocal budget
        budget -= 1
        divisor, least, largest = reach[depth]
        if not least <= target <= largest or divisor and (target - low) % divisor > high - low:
            return False
        if depth == len(steps) or budget < 0:
            return True
        step, (begin, end) = steps[depth], ranges[steps[depth]]
        _, least, largest = reach[depth + 1]
        indices = range(max(begin, -((largest - target) // step)), min(end, (target - least) // step) + 1)
        return any(search(depth + 1, target - step * index) for index in indices)

    return search(0, target)


def _with_memory(tensors: Named) -> List[Tuple[str, torch.Tensor]]:
    """Those that have one, taken out of torch.func's wrappers; what stands for a tensor in a trace has none."""
    found = []
    for name, tensor in tensors:
        while tensor is not None and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
        try:
            if tensor is not None and tensor.untyped_storage().data_ptr():
                found.append((name, tensor))
        except RuntimeError:
            pass
    return found


def _block(tensor: torch.Tensor) -> Block:
    itemsize = tensor.element_size()
    address = tensor.untyped_storage().data_ptr() + int(tensor.storage_offset()) * itemsize
    return Block(address, tuple(stride * itemsize for stride in tensor.stride()), tuple(tensor.shape), itemsize)
