"""Every atomic function of the specification: what many threads leave behind, what they get, what the checker says."""

import numpy as np
import pytest

GROUPS, THREADS = 6, 70
DTYPES = {"int": np.int32, "uint": np.uint32, "float": np.float32, "ulong": np.uint64}
SUMS = {
    "fetch_add": lambda start, x: start + x.sum(dtype=x.dtype),
    "fetch_sub": lambda start, x: start - x.sum(dtype=x.dtype),
}
ORDERS_AND_BITS = {
    "fetch_min": lambda start, x: min(start, x.min()),
    "fetch_max": lambda start, x: max(start, x.max()),
    "fetch_and": lambda start, x: start & np.bitwise_and.reduce(x),
    "fetch_or": lambda start, x: start | np.bitwise_or.reduce(x),
    "fetch_xor": lambda start, x: start ^ np.bitwise_xor.reduce(x),
}
HEAD = """
#define RELAXED memory_order_relaxed
#define BARRIER(memory) threadgroup_barrier(mem_flags::memory)
#define WHERE uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]], \\
  uint g [[threadgroup_position_in_grid]]
"""


def launch(written, text, buffers, check, **options):
    report = written(HEAD + text).kernel("f").launch(buffers, (GROUPS, 1, 1), (THREADS, 1, 1), check=check, **options)
    assert [str(finding) for finding in report.findings] == []


def values(kind, seed=0):
    """Of all sizes, for the sums wrap; floats are whole, for exact sums."""
    generator, dtype = np.random.default_rng(seed), np.dtype(DTYPES[kind])
    if kind == "float":
        return generator.integers(-50, 50, GROUPS * THREADS).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, GROUPS * THREADS, dtype, endpoint=True)


@pytest.mark.parametrize("kind", ["int", "uint", "float"])
@pytest.mark.parametrize("check", [False, True])
@pytest.mark.filterwarnings("ignore:overflow")
def test_fetch_and_modify(written, kind, check):
    """In device memory by all threads, in threadgroup memory by those of a group; two variables each."""
    functions = SUMS if kind == "float" else {**SUMS, **ORDERS_AND_BITS}
    count, in_group = len(functions), kind != "float"
    device = "".join(
        f"  atomic_{name}_explicit(&cells[{2 * k} + i % 2], x[i], RELAXED);\n" for k, name in enumerate(functions)
    )
    group = f"""
  threadgroup atomic_{kind} own[{2 * count}];
  if (t < {2 * count}) atomic_store_explicit(&own[t], start[t], RELAXED);
  BARRIER(mem_threadgroup);
""" + device.replace("cells", "own") + f"""
  BARRIER(mem_threadgroup);
  if (t < {2 * count}) groups[g * {2 * count} + t] = atomic_load_explicit(&own[t], RELAXED);
"""  # fmt: skip
    text = f"""kernel void f(device const {kind}* x [[buffer(0)]], volatile device atomic<{kind}>* cells [[buffer(1)]],
    device const {kind}* start [[buffer(2)]], device {kind}* groups [[buffer(3)]], WHERE) {{
{device}{group if in_group else ""}}}"""
    x, start = values(kind), values(kind, 1)[: 2 * count]
    cells, groups = start.copy(), np.zeros((GROUPS, 2 * count), x.dtype)
    launch(written, text, [x, cells, start, groups], check, order=3)
    for k, function in enumerate(functions.values()):
        for parity in range(2):
            at = 2 * k + parity
            assert cells[at] == function(start[at], x[parity::2]), (k, parity)
            for g in range(GROUPS if in_group else 0):
                assert groups[g, at] == function(start[at], x[g * THREADS : (g + 1) * THREADS][parity::2]), (k, g)


@pytest.mark.parametrize("check", [False, True])
def test_64_bits(written, check):
    x = values("ulong")
    cells = np.uint64([5, 2**63, 2**64 - 1, 2**63])
    text = """kernel void f(device const ulong* x [[buffer(0)]], device atomic_ulong* cells [[buffer(1)]], WHERE) {
  atomic_max_explicit(&cells[i % 2], x[i], RELAXED);
  atomic_min_explicit(&cells[2 + i % 2], x[i], RELAXED);
}"""
    launch(written, text, [x, cells], check)
    assert cells.tolist() == [x[::2].max(), max(x[1::2].max(), 2**63), x[::2].min(), min(x[1::2].min(), 2**63)]


CAS = "atomic_compare_exchange_weak_explicit(c + 1, &seen, {}, RELAXED, RELAXED)"
TICKET = f"seen = atomic_load_explicit(c + 1, RELAXED); while (!{CAS.format('seen + 1')}) {{}}"
FLAG = f"while (!{CAS.format('true')} && !seen) {{}}"


