"""Mutants of the forward attention kernel."""

from .mutant import Mutant

MAIN, TILE, MASK, SOFTMAX, SEQUENCE = "attention_forward.metal", "tile.h", "mask.h", "softmax.h", "sequence.h"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"

MUTANTS = [
    # synchronisation
    Mutant(
        "no barrier before the keys", MAIN, f"{BARRIER}  // all SIMD groups are done with the previous", "//", "checker"
    ),
    Mutant("no barrier after the keys", MAIN, f"{BARRIER}  // the keys are there", "//", "checker"),
    Mutant(
        "no barrier before the values", MAIN, f"{BARRIER}    // all SIMD groups are done with the keys", "//", "checker"
    ),
    Mutant("no barrier after the values", MAIN, f"{BARRIER}  // the values are there", "//", "checker"),
    Mutant(
        "barrier of the wrong memory",
        MAIN,
        f"{BARRIER}  // the keys are there",
        "threadgroup_barrier(mem_flags::mem_device);",
        "checker",
    ),
    Mutant(
        "barrier of one SIMD group",
        MAIN,
        f"{BARRIER}  // the keys are there",
        "simdgroup_barrier(mem_flags::mem_threadgroup);",
        "checker",
    ),
    Mutant(
        "barrier where lanes differ",
        MAIN,
        f"{BARRIER}  // the values are there",
        f"if (lane.row < 4) {BARRIER}",
        "checker",
    ),
    Mutant(
        "one SIMD group skips a barrier",
        MAIN,
        f"{BARRIER}  // the values are there",
        f"if (simdgroup != 0) {BARRIER}",
        "checker",
    ),
    # initial values
    Mutant("scores not zeroed", MAIN, "    zero(scores);\n", "", "numbers"),
    Mutant("accumulator not zeroed", MAIN, "  zero(accumulator);\n", "", "numbers"),
    Mutant("row sum not zeroed", SOFTMAX, "      row_sum.at[i] = 0;\n", "", "numbers"),
    Mutant("row maximum not set", SOFTMAX, "      row_max.at[i] = kRowMaxFloor * scale_log2;\n", "", "numbers"),
    Mutant(
        "accumulator starts at 1",
        MAIN,
        "  zero(accumulator);\n",
        "  zero(accumulator);\n  elements(accumulator.fragment[0][0])[0] = 1;\n",
        "numbers",  # with a sink only: without one, the first block with a visible key rescales it by exactly 0
    ),
    Mutant("block sum starts at 1", SOFTMAX, "float block_sum = 0;", "float block_sum = 1;", "numbers"),
    # bounds and guards
    Mutant(
        "missing keys: one row too few",
        TILE,
        "if (r + row >= rows.count || ",
        "if (r + row > rows.count || ",
        "checker",
    ),
    Mutant(
        "missing keys: never",
        TILE,
        "if (r + row >= rows.count || ",
        "if (",
        "checker",
    ),
    Mutant(
        "missing keys: one row too many",
        TILE,
        "if (r + row >= rows.count || ",
        "if (r + row + 1 >= rows.count || ",
        "numbers",
    ),
    Mutant("missing keys are not zeroed", TILE, "*(threadgroup float4*)target = float4(0);", ";", "checker"),
    Mutant(
        "missing keys are 1",
        TILE,
        "*(threadgroup float4*)target = float4(0);",
        "*(threadgroup float4*)target = float4(1);",
        "equivalent",
        "their weights are exactly 0, so any finite number does",
    ),
    Mutant(
        "output rows: one too many",
        TILE,
        "if (r < rows.count) {\n      device T* target",
        "if (r <= rows.count) {\n      device T* target",
        "checker",
    ),
    Mutant(
        "output rows: all",
        TILE,
        "if (r < rows.count) {\n      device T* target",
        "if (true) {\n      device T* target",
        "checker",
    ),
    Mutant(
        "output rows: one too few",
        TILE,
        "if (r < rows.count) {\n      device T* target",
        "if (r + 1 < rows.count) {\n      device T* target",
        "checker",
    ),
    Mutant(
        "query rows: one too many",
        TILE,
        "const bool exists = r < rows.count;",
        "const bool exists = r <= rows.count;",
        "checker",
    ),
    Mutant("query rows: all", TILE, "const bool exists = r < rows.count;", "const bool exists = true;", "checker"),
    Mutant("lse rows: one too many", MAIN, "if (row < rows)\n", "if (row <= rows)\n", "checker"),
    Mutant("lse by every lane", MAIN, "if (writes_lse && lane.column == 0)", "if (writes_lse)", "checker"),
    Mutant(
        "surplus tiles stay",
        MAIN,
        "if (tile.row0 >= rows) return;",
        "",
        "equivalent",
        "a tile beyond the end has no row: every load and store is guarded",
    ),
    Mutant(
        "loop one block longer",
        MAIN,
        "key0 < blocks.end;",
        "key0 <= blocks.end;",
        "numbers",  # with split keys only: else it is a block that no row sees, with weights of 0
    ),
    Mutant("loop one block shorter", MAIN, "key0 < blocks.end;", "key0 + kBlockN < blocks.end;", "numbers"),
    Mutant(
        "staging one step longer",
        TILE,
        "r < kRows; r += kRowStep",
        "r < kRows + kRowStep; r += kRowStep",
        "equivalent",
        "every row is tested against kRows, as kRowStep need not divide them",
    ),
    Mutant("staging past the last row", TILE, "if (r + row < kRows) *(threadgroup", "*(threadgroup", "checker"),
    Mutant(
        "staging one row shorter", TILE, "r < kRows; r += kRowStep", "r < kRows - kRowStep; r += kRowStep", "checker"
    ),
    Mutant(
        "query clamp removed", SEQUENCE, "return clamp(cu_seqlens[i], 0, total);", "return cu_seqlens[i];", "checker"
    ),
    Mutant(
        "length clamp removed",
        SEQUENCE,
        "max(0, end - start), 0, 0",
        "end - start, 0, 0",
        "equivalent",
        "a negative length leaves at the test of surplus tiles, as 0 does",
    ),
    Mutant(
        "key length clamp removed",
        SEQUENCE,
        "max(0, clamped(cu_seqlens_k, segment, total_k) - found.key_start)",
        "clamped(cu_seqlens_k, segment, total_k) - found.key_start",
        "equivalent",
        "a negative number of keys is an empty loop, as 0 is",
    ),
    Mutant(
        "key end of the next sequence",
        SEQUENCE,
        "clamped(cu_seqlens_k, segment, total_k) -",
        "clamped(cu_seqlens_k, segment + 1, total_k) -",
        "checker",
    ),
    Mutant("last sequence ends at the total", SEQUENCE, "segment >= 1 && segment <= batch", "segment >= 1", "checker"),
    # the search of the sequence
    Mutant("search is off by one", SEQUENCE, "/ kBlockM + middle <= tile", "/ kBlockM + middle < tile", "numbers"),
    Mutant(
        "search reads one bound later",
        SEQUENCE,
        "clamped(cu_seqlens_q, middle - 1, total_q)",
        "clamped(cu_seqlens_q, middle, total_q)",
        "checker",
    ),
    Mutant(
        "search forgets the group",
        SEQUENCE,
        "bound * group_size / kBlockM + middle",
        "bound / kBlockM + middle",
        "numbers",
    ),
    Mutant("dense tiles rounded down", SEQUENCE, "+ kBlockM - 1) / kBlockM;", ") / kBlockM;", "checker"),
    Mutant("dense batch and tile swapped", SEQUENCE, "tile % tiles * kBlockM}", "tile / tiles * kBlockM}", "checker"),
    # addresses
    Mutant(
        "heads of a group swapped", TILE, "(r % group_size) * head_stride", "(r / group_size) * head_stride", "checker"
    ),
    Mutant("token of a row", TILE, "(r / group_size) * token_stride", "(r % group_size) * token_stride", "checker"),
    Mutant("lane rows", TILE, "(quad & 4) + (short(lane) / 2) % 4", "(quad & 4) + (short(lane) / 2) % 2", "checker"),
    Mutant(
        "lane rows and columns swapped",
        TILE,
        "return {short((quad & 4) + (short(lane) / 2) % 4), short((quad & 2) * 2 + (short(lane) % 2) * 2)};",
        "return {short((quad & 2) * 2 + (short(lane) % 2) * 2), short((quad & 4) + (short(lane) / 2) % 4)};",
        "checker",
    ),
    Mutant(
        "lane columns", TILE, "(quad & 2) * 2 + (short(lane) % 2) * 2", "(quad & 2) + (short(lane) % 2) * 2", "checker"
    ),
    Mutant(
        "no padding of shared rows",
        TILE,
        "kStride = kColumns + kChunk;",
        "kStride = kColumns;",
        "equivalent",
        "padding only keeps rows out of the same banks",
    ),
    Mutant(
        "shared rows too close",
        TILE,
        "target += kRowStep * kStride;",
        "target += kRowStep * (kStride - kChunk);",
        "checker",
    ),
    Mutant(
        "shared memory too small",
        TILE,
        "kBytes = kRows * kStride * sizeof(T);",
        "kBytes = (kRows - 1) * kStride * sizeof(T);",
        "checker",
    ),
    Mutant("keys not transposed", TILE, "kStride, ulong2(0, 0), true);", "kStride, ulong2(0, 0), false);", "numbers"),
    Mutant(
        "key rows and columns swapped",
        TILE,
        "b.data + n * kFragment * kStride + k * kFragment, kStride, ul",
        "b.data + k * kFragment * kStride + n * kFragment, kStride, ul",
        "checker",
    ),
    Mutant(
        "value tile index",
        TILE,
        "b.data + k * kFragment * kStride + n * kFragment, kStride);",
        "b.data + k * kFragment * kStride + n, kStride);",
        "numbers",
    ),
    Mutant(
        "values for keys",
        MAIN,
        "keys = {key, params.key.token",
        "keys = {value, params.key.token",
        "numbers",
    ),
    Mutant("keys of the first batch", MAIN, "    key += tile.batch * params.key.batch;\n", "", "numbers"),
    Mutant(
        "keys of the first head", MAIN, "params.key.token + head_kv * params.key.head;", "params.key.token;", "numbers"
    ),
    Mutant(
        "keys of the next head",
        MAIN,
        "params.key.token + head_kv * params.key.head;",
        "params.key.token + (head_kv + 1) * params.key.head;",
        "checker",
    ),
    Mutant(
        "output of the first head",
        MAIN,
        "params.output.token + first_head * params.output.head;",
        "params.output.token;",
        "checker",
    ),
    Mutant(
        "output written with the query's row",
        MAIN,
        "accumulator, row0,\n          lane);",
        "accumulator, row0 + 1,\n          lane);",
        "checker",
    ),
    Mutant(
        "lse head",
        MAIN,
        "(first_head + row % group_size) * params.lse_head_stride",
        "(first_head + row / group_size) * params.lse_head_stride",
        "checker",
    ),
    Mutant("lse token", MAIN, "tile.query_start + row / group_size] =", "tile.query_start + row] =", "checker"),
    Mutant(
        "unaligned rows as vectors",
        TILE,
        "if (is_aligned) {\n    *(threadgroup",
        "if (true) {\n    *(threadgroup",
        "checker",
    ),
    Mutant(
        "unaligned query as vectors",
        TILE,
        "if (exists && is_aligned && has_column",
        "if (exists && has_column",
        "checker",
    ),
    Mutant(
        "one element of a chunk",
        TILE,
        "has_column(count, e) ? source[e] :",
        "has_column(count, e) ? source[e + 1] :",
        "checker",
    ),
    # the mask
    Mutant("window one key wider", MASK, "position + window_right + 1)", "position + window_right + 2)", "numbers"),
    Mutant(
        "window starts one key later",
        MASK,
        "max(0, position - window_left)",
        "max(0, position - window_left + 1)",
        "numbers",
    ),
    Mutant(
        "window not held to the keys",
        MASK,
        "min(key_length, position + window_right + 1)",
        "position + window_right + 1",
        "checker",
    ),
    Mutant(
        "every block is full", MASK, "return key0 >= full_begin && key0 + block <= full_end;", "return true;", "numbers"
    ),
    Mutant(
        "no block is full",
        MASK,
        "return key0 >= full_begin && key0 + block <= full_end;",
        "return false;",
        "equivalent",
        "full blocks only save the mask",
    ),
    Mutant("full one key too early", MASK, "key0 + block <= full_end;", "key0 + block <= full_end + 1;", "numbers"),
    Mutant(
        "full blocks of the other end",
        MASK,
        "last.end, last.begin, first.end}",
        "last.end, first.begin, first.end}",
        "numbers",
    ),
    Mutant(
        "loop ends with the first row",
        MASK,
        "last.end, last.begin, first.end}",
        "first.end, last.begin, first.end}",
        "numbers",
    ),
    Mutant(
        "loop starts between blocks",
        MASK,
        "first.begin / block * block",
        "first.begin",
        "equivalent",
        "blocks may start at any key: the mask and the rows go by positions",
    ),
    Mutant("mask compares the wrong end", MASK, "key >= visible.at[i].end", "key > visible.at[i].end", "numbers"),
    Mutant("diagonal", MAIN, "tile.key_length - tile.query_length, int", "0, int", "numbers"),
    Mutant("masked score is the floor", MASK, "kMaskedScore = -2e30f", "kMaskedScore = -1e30f", "numbers"),
    # softmax
    Mutant(
        "shuffle distance of the maximum",
        SOFTMAX,
        "simd_shuffle_xor(block_max, 1));",
        "simd_shuffle_xor(block_max, 2));",
        "numbers",
    ),
    Mutant(
        "half of the maximum",
        SOFTMAX,
        "      block_max = max(block_max, simd_shuffle_xor(block_max, 8));\n",
        "",
        "numbers",
    ),
    Mutant("half of the sum", SOFTMAX, "      row_sum.at[i] += simd_shuffle_xor(row_sum.at[i], 8);\n", "", "numbers"),
    Mutant(
        "output not rescaled",
        MAIN,
        "if (softmax.update(scores, rescale)) scale_rows(accumulator, rescale);",
        "softmax.update(scores, rescale);",
        "numbers",
    ),
    Mutant(
        "sum not rescaled", SOFTMAX, "row_sum.at[i] * rescale.at[i] + block_sum", "row_sum.at[i] + block_sum", "numbers"
    ),
    Mutant("vote inside a branch", SOFTMAX, "return simd_any(grew);", "return grew && simd_any(grew);", "checker"),
    Mutant(
        "rescale where the lane's own row grew",
        SOFTMAX,
        "return simd_any(grew);",
        "return grew;",
        "equivalent",
        "a row's four lanes agree, and a row that did not grow has the factor 1",
    ),
    Mutant("sign of the scale", TILE, "T(sign * float(pair[0])), T(sign", "T(float(pair[0])), T(sign", "numbers"),
    Mutant(
        "empty rows divided",
        SOFTMAX,
        "inverse.at[i] = row_sum.at[i] > 0 ? 1 / row_sum.at[i] : 0;",
        "inverse.at[i] = 1 / row_sum.at[i];",
        "numbers",
    ),
    Mutant("lse in base 2", SOFTMAX, "M_LN2_F * (row_max", "(row_max", "numbers"),
]
