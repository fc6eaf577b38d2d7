"""Kernels whose threadgroups work together through device memory, in the styles of public ones; see seeded_bugs.py."""

import numpy as np
from seeded_bugs import BARRIER, ERROR, GROUPS_RACE, GROUPS_TWO, RACE, READ, UNWRITTEN, WRITE, Bug, Style, f32, u32

# The last threadgroup to finish adds up what all of them have left in device memory.
FENCE = "atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device);"
LAST_BLOCK = Style(
    "last block",
    f"""kernel void f(device const float* x, device float* partial, device atomic_uint* done, device float* out,
              uint group [[threadgroup_position_in_grid]], uint groups [[threadgroups_per_grid]],
              uint i [[thread_index_in_threadgroup]]) {{
  threadgroup bool last;
  partial[group * 64 + i] = x[group * 64 + i];
  threadgroup_barrier(mem_flags::mem_device); // written
  if (i == 0) {{
    {FENCE} // release
    last = atomic_fetch_add_explicit(done, 1, memory_order_relaxed) == groups - 1;
    {FENCE} // acquire
  }}
  threadgroup_barrier(mem_flags::mem_device_and_threadgroup); // told
  if (last) {{
    float sum = 0;
    for (uint g = 0; g < groups; g++) sum += partial[g * 64 + i];
    out[i] = sum;
  }}
}}""",
    lambda: [f32(320, 1), f32(320), u32(1), f32(64)],
    5,
    64,
    (
        Bug(f"{FENCE} // release", "", GROUPS_RACE, "buffer 1 (partial)", 0, ("= x[group", "sum += partial"), (0, 0)),
        Bug(f"{FENCE} // acquire", "", GROUPS_RACE, "buffer 1 (partial)", 0, ("= x[group", "sum += partial"), (0, 0)),
        Bug("threadgroup_barrier(mem_flags::mem_device); // written", "", GROUPS_RACE, "buffer 1 (partial)", 1,
            ("= x[group", "sum += partial"), (1, 1)),
        Bug("mem_device_and_threadgroup); // told", "mem_threadgroup); // told", GROUPS_RACE, "buffer 1 (partial)", 1,
            ("= x[group", "sum += partial"), (1, 1)),
        Bug("== groups - 1", ">= groups - 2", GROUPS_TWO, "buffer 3 (out)", 0, ("out[i] = sum",), (0, 0)),
        Bug("atomic_fetch_add_explicit(done, 1, memory_order_relaxed) ==", "(*(device uint*)done)++ ==", GROUPS_TWO,
            "buffer 2 (done)", 0, ("last = ",), (0, 0)),
    ),
)  # fmt: skip

# Each threadgroup waits for its turn, adds its part to the sums, and passes on.
TURNS = Style(
    "turns",
    """kernel void f(device float* sums, device atomic_uint* turn, uint group [[threadgroup_position_in_grid]],
              uint i [[thread_index_in_threadgroup]]) {
  if (i == 0) {
    while (atomic_load_explicit(turn, memory_order_relaxed) != group) {}
    atomic_thread_fence(mem_flags::mem_device, memory_order_acquire, thread_scope_device);
  }
  threadgroup_barrier(mem_flags::mem_device); // begin
  sums[i] += float(group);
  threadgroup_barrier(mem_flags::mem_device); // end
  if (i == 0) {
    atomic_thread_fence(mem_flags::mem_device, memory_order_release, thread_scope_device);
    atomic_store_explicit(turn, group + 1, memory_order_relaxed);
  }
}""",
    lambda: [f32(64), u32(1)],
    6,
    64,
    (
        Bug("atomic_thread_fence(mem_flags::mem_device, memory_order_release", "atomic_thread_fence("
            "mem_flags::mem_threadgroup, memory_order_release", GROUPS_RACE, "buffer 0 (sums)", 0, ("sums[i] +=",)),
        Bug("memory_order_acquire, thread_scope_device", "memory_order_acquire, thread_scope_threadgroup", GROUPS_RACE,
            "buffer 0 (sums)", 0, ("sums[i] +=",)),
        Bug("memory_order_acquire, thread_scope_device", "memory_order_relaxed, thread_scope_device", GROUPS_RACE,
            "buffer 0 (sums)", 0, ("sums[i] +=",)),
        Bug("threadgroup_barrier(mem_flags::mem_device); // end", "threadgroup_barrier(mem_flags::mem_none);",
            GROUPS_RACE, "buffer 0 (sums)", 1, ("sums[i] +=",), (1, 1)),
        Bug("atomic_store_explicit(turn, group + 1, memory_order_relaxed);\n  }", "atomic_store_explicit(turn, group +"
            " 1, memory_order_relaxed);\n  sums[0] = 1; }", GROUPS_RACE, "buffer 0 (sums)", 0,
            ("sums[0] = 1", "sums[i] +="), (0, 0)),
    ),
)  # fmt: skip

