"""Mutants of the forward attention kernel."""

from .mutant import Mutant

MAIN, MASK, SOFTMAX, SEQUENCE = "attention_forward.h", "mask.h", "softmax.h", "sequence.h"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"

MUTANTS = [
    # synchronisation
    Mutant(
        "no barrier before the next block", MAIN, f"if (kStaged || kSlices > 1) {BARRIER}  // all", "// all", "checker"
    ),
    Mutant("no barrier after the keys", MAIN, f"if (kStaged) {BARRIER}", "", "checker"),
    Mutant(
        "barrier of the wrong memory",
        MAIN,
        f"if (kStaged) {BARRIER}",
        "if (kStaged) threadgroup_barrier(mem_flags::mem_device);",
        "checker",
    ),
    Mutant(
        "barrier of one SIMD group",
        MAIN,
        f"if (kStaged) {BARRIER}",
        "if (kStaged) simdgroup_barrier(mem_flags::mem_threadgroup);",
        "checker",
    ),
    Mutant(
        "barrier where lanes differ",
        MAIN,
        f"if (kStaged) {BARRIER}",
        f"if (kStaged && lane.row < 4) {BARRIER}",
        "checker",
    ),
    Mutant(
        "one SIMD group skips a barrier",
        MAIN,
        f"if (kStaged) {BARRIER}",
        f"if (kStaged && simdgroup != 0) {BARRIER}",
        "checker",
    ),
    # keys that no row of a SIMD group sees
    Mutant(
        "SIMD groups compute what they do not see",
        MAIN,
        "!own.meets(key0, kBlockN)",
        "false",
        "equivalent",
        "such keys are masked, and rows that do not exist are not stored",
    ),
    Mutant("SIMD groups leave the loop", MAIN, "kBlockN)) continue;", "kBlockN)) break;", "checker"),
    Mutant("own keys end a block early", MASK, "key0 < end;", "key0 + block < end;", "numbers"),
    Mutant("own keys begin a block late", MASK, "key0 + block > begin", "key0 > begin", "numbers"),
    Mutant(
        "idle where a row is missing", MAIN, "if (row0 >= rows) own.end", "if (row0 + kRows >= rows) own.end", "numbers"
    ),
    # initial values
    Mutant("scores not zeroed", MAIN, "    zero(scores);\n", "", "numbers"),
    Mutant("accumulator not zeroed", MAIN, "  zero(accumulator);\n", "", "numbers"),
    Mutant("row sum not zeroed", SOFTMAX, "      row_sum.at[i] = 0;\n", "", "numbers"),
    Mutant("row maximum not set", SOFTMAX, "      row_max.at[i] = kRowMaxFloor;\n", "", "numbers"),
    Mutant(
        "accumulator starts at 1",
        MAIN,
        "  zero(accumulator);\n",
        "  zero(accumulator);\n  pair(accumulator, 0, 0)[0] = 1;\n",
        "equivalent",
        "the first block that a row sees rescales what it starts with by 0",
    ),
    # bounds and guards
    Mutant("lse rows: one too many", MAIN, "&& row < rows)", "&& row <= rows)", "checker"),
    Mutant("lse by every lane", MAIN, "lane.column == 0 && slice == 0", "slice == 0", "checker"),
    Mutant(
        "surplus tiles stay",
        MAIN,
        "if (tile.row0 >= rows) return;",
        "",
        "equivalent",
        "a tile beyond the end has no row: every load and store is guarded",
    ),
    Mutant("loop one block longer", MAIN, "key0 < blocks.end;", "key0 <= blocks.end;", "numbers"),
    Mutant("loop one block shorter", MAIN, "key0 < blocks.end;", "key0 + kBlockN < blocks.end;", "numbers"),
    Mutant(
        "query clamp removed", SEQUENCE, "return clamp(cu_seqlens[i], 0, total);", "return cu_seqlens[i];", "checker"
    ),
    Mutant(
        "length clamp removed",
        SEQUENCE,
        "max(0, segment.end - segment.start)",
        "segment.end - segment.start",
        "equivalent",
        "a negative length leaves at the test of surplus tiles, as 0 does",
    ),
    Mutant(
        "key length clamp removed",
        SEQUENCE,
        "max(0, clamped(cu_seqlens_k, segment.index, total_k) - found.key_start)",
        "clamped(cu_seqlens_k, segment.index, total_k) - found.key_start",
        "equivalent",
        "a negative number of keys is an empty loop, as 0 is",
    ),
    Mutant(
        "key end of the next sequence",
        SEQUENCE,
        "clamped(cu_seqlens_k, segment.index, total_k) -",
        "clamped(cu_seqlens_k, segment.index + 1, total_k) -",
        "checker",
    ),
    Mutant(
        "last sequence ends at the total",
        SEQUENCE,
        "segment.index >= 1 && segment.index <= batch",
        "segment.index >= 1",
        "checker",
    ),
    # the tile of a threadgroup, and the search of its sequence
    Mutant(
        "light tiles first",
        MAIN,
        "grid.y - 1 - position.y",
        "position.y",
        "equivalent",
        "threadgroups may run in any order",
    ),
    Mutant("one tile too far", MAIN, "grid.y - 1 - position.y", "grid.y - position.y", "checker"),
    Mutant("heads and tiles by one index", MAIN, "grid.y - 1 - position.y", "position.x", "checker"),
    Mutant("search is off by one", SEQUENCE, "first <= tile", "first < tile", "checker"),
    Mutant(
        "search reads one bound later",
        SEQUENCE,
        "clamped(cu_seqlens, middle - 1, total)",
        "clamped(cu_seqlens, middle, total)",
        "checker",
    ),
    Mutant(
        "search counts rows, not tiles",
        SEQUENCE,
        "uint(bound * rows_per_token) / kBlock + middle",
        "bound * rows_per_token + middle",
        "checker",
    ),
    Mutant("dense tiles rounded down", SEQUENCE, "+ kBlockM - 1) / kBlockM,", ") / kBlockM,", "checker"),
    Mutant("dense batch and tile swapped", SEQUENCE, "tile % tiles * kBlockM;", "tile / tiles * kBlockM;", "checker"),
    # addresses
    Mutant("values for keys", MAIN, "tile.keys_of(key, params.key", "tile.keys_of(value, params.key", "checker"),
    Mutant(
        "keys of the first batch",
        SEQUENCE,
        "tensor += batch * strides.batch + first_key",
        "tensor += first_key",
        "numbers",
    ),
    Mutant("keys of the first head", SEQUENCE, "strides.token + head_kv * strides.head;", "strides.token;", "numbers"),
    Mutant(
        "keys of the next head",
        SEQUENCE,
        "strides.token + head_kv * strides.head;",
        "strides.token + (head_kv + 1) * strides.head;",
        "checker",
    ),
    Mutant(
        "queries and outputs of the first head",
        SEQUENCE,
        "strides.token + head(0) * strides.head;",
        "strides.token;",
        "checker",
    ),
    Mutant(
        "output written with the query's row",
        MAIN,
        "tile.rows_of(output, params.output",
        "tile.rows_of(output + params.output.token, params.output",
        "checker",
    ),
    Mutant(
        "lse head",
        SEQUENCE,
        "head(row) * params.lse_head_stride",
        "(head(0) + token(row)) * params.lse_head_stride",
        "checker",
    ),
    Mutant(
        "lse token",
        SEQUENCE,
        "query_start + token(row);",
        "query_start + row;",
        "checker",
    ),
    Mutant("keys stay", MAIN, "keys.advance(step), values", "values", "numbers"),
    Mutant("values stay", MAIN, ", values.advance(step)) {", ") {", "numbers"),
    Mutant("values from the first key on", MAIN, "params.value, begin,", "params.value, 0,", "numbers"),
    Mutant(
        "values over keys",
        MAIN,
        "(threadgroup Element*)memory + kValueOffset / sizeof(Element), slice",
        "(threadgroup Element*)memory, slice",
        "checker",
    ),
    Mutant(
        "no memory for values",
        MAIN,
        "kBlockBytes = larger(KeyTile::kBytes, kValueOffset + ValueTile::kBytes)",
        "kBlockBytes = KeyTile::kBytes",
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
    Mutant("diagonal", SEQUENCE, "(key_length - query_length)", "0", "numbers"),
    Mutant(
        "masked score is the floor", MASK, "kMaskedScore = -3.40282347e38f", "kMaskedScore = -1.70141183e38f", "numbers"
    ),
    # softmax
    Mutant(
        "shuffle distance of the maximum",
        SOFTMAX,
        "simd_shuffle_xor(largest, 1)",
        "simd_shuffle_xor(largest, 2)",
        "numbers",
    ),
    Mutant(
        "half of the maximum", SOFTMAX, "      largest = max(largest, simd_shuffle_xor(largest, 8));\n", "", "numbers"
    ),
    Mutant("maximum of one column", SOFTMAX, "max(two[0], two[1])", "two[0]", "numbers"),
    Mutant("maximum at least 0", SOFTMAX, "float largest = kRowMaxFloor;", "float largest = 0;", "numbers"),
    Mutant(
        "maximum of the last block", SOFTMAX, "grows[i] ? block_max[i] : row_max.at[i];", "block_max[i];", "numbers"
    ),
    Mutant("slack too large for fp32", SOFTMAX, "kSlack = 8;", "kSlack = 3000;", "numbers"),
    Mutant(
        "slack of 2^60",
        SOFTMAX,
        "kSlack = 8;",
        "kSlack = 60;",
        "equivalent",
        "weights and sums of up to 2^60 keep their precision in fp32",
    ),
    Mutant(
        "slack with the wrong sign",
        SOFTMAX,
        "* scale_log2 > kSlack;",
        "* scale_log2 > -kSlack;",
        "equivalent",
        "it rescales more often, to the same result",
    ),
    Mutant(
        "never a new maximum",
        SOFTMAX,
        "* scale_log2 > kSlack;",
        "* scale_log2 < -kSlack;",
        "numbers",
    ),
    Mutant(
        "rescaled the wrong way",
        SOFTMAX,
        "(row_max.at[i] - block_max[i]) * scale_log2",
        "(block_max[i] - row_max.at[i]) * scale_log2",
        "numbers",
    ),
    Mutant("half of the sum", SOFTMAX, "      sum.at[i] += simd_shuffle_xor(sum.at[i], 8);\n", "", "numbers"),
    Mutant(
        "output not rescaled",
        MAIN,
        "if (softmax.update(scores, rescale)) scale_rows(accumulator, rescale);",
        "softmax.update(scores, rescale);",
        "numbers",
    ),
    Mutant("sum not rescaled", SOFTMAX, "        row_sum.at[i] *= rescale.at[i];\n", "", "numbers"),
    Mutant("weights of one column summed", SOFTMAX, "+= weight[0] + weight[1];", "+= weight[0];", "numbers"),
    Mutant(
        "vote inside a branch",
        SOFTMAX,
        "any_grows = simd_any(any_grows);",
        "any_grows = any_grows && simd_any(any_grows);",
        "checker",
    ),
    Mutant(
        "rescale where the lane's own row grew",
        SOFTMAX,
        "    any_grows = simd_any(any_grows);\n",
        "",
        "equivalent",
        "a row's four lanes agree, and a row may keep its maximum until it grows by the slack",
    ),
    Mutant(
        "empty rows divided",
        SOFTMAX,
        "sum != 0 ? share / sum : 0",
        "share / sum",
        "numbers",
    ),
    Mutant("lse in base 2", SOFTMAX, "log_max + precise::log(sum)", "log_max + precise::log2(sum)", "numbers"),
]
