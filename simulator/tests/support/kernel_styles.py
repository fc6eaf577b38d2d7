"""Kernels in the styles of public ones, with bugs; see seeded_bugs.py. STYLES: these and kernel_styles_across.py."""

import numpy as np
from kernel_styles_across import LAST_BLOCK, LOOKBACK, SPLIT_K, TURNS
from seeded_bugs import (
    BARRIER,
    CONST,
    DIVERGENT,
    ERROR,
    GROUPS_TWO,
    MADE,
    MISALIGNED,
    NEVER,
    RACE,
    READ,
    TWO,
    UNWRITTEN,
    WRITE,
    WRITTEN,
    Bug,
    Style,
    f32,
    u32,
)

REDUCTION = Style(
    "reduction",
    f"""kernel void f(device const float* x, device float* out, constant uint& count,
              threadgroup float* sums [[threadgroup(0)]], uint group [[threadgroup_position_in_grid]],
              uint i [[thread_index_in_threadgroup]]) {{
  float own = 0;
  for (uint k = i; k < count; k += 128) own += x[group * count + k];
  sums[i] = own;
  {BARRIER} // first
  for (uint s = 64; s > 0; s >>= 1) {{
    if (i < s) sums[i] += sums[i + s];
    {BARRIER} // second
  }}
  if (i == 0) out[group] = sums[0];
}}""",
    lambda: [f32(600, 1), f32(3), u32(1, 200)],
    3,
    128,
    (
        Bug(f"{BARRIER} // first", "", RACE, "threadgroup memory (sums)", None, ("sums[i] = own", "+= sums[i + s]")),
        Bug(f"{BARRIER} // second", "", RACE, "threadgroup memory (sums)", None, ("+= sums[i + s]",)),
        Bug("s = 64;", "s = 128;", READ, "threadgroup memory (sums)", 128, ("+= sums[i + s]",), (0,)),
        Bug("if (i < s) sums[i]", "sums[i]", RACE, "threadgroup memory (sums)", None, ("+= sums[i + s]",)),
        Bug("sums[i] = own;", "if (i != 70) sums[i] = own;", NEVER, "threadgroup memory (sums)", 70,
            ("+= sums[i + s]",), (6,)),
        Bug("k < count; k += 128", "k <= count; k += 128", READ, "buffer 0 (x)", 600, ("x[group * count + k]",), (72,)),
        Bug("if (i == 0) out[group]", "if (i < 2) out[group]", TWO, "buffer 1 (out)", 0, ("out[group]",)),
        Bug(f"if (i < s) sums[i] += sums[i + s];\n    {BARRIER}",
            f"if (i < s) {{\nsums[i] += sums[i + s];\n{BARRIER} }}",
            ERROR, "deadlock at threadgroup_barrier: 64 of 128 threads wait, 64 have left", None, (BARRIER,)),
        Bug("sums[i] = own;", "if (i == 100) return; sums[i] = own;", ERROR,
            r"deadlock at threadgroup_barrier: 127 of 128 threads wait, 1 have left the kernel \(thread 100", None,
            ("// first",)),
        Bug(f"{BARRIER} // first", f"if (i < 64) {BARRIER} // low\n  else {BARRIER} // high", ERROR,
            "threads at different barriers: thread .* reached another", None, ("// low", "// high")),
        Bug("out[group] = sums[0]", "out[group / 2] = sums[0]", GROUPS_TWO, "buffer 1 (out)", 0, ("out[group / 2]",),
            (0, 0)),
    ),
    (512,),
)  # fmt: skip

