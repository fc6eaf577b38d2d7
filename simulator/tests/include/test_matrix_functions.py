"""simdgroup_matrix beside NumPy: constructors, loads and stores, products to the last bit, the elements of threads."""

import itertools

import numpy as np
import pytest
import torch
from metal_simulator import LaunchError

TYPES = {"half": torch.float16, "bfloat": torch.bfloat16, "float": torch.float32}
LANE = np.arange(32)
ROW, COLUMN = (LANE // 4 & 4) + LANE // 2 % 4, (LANE // 4 & 2) * 2 + LANE % 2 * 2  # of a thread's first element


def fma(a, b, c):
    """float32 a * b + c, rounded once: the sum is rounded to odd in float64, which a second rounding cannot spoil."""
    product = a.astype(np.float64) * b
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    bits = np.array(total).view(np.int64)
    bits = bits - ((error != 0) & ((error < 0) == (total > 0)))  # towards zero
    return (bits | (error != 0)).view(np.float64).astype(np.float32)


def product(a, b, c):
    """a b + c of 8x8 arrays of float32: multiply-adds in order of the inner index."""
    for k in range(8):
        c = fma(a[:, k : k + 1], b[k : k + 1], c)
    return c


def random(kind, *shape, seed=0):
    """Values over some orders of magnitude, so that sums round."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * 2 ** torch.randint(-3, 4, shape, generator=generator)
    return values.to(TYPES[kind])


def exactly(got, expected):
    """The bits of torch tensors are those of a float32 array, rounded to their type."""
    rounded = torch.from_numpy(np.array(expected, np.float32)).to(got.dtype)
    view = torch.int32 if got.dtype == torch.float32 else torch.int16
    return torch.equal(got.contiguous().view(view), rounded.view(view))


def test_products(written):
    """Of every mixture of types, in one kernel: inputs of type [role] * 3, results of each type."""
    mixtures = list(itertools.product(TYPES, repeat=4))
    order = list(TYPES)
    lines = "".join(
        f"  multiply<{d}>({d}s + {128 * k}, {a}s_in, {b}s_in + 64, {c}s_in + 128);\n"
        for k, (a, b, c, d) in enumerate(mixtures)
    )
    squares = "".join(f"  square({kind}s + {128 * len(mixtures)}, {kind}s_in);\n" for kind in TYPES)
    parameters = ", ".join(f"device const {kind}* {kind}s_in, device {kind}* {kind}s" for kind in TYPES)
    kernel = written(f"""
template <typename D, typename A, typename B, typename C>
void multiply(device D* out, device const A* a, device const B* b, device const C* c) {{
  simdgroup_matrix<A, 8, 8> ma; simdgroup_matrix<B, 8, 8> mb; simdgroup_matrix<C, 8, 8> mc; simdgroup_matrix<D, 8, 8> d;
  simdgroup_load(ma, a); simdgroup_load(mb, b, 8); simdgroup_load(mc, c, 8, ulong2(0, 0));
  simdgroup_multiply_accumulate(d, ma, mb, mc);
  simdgroup_store(d, out);
  simdgroup_multiply(d, ma, mb);
  simdgroup_store(d, out + 64, 8);
}}
template <typename T>
void square(device T* out, device const T* x) {{
  simdgroup_matrix<T, 8, 8> m, r;
  simdgroup_load(m, x);
  r = m * m;
  simdgroup_store(r, out);
  simdgroup_multiply_accumulate(m, m, m, m);
  simdgroup_store(m, out + 64);
}}
kernel void f({parameters}) {{
{lines}{squares}}}""").kernel("f")
    inputs = {kind: random(kind, 3, 8, 8, seed=order.index(kind)) for kind in TYPES}
    outputs = {kind: torch.zeros(len(mixtures) + 1, 2, 8, 8, dtype=TYPES[kind]) for kind in TYPES}
    buffers = [buffer for kind in TYPES for buffer in (inputs[kind], outputs[kind])]
    report = kernel.launch(buffers, (1, 1, 1), (32, 1, 1), check=True)
    assert [str(finding) for finding in report.findings] == []
    wide = {kind: values.float().numpy() for kind, values in inputs.items()}
    zero = np.zeros((8, 8), np.float32)
    for k, (a, b, c, d) in enumerate(mixtures):
        got, x, y, z = outputs[d][k], wide[a][0], wide[b][1], wide[c][2]
        assert exactly(got[0], product(x, y, z)) and exactly(got[1], product(x, y, zero)), (a, b, c, d)
    for kind, values in wide.items():
        got, x = outputs[kind][-1], values[0]
        assert exactly(got[0], product(x, x, zero)) and exactly(got[1], product(x, x, x)), kind


PLACES = [  # elements per row, origin (column, row), transposed, what the call says
    (8, (0, 0), False, ""),
    (24, (0, 0), False, ", 24"),
    (24, (5, 3), False, ", 24, ulong2(5, 3)"),
    (24, (0, 0), True, ", 24, 0, true"),
    (24, (7, 2), True, ", 24, ulong2(7, 2), true"),
    (1, (0, 0), False, ", 1"),
    (0, (3, 0), False, ", 0, ulong2(3, 0)"),
]


def cells(per_row, origin, transposed):
    """The 8x8 indices in memory of a matrix."""
    row, column = np.mgrid[:8, :8]
    if transposed:
        row, column = column, row
    return (row + origin[1]) * per_row + column + origin[0]


@pytest.mark.parametrize("kind", TYPES)
def test_loads_and_stores(written, kind):
    """From device and threadgroup memory, and into both; what is in the latter follows in stored."""
    stored = [place for place in PLACES if place[0] >= 8]  # the others would store several elements to one place
    size = 512 * len(stored)
    loads, stores = "", ""
    for k, (*_, text) in enumerate(PLACES):
        for half, memory in enumerate(("x", "own")):
            at = 64 * (2 * k + half)
            loads += f"  simdgroup_load(m, {memory}{text}); simdgroup_store(m, loaded + {at});\n"
    for k, (*_, text) in enumerate(stored):
        stores += "".join(f"  simdgroup_store(m, {memory} + {512 * k}{text});\n" for memory in ("stored", "own"))
    kernel = written(f"""
kernel void f(device const {kind}* x [[buffer(0)]], device {kind}* loaded [[buffer(1)]],
    device {kind}* stored [[buffer(2)]], threadgroup {kind}* own [[threadgroup(0)]],
    uint lane [[thread_index_in_simdgroup]]) {{
  for (uint i = lane; i < 512; i += 32) own[i] = x[i];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_matrix<{kind}, 8, 8> m;
{loads}  simdgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = lane; i < {size}; i += 32) own[i] = {kind}(0);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_load(m, x);
{stores}  simdgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = lane; i < {size}; i += 32) stored[{size} + i] = own[i];
}}""").kernel("f")
    x = random(kind, 512)
    loaded, into = torch.zeros(len(PLACES), 2, 8, 8, dtype=x.dtype), torch.zeros(2, len(stored), 512, dtype=x.dtype)
    memory = [size * x.element_size()]
    report = kernel.launch([x, loaded, into], (1, 1, 1), (32, 1, 1), check=True, threadgroup_memory=memory)
    assert [str(finding) for finding in report.findings] == []
    flat = x.float().numpy()
    for (*place, text), both in zip(PLACES, loaded):
        assert all(exactly(got, flat[cells(*place)]) for got in both), text
    for k, (*place, text) in enumerate(stored):
        expected = np.zeros(512, np.float32)
        expected[cells(*place)] = flat[:64].reshape(8, 8)
        assert all(exactly(got, expected) for got in into[:, k]), text


@pytest.mark.parametrize("kind", TYPES)
def test_constructors_and_elements(written, kind):
    matrices = {  # and what they are
        "simdgroup_matrix<T, 8, 8>(T(3))": np.eye(8) * 3,
        f"simdgroup_{kind}8x8(T(-2))": np.diag([-2.0] * 8),
        "make_filled_simdgroup_matrix<T, 8, 8>(T(5))": np.full((8, 8), 5),
        "make_filled_simdgroup_matrix<T, 8>(T(0.5))": np.full((8, 8), 0.5),
        "elements(lane)": None,
        "changed(p)": None,
        "declared()": np.eye(8) * 7,
    }
    lines = "".join(f"  m = {text}; simdgroup_store(m, out + {64 * k});\n" for k, text in enumerate(matrices))
    kernel = written(f"""
