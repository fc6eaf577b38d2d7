"""Counters of kernels that can be counted by hand."""

import re
import struct

import numpy
import pytest
from metal_simulator import LaunchError
from metal_simulator.llvm_ir import ir
from metal_simulator.llvm_ir.layout import offset_of, size_of
from metal_simulator.profiler.counters import find

ELEMENTWISE = """
inline float product(float x, float y) { return x * y; }
kernel void f(device const float* a [[buffer(0)]], device const float* b [[buffer(1)]], device float* out [[buffer(2)]],
              uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  const float x = a[i], y = b[i];
  const int n = int(lane), m = int(i);
  out[i] = EXPRESSION;
}
"""
ARGUMENT = re.compile(r"\b[xy]\b")
CASES = [
    ("x + y", {"simple": 1}),
    ("x * y", {"simple": 1}),
    ("fma(x, y, 1.5f)", {"simple": 1}),
    ("x * y + x", {"simple": 1}),
    ("product(x, y) + x", {"simple": 1}),  # contracted, as with fast math
    ("product(x, y) + rsqrt(product(x, y))", {"simple": 2, "rsqrt": 1}),  # the product is needed by itself
    ("max(x, y)", {"simple": 1}),
    ("x < y ? x : 0.5f", {"simple": 1}),
    ("-x + abs(y)", {"simple": 1}),
    ("exp2(x)", {"exponential": 1}),
    ("log2(x)", {"exponential": 1}),
    ("exp(x)", {"exponential": 1, "simple": 1}),
    ("x / y", {"divide": 1}),
    ("rsqrt(x)", {"rsqrt": 1}),
    ("sqrt(x)", {"rsqrt": 1, "simple": 1}),
    ("float(n)", {"convert": 1}),
    ("float(n * m)", {"convert": 1, "integer_multiply": 1}),
    ("float(n ^ m)", {"convert": 1, "simple": 1}),
    ("float(m << n)", {"convert": 1, "shift": 1}),
    ("float(half(x))", {}),
    ("float(bfloat(x))", {"bfloat_convert": 5}),
    ("simd_shuffle_xor(x, 1)", {"shuffle": 1}),
    ("simd_broadcast(x, 3)", {"shuffle": 1}),
    ("simd_any(x > y) ? 1.0f : 2.0f", {"shuffle": 1, "simple": 2}),
    ("simd_sum(x)", {"reduction": 1}),
    ("quad_sum(x)", {"simple": 2, "shuffle": 2}),
]


def pair():
    return numpy.ones(64, numpy.float32), numpy.ones(64, numpy.float32), numpy.zeros(64, numpy.float32)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("expression", "expected"), CASES, ids=[c[0] for c in CASES])
def test_classes(written, expression, expected):
    kernel = written(ELEMENTWISE.replace("EXPRESSION", expression)).kernel("f")
    profile = kernel.profile(pair(), (2, 1, 1), (32, 1, 1))
    addresses = 1 + ("x" in ARGUMENT.findall(expression)) + ("y" in ARGUMENT.findall(expression))
    expected = {"wide_add": addresses, **expected}
    assert profile.classes == {name: 2 * number for name, number in expected.items()}


def test_arithmetic_on_vectors_counts_every_element(written):
    library = written("""
kernel void f(device float4* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] = x[i] * 2.0f; }""")
    profile = library.kernel("f").profile([numpy.ones((32, 4), numpy.float32)], (1, 1, 1), (32, 1, 1))
    assert profile.classes == {"simple": 4, "wide_add": 1}
    assert profile.accesses == {("device", "load", "16"): 1, ("device", "store", "16"): 1}


def test_a_loop_counts_every_iteration(written):
    library = written("""
kernel void f(device float* x [[buffer(0)]], constant int& count [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  float v = x[i];
  for (int k = 0; k < count; k++) v = fma(v, v, 1.5f);
  x[i] = v;
}""")
    x = numpy.ones(32, numpy.float32)
    profile = library.kernel("f").profile([x, numpy.int32(10).tobytes()], (1, 1, 1), (32, 1, 1))
    assert profile.classes == {"simple": 1 + 10 * 3, "wide_add": 1}  # a test; then fma, add, test


@pytest.mark.parametrize(("condition", "expected"), [("lane < 16", 2), ("simdgroup == 0", 1)])
def test_divergent_branches_cost_both_sides(written, condition, expected):
    library = written(f"""
kernel void f(device float* x [[buffer(0)]], device float* y [[buffer(1)]], uint i [[thread_position_in_grid]],
              uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {{
  if ({condition}) x[i] = exp2(x[i]);
  else y[i] = log2(y[i]);
}}""")
    x, y = numpy.ones((2, 64), numpy.float32)
    profile = library.kernel("f").profile([x, y], (1, 1, 1), (64, 1, 1))
    assert profile.classes["exponential"] == 2 * expected


