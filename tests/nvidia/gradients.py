"""Stage `gradients`: the backward tests' random problems, half of them with dropout, against float64 autograd, in NaN
everywhere; on programs whose constants are set after loading."""

from __future__ import annotations

import functools
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

import torch
from fuzz import dropout_params, factors_of
from package import Specialisation, package

PROBLEMS = 1000
SEED = 0x1234567_89ABCDEF
TERMS_THREADS = 256  # planning/backward.py


class Problem(NamedTuple):
    fields: dict  # of test_features.problems
    budget: dict  # of backward.problem.run
    has_grad_lse: bool
    dropout_p: float

    def dropout(self) -> Optional[Tuple[float, int]]:
        return (self.dropout_p, SEED + self.fields["seed"]) if self.dropout_p else None


def problems() -> List[Problem]:
    """The same in every run, with one version of hypothesis."""
    from backward.test_random import BUDGETS
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st
    from test_features import problems as features

    found: List[Problem] = []

    @seed(0)
    @settings(
        max_examples=PROBLEMS,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(features(widest=256), BUDGETS, st.booleans(), st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.5, 0.9]))
    def each(fields, budget, has_grad_lse, dropout_p):
        found.append(Problem(fields, budget, has_grad_lse, dropout_p))

    each()
    return found


def factors(problem: Problem):
    """By sequence, head, tokens and keys: what dropout multiplies weights by, from the CPU implementation."""
    params, heads = dropout_params(problem.dropout()), problem.fields["num_heads"]

    @functools.lru_cache(maxsize=1)
    def of_sequence(sequence: int, tokens: int, keys: int) -> torch.Tensor:
        ranges = slice(0, tokens), slice(0, keys)
        return factors_of(params, slice(sequence, sequence + 1), heads, *ranges)[0].double()

    return lambda sequence, head, tokens, keys: of_sequence(sequence, tokens, keys)[head]


def check(problem: Problem, launcher) -> None:
    """Raises AssertionError."""
    from backward.exact import assert_gradients
    from backward.problem import of_call, run
    from test_features import arguments

    query, key, value, fields, _ = arguments(problem.fields)
    call = of_call(query, key, value, fields, problem.has_grad_lse, problem.fields["seed"])
    family, cores = problem.fields["device"]
    settings: Dict[str, object] = {"keys": fields["block_table"] is None, "family": family, "cores": cores}
    more = 1.0
    if problem.dropout_p:
        settings |= {"dropout": problem.dropout(), "factors": factors(problem)}
        more = dropout_params(problem.dropout()).factor()
    grads, expected, _ = run(package(), call, launcher, **settings, **problem.budget)
    assert_gradients(call, grads, expected.grads, more)


def specialisations() -> Set[Specialisation]:
    """Every kernel of gradients, with constants set after loading."""
    tiles = package().planning.backward_tiles
    found = set()
    for name, kernels in (("queries", tiles.QUERIES_KERNELS), ("keys", tiles.KEYS_KERNELS)):
        source = f"attention_backward_{name}.metal"
        found |= {Specialisation(source, kernel, (), 32 * tile.simdgroups) for kernel, (tile, _) in kernels.items()}
    source = "attention_backward_terms.metal"
    names = (f"attention_backward_terms_{name}" for name in package().call.DTYPES.values())
    return found | {Specialisation(source, kernel, (), TERMS_THREADS) for kernel in names}


def run(archive) -> dict:
    """On the GPU, which CPU tensors travel to."""
    from nvidia_launcher import NvidiaLauncher

    launcher, failures, every, launched = NvidiaLauncher(archive), [], problems(), set()

    def launch(plan, given) -> None:
        launched.add(plan.kernel)
        launcher(plan, given)

    for number, problem in enumerate(every):
        try:
            check(problem, launch)
        except AssertionError as error:
            failures.append((f"{number}: {problem}", str(error)[:300]))
    return {
        "failed": bool(failures),
        "rows": [
            ("problems", len(every)),
            ("of them with dropout", sum(problem.dropout_p > 0 for problem in every)),
            ("of them cut into chunks", sum(bool(problem.budget) for problem in every)),
            ("failures", len(failures)),
            ("kernels launched", f"{len(launched)} of {len(specialisations())}"),
            ("launches", launcher.launches),
        ],
        "failures": failures,
    }