# Tiles of two arrays one after the other: an overflow of one lands in the next.
MATMUL = Style(
    "tiled matmul",
    f"""kernel void f(device const float* a, device const float* b, device float* c, constant uint& n,
              uint2 group [[threadgroup_position_in_grid]], uint2 t [[thread_position_in_threadgroup]]) {{
  threadgroup float left[8][8];
  threadgroup float right[8][9];
  float sum = 0;
  for (uint k = 0; k < n; k += 8) {{
    left[t.y][t.x] = a[(group.y * 8 + t.y) * n + k + t.x];
    right[t.y][t.x] = b[(k + t.y) * n + group.x * 8 + t.x];
    {BARRIER} // staged
    for (uint j = 0; j < 8; j++) sum += left[t.y][j] * right[j][t.x];
    {BARRIER} // used
  }}
  c[(group.y * 8 + t.y) * n + group.x * 8 + t.x] = sum;
}}""",
    lambda: [f32(256, 1), f32(256, 2), f32(256), u32(1, 16)],
    (2, 2, 1),
    (8, 8, 1),
    (
        Bug("left[t.y][t.x] =", "left[t.y + 1][t.x] =", WRITE, "threadgroup memory (left)", 64, ("left[t.y + 1]",),
            (56,)),
        Bug("left[t.y][j] *", "left[t.y][j + 1] *", READ, "threadgroup memory (left)", 64, ("left[t.y][j + 1]",),
            (56,)),
        Bug("right[j][t.x]", "right[j + 1][t.x]", READ, "threadgroup memory (right)", 72, ("right[j + 1]",), (0,)),
        Bug("right[j][t.x]", "right[int(j) - 1][t.x]", READ, "threadgroup memory (right)", -9, ("right[int(j) - 1]",),
            (0,)),
        Bug("right[j][t.x]", "right[j][t.x + 1]", NEVER, "threadgroup memory (right)", 8, ("right[j][t.x + 1]",), (7,)),
        Bug(f"{BARRIER} // staged", "", RACE, "threadgroup memory (left)", None, ("left[t.y][t.x]", "left[t.y][j]")),
        Bug(f"{BARRIER} // used", "", RACE, "threadgroup memory (right)", None, ("right[t.y][t.x]", "right[j][t.x]")),
        Bug("* n + group.x * 8 + t.x] = sum", "* n + t.x] = sum", GROUPS_TWO, "buffer 2 (c)", 0, ("] = sum",), (0, 0)),
    ),
)  # fmt: skip

HISTOGRAM = Style(
    "histogram",
    f"""kernel void f(device const uint* x, device atomic_uint* total, uint i [[thread_index_in_threadgroup]],
              uint at [[thread_position_in_grid]]) {{
  threadgroup atomic_uint bins[32];
  if (i < 32) atomic_store_explicit(&bins[i], 0, memory_order_relaxed);
  {BARRIER} // cleared
  atomic_fetch_add_explicit(&bins[x[at] % 32], 1, memory_order_relaxed);
  {BARRIER} // counted
  if (i < 32) {{
    const uint own = atomic_load_explicit(&bins[i], memory_order_relaxed);
    if (own) atomic_fetch_add_explicit(&total[i], own, memory_order_relaxed);
  }}
}}""",
    lambda: [np.arange(256, dtype=np.uint32) * 7, u32(32)],
    4,
    64,
    (
        Bug("if (i < 32) atomic_store_explicit(&bins[i], 0, memory_order_relaxed);\n  " + BARRIER + " // cleared",
            "if (i < 32) *(threadgroup uint*)&bins[i] = 0;", TWO, "threadgroup memory (bins)", None,
            ("*(threadgroup uint*)", "bins[x[at] % 32]")),
        Bug(f"{BARRIER} // counted\n  if (i < 32) {{\n    const uint own = atomic_load_explicit(&bins[i], "
            "memory_order_relaxed);", "if (i < 32) {\n    const uint own = *(threadgroup uint*)&bins[i];",
            RACE, "threadgroup memory (bins)", None, ("bins[x[at] % 32]", "own = *")),
        Bug("if (i < 32) atomic_store_explicit", "if (i < 31) atomic_store_explicit", NEVER,
            "threadgroup memory (bins)", 31, ("bins[x[at] % 32]",)),
        Bug("x[at] % 32", "x[at] % 33", WRITE, "threadgroup memory (bins)", 32, ("bins[x[at] % 33]",)),
        Bug("if (own) atomic_fetch_add_explicit(&total[i], own, memory_order_relaxed);",
            "*((device uint*)total + i) += own;", GROUPS_TWO, "buffer 1 (total)", 0, ("+= own",), (0, 0)),
        Bug("atomic_fetch_add_explicit(&total[i], own", "atomic_fetch_add_explicit(&total[i + 1], own", WRITE,
            "buffer 1 (total)", 32, ("&total[i + 1]",), (31,)),
    ),
)  # fmt: skip