@pytest.mark.parametrize(("stride", "lines"), [(0, 1), (1, 1), (2, 2), (32, 32), (33, 32)])
def test_lines_of_an_instruction(written, stride, lines):
    library = written("""
kernel void f(device const float* x [[buffer(0)]], device float* out [[buffer(1)]], constant uint& stride [[buffer(2)]],
              uint i [[thread_position_in_grid]]) { out[i] = x[i * stride]; }""")
    x, out = numpy.ones(2048, numpy.float32), numpy.zeros(32, numpy.float32)
    profile = library.kernel("f").profile([x, out, numpy.uint32(stride).tobytes()], (1, 1, 1), (32, 1, 1))
    read = find(profile.traffic, "x")
    assert (read.instructions, read.read, read.lines) == (1, 128, lines)
    assert read.first_read == (128 if stride else 4)
    assert read.lines_read == lines
    assert find(profile.traffic, "out")._asdict() | {"name": "", "space": ""} == {
        "name": "", "space": "", "instructions": 1, "read": 0, "written": 128, "lines": 1, "conflicts": 0,
        "first_read": 0, "first_written": 128, "lines_read": 0, "lines_written": 1,
    }  # fmt: skip
    assert profile.rows[0].device_clocks == max(lines, 2 if stride else 1) + 2
    assert profile.rows[0].device_lines == lines + 1


def test_repeated_reads_are_not_first_reads(written):
    library = written("""
kernel void f(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
              uint lane [[thread_index_in_simdgroup]], uint group [[threadgroup_position_in_grid]]) {
  out[group * 32 + lane] = x[lane];
}""")
    x, out = numpy.ones(32, numpy.float32), numpy.zeros(128, numpy.float32)
    read = find(library.kernel("f").profile([x, out], (4, 1, 1), (32, 1, 1)).traffic, "x")
    assert (read.read, read.first_read, read.lines, read.lines_read) == (512, 128, 4, 1)


@pytest.mark.parametrize(("stride", "conflicts"), [(1, 0), (2, 1), (3, 0), (4, 3), (32, 31)])
def test_bank_conflicts(written, stride, conflicts):
    library = written("""
kernel void f(device float* x [[buffer(0)]], constant uint& stride [[buffer(1)]],
              uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float shared[1024];
  shared[lane * stride] = x[lane];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  x[lane] = shared[lane];
}""")
    x = numpy.ones(32, numpy.float32)
    profile = library.kernel("f").profile([x, numpy.uint32(stride).tobytes()], (1, 1, 1), (32, 1, 1))
    shared = find(profile.traffic, "threadgroup")
    assert (shared.instructions, shared.read, shared.written, shared.conflicts) == (2, 128, 128, conflicts)
    assert profile.rows[0].threadgroup_clocks == max(2, conflicts + 1) + 2
    assert profile.threadgroup_bytes == 4096
    assert profile.classes["simdgroup_barrier"] == 1


def test_neighbouring_elements_are_one_access(written):
    library = written("""
kernel void f(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  device float* mine = x + 4 * i;
  const float a = mine[0], b = mine[1], c = mine[3];
  mine[0] = b;
  mine[1] = a;
  mine[3] = c + 1;
}""")
    profile = library.kernel("f").profile([numpy.ones(128, numpy.float32)], (1, 1, 1), (32, 1, 1))
    assert profile.accesses == {
        ("device", "load", "8"): 1,
        ("device", "load", "4"): 1,
        ("device", "store", "8"): 1,
        ("device", "store", "4"): 1,
    }


@pytest.mark.parametrize(("a", "b", "name"), [
    ("half", "half", "mma_half"), ("bfloat", "bfloat", "mma_bfloat"), ("float", "half", "mma_mixed"),
    ("float", "float", "mma_float"),
])  # fmt: skip
def test_matrix_products_by_type(written, a, b, name):
    library = written(f"""
kernel void f(device const {a}* x [[buffer(0)]], device const {b}* y [[buffer(1)]], device float* z [[buffer(2)]]) {{
  simdgroup_matrix<{a}, 8, 8> p;
  simdgroup_matrix<{b}, 8, 8> q;
  simdgroup_matrix<float, 8, 8> r = make_filled_simdgroup_matrix<float, 8>(0.0f);
  simdgroup_load(p, x, 8);
  simdgroup_load(q, y, 8);
  simdgroup_multiply_accumulate(r, p, q, r);
  simdgroup_store(r, z, 8);
}}""")
    sizes = {"half": numpy.uint16, "bfloat": numpy.uint16, "float": numpy.float32}
    buffers = [numpy.zeros(64, sizes[a]), numpy.zeros(64, sizes[b]), numpy.zeros(64, numpy.float32)]
    profile = library.kernel("f").profile(buffers, (3, 1, 1), (64, 1, 1))
    assert {k: n for k, n in profile.classes.items() if k.startswith("mma")} == {name: 6}


