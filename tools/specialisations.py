"""A sample of the texts that the run-time launcher gives to Apple's compiler, chosen to meet everything that they hold.

The plans are those of the self-test's problems and of their gradients, for a GPU of each family, some also without
log-sum-exp, with dropout or with seqused_k, and those of decoding. The sample holds every kind of loader, dtype, shape
of tile and head_dim that they use, each loader with each dtype, and every function constant both true and false.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import torch

PROBLEMS = 200


class Specialisation(NamedTuple):
    """Arguments of launching.runtime.specialised_source."""

    source: str
    kernel: str
    constants: tuple[tuple[str, bool], ...]

    def parts(self) -> set:
        """What it holds of what a sample must meet."""
        words = self.kernel.split("_")
        dtype = {"f16", "bf16", "f32"} & set(words)
        constants = {(self.source, *constant) for constant in self.constants}
        return {(self.source, word) for word in words} | {(*dtype, words[-1])} | constants


def sample(package) -> list[Specialisation]:
    """package: the module metal_flash_sdpa, of a wheel or of a staged variant that has the shaders' text."""
    found = dict.fromkeys(_planned(package))
    missing = set().union(*(each.parts() for each in found))
    chosen = []
    while missing:
        chosen.append(max(found, key=lambda each: len(each.parts() & missing)))
        missing -= chosen[-1].parts()
    return chosen


def text(package, specialisation: Specialisation) -> str:
    return importlib.import_module(f"{package.__name__}.launching.runtime").specialised_source(*specialisation)


def _planned(package) -> list[Specialisation]:
    cases = importlib.import_module(f"{package.__name__}.selftest.cases")
    devices = [package.device.known(family, 8) for family in package.device.FAMILIES]
    planned: list[Specialisation] = []

    def launcher(plan, tensors) -> None:
        planned.append(Specialisation(plan.source, plan.kernel, plan.constants))

    for number, case in enumerate(cases.random_cases(PROBLEMS, 0)):
        function, arguments = cases.call(case, torch.device("cpu"))
        arguments["return_attn_probs"] = number % 2 == 0
        arguments["dropout_p"] = 0.1 if number % 7 == 0 else 0.0
        if "cu_seqlens_k" in arguments and number % 5 == 0:
            arguments["seqused_k"] = arguments["cu_seqlens_k"].diff()
        device = devices[number % len(devices)]
        if number % 3 == 0:  # sums are carried between launches
            device = device._replace(launch_work=1)
        with package.launchers.use_launcher(launcher, device):
            function(**arguments)
            if leaves := [arguments[name].requires_grad_() for name in cases.differentiable(case)]:
                results = function(**arguments)
                results = results[:2] if arguments["return_attn_probs"] else (results,)
                torch.autograd.grad(results, leaves, [torch.ones_like(result) for result in results])
    with package.launchers.use_launcher(launcher):
        for dtype in package.call.DTYPES:
            _plan_decode(package, dtype)
    return planned


def _plan_decode(package, dtype: torch.dtype) -> None:
    """So many keys that they are divided, with each feature of the kernel that joins the parts, and without; and
    launches that append to a cache."""
    query, *caches = (torch.empty(1, tokens, 2, 64, dtype=dtype) for tokens in (1, 2000, 2000))
    package.flash_attn_func(query, *caches, return_attn_probs=True)
    package.flash_attn_func(query.requires_grad_(), *caches, dropout_p=0.1, s_aux=torch.zeros(2))
    for angles in dict.fromkeys((dtype, torch.float32)):
        table = torch.empty(2000, 32, dtype=angles)
        new = query.detach()
        package.flash_attn_with_kvcache(new, *caches, new, new, table, table, cache_seqlens=7)
