"""Mutants of the tiles of the matrix unit."""

from .mutant import Mutant

MAIN, UNIT, SOFTMAX, EXCHANGE = "attention_forward.h", "unit.h", "softmax.h", "exchange.h"

MUTANTS = [
    # operands
    Mutant(
        "left rows r and r + 8 swapped",
        UNIT,
        "const vec<T, 2> a = pairs[2 * m][2 * k], b = pairs[2 * m][2 * k + 1];",
        "const vec<T, 2> a = pairs[2 * m + 1][2 * k], b = pairs[2 * m + 1][2 * k + 1];",
        "numbers",
    ),
    Mutant("value rows r and r + 8 swapped", UNIT, "first, rows.at[2 * k] +", "first, rows.at[2 * k + 1] +", "numbers"),
    Mutant("right operand not transposed", UNIT, "multiply_16x32x16<true>(", "multiply_16x32x16<false>(", "numbers"),
    Mutant("right operand transposed", UNIT, "multiply_16x32x16<false>(", "multiply_16x32x16<true>(", "numbers"),
    Mutant("query of the first product", UNIT, "a.left(m, 2 * k + e)", "a.left(m, 2 * k)", "numbers"),
    Mutant("weights of the first keys", UNIT, "a.left(m, k),", "a.left(m, 0),", "numbers"),
    Mutant(
        "columns of an 8x8 fragment", UNIT, "j / 2 * 16 + lane.column * 2 + j % 2 * 2", "j * 8 + lane.column", "numbers"
    ),
    Mutant("columns in their own order", UNIT, "c / 2 * kChunk + j % 4 * 2 + c % 2", "j % 4 * 8 + c", "checker"),
    # weights and their sums
    Mutant(
        "weights cut",
        UNIT,
        "return as_type<float2>((min(as_type<uint2>(weights), 0x7fffefffu) + 0x1000u) & 0xffffe000u);",
        "return weights;",
        "numbers",
    ),
    Mutant(
        "exact sum forgotten",
        SOFTMAX,
        "if (keeps_exact_sum()) exact_sum.at[i] += exact[0] + exact[1];",
        "if (keeps_exact_sum()) exact_sum.at[i] += weight[0] + weight[1];",
        "numbers",
    ),
    Mutant(
        "exact sum not rescaled", SOFTMAX, "if (keeps_exact_sum()) exact_sum.at[i] *= rescale.at[i];", "", "numbers"
    ),
    Mutant(
        "lse of the rounded sum", MAIN, "softmax.finish_exact(score.scale)", "softmax.finish(score.scale)", "numbers"
    ),
    Mutant(
        "exact sum of one key group",
        EXCHANGE,
        "other_exact = slot[(i * kRowPairs + 1) * kSimdWidth][0];",
        ";",
        "numbers",
    ),
    Mutant("memory without the exact sum", EXCHANGE, "return rounds ? 2 : 1;", "return 1;", "numbers"),
    # rows and columns in memory
    Mutant("unit's missing rows: never", UNIT, "} else if (rows.count() >= kRows) {", "} else if (true) {", "checker"),
    Mutant("unit's last row not held", UNIT, "rows.count() - 1) - lane.row)", "rows.count()) - lane.row)", "checker"),
    Mutant("unit's missing columns", UNIT, "    rows.columns -= column;\n", "", "checker"),
    Mutant(
        "unit's columns of the first slice", UNIT, "slice * kSliceColumns + key_column(0", "key_column(0", "numbers"
    ),
    Mutant(
        "read query's last row not held",
        UNIT,
        "lane.row, rows.count - 1)) + column",
        "lane.row, rows.count)) + column",
        "checker",
    ),
    Mutant("factor of the read query forgotten", UNIT, "if (factor != 1)", "if (false)", "numbers"),
    # shared code
    Mutant(
        "numbers of another lane",
        UNIT,
        "uint own_bits(uint bits, Lane lane) {",
        "uint own_bits(uint bits, Lane lane) { return bits;",
        "numbers",
    ),
    Mutant("words of the first half of a row", UNIT, "lane.column / 4 * 2", "0", "numbers"),
    Mutant("memory of two votes", MAIN, "kKeepsStep ? kSimdgroups * sizeof(uint2) : 16", "16", "checker"),
]