# A prefix sum over threadgroups in one pass: each publishes its sum, then looks back at those before it.
LOOKBACK = Style(
    "decoupled look-back",
    f"""kernel void f(device const uint* x, device uint* out, device atomic_uint* tickets, device atomic_uint* flags,
              device uint* sums, uint i [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {{
  threadgroup uint number, before;
  if (i == 0) number = atomic_fetch_add_explicit(tickets, 1, memory_order_relaxed);
  {BARRIER} // number
  const uint own = x[number * 32 + i], total = simd_sum(own);
  if (i == 0) {{
    uint sum = 0;
    if (number > 0) {{
      while (atomic_load_explicit(&flags[number - 1], memory_order_relaxed) == 0) {{}}
      atomic_thread_fence(mem_flags::mem_device, memory_order_acquire, thread_scope_device);
      sum = sums[number - 1];
    }}
    sums[number] = sum + total;
    atomic_thread_fence(mem_flags::mem_device, memory_order_release, thread_scope_device);
    atomic_store_explicit(&flags[number], 1, memory_order_relaxed);
    before = sum;
  }}
  {BARRIER} // before
  out[number * 32 + i] = before + simd_prefix_inclusive_sum(own);
}}""",
    lambda: [np.ones(160, np.uint32), u32(160), u32(1), u32(5), u32(5)],
    5,
    32,
    (
        Bug("atomic_thread_fence(mem_flags::mem_device, memory_order_acquire, thread_scope_device);", "", GROUPS_RACE,
            "buffer 4 (sums)", 0, ("sums[number] =", "sum = sums[number - 1]"), (0, 0)),
        Bug("atomic_thread_fence(mem_flags::mem_device, memory_order_release, thread_scope_device);", "", GROUPS_RACE,
            "buffer 4 (sums)", 0, ("sums[number] =", "sum = sums[number - 1]"), (0, 0)),
        Bug("    sums[number] = sum + total;\n", "", UNWRITTEN, "buffer 4 (sums)", 0, ()),
        Bug("atomic_store_explicit(&flags[number], 1", "atomic_store_explicit(&flags[number + 1], 1", ERROR,
            "stopped after .* the threadgroup does not end", None, ("while (atomic_load",)),
        Bug(f"{BARRIER} // number", "", RACE, "threadgroup memory (number)", 0, ("number = atomic", "own = x[number")),
    ),
    all_checks=True,
)  # fmt: skip

SPLIT_K = Style(
    "split-K with device atomics",
    """kernel void f(device const float* a, device const float* b, device atomic_float* out, constant uint& depth,
              uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  float sum = 0;
  for (uint k = 0; k < depth; k++) sum += a[group.y * depth + k] * b[(group.y * depth + k) * 32 + lane];
  atomic_fetch_add_explicit(out + lane, sum, memory_order_relaxed);
}""",
    lambda: [f32(64, 1), f32(2048, 1), f32(32), u32(1, 16)],
    (1, 4, 1),
    (32, 1, 1),
    (
        Bug("atomic_fetch_add_explicit(out + lane, sum, memory_order_relaxed)", "*((device float*)out + lane) += sum",
            GROUPS_TWO, "buffer 2 (out)", 0, ("+= sum",), (0, 0)),
        Bug("atomic_fetch_add_explicit(out + lane, sum, memory_order_relaxed)",
            "((device float*)out)[lane] = atomic_load_explicit(out + lane, memory_order_relaxed) + sum",
            GROUPS_TWO, "buffer 2 (out)", 0, ("+ sum",), (0, 0)),
        Bug("k < depth; k++", "k <= depth; k++", READ, "buffer 0 (a)", 64, ("sum += a",), (0,)),
        Bug("out + lane, sum", "out + (lane ^ 32), sum", WRITE, "buffer 2 (out)", 32, ("out + (lane ^ 32)",), (0,)),
    ),
)  # fmt: skip
