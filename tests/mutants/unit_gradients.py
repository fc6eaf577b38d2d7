"""Mutants of the backward kernels on the matrix unit."""

from .mutant import Mutant

QUERIES, UNIT, TILE = "attention_backward_queries.h", "unit_gradients.h", "unit.h"
GRADIENTS, STORED = "gradients.h", "stored_weights.h"

MUTANTS = [
    # blocks of keys
    Mutant("keys stay at the first block", UNIT, "tile.rows.advance(key0 - rows.first);", "", "numbers"),
    Mutant("the first block's missing keys", UNIT, "tile.rows.first = key0;", "", "checker"),
    Mutant("keys in the first lane's place", UNIT, "Tile::place(rows, slice, lane);", "", "numbers"),
    # rounding
    Mutant("dS of no sign", GRADIENTS, "copysign(Tile::rounded(abs(two)), two)", "Tile::rounded(abs(two))", "numbers"),
    Mutant(
        "dS rounded without its sign",
        GRADIENTS,
        "copysign(Tile::rounded(abs(two)), two)",
        "Tile::rounded(two)",
        "numbers",
    ),
    Mutant("dS cut", GRADIENTS, "copysign(Tile::rounded(abs(two)), two)", "two", "numbers"),
    # what is stored
    Mutant("stored without a scale", UNIT, "min(0x86000000u - exponent, 0x7e800000u)", "0x3f800000u", "numbers"),
    Mutant("scaled by the lane's largest", UNIT, "simd_max(largest)", "largest", "numbers"),
    Mutant(
        "scale of the last pair",
        UNIT,
        "largest = max(largest, max(two[0], two[1]))",
        "largest = max(two[0], two[1])",
        "numbers",
    ),
    Mutant(
        "the largest one is signed",
        UNIT,
        "const float2 two = abs(pair(tile, i, j));\n      largest",
        "const float2 two = pair(tile, i, j);\n      largest",
        "numbers",
    ),
    Mutant(
        "the factor of the other",
        UNIT,
        "(makes_value ? 0 : 1 - kStoredGrads)",
        "(makes_value ? 1 : 0 - kStoredGrads)",
        "numbers",
    ),
    Mutant("factors of another lane's place", UNIT, " - thread_index % kSimdWidth * kStoredFour", "", "numbers"),
    Mutant("factors are not stored", UNIT, "if (lane_index == 0 && slice == 0)", "if (false)", "numbers"),
    Mutant("factors are stored by all lanes", UNIT, "if (lane_index == 0 && slice == 0)", "if (slice == 0)", "checker"),
    Mutant(
        "factors are stored by each slice",
        UNIT,
        "if (lane_index == 0 && slice == 0)",
        "if (lane_index == 0)",
        "checker",
    ),
    Mutant("unit: slices store twice", UNIT, "% kSlices == slice) {", "% kSlices >= 0) {", "checker"),
    Mutant("unit: rows r + 8 over rows r", UNIT, "target + i * row_stride +", "target +", "numbers"),
    Mutant("unit: gradients in the weights' place", UNIT, "part[kSimdWidth] =", "part[0] =", "numbers"),
    Mutant(
        "the first two of four twice",
        UNIT,
        "scale * pair(tile, i, 2 * k + 1)",
        "scale * pair(tile, i, 2 * k)",
        "numbers",
    ),
    Mutant("no room for factors", STORED, "kStoredKeys * kFragment + 4", "kStoredKeys * kFragment", "numbers"),
    Mutant("unit: stored blocks of the first row", STORED, "any = any || max(", "any = max(", "numbers"),
    Mutant("unit: full for the last row", GRADIENTS, "all = all && visible", "all = visible", "numbers"),
    # the keys' kernel
    Mutant(
        "left operand not transposed",
        UNIT,
        "multiply_16x32x16<false, true>(",
        "multiply_16x32x16<false, false>(",
        "numbers",
    ),
    Mutant(
        "left operand never transposed",
        TILE,
        "16, 32, 16, kTransposesLeft, kTransposed",
        "16, 32, 16, false, kTransposed",
        "numbers",
    ),
    Mutant(
        "weights of rows r twice",
        UNIT,
        "(stored + row_stride + m * kStoredPart)",
        "(stored + m * kStoredPart)",
        "numbers",
    ),
    Mutant("weights of the first 16 keys", UNIT, "sum, m, n, weights[m]", "sum, m, n, weights[0]", "numbers"),
    Mutant("rows r twice", UNIT, "row[1] = walk.next(0);", "row[1] = row[0]; walk.next(0);", "numbers"),
    Mutant("rows stay where they are", UNIT, "next_row += 16;", "", "checker"),
    Mutant("missing rows are not 0", UNIT, "if (next_row - 16 + i * kFragment < count)", "", "checker"),
    Mutant("a row's columns of the first part", UNIT, "row[i] + 32 * n", "row[i]", "numbers"),
    Mutant("unit: missing columns", UNIT, "columns(rows.columns - column)", "columns(rows.columns)", "checker"),
    Mutant("unit: a key's sum is not scaled", UNIT, "scale(sum, factor);", "", "numbers"),
    Mutant("unit: keys beyond the last", UNIT, "0, 1, keys, columns}", "0, 1, keys + 1, columns}", "checker"),
    # the queries' kernel
    Mutant("dropout's bits of another lane", QUERIES, "arrange<Scores>(kept, lane);", "", "numbers"),
]
