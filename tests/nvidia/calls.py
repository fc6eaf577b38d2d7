"""Calls of the forward operator, and their gradients, on any device: the same code plans them on "meta" tensors
for the build, and runs them on "cuda" tensors."""

from __future__ import annotations

import itertools
import math
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

import package
import torch
from cases import call_of
from package import Specialisation, specialisation

SENTINEL = 1234.0  # around outputs
Call = package.package().call.Call
LOADERS = {"staged": (7, 64), "direct": (9, 40)}  # an Apple GPU (family, cores) whose plans bring keys that way


class Recorder:
    """A launcher that only notes what plans need."""

    def __init__(self):
        self.seen: Set[Specialisation] = set()

    def __call__(self, plan, tensors) -> None:
        self.seen.add(specialisation(plan))
        if "row_terms" in plan.arguments:
            tensors["row_terms"].zero_()  # the tests look at it


def make_call(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **fields) -> Call:
    """A call by the names of its fields, as the tests make it."""
    return call_of(package.package(), query, key, value, **fields)


def launch(
    launcher,
    device: tuple,
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    call: Call,
    row_softmax: Optional[torch.Tensor] = None,
    dropout: Optional[Tuple[float, int]] = None,
) -> None:
    """Plans for an Apple GPU, by the fields of a Device, and hands every launch to the launcher, as the operators do.
    dropout: probability and seed."""
    module = package.package()
    target = module.launchers.Target(launcher, module.device.Device(*device))
    module.operators.metal.attention_forward(target, output, lse, row_softmax, call, dropout_of(dropout))


def run_each(cases, run_case, archive) -> dict:
    """A stage's result: every case with either loader, on the GPU. run_case(case, device, launcher): a line for the
    table; raises AssertionError."""
    from nvidia_launcher import NvidiaLauncher

    launcher, rows, failures = NvidiaLauncher(archive), [], []
    for case, (loader, device) in itertools.product(cases, LOADERS.items()):
        name = f"{case.name}, {loader}"
        try:
            rows.append((name, run_case(case, device, launcher)))
        except AssertionError as error:
            rows.append((name, "FAILED"))
            failures.append((name, str(error)[:300]))
        torch.cuda.empty_cache()
    return {"failed": bool(failures), "rows": rows, "failures": failures}


def dropout_of(dropout: Optional[Tuple[float, int]]):
    """As the operators take it."""
    module = package.package()
    return module.call.Dropout() if dropout is None else module.call.Dropout(dropout[0], torch.tensor([dropout[1]]))


def chain_of(device: tuple, call: Call, tensors: Dict[str, torch.Tensor]):
    """The chain of a call's gradients. tensors: what it reads and writes besides the call's, by name, with dropout its
    parameters, too; without grad_key and grad_value, the query's alone."""
    module = package.package()
    grads = [tensors.get(f"grad_{name}") for name in ("query", "key", "value")]
    return module.planning.backward.plan_backward(
        module.device.Device(*device),
        call,
        tensors["grad_output"],
        tensors["output"],
        tensors.get("grad_lse"),
        grads,
        "dropout" in tensors,
    )


def launch_backward(launcher, device: tuple, call: Call, tensors: Dict[str, torch.Tensor]) -> int:
    """Hands every launch of the chain to the launcher, in scratch of NaN; how many they were."""
    chain, module = chain_of(device, call, tensors), package.package()
    given, count = {**module.call.present(call), **tensors}, 0
    for name, shape in chain.scratch:
        given[name] = torch.full(shape, math.nan, device=call.query.device)
    for plan in chain.launches:
        launcher(plan, given)
        count += 1
    return count


def surrounded(tensor: torch.Tensor, value: float, gap: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """(the same numbers as a view in a larger tensor of one value, that tensor): rows and heads beside them, and `gap`
    elements after each row."""
    sizes = [tensor.shape[0] + 2, *(size + 1 for size in tensor.shape[1:-1]), tensor.shape[-1] + gap]
    storage = torch.full(sizes, value, dtype=tensor.dtype, device=tensor.device)
    view = storage[(slice(1, 1 + tensor.shape[0]), *(slice(size) for size in tensor.shape[1:]))]
    return view.copy_(tensor), storage


class Outputs(NamedTuple):
    """Room for a call's results inside sentinels."""

    output: torch.Tensor
    lse: Optional[torch.Tensor]
    around: List[Tuple[torch.Tensor, torch.Tensor]]  # what the results lie in, and a copy from before

    @classmethod
    def of(cls, call: Call, has_lse: bool, gap: int) -> "Outputs":
        query = call.query
        shape = (*query.shape[:-1], call.value.shape[-1])
        empty = torch.full(shape, math.nan, dtype=query.dtype, device=query.device)
        output, storage = surrounded(empty, SENTINEL, gap)
        around = [(storage, storage.clone())]
        if not has_lse:
            return cls(output, None, around)
        lse_shape = (*query.shape[:-3], query.shape[-2], query.shape[-3])
        count = math.prod(lse_shape)
        room = torch.full((count + 64,), SENTINEL, device=query.device)
        lse = room[32 : 32 + count].fill_(math.nan).view(lse_shape)
        return cls(output, lse, [*around, (room, room.clone())])

    def check_around(self) -> None:
        """Raises AssertionError when anything but the results changed."""
        for (now, before), result in zip(self.around, (self.output, self.lse)):
            inside = before.as_strided(result.shape, result.stride(), result.storage_offset())
            inside.copy_(result)
            same = torch.equal(now.nan_to_num(7.0), before.nan_to_num(7.0))
            assert same, "the kernel wrote beside its output"