@pytest.mark.parametrize(("kind", "each"), [("float", 1.0), ("half", 0.5)])
def test_live_registers(written, kind, each):
    loads = "".join(f"const {kind} v{k} = x[i + {32 * k}]; " for k in range(16))
    stores = "".join(f"x[i + {32 * (15 - k)}] = v{k}; " for k in range(16))
    library = written(f"""
kernel void f(device {kind}* x [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {{
  const int i = int(lane) + 512;
  {loads}
  simdgroup_barrier(mem_flags::mem_device);
  {stores}
}}""")
    x = numpy.zeros(2048, numpy.float32 if kind == "float" else numpy.float16)
    profile = library.kernel("f").profile([x], (1, 1, 1), (32, 1, 1))
    assert profile.registers == 16 * each + 2  # and one 64-bit address
    assert profile.private_bytes == 0


def test_registers_that_live_through_a_loop(written):
    library = written("""
kernel void f(device float* x [[buffer(0)]], constant int& count [[buffer(1)]],
              uint lane [[thread_index_in_simdgroup]]) {
  const float a = x[lane], b = x[lane + 32], c = x[lane + 64], d = x[lane + 96];
  for (int k = 0; k < count; k++) simdgroup_barrier(mem_flags::mem_device);
  x[lane] = d;
  x[lane + 32] = c;
  x[lane + 64] = b;
  x[lane + 96] = a;
}""")
    x = numpy.zeros(128, numpy.float32)
    profile = library.kernel("f").profile([x, numpy.int32(3).tobytes()], (1, 1, 1), (32, 1, 1))
    assert profile.registers == 2 + 4 + 1 + 0.5  # address, values, counter, its comparison


def test_arrays_that_stay_in_memory(written):
    library = written("""
kernel void f(device float* x [[buffer(0)]], device const int* at [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  float mine[64];
  for (int k = 0; k < 64; k++) mine[(k * at[0]) & 63] = x[(i + k) & 63];
  x[i] = mine[at[i]];
}""")
    buffers = [numpy.zeros(64, numpy.float32), numpy.ones(32, numpy.int32)]
    profile = library.kernel("f").profile(buffers, (1, 1, 1), (32, 1, 1))
    assert profile.private_bytes == 256
    assert find(profile.traffic, "private").instructions == 65


def test_lanes_that_go_different_ways_are_matched_by_instruction(written):
    library = written("""
kernel void f(device float* x [[buffer(0)]], device float* y [[buffer(1)]], uint lane [[thread_index_in_simdgroup]]) {
  if (lane % 2) x[lane] += 1;
  y[lane] = 2;
}""")
    x, y = numpy.zeros((2, 32), numpy.float32)
    profile = library.kernel("f").profile([x, y], (1, 1, 1), (32, 1, 1))
    assert (find(profile.traffic, "x").read, find(profile.traffic, "x").written) == (64, 64)
    assert (find(profile.traffic, "y").instructions, find(profile.traffic, "y").lines) == (1, 1)


def test_counts_do_not_depend_on_the_schedule(library):
    kernel = library("matmul").kernel("matmul_half")
    a, b, c = (numpy.zeros(shape, numpy.float16) for shape in ((64, 128), (128, 48), (64, 48)))
    launch = [a, b, c, struct.pack("3i", 64, 48, 128)], (3, 4, 1), (32, 1, 1)
    first = kernel.profile(*launch, workers=1)
    assert first.classes["mma_half"] == 64 * 48 * 128 // 512
    assert first.classes["simdgroup_barrier"] == 12 * 2 * 128 // 8
    for keywords in ({"workers": 2}, {"order": "reverse"}, {"order": 5, "workers": 2}):
        assert kernel.profile(*launch, **keywords) == first


def test_arrays_of_structs(written):
    """12 bytes a lane are one access; their address takes a multiplication."""
    library = written("""
kernel void f(device const packed_float3* x [[buffer(0)]], device float* out [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {
  const float3 v = x[i];
  out[i] = v.x + v.y + v.z;
}""")
    x, out = numpy.ones((32, 3), numpy.float32), numpy.zeros(32, numpy.float32)
    profile = library.kernel("f").profile([x, out], (1, 1, 1), (32, 1, 1))
    assert profile.classes == {"simple": 2, "wide_add": 2, "integer_multiply": 1}
    assert (find(profile.traffic, "x").instructions, find(profile.traffic, "x").lines) == (1, 3)
    assert (out == 3).all()