typedef {kind} T;
typedef simdgroup_matrix<T, 8, 8> M;
M elements(uint lane) {{
  M m;
  m.thread_elements()[0] = T(float(lane)); m.thread_elements()[1] = T(lane + 0.5f);
  return m;
}}
M changed(device const T* p) {{
  M m; simdgroup_load(m, p);
  thread auto& e = m.thread_elements();
  e[0] = T(float(e[0]) * 2); e[1] = T(float(e[1]) - 1);
  return m;
}}
M declared() {{ M m(T(7)); const M n = m; return n; }}
kernel void f(device const T* p, device T* out, device T* mine, uint lane [[thread_index_in_simdgroup]]) {{
  M m;
{lines}  simdgroup_load(m, p);
  vec<T, 2> e = m.thread_elements();
  mine[2 * lane] = e.x; mine[2 * lane + 1] = e.y;
}}""").kernel("f")
    p, out = random(kind, 8, 8), torch.zeros(len(matrices), 8, 8, dtype=TYPES[kind])
    mine = torch.zeros(32, 2, dtype=p.dtype)
    kernel.launch([p, out, mine], (1, 1, 1), (32, 1, 1))
    values = p.float().numpy()
    assert exactly(mine, np.stack([values[ROW, COLUMN], values[ROW, COLUMN + 1]], 1))
    elements, changed = np.zeros((8, 8)), values.copy()
    elements[ROW, COLUMN], elements[ROW, COLUMN + 1] = LANE, LANE + 0.5
    changed[ROW, COLUMN] *= 2
    changed[ROW, COLUMN + 1] -= 1
    for (text, expected), got in zip(matrices.items(), out):
        assert exactly(got, elements if "elem" in text else changed if "changed" in text else expected), text


USE = """kernel void f(device float* x, device const half* h, constant float* c,
    uint g [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_float8x8 m(1.0f);
  simdgroup_half8x8 n(1.0h);
  %s
}"""


REPORTED = {
    "simdgroup_store(m, x + 64 * g);": None,
    "simdgroup_store(m, x + 8 * g);": "race: two writes",
    "simdgroup_store(m, x + 300);": "write out of bounds",
    "simdgroup_load(m, x + 290, 8, ulong2(8, 0)); x[lane] = m.thread_elements()[0];": "read out of bounds",
}
REFUSED = {
    "if (lane < 20) simdgroup_multiply(m, m, m);": "20 of 32 lanes|left the kernel",
    "if (lane > 20) return; simdgroup_multiply(m, m, m);": "21 of 32 lanes",
    "if (lane < 9) simdgroup_multiply(m, m, m); else simdgroup_multiply(m, m, m);": "simdgroup_multiply",
}
UNKNOWN = [
    "simdgroup_load(m, h);", "simdgroup_store(n, x);", "simdgroup_load(m, c);", "simdgroup_store(m, h);",
    "simdgroup_matrix<int, 8, 8> i;", "simdgroup_matrix<float, 4, 4> s;", "m = n;", "m = m + m;", "m = n * m;",
    "x[0] = m[0][0];",
]  # fmt: skip


def buffers():
    return [np.zeros(300, np.float32), np.zeros(64, np.float16), np.zeros(64, np.float32)]


@pytest.mark.parametrize("body", REPORTED)
def test_what_is_reported(written, body):
    threads = (64, 1, 1) if " g" in body else (32, 1, 1)
    report = written(USE % body).kernel("f", build="check").launch(buffers(), (1, 1, 1), threads, check=True)
    assert {finding.kind for finding in report.findings} == ({REPORTED[body]} if REPORTED[body] else set())


@pytest.mark.parametrize("body", REFUSED)
def test_products_of_some_lanes(written, body):
    with pytest.raises(LaunchError, match=REFUSED[body]):
        written(USE % body).kernel("f").launch(buffers(), (1, 1, 1), (32, 1, 1))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("body", UNKNOWN)
def test_what_does_not_compile(written, body):
    assert [d.line for d in written(USE % body).check() if d.severity == "error"] == [7]


@pytest.mark.parametrize("order", ["forward", "reverse", 1])
def test_lanes_store_together(written, order):
    """Kernels rely on it, without a barrier. The checker still wants one: nothing orders the memory."""
    kernel = written("""
kernel void f(device float* out, uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float tile[64];
  simdgroup_store(make_filled_simdgroup_matrix<float, 8, 8>(5.0f), tile, 8);
  out[lane] = tile[lane] + tile[63 - lane];
}""").kernel("f")
    out = np.zeros(32, np.float32)
    kernel.launch([out], (1, 1, 1), (32, 1, 1), order=order)
    assert (out == 10).all()
    report = kernel.launch([out], (1, 1, 1), (32, 1, 1), order=order, check=True)
    assert {finding.kind for finding in report.findings} == {"race: read and write"}


def test_not_all_lanes_store(written):
    text = "if (lane < 16) simdgroup_store(simdgroup_float8x8(1.0f), out);"
    kernel = written(f"kernel void f(device float* out, uint lane [[thread_index_in_simdgroup]]) {{ {text} }}").kernel(
        "f"
    )
    with pytest.raises(LaunchError, match="simdgroup_store with 16 of 32 lanes"):
        kernel.launch([np.zeros(64, np.float32)], (1, 1, 1), (32, 1, 1))
