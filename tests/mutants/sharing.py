"""Mutants of what SIMD groups owe each other that share rows: columns (slices) or keys divided among them."""

from .mutant import Mutant

MAIN, PARTIAL, SOFTMAX = "attention_forward.metal", "partial.h", "softmax.h"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"

MUTANTS = [
    # the work of a SIMD group
    Mutant(
        "slice of the wrong SIMD group", MAIN, "slice = simdgroup % kSlices;", "slice = simdgroup / kSlices;", "checker"
    ),
    Mutant(
        "key group of the wrong SIMD group",
        MAIN,
        "key_group = simdgroup % kKeyGroups,",
        "key_group = simdgroup / kKeyGroups,",
        "checker",
    ),
    Mutant(
        "rows of slices",
        MAIN,
        "simdgroup / (kSlices * kKeyGroups) * kRows;",
        "simdgroup / kKeyGroups * kRows;",
        "checker",
    ),
    Mutant(
        "rows of key groups",
        MAIN,
        "simdgroup / (kSlices * kKeyGroups) * kRows;",
        "simdgroup / kSlices * kRows;",
        "numbers",
    ),
    Mutant(
        "slices share a memory with values",
        MAIN,
        "(free_memory + KeyTile::kBytes + ValueTile::kBytes);",
        "(free_memory + KeyTile::kBytes);",
        "numbers",
    ),
    Mutant("no memory for slices", MAIN, " + slice_bytes<kRows, kBlockN, kSlices, kSimdgroups>();", ";", "checker"),
    Mutant(
        "no memory for key groups",
        MAIN,
        "larger(kBlockBytes, larger(kMergeBytes, kVoteBytes))",
        "larger(kBlockBytes, kVoteBytes)",
        "checker",
    ),
    Mutant(
        "memory for key groups only",
        MAIN,
        "larger(kBlockBytes, larger(kMergeBytes, kVoteBytes))",
        "larger(kMergeBytes, kVoteBytes)",
        "checker",
    ),
    # columns divided among SIMD groups
    Mutant("no barrier before the next slices", MAIN, "if (kStaged || kSlices > 1) ", "if (kStaged) ", "checker"),
    Mutant(
        "no barrier before the next staged block", MAIN, "if (kStaged || kSlices > 1) ", "if (kSlices > 1) ", "checker"
    ),
    Mutant("SIMD groups leave their slices", MAIN, "if (kSlices == 1 && (key0", "if ((key0", "checker"),
    Mutant(
        "query of the first slice",
        MAIN,
        "first_query_column = slice * (kHeadDim / kSlices)",
        "first_query_column = 0",
        "numbers",
    ),
    Mutant("query columns past the slice's", MAIN, "head_dim - first_query_column}", "head_dim}", "checker"),
    Mutant(
        "output of the first slice",
        MAIN,
        "first_value_column = slice * (kValueDim / kSlices)",
        "first_value_column = 0",
        "checker",
    ),
    Mutant(
        "output columns past the slice's",
        MAIN,
        "rows,\n                                    value_dim - first_value_column}",
        "rows,\n                                    value_dim}",
        "checker",
    ),
    Mutant(
        "partial output columns past the slice's",
        MAIN,
        "rows,\n                                        value_dim - first_value_column}",
        "rows,\n                                        value_dim}",
        "checker",
    ),
    Mutant(
        "partial output of the first slice",
        MAIN,
        "output_offset + first_value_column;\n    store<ValueTile>(GroupedRows<float>",
        "output_offset;\n    store<ValueTile>(GroupedRows<float>",
        "checker",
    ),
    Mutant(
        "keys of the first slice",
        MAIN,
        "key_tile = {(threadgroup T*)free_memory, slice}",
        "key_tile = {(threadgroup T*)free_memory, 0}",
        "numbers",
    ),
    Mutant("values of the first slice", MAIN, "KeyTile::kBytes), slice}", "KeyTile::kBytes), 0}", "numbers"),
    Mutant("lse by every slice", MAIN, "lane.column == 0 && slice == 0", "lane.column == 0", "checker"),
    Mutant(
        "slices not added",
        MAIN,
        "    if (kSlices > 1) add_slices<kSlices>(slices, scores, simdgroup, lane_index);\n",
        "",
        "numbers",
    ),
    Mutant("no barrier between slices", PARTIAL, f"  {BARRIER}\n  UNROLL", "  UNROLL", "checker"),
    Mutant(
        "slices in one place",
        PARTIAL,
        "memory + simdgroup * kPairs * kSimdWidth + lane_index",
        "memory + lane_index",
        "checker",
    ),
    Mutant(
        "lanes in one place",
        PARTIAL,
        "own = memory + simdgroup * kPairs * kSimdWidth + lane_index",
        "own = memory + simdgroup * kPairs * kSimdWidth",
        "checker",
    ),
    Mutant(
        "slices of the next SIMD groups",
        PARTIAL,
        "memory + simdgroup / kSlices * kSlices * kPairs",
        "memory + simdgroup * kPairs",
        "checker",
    ),
    Mutant(
        "slices of the first rows",
        PARTIAL,
        "memory + simdgroup / kSlices * kSlices * kPairs * kSimdWidth + lane_index",
        "memory + lane_index",
        "numbers",
    ),
    Mutant(
        "own slice added twice", PARTIAL, "float2 sum = 0;", "float2 sum = elements(scores.frag[i][j]);", "numbers"
    ),
    Mutant("one slice missing", PARTIAL, "slice < kSlices; slice++", "slice + 1 < kSlices; slice++", "numbers"),
    Mutant(
        "slices in another order",
        PARTIAL,
        "first[((slice * (kRows",
        "first[(((kSlices - 1 - slice) * (kRows",
        "equivalent",
        "every SIMD group still adds in one order",
    ),
    Mutant(
        "slices in an order for each SIMD group",
        PARTIAL,
        "first[((slice * (kRows",
        "first[(((slice + simdgroup) % kSlices * (kRows",
        "equivalent",
        "the sums differ by rounding",
    ),
    Mutant(
        "memory of one row group's slices", PARTIAL, "kSimdgroups * kRows * kKeys", "kSlices * kRows * kKeys", "checker"
    ),
    # keys divided among SIMD groups
    Mutant("key groups start together", MAIN, "blocks.begin + key_group * kBlockN", "blocks.begin", "numbers"),
    Mutant("key groups overlap", MAIN, "step = kKeyGroups * kBlockN;", "step = kBlockN;", "numbers"),
    Mutant(
        "key groups not merged",
        MAIN,
        "    if (kKeyGroups > 1)\n      merge_key_groups<kKeyGroups>((threadgroup float2*)memory, accumulator, softmax, "
        "key_group, lane_index);\n",
        "",
        "numbers",
    ),
    Mutant("every key group writes", MAIN, "  if (key_group > 0) return;\n", "", "checker"),
    Mutant("no barrier before a half writes", PARTIAL, f"    {BARRIER}  // the memory is free\n", "", "checker"),
    Mutant(
        "no barrier before a half reads",
        PARTIAL,
        f"    {BARRIER}  // the other half's results are there\n",
        "",
        "checker",
    ),
    Mutant("all above the half write", PARTIAL, "key_group / half_of == 1", "key_group / half_of >= 1", "checker"),
    Mutant(
        "all read",
        PARTIAL,
        "if (key_group < half_of) {",
        "{",
        "equivalent",
        "what the other half reads changes only what nobody reads any more",
    ),
    Mutant(
        "half of the half reads", PARTIAL, "if (key_group < half_of) {", "if (2 * key_group < half_of) {", "numbers"
    ),
    Mutant(
        "first merge missing",
        PARTIAL,
        "short step = 0; step < kSteps",
        "short step = 1; step < kSteps",
        "numbers",
    ),
    Mutant("last merge missing", PARTIAL, "step < kSteps; step++", "step < kSteps - 1; step++", "numbers"),
    Mutant(
        "slot of the wrong half",
        PARTIAL,
        "memory + key_group % half_of * kPairs",
        "memory + key_group / half_of * kPairs",
        "checker",
    ),
    Mutant(
        "slots too close",
        PARTIAL,
        "key_group % half_of * kPairs * kSimdWidth",
        "key_group % half_of * kSimdWidth",
        "checker",
    ),
    Mutant(
        "maximum and sum swapped",
        PARTIAL,
        "softmax.join(i, other[0], other[1])",
        "softmax.join(i, other[1], other[0])",
        "numbers",
    ),
    Mutant(
        "output over maximum and sum",
        PARTIAL,
        "          slot[(i * kRowPairs + 1 + j) * kSimdWidth] = elements",
        "          slot[(i * kRowPairs + j) * kSimdWidth] = elements",
        "checker",
    ),
    Mutant(
        "output of the wrong fragment",
        PARTIAL,
        "factor[1] * slot[(i * kRowPairs + 1 + j)",
        "factor[1] * slot[(i * kRowPairs + j)",
        "numbers",
    ),
    Mutant("outputs with one factor", PARTIAL, "factor[1] * slot[", "factor[0] * slot[", "numbers"),
    Mutant("own output without a factor", PARTIAL, "= factor[0] * elements(", "= elements(", "numbers"),
    Mutant(
        "memory of half the key groups",
        PARTIAL,
        "return kKeyGroups / 2 * kRows",
        "return kKeyGroups / 4 * kRows",
        "checker",
    ),
    Mutant(
        "memory without maximum and sum",
        PARTIAL,
        "(kColumns / kFragment + 1) * kSimdWidth * sizeof",
        "kColumns / kFragment * kSimdWidth * sizeof",
        "checker",
    ),
    Mutant(
        "joint maximum is its own",
        SOFTMAX,
        "joint = max(row_max.at[i], other_max);",
        "joint = row_max.at[i];",
        "numbers",
    ),
    Mutant(
        "joint maximum is the other's",
        SOFTMAX,
        "joint = max(row_max.at[i], other_max);",
        "joint = other_max;",
        "numbers",
    ),
    Mutant("joint maximum not kept", SOFTMAX, "    row_max.at[i] = joint;\n", "", "numbers"),
    Mutant(
        "factor of the other with the wrong sign",
        SOFTMAX,
        "(other_max - joint) * scale_log2",
        "(joint - other_max) * scale_log2",
        "numbers",
    ),
    Mutant(
        "own factor with the wrong sign",
        SOFTMAX,
        "(row_max.at[i] - joint) * scale_log2",
        "(joint - row_max.at[i]) * scale_log2",
        "numbers",
    ),
    Mutant("other sum without a factor", SOFTMAX, "+ factor[1] * other_sum", "+ other_sum", "numbers"),
    Mutant("own sum without a factor", SOFTMAX, "= factor[0] * row_sum.at[i] +", "= row_sum.at[i] +", "numbers"),
]