def test_functions_that_are_not_inlined_count_as_well(written):
    library = written("""
__attribute__((noinline)) float work(float x) { return fma(x, x, exp2(x)); }
kernel void f(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] = work(x[i]) * work(2.5f); }""")
    profile = library.kernel("f").profile([numpy.ones(32, numpy.float32)], (1, 1, 1), (32, 1, 1))
    assert profile.classes == {"simple": 3, "exponential": 2, "wide_add": 1}


IR = """
%"struct.metal::vec<float, 4>" = type { [4 x float], i8 }

define i32 @f(ptr noundef %0, i32 %n) #0 {
  %p = getelementptr inbounds %"struct.metal::vec<float, 4>", ptr %0, i64 0, i32 0, !dbg !7
  switch i32 %n, label %b [
    i32 0, label %a
    i32 1, label %b
  ], !dbg !8

a:                                                ; preds = %1
  %v = load <2 x float>, ptr %p, align 8, !tbaa !3
  %w = select i1 true, <2 x float> %v, <2 x float> <float 1.0, float 2.0>
  br label %b

b:
  %r = phi <2 x float> [ zeroinitializer, %1 ], [ %w, %a ]
  %c = tail call fast float @"g h"(float noundef 1.0, <2 x float> %r) #3
  ret i32 %n
}
"""


def test_reading_ir():
    module = ir.read(IR)
    (function,) = module.functions
    entry, a, b = function.blocks
    assert [block.label for block in function.blocks] == ["%1", "%a", "%b"]
    assert (function.name, function.arguments) == ("f", ("%0", "%n"))
    address, switch = entry.instructions
    assert address.operands == ("%0", "0", "0") and address.type == "ptr"
    assert size_of(address.element_type(), module.types) == 20
    assert switch.operands == ("%n",) and entry.successors == ("%b", "%a")
    assert [(i.opcode, i.type, i.operands) for i in a.instructions] == [
        ("load", "<2 x float>", ("%p",)),
        ("select", "<2 x float>", ("true", "%v", "<float 1.0, float 2.0>")),
        ("br", "", ()),
    ]
    phi, call, _ = b.instructions
    assert phi.operands == ("zeroinitializer", "%w") and phi.labels() == ("%1", "%a")
    assert (call.callee, call.type, call.operands) == ("g h", "float", ("1.0", "%r"))


@pytest.mark.parametrize(("of", "indices", "offset"), [
    ("i8", "i64 -3", -3),
    ("i64", "i64 %n, !dbg !7", 0),
    ("%s", "i64 0, i32 2, !dbg !7", 16),
    ("%s", "i64 %n, i32 3, i64 1", 32),
    ("%s", "i64 2, i32 1", 2 * 56 + 8),
    ("[4 x <3 x float>]", "i64 0, i64 %n", 0),
    ("[4 x <3 x float>]", "i64 0, i64 3", 48),
    ("<{ i8, float }>", "i64 1, i32 1", 6),
])  # fmt: skip
def test_offsets_of_addresses(of, indices, offset):
    """Clang 17 and 18 write addresses of members by their types, later ones in bytes."""
    text = f"""
%s = type {{ half, i64, <2 x float>, [3 x %"t u"], i16 }}
%"t u" = type {{ i8, float }}
define void @f(ptr %p, i64 %n) {{
  %a = getelementptr inbounds {of}, ptr %p, {indices}
  ret void
}}
"""
    module = ir.read(text)
    assert offset_of(module.functions[0].blocks[0].instructions[0], module.types) == offset


def test_a_profiled_launch_computes_the_same(written):
    kernel = written(ELEMENTWISE.replace("EXPRESSION", "exp2(x) * simd_sum(y)")).kernel("f")
    a, b, out = pair()
    again = out.copy()
    kernel.launch([a, b, out], (2, 1, 1), (32, 1, 1))
    kernel.profile([a, b, again], (2, 1, 1), (32, 1, 1))
    assert (out == again).all() and out.any()


def test_errors_are_those_of_a_launch(written):
    kernel = written("""
kernel void f(device float* x [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {
  if (lane < 3) x[lane] = simd_sum(x[lane]);
  else threadgroup_barrier(mem_flags::mem_none);
}""").kernel("f")
    with pytest.raises(LaunchError, match="diverged"):
        kernel.profile([numpy.zeros(32, numpy.float32)], (1, 1, 1), (32, 1, 1))
    with pytest.raises(LaunchError, match="1025 threads"):
        kernel.profile([numpy.zeros(32, numpy.float32)], (1, 1, 1), (1025, 1, 1))
