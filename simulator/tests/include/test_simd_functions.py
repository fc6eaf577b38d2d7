"""Every SIMD-group and quad-group function of the specification beside NumPy: whole and partial groups, loops."""

import functools
import re

import numpy as np
import pytest
from metal_simulator import LaunchError

TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "half": "f2",
         "float": "f4", "long": "i8", "ulong": "u8"}  # fmt: skip
WIDTHS = {"simd": 32, "quad": 4}
THREADS = 40  # a whole SIMD group, and two quad-groups of another
ROUNDS = 2

REDUCTIONS = {"sum(x)": np.add, "product(p)": np.multiply, "min(x)": np.minimum, "max(x)": np.maximum}
BITWISE = {"and(x)": np.bitwise_and, "or(x)": np.bitwise_or, "xor(x)": np.bitwise_xor}
SCANS = {"sum(x)": (np.add, 0), "product(p)": (np.multiply, 1)}
SHUFFLES = {  # which lane lane i of n reads; its own value if there is none such
    "shuffle(x, N - 1 - lane % N)": lambda i, n: n - 1 - i,
    "shuffle_xor(x, 1)": lambda i, n: i ^ 1,
    "shuffle_xor(x, N - 1)": lambda i, n: i ^ (n - 1),
    "shuffle_up(x, 1)": lambda i, n: i - 1,
    "shuffle_up(x, N - 2)": lambda i, n: i - (n - 2),
    "shuffle_down(x, 0)": lambda i, n: i,
    "shuffle_down(x, N - 1)": lambda i, n: i + n - 1,
    "shuffle_rotate_up(x, N - 1)": lambda i, n: (i - (n - 1)) % n,
    "shuffle_rotate_down(x, 3)": lambda i, n: (i + 3) % n,
    "broadcast(x, N - 1)": lambda i, n: n - 1,
    "broadcast(x, 1)": lambda i, n: 1,
}

# Each of the following makes a function of the group's values, its fillings and its active lanes, which gives what
# every lane gets: None where that is undefined.


def reduced(ufunc):
    return lambda x, fill, active: [functools.reduce(ufunc, [x[j] for j in active])] * len(x)


def scanned(ufunc, start, inclusive):
    def scan(x, fill, active):
        before = [[x[j] for j in active if j < lane + inclusive] for lane in range(len(x))]
        return [functools.reduce(ufunc, values, np.full_like(x[0], start)) for values in before]

    return scan


def moved(source):
    def move(x, fill, active):
        sources = [source(lane, len(x)) for lane in range(len(x))]
        sources = [s if 0 <= s < len(x) else lane for lane, s in enumerate(sources)]
        return [x[s] if s in active else None for s in sources]

    return move


def filled(delta, modulo):
    def shift(x, fill, active):
        got = []
        for lane in range(len(x)):
            position = lane % modulo + delta
            source = lane - lane % modulo + position % modulo
            got.append((x if 0 <= position < modulo else fill)[source] if source in active else None)
        return got

    return shift