@pytest.mark.parametrize("kind", ["int", "uint", "float", "bool"])
@pytest.mark.parametrize("check", [False, True])
def test_values_that_threads_get(written, kind, check):
    """Within a group every value is exchanged once, every ticket is drawn once, a flag is found unset once."""
    spaces = {"device": "cells + 2 * g", "threadgroup": "own"} if kind != "float" else {"device": "cells + 2 * g"}
    body = "".join(f"""  {{
    {space} atomic_{kind}* c = {base};
    if (t < 2) atomic_store_explicit(c + t, {kind}(0), RELAXED);
    BARRIER(mem_device_and_threadgroup);
    {kind} seen = {kind}(0);
    {FLAG if kind == "bool" else TICKET}
    drawn[{k} * threads + i] = uint(seen);
    exchanged[{k} * threads + i] = uint(atomic_exchange_explicit(c, {kind}(t + 1), RELAXED));
    seen = {kind}(0);
    unequal[{k} * threads + i] = !{CAS.format("seen").replace("c + 1", "c")};
    BARRIER(mem_device_and_threadgroup);
    if (t < 2) last[({k} * groups + g) * 2 + t] = uint(atomic_load_explicit(c + t, RELAXED));
  }}
""" for k, (space, base) in enumerate(spaces.items()))  # fmt: skip
    text = f"""kernel void f(device atomic_{kind}* cells [[buffer(0)]], device uint* exchanged [[buffer(1)]],
    device uint* drawn [[buffer(2)]], device uint* unequal [[buffer(3)]], device uint* last [[buffer(4)]],
    uint threads [[threads_per_grid]], uint groups [[threadgroups_per_grid]], WHERE) {{
{f"  threadgroup atomic_{kind} own[2];" if len(spaces) > 1 else ""}
{body}}}"""
    exchanged, drawn, unequal = (np.zeros((len(spaces), GROUPS, THREADS), np.uint32) for _ in range(3))
    last = np.zeros((len(spaces), GROUPS, 2), np.uint32)
    cells = np.full(2 * GROUPS, 1, np.bool_ if kind == "bool" else DTYPES[kind])
    launch(written, text, [cells, exchanged, drawn, unequal, last], check, order=7)
    once = [0] + [1] * (THREADS - 1) if kind == "bool" else list(range(THREADS))
    final = 1 if kind == "bool" else THREADS
    assert unequal.all()
    for k, g in np.ndindex(len(spaces), GROUPS):
        assert sorted(drawn[k, g]) == once and last[k, g, 1] == final
        assert sorted([*exchanged[k, g], last[k, g, 0]]) == [*once, final]


def test_bools_leave_their_neighbours(written):
    flags = np.ones(GROUPS * THREADS, np.bool_)
    text = """kernel void f(device atomic_bool* flags [[buffer(0)]], WHERE) {
  if (i % 3 == 0) atomic_store_explicit(flags + i, false, RELAXED);
}"""
    launch(written, text, [flags], True)
    assert flags.tolist() == [i % 3 != 0 for i in range(GROUPS * THREADS)]


RACES = {  # what thread t of each group does, and who races
    "atomic_fetch_add_explicit(cells, 1u, RELAXED); if (t == 3) plain[0] += 1;": {"threads", "groups"},
    "if (t == 5) plain[0] = 1;": {"groups"},
    "plain[g] = atomic_load_explicit(cells + 8, RELAXED);": {"threads"},
    "atomic_store_explicit(cells + g, t, RELAXED); plain[8 + i] = plain[g];": {"threads"},
    "if (t < 2) plain[g] = t; BARRIER(mem_device); atomic_fetch_or_explicit(cells + g, t, RELAXED);": {"threads"},
    "if (t == 0) plain[g] = t; BARRIER(mem_threadgroup); atomic_fetch_or_explicit(cells + g, 1, RELAXED);": {"threads"},
    "if (t == 0) plain[g] = t; BARRIER(mem_device); atomic_fetch_or_explicit(cells + g, t, RELAXED);": set(),
    "atomic_fetch_add_explicit(cells, 1u, RELAXED); atomic_fetch_max_explicit(cells, 7u, RELAXED);": set(),
    "atomic_compare_exchange_weak_explicit(cells, &e, 9u, RELAXED, RELAXED);": set(),
    "if (t == 0) own[0] = 0; BARRIER(mem_threadgroup); own[0] += 1;": {"threads"},
}


@pytest.mark.parametrize("body", RACES)
def test_a_missing_atomic_is_a_race(written, body):
    text = f"""{HEAD}kernel void f(device atomic_uint* cells [[buffer(0)]], WHERE) {{
  device uint* plain = (device uint*)cells;
  threadgroup uint own[1];
  uint e = 0;
  {body}
}}"""
    cells = np.zeros(8 + GROUPS * THREADS, np.uint32)
    report = written(text).kernel("f", build="check").launch([cells], (GROUPS, 1, 1), (THREADS, 1, 1), check=True)
    kinds = {finding.kind for finding in report.findings}
    assert all(kind.startswith("race") for kind in kinds)
    assert {"groups" if "between threadgroups" in kind else "threads" for kind in kinds} == RACES[body]


MODIFY = [*SUMS, *ORDERS_AND_BITS]
ABSENT = {
    "reals": ("device atomic_float", [*ORDERS_AND_BITS, "max", "min"]),
    "own": ("threadgroup atomic_float", ["load", "store", "exchange", *MODIFY]),
    "flags": ("device atomic_bool", MODIFY),
    "longs": ("device atomic_ulong", ["load", "store", "exchange", *MODIFY]),
    "words": ("device atomic_uint", ["max", "min"]),
}


def test_functions_that_do_not_exist(written):
    calls = [f"atomic_{name}_explicit({where}, {'1, ' * (name != 'load')}memory_order_relaxed)"
             for where, (_, names) in ABSENT.items() for name in names]  # fmt: skip
    parameters = ", ".join(f"{kind}* {where}" for where, (kind, _) in ABSENT.items())
    lines = "".join(f"  {call};\n" for call in calls)
    found = written(f"kernel void f({parameters}) {{\n{lines}}}").check()
    wrong = {d.line for d in found if d.severity == "error"}
    assert [call for line, call in enumerate(calls, 4) if line not in wrong] == []
