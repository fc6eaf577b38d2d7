"""Mutants of what keeps large, tiny and odd numbers right, and the shaders to what every compiler takes."""

from .mutant import Mutant

MAIN, COMBINE, DIRECT = "attention_forward.h", "attention_combine.metal", "blocks_direct.h"
TILE, MASK, SOFTMAX, OVERFLOW = "tile.h", "mask.h", "softmax.h", "overflow.h"
BARRIER = "    threadgroup_barrier(mem_flags::mem_threadgroup);  // "

MUTANTS = [
    # scores
    Mutant(
        "row maximum rounded apart",
        SOFTMAX,
        "fast::exp2(fma(two[0] - row_max.at[i], scale_log2, size.at[i])),\n",
        "fast::exp2(fma(two[0], scale_log2, size.at[i] - row_max.at[i] * scale_log2)),\n",
        "numbers",
    ),
    Mutant("sentinel compared", SOFTMAX, "return sees_keys ? as_type", "return log_max > -1e30f ? as_type", "numbers"),
    Mutant("row maximum starts at -1e30", MASK, "kRowMaxFloor = -1.70141183e38f", "kRowMaxFloor = -1e30f", "numbers"),
    Mutant("masked score of -2e30", MASK, "kMaskedScore = -3.40282347e38f", "kMaskedScore = -2e30f", "numbers"),
    Mutant(
        "parts hand over a logarithm",
        MAIN,
        "float2{softmax.row_max.at[i], exponentials.at[i].sum}",
        "float2{softmax.row_max.at[i] + precise::log2(exponentials.at[i].sum) / score.scale_log2, 1}",
        "numbers",
    ),
    Mutant(
        "-inf as a float",
        SOFTMAX,
        "return sees_keys ? as_type<uint>(log_max + precise::log(sum)) : 0xff800000u;",
        "return as_type<uint>(sees_keys ? log_max + precise::log(sum) : as_type<float>(0xff800000u));",
        "equivalent",
        "clang 19 keeps this choice also under fast math, which allows to drop it",
    ),
    Mutant(
        "infinity as a float",
        OVERFLOW,
        "return (as_type<uint>(sum) & 0x7fffffffu) > 0x7e800000u;",
        "return isinf(sum) || isnan(sum);",
        "fast math",
    ),
    # sums of values that overflow
    Mutant("no second pass", MAIN, "    if (!shrinks) break;\n", "    break;\n", "numbers"),
    Mutant("keys go on in the second pass", MAIN, "    keys.advance(begin - key0);\n", "", "checker"),
    Mutant("values go on in the second pass", MAIN, "    values.advance(begin - key0);\n", "", "checker"),
    Mutant("all rows shrunk", OVERFLOW, "beyond >> i & 1 ? kShrunk : 0", "kShrunk", "numbers"),
    Mutant("no row shrunk", OVERFLOW, "beyond >> i & 1 ? kShrunk : 0", "0", "numbers"),
    Mutant(
        "sums of one column looked at",
        OVERFLOW,
        "size += abs(two[0]) + abs(two[1]);",
        "size += abs(two[0]);",
        "numbers",
    ),
    Mutant("half of a row speaks", OVERFLOW, "  beyond |= simd_shuffle_xor(beyond, 8);\n", "", "numbers"),
    Mutant("no barrier before the vote", OVERFLOW, f"{BARRIER}the memory is free\n", "", "checker"),
    Mutant(
        "no barrier within the key groups' vote",
        OVERFLOW,
        f"  {BARRIER}the first key group has voted\n",
        "",
        "checker",
    ),
    Mutant("no barrier within the vote", OVERFLOW, f"  {BARRIER}all SIMD groups have voted\n", "", "checker"),
    Mutant("SIMD groups vote alone", OVERFLOW, "any = any || votes[other][0];", "any = any;", "checker"),
    Mutant("every key group has its own rows", OVERFLOW, "      beyond = votes[lane_index][0];\n", "", "numbers"),
    Mutant("log-sum-exp of small weights", SOFTMAX, "share = 1 / fast::exp2(size.at[i]);", "share = 1;", "numbers"),
    Mutant(
        "a mean above the largest float",
        OVERFLOW,
        "min(magnitude, 0x7f7fffffu)",
        "magnitude",
        "numbers",
    ),
    # what every compiler takes
    Mutant(
        "chunk copied as a uint",
        DIRECT,
        "*(thread vec<T, 2>*)chunk = *(device const vec<T, 2>*)source;",
        "*(thread uint*)chunk = *(device const uint*)source;",
        "strict check",
    ),
    Mutant(
        "a keyword as a name",
        TILE,
        "larger(int a, int b) { return a > b ? a : b; }",
        "larger(int fragment, int b) { return fragment > b ? fragment : b; }",
        "strict check",
    ),
    Mutant("C++17", MAIN, "if (kKeyGroups > 1) merge", "if constexpr (kKeyGroups > 1) merge", "strict check"),
]