def cases(kind):
    """By call. x and fill are any numbers; products are of p, and so exact in half."""
    table = {}
    for space, n in WIDTHS.items():
        if kind in ("long", "ulong") and space == "simd":
            continue  # which the specification leaves out
        own = {name: reduced(f) for name, f in REDUCTIONS.items()}
        own.update({} if kind in ("half", "float") else {name: reduced(f) for name, f in BITWISE.items()})
        for name, (ufunc, start) in SCANS.items():
            own[f"prefix_inclusive_{name}"] = scanned(ufunc, start, True)
            own[f"prefix_exclusive_{name}"] = scanned(ufunc, start, False)
        own.update({call.replace("N", str(n)): moved(source) for call, source in SHUFFLES.items()})
        own["broadcast_first(x)"] = lambda x, fill, active: [x[active[0]]] * len(x)
        for name, sign in {"up": -1, "down": 1}.items():
            own[f"shuffle_and_fill_{name}(x, fill, 1)"] = filled(sign, n)
            for modulo in (m for m in (2, 4, 8, 16, 32) if m <= n):
                own[f"shuffle_and_fill_{name}(x, fill, {modulo // 2}, {modulo})"] = filled(sign * modulo // 2, modulo)
        table.update({f"{space}_{call}": expected for call, expected in own.items()})
    return table


def kernel(kind, width, calls):
    wide = f"{kind}{width if width > 1 else ''}"
    lines = "".join(f"    out[({k} * {ROUNDS} + r) * threads + i] = {call};\n" for k, call in enumerate(calls))
    return f"""
kernel void f(device const {wide}* xs [[buffer(0)]], device const {wide}* ps [[buffer(1)]],
    device const {wide}* fills [[buffer(2)]], device {wide}* out [[buffer(3)]], constant uint& left [[buffer(4)]],
    constant uint& rounds [[buffer(5)]], uint i [[thread_position_in_grid]], uint threads [[threads_per_grid]],
    uint lane [[thread_index_in_simdgroup]]) {{
  if (i < left) return;
  for (uint r = 0; r < rounds; r++) {{
    {wide} x = xs[r * threads + i], p = ps[r * threads + i], fill = fills[r * threads + i];
{lines}  }}
}}"""


def aligned(array):
    """A copy where a ulong4 may lie."""
    room = np.zeros(array.nbytes + 32, np.uint8)
    copy = room[-room.ctypes.data % 32 :][: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def numbers(kind, width):
    """x, p, fill: [round, thread, component]. Integers of all sizes; sums and products of floats are exact."""
    generator, dtype = np.random.default_rng(width), np.dtype(TYPES[kind])
    shape = (ROUNDS, THREADS, 4 if width == 3 else width)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        return [generator.integers(limits.min, limits.max, shape, dtype, endpoint=True) for _ in range(3)]
    x, fill = (generator.integers(-30, 31, shape).astype(dtype) for _ in range(2))
    return x, (generator.choice([-1, 1], shape) * 2.0 ** generator.integers(-1, 2, shape)).astype(dtype), fill


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "kind, width", [*((kind, 1) for kind in TYPES), ("uchar", 2), ("half", 4), ("float", 3), ("ulong", 4)]
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_functions_of_values(written, kind, width):
    table = cases(kind)
    function = written(kernel(kind, width, table)).kernel("f")
    x, p, fill = map(aligned, numbers(kind, width))
    for left in (0, 1, 5):  # so many lanes have left the kernel: they take no part
        out = aligned(np.zeros((len(table), *x.shape), x.dtype))
        buffers = [x, p, fill, out, np.uint32([left]), np.uint32([ROUNDS])]
        report = function.launch(buffers, (1, 1, 1), (THREADS, 1, 1), order=left, check=left == 0)
        assert [str(finding) for finding in report.findings] == []
        for (call, expected), got in zip(table.items(), out):
            n = WIDTHS[call[:4]]
            for r, start in np.ndindex(ROUNDS, THREADS // n + (THREADS % n > 0)):
                lanes = np.arange(start * n, start * n + n)
                active = [j for j, lane in enumerate(lanes) if left <= lane < THREADS]
                values = [a[r, lanes % THREADS, :width] for a in (p if "(p)" in call else x, fill)]
                wanted = expected(*values, active) if active else []
                for j in active:
                    if wanted[j] is not None:
                        assert np.array_equal(got[r, lanes[j], :width], wanted[j]), (call, left, r, lanes[j])


VOTES = {  # of the active lanes' b, by lane; n lanes in a group
    "ulong(simd_ballot(b)) & 0xFFFFFFFF": lambda b, n: sum(v << j for j, v in b.items()),
    "ulong(simd_active_threads_mask()) & 0xFFFFFFFF": lambda b, n: sum(1 << j for j in b),
    "simd_all(b)": lambda b, n: all(b.values()),
    "simd_any(b)": lambda b, n: any(b.values()),
    "simd_ballot(b).all()": lambda b, n: sum(b.values()) == n,
    "simd_ballot(b).any()": lambda b, n: any(b.values()),
    "simd_active_threads_mask().all()": lambda b, n: len(b) == n,
    "simd_vote(0x10ul).any()": lambda b, n: True,
    "simd_vote(0xFFFFFFFFFFFFFFFFul).all()": lambda b, n: True,
    "simd_vote().any()": lambda b, n: False,
    "static_cast<simd_vote::vote_t>(simd_vote(77))": lambda b, n: 77,
    "uint(quad_ballot(b))": lambda b, n: sum(v << j for j, v in b.items()),
    "uint(quad_active_threads_mask())": lambda b, n: sum(1 << j for j in b),
    "quad_all(b)": lambda b, n: all(b.values()),
    "quad_any(b)": lambda b, n: any(b.values()),
    "quad_ballot(b).all()": lambda b, n: sum(b.values()) == n,
    "quad_active_threads_mask().any()": lambda b, n: True,
    "quad_vote::vote_t(quad_vote(0xF5))": lambda b, n: 5,
    "quad_vote(0xF0).any()": lambda b, n: False,
    "quad_vote(15).all()": lambda b, n: True,
    "sizeof(quad_vote::vote_t) * 16 + sizeof(simd_vote::vote_t)": lambda b, n: 4 * 16 + 8,
}


def test_votes(written):
    lines = "".join(f"  out[{k} * threads + i] = {call};\n" for k, call in enumerate(VOTES))
    firsts = "".join(
        f"  out[({len(VOTES)} + {k}) * threads + i] = {space}_is_first();\n" for k, space in enumerate(WIDTHS)
    )
    function = written(f"""
kernel void f(device const uint* bs [[buffer(0)]], device ulong* out [[buffer(1)]], constant uint& left [[buffer(2)]],
    uint i [[thread_position_in_grid]], uint threads [[threads_per_grid]]) {{
  if (i < left) return;
  bool b = bs[i];
{lines}{firsts}}}""").kernel("f")
    patterns = [
        np.ones(THREADS),
        np.zeros(THREADS),
        np.arange(THREADS) == 38,
        np.arange(THREADS) != 3,
        np.arange(THREADS) % 3,
    ]
    for left, b in zip((0, 3, 0, 5, 36), patterns):
        out = np.zeros((len(VOTES) + 2, THREADS), np.uint64)
        function.launch([b.astype(np.uint32), out, np.uint32([left])], (1, 1, 1), (THREADS, 1, 1))
        for lane in range(left, THREADS):
            for call, got in zip([*VOTES, *(f"{space}_is_first()" for space in WIDTHS)], out[:, lane]):
                n = WIDTHS[re.search("simd|quad", call).group()]
                active = {j % n: int(b[j] != 0) for j in range(lane // n * n, lane // n * n + n) if left <= j < THREADS}
                wanted = lane % n == min(active) if "first" in call else VOTES[call](active, n)
                assert got == wanted, (call, left, lane)


LEFT = 4  # lanes that have left the kernel
UNDEFINED = {  # calls that read these, or lanes and fillings that do not exist; where
    "simd_shuffle(x, 2)": slice(LEFT, 32), "simd_shuffle(x, 32)": slice(LEFT, 32),
    "simd_broadcast(x, 0)": slice(LEFT, 32), "simd_shuffle_xor(x, 32)": slice(LEFT, 32),
    "simd_shuffle_rotate_up(x, 4)": slice(4, 8), "simd_shuffle_up(x, 1)": slice(4, 5),
    "simd_shuffle_and_fill_down(x, x, 4)": slice(28, 32),
    "simd_shuffle_and_fill_up(x, x, 2, 0)": slice(LEFT, 32), "simd_shuffle_and_fill_down(x, x, 1, 3)": slice(LEFT, 32),
    "simd_shuffle_and_fill_down(x, x, 9, 8)": slice(LEFT, 32), "simd_shuffle_and_fill_up(x, x, 65535)": slice(LEFT, 32),
    "quad_shuffle(x, 4)": slice(LEFT, 32), "quad_broadcast(x, 7)": slice(LEFT, 32),
    "quad_shuffle_xor(x, 4)": slice(LEFT, 32), "quad_shuffle_and_fill_up(x, x, 1, 8)": slice(LEFT, 32),
}  # fmt: skip


def test_what_is_undefined_is_no_number(written):
    lines = "".join(f"  out[{k} * 32 + lane] = {call};\n" for k, call in enumerate(UNDEFINED))
    text = (
        "kernel void f(device float* out [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {\n  float x = lane;\n"
    )
    out = np.zeros((len(UNDEFINED), 32), np.float32)
    written(f"{text}  if (lane < {LEFT}) return;\n{lines}}}").kernel("f").launch([out], (1, 1, 1), (32, 1, 1))
    for (call, lanes), row in zip(UNDEFINED.items(), out):
        assert np.isnan(row[lanes]).all(), (call, row)


@pytest.mark.parametrize("call", ["simd_sum(x)", "simd_shuffle_and_fill_up(x, x, 1)", "quad_prefix_exclusive_sum(x)",
                                  "float(simd_all(x > 0))", "quad_broadcast_first(x)"])  # fmt: skip
def test_lanes_in_different_branches(written, call):
    text = (
        "kernel void f(device float* out [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {\n  float x = lane;\n"
    )
    kernel = written(
        f"{text}  if (lane % 8 < 4)\n    x = {call};\n  else\n    x = {call};\n  out[lane] = x;\n}}"
    ).kernel("f")
    with pytest.raises(LaunchError, match="simd_|quad_"):
        kernel.launch([np.zeros(32, np.float32)], (1, 1, 1), (32, 1, 1))
    kernel = written(f"{text}  if (lane < 4)\n    x = {call};\n  out[lane] = x;\n}}").kernel("f")
    report = kernel.launch([np.zeros(32, np.float32)], (1, 1, 1), (32, 1, 1), check=True)
    assert [finding.kind for finding in report.findings] == ["collective in divergent control flow"]


def test_types_without_functions(written):
    """bfloat and bool, long and ulong in SIMD groups, floating-point numbers in bitwise functions; helper threads."""
    bad = ["simd_is_helper_thread()", "quad_is_helper_thread()"]
    for call in cases("int"):
        kinds = (
            ["bfloat", "bool"]
            + ["long", "ulong"] * call.startswith("simd")
            + ["float", "half"] * bool(re.match("...._(and|or|xor)[(]", call))
        )
        for kind in kinds:
            arguments = call.replace("fill,", f"{kind}(1),").replace("fill)", f"{kind}(1))")
            bad.append(re.sub(r"\b[xp]\b(?=[,)])", f"{kind}(x)", arguments))
    lines = "".join(f"  out[0] = float({call});\n" for call in bad)
    text = (
        "kernel void f(device float* out [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {\n  float x = lane;\n"
    )
    found = {d.line for d in written(f"{text}{lines}}}").check() if d.severity == "error"}
    assert [call for line, call in enumerate(bad, 5) if line not in found] == []