TRANSPOSE = Style(
    "transpose",
    f"""kernel void f(device const half* x, device half* out, constant uint2& shape,
              uint2 at [[thread_position_in_grid]], uint2 t [[thread_position_in_threadgroup]],
              uint2 group [[threadgroup_position_in_grid]]) {{
  threadgroup half tile[16][17];
  if (at.x < shape.x && at.y < shape.y) tile[t.y][t.x] = x[at.y * shape.x + at.x];
  {BARRIER}
  const uint2 to = group.yx * 16 + t;
  if (to.x < shape.y && to.y < shape.x) out[to.y * shape.y + to.x] = tile[t.x][t.y];
}}""",
    lambda: [np.ones(20 * 35, np.float16), np.zeros(20 * 35, np.float16), np.array([20, 35], np.uint32)],
    (2, 3, 1),
    (16, 16, 1),
    (
        Bug(BARRIER, "", RACE, "threadgroup memory (tile)", None, ("tile[t.y][t.x] =", "= tile[t.x][t.y]")),
        Bug("tile[16][17]", "tile[15][17]", WRITE, "threadgroup memory (tile)", 255, ("tile[t.y][t.x] =",), (240,)),
        Bug("at.x < shape.x && at.y", "at.y", READ, "buffer 0 (x)", 700, ("x[at.y",)),
        Bug("to.x < shape.y && to.y < shape.x", "to.x < shape.y", NEVER, "threadgroup memory (tile)", None,
            ("= tile[t.x][t.y]",)),
        Bug("group.yx", "group.xy", NEVER, "threadgroup memory (tile)", None, ("= tile[t.x][t.y]",)),
    ),
)  # fmt: skip

SCAN = Style(
    "double-buffered scan",
    f"""kernel void f(device const int* x, device int* out, uint i [[thread_index_in_threadgroup]]) {{
  threadgroup int buffers[2][64];
  threadgroup int* from = buffers[0];
  threadgroup int* to = buffers[1];
  from[i] = x[i];
  for (uint step = 1; step < 64; step *= 2) {{
    {BARRIER}
    to[i] = i >= step ? from[i] + from[i - step] : from[i];
    threadgroup int* other = from;
    from = to;
    to = other;
  }}
  out[i] = from[i];
}}""",
    lambda: [np.arange(64, dtype=np.int32), np.zeros(64, np.int32)],
    1,
    64,
    (
        Bug(BARRIER, "", RACE, "threadgroup memory (buffers)", None, ("to[i] =",)),
        Bug("    from = to;\n", "", RACE, "threadgroup memory (buffers)", None, ("to[i] =",)),
        Bug("i >= step ?", "i + 1 >= step ?", READ, "threadgroup memory (buffers)", 2**32 - 1,
            ("from[i - step]",), (0,)),
        Bug("out[i] = from[i]", "out[i] = from[63 - i]", RACE, "threadgroup memory (buffers)", None,
            ("to[i] =", "from[63 - i]")),
    ),
)  # fmt: skip

