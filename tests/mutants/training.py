"""Mutants of what the forward does for training: dropout, and the numbers that the backward forms the weights from."""

from .mutant import Mutant

MAIN, COMBINE, SOFTMAX, DROPOUT = "attention_forward.h", "attention_combine.metal", "softmax.h", "dropout.h"
KEPT = "Kept<kRows> kept = kept_weights<kBlockN>(dropout, key0, lane);"

MUTANTS = [
    Mutant("six rounds", DROPOUT, "kPhiloxRounds = 7", "kPhiloxRounds = 6", "numbers"),
    Mutant("one key for all rounds", DROPOUT, "key += uint2{0x9E3779B9u, 0xBB67AE85u};", "", "numbers"),
    Mutant("half of the seed", DROPOUT, "uint(params.seed >> 32)", "0", "numbers"),
    Mutant("mask of the first sequence", DROPOUT, "sequence = sequence_;", "sequence = 0;", "numbers"),
    Mutant("mask of rows, not tokens", DROPOUT, "token[i] = row / heads_per_kv;", "token[i] = row;", "numbers"),
    Mutant("mask of the group's head", DROPOUT, "first_head + row % heads_per_kv", "row % heads_per_kv", "numbers"),
    Mutant("numbers of the first block of keys", DROPOUT, "uint(key0 + first) / 32 * 4 +", "", "numbers"),
    Mutant("numbers of the first column", DROPOUT, "+ lane.column / 2", "", "numbers"),
    Mutant("words of the first half", DROPOUT, "if (kWords <= 2 && (key0 & 16)) words = words.zwxy;", "", "numbers"),
    Mutant("words of the first quarter", DROPOUT, "if (kWords == 1 && (key0 & 8)) words = words.yxwz;", "", "numbers"),
    Mutant("bits of two counters in one place", DROPOUT, "(first / kFragment + word)", "word", "numbers"),
    Mutant("halves of a word exchanged", DROPOUT, "(low | high << 1)", "(high | low << 1)", "numbers"),
    Mutant("dropped weights kept", DROPOUT, "bits & 1 ? two[0] : 0", "bits & 1 ? 0 : two[0]", "numbers"),
    Mutant("mask of the next block", MAIN, KEPT, KEPT.replace("key0", "key0 + kBlockN"), "numbers"),
    Mutant("kept weights do not grow", DROPOUT, "65536 / float(params.threshold)", "1.0f", "numbers"),
    Mutant("factor of parts and of the whole", MAIN, "has_dropout && !is_split ?", "has_dropout ?", "numbers"),
    Mutant("no factor of joined parts", COMBINE, "if (has_dropout) value *= dropout_factor(dropout);", "", "numbers"),
    Mutant(
        "factor that fast math takes apart",
        DROPOUT,
        "as_type<float>(max(as_type<uint>(65536 / float(params.threshold)), 0x3f800000u))",
        "65536 / float(params.threshold)",
        "fast math",
    ),
    Mutant(
        "dropped before they are summed",
        MAIN,
        "RowVector<kRows> rescale;",
        f"{KEPT.replace('kept =', 'early =')} if (has_dropout) drop(scores, early); RowVector<kRows> rescale;",
        "numbers",
    ),
    Mutant("log2_sum without a large sink", SOFTMAX, "M_LOG2E_F * raised + ", "", "numbers"),
    Mutant("natural logarithm", SOFTMAX, "precise::log2(sum)", "precise::log(sum)", "numbers"),
    Mutant("infinite log2_sum", SOFTMAX, "min(distance, kLargestRise)", "distance", "numbers"),
    Mutant("weights of a row without keys", SOFTMAX, "float2{kRowMaxFloor, kLogOfNoKey}", "float2{0, 0}", "numbers"),
    Mutant("row_max of the first parts", COMBINE, "row_softmax(largest,", "row_softmax(part_max[0],", "numbers"),
    Mutant("row_softmax of the first slice's rows", MAIN, "row_softmax[index]", "row_softmax[row]", "checker"),
]