# Structs: pointers to them and into them, copies, pointers selected by conditions.
STRUCTS = Style(
    "arrays of structs",
    f"""struct Item {{ float3 at; float weight; half code; uint id; }};
struct Cursor {{ threadgroup Item* items; device ulong* keys; uint count; }};
kernel void f(device const Item* x, device Item* out, device ulong* keys, device float* first, device float* second,
              uint i [[thread_index_in_threadgroup]]) {{
  threadgroup Item items[64];
  threadgroup uint used;
  Cursor cursor = {{items, keys, 64}};
  cursor.items[i] = x[i];
  if (i == 0) used = 64;
  {BARRIER}
  thread const Item own = cursor.items[(i + 1) % cursor.count];
  device float* target = own.weight > 0.5f ? first : second;
  target[i] = own.at.z;
  out[i] = cursor.items[used - 1 - i];
  threadgroup float* weight = &cursor.items[i].weight;
  cursor.keys[i] = ulong(own.id) << 32 | as_type<uint>(*weight);
}}""",
    lambda: [np.ones(64 * 8, np.float32), f32(64 * 8), np.zeros(64, np.uint64), f32(64), f32(64)],
    1,
    64,
    (
        Bug(BARRIER, "", RACE, "threadgroup memory (items)", None, ("= x[i]", "cursor.items[")),
        Bug("used - 1 - i", "used - i", READ, "threadgroup memory (items)", 64, ("used - i",), (0,)),
        Bug("items[64]", "items[63]", WRITE, "threadgroup memory (items)", 63, ("= x[i]",), (63,)),
        Bug("if (i == 0) used", "if (i == 64) used", NEVER, "threadgroup memory (used)", 0, ("used - 1 - i",)),
        Bug("? first : second;\n  target[i]", "? first : second;\n  target[i + 1]", WRITE, "buffer 3 (first)", 64,
            ("target[i + 1]",), (63,)),
        Bug("cursor.keys[i]", "cursor.keys[i + 1]", WRITE, "buffer 2 (keys)", 64, ("cursor.keys[i + 1]",), (63,)),
        Bug("cursor.keys[i]", "cursor.keys[i / 2]", TWO, "buffer 2 (keys)", 0, ("cursor.keys[i / 2]",)),
        Bug("cursor.items[i] = x[i];", "if (i != 9) cursor.items[i] = x[i];", NEVER, "threadgroup memory (items)", 9,
            ("cursor.items[(i + 1)",), (8,)),
        Bug("out[i] = cursor", "*(device Item*)((device uint*)out + 1) = cursor", MISALIGNED, "buffer 1 (out)", 0,
            ("out + 1) =",)),
    ),
)  # fmt: skip

VECTORS = Style(
    "vector copies",
    """kernel void f(device const half* x, device half* out, device packed_float3* points, constant float3* scale,
              uint i [[thread_index_in_threadgroup]]) {
  alignas(16) threadgroup half rows[64][40];
  device const half4* from = (device const half4*)x + i * 10;
  threadgroup half4* to = (threadgroup half4*)rows[i];
  for (ushort k = 0; k < 10; k++) to[k] = from[k];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  device half4* written = (device half4*)out;
  for (ushort k = 0; k < 10; k++, written++) written[i * 10] = ((threadgroup half4*)rows[i ^ 1])[k];
  points[i] = points[i] * scale[0];
}""",
    lambda: [np.ones(2560, np.float16), np.zeros(2560, np.float16), f32(192), f32(4, 2)],
    1,
    64,
    (
        Bug("alignas(16) threadgroup half rows[64][40]", "threadgroup half rows[64][40]", MISALIGNED,
            "threadgroup memory (rows)", 0, ("to[k] = from[k]",), (0,)),
        Bug("rows[64][40]", "rows[64][39]", MISALIGNED, "threadgroup memory (rows)", 39, ("to[k] = from[k]",), (1,)),
        Bug("(device const half4*)x + i * 10", "(device const half4*)(x + 2) + i * 10", MISALIGNED, "buffer 0 (x)", 2,
            ("to[k] = from[k]",), (0,)),
        Bug("simdgroup_barrier(mem_flags::mem_threadgroup);", "", RACE, "threadgroup memory (rows)", None,
            ("to[k] = from[k]", "rows[i ^ 1]")),
        Bug("rows[i ^ 1]", "rows[i ^ 32]", RACE, "threadgroup memory (rows)", None,
            ("to[k] = from[k]", "rows[i ^ 32]")),
        Bug("k < 10; k++, written++", "k < 11; k++, written++", WRITE, "buffer 1 (out)", 2560, ("written[i * 10]",),
            (63,)),
        Bug("points[i] = points[i]", "points[i + 1] = points[i]", WRITE, "buffer 2 (points)", 64, ("points[i + 1]",),
            (63,)),
        Bug("scale[0]", "scale[i]", READ, "buffer 3 (scale)", 1, ("scale[i]",), (1,)),
        Bug("points[i] = points[i]", "points[i] = *(device packed_float3*)((device half*)points + 1 + 6 * i)",
            MISALIGNED, "buffer 2 (points)", 0, ("points + 1",), (0,)),
    ),
)  # fmt: skip

SOFTMAX = Style(
    "softmax",
    """kernel void f(device const float* x, device float* out, constant uint& width,
              uint row [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  float most = -INFINITY;
  for (uint k = lane; k < width; k += 32) most = max(most, x[row * width + k]);
  most = simd_max(most);
  float sum = 0;
  for (uint k = lane; k < width; k += 32) sum += exp(x[row * width + k] - most);
  sum = simd_sum(sum);
  for (uint k = lane; k < width; k += 32)
    out[row * width + k] = exp(x[row * width + k] - most) / sum;
}""",
    lambda: [np.linspace(-2, 3, 300, dtype=np.float32), f32(300), u32(1, 100)],
    3,
    32,
    (
        Bug("k += 32)\n    out", "k += 33)\n    out", UNWRITTEN, "buffer 1 (out)", 32, ()),
        Bug("k < width; k += 32)\n", "k + 1 < width; k += 32)\n", UNWRITTEN, "buffer 1 (out)", 99, ()),
        Bug("out[row * width + k]", "out[min(row, 1u) * width + k]", UNWRITTEN, "buffer 1 (out)", 200, ()),
        Bug("out[row * width + k]", "((device float*)x)[row * width + k]", CONST, "buffer 0 (x)", 0, (" = exp",), (0,)),
        Bug("most = simd_max(most);", "most = simd_max(most);\n*((device float4*)x + 3) = most;", CONST, "buffer 0 (x)",
            12, ("float4*",), (0,)),
        Bug("sum = simd_sum(sum);", "sum = simd_sum(sum);\natomic_store_explicit((device atomic_float*)x + lane, sum,"
            " memory_order_relaxed);", CONST, "buffer 0 (x)", 0, ("atomic_store",), (0,)),
        Bug("most = max(most, x[row * width + k])", "most = max(most, -INFINITY)", MADE, "value", None,
            ("/ sum",), (0,)),
        Bug("float sum = 0;", "float sum;", MADE, "value", None, ("/ sum",), (0,)),  # the compiler drops the loop
        Bug("exp(x[row * width + k] - most) / sum", "log(x[row * width + k] - most - 1) / sum", MADE, "value", None,
            ("/ sum",), (0,)),
        Bug("exp(x[row * width + k] - most) / sum", "NAN", WRITTEN, "buffer 1 (out)", 0, ("NAN",), (0,)),
        Bug("exp(x[row * width + k] - most) / sum", "lane == 7 ? as_type<float>(0x7fc00000u) : 1.0f",
            WRITTEN, "buffer 1 (out)", 7, ("0x7fc",), (7,)),
        Bug("exp(x[row * width + k] - most) / sum", "isinf(most) ? 1.0f : NAN", WRITTEN, "buffer 1 (out)", 0,
            ("isinf",), (0,)),
        Bug("sum = simd_sum(sum);", "if (lane < 31) sum = simd_sum(sum);", DIVERGENT, "SIMD group 0", None,
            ("if (lane < 31)",), (0, 31)),
        Bug("most = simd_max(most);", "if (lane == 5) return;\nmost = simd_max(most);", DIVERGENT, "SIMD group 0",
            None, ("most = simd_max",), (0, 5)),
        Bug("sum = simd_sum(sum);\n  for (uint k = lane; k < width; k += 32)\n",
            "for (uint k = lane; k < width; k += 32) sum = simd_broadcast_first(sum);\n"
            "  for (uint k = lane; k < width; k += 32)\n", DIVERGENT, "SIMD group 0",
            None, ("simd_broadcast_first",), (0, 4)),
        Bug("most = simd_max(most);", "if (lane < 20) most = simd_max(most);", ERROR, "simd_max while lane .* simd_sum|"
            "simd_sum while lane .* simd_max", None, ("if (lane < 20)", "sum = simd_sum")),
        Bug("sum = simd_sum(sum);", "if (lane % 2) sum = simd_sum(sum);\nelse sum = simd_sum(sum);", ERROR,
            "another simd_sum", None, ("if (lane % 2)", "else")),
        Bug("most = simd_max(most);", "if (lane < 3) simdgroup_barrier(mem_flags::mem_none);\nmost = simd_max(most);",
            ERROR, "simdgroup_barrier", None, ("if (lane < 3)",)),
    ),
    all_checks=True,
)  # fmt: skip

STYLES = (
    SOFTMAX,
    REDUCTION,
    MATMUL,
    HISTOGRAM,
    LAST_BLOCK,
    TURNS,
    LOOKBACK,
    TRANSPOSE,
    SCAN,
    STRUCTS,
    VECTORS,
    SPLIT_K,
)
