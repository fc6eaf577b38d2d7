"""Mutants of what the forward kernel's features add: scores, pages, used lengths, split keys."""

from .mutant import Mutant

MAIN, COMBINE = "attention_forward.h", "attention_combine.metal"
TILE, MASK, SOFTMAX, SCORE, PAGES, SEQUENCE = "tile.h", "mask.h", "softmax.h", "score.h", "pages.h", "sequence.h"

MUTANTS = [
    # scores
    Mutant("no softcap", MAIN, "if (has_softcap) apply_softcap(scores, score.tanh_scale);", "", "numbers"),
    Mutant("cap after the mask", SCORE, "precise::tanh(tanh_scale * score)", "tanh_scale * score", "numbers"),
    Mutant(
        "distance with a sign",
        SCORE,
        "float(abs(alibi.position[i] - key))",
        "float(alibi.position[i] - key)",
        "numbers",
    ),
    Mutant(
        "slope of the next head", SCORE, "slopes[row % heads_per_kv]", "slopes[(row + 1) % heads_per_kv]", "numbers"
    ),
    Mutant(
        "slope in the wrong unit", SCORE, "slopes[row % heads_per_kv] / scale", "slopes[row % heads_per_kv]", "numbers"
    ),
    Mutant("bias of the wrong place", SCORE, "row / heads_per_kv + diagonal", "row / heads_per_kv", "numbers"),
    Mutant("scores without the factor of the bias", SCORE, "factor * score);", "score);", "numbers"),
    Mutant("sink of another unit", SOFTMAX, "-M_LOG2E_F * abs(distance)", "-abs(distance)", "numbers"),
    Mutant("a large sink does not count", SOFTMAX, "if (distance > 0)", "if (false)", "numbers"),
    Mutant("values beside a large sink keep their share", SOFTMAX, "share * smaller, min", "share, min", "numbers"),
    Mutant(
        "sink of the next head",
        SOFTMAX,
        "lane.row) % heads_per_kv]",
        "lane.row + 1) % heads_per_kv]",
        "numbers",
    ),
    Mutant("lse of a row without keys", MAIN, "= softmax.row_sum.at[i] != 0;", "= true;", "numbers"),
    # head dims without a kernel of their own
    Mutant("missing columns read", TILE, "return !is_padded || column < columns;", "return true;", "checker"),
    Mutant("one column too many", TILE, "!is_padded || column < columns", "!is_padded || column <= columns", "checker"),
    # pages and used lengths
    Mutant(
        "page ids not clamped",
        PAGES,
        "clamp(block_table[token / size], 0, count - 1)",
        "block_table[token / size]",
        "checker",
    ),
    Mutant("page of the next key", PAGES, "block_table[token / size]", "block_table[(token + 1) / size]", "checker"),
    Mutant("place in the page", TILE, "(token % pages.size) * stride", "token * stride", "checker"),
    Mutant(
        "used lengths not clamped",
        MAIN,
        "clamp(seqused_k[tile.sequence], 0, tile.key_length)",
        "seqused_k[tile.sequence]",
        "checker",
    ),
    Mutant("used length of the first", MAIN, "seqused_k[tile.sequence]", "seqused_k[0]", "numbers"),
    Mutant("paged length not clamped", SEQUENCE, "int(min(max(keys, long(0)), long(total_k)))", "int(keys)", "checker"),
    Mutant(
        "pages of the first sequence",
        PAGES,
        "block_table + sequence * params.block_table_stride",
        "block_table",
        "numbers",
    ),
    # split keys
    Mutant(
        "splits overlap", MASK, "min(begin + share, blocks.end)", "min(begin + share + block, blocks.end)", "numbers"
    ),
    Mutant(
        "splits leave a gap",
        MASK,
        "blocks.begin + split * share,",
        "blocks.begin + split * (share + block),",
        "numbers",
    ),
    Mutant(
        "splits write one place",
        MAIN,
        "(device float*)output + position.z * params.output_split_stride",
        "(device float*)output",
        "checker",
    ),
    Mutant(
        "splits write one lse",
        MAIN,
        "(device float2*)lse + position.z * params.lse_split_stride",
        "(device float2*)lse",
        "checker",
    ),
    Mutant(
        "parts not weighted", COMBINE, "fast::exp2((part_max[part] - largest) * score.scale_log2)", "1.0f", "numbers"
    ),
    Mutant("parts not normalised", COMBINE, "share[part] *= exponentials.inverse()", "share[part] *= 1", "numbers"),
    Mutant("weight of another part", COMBINE, "ushort(split)", "ushort(split ^ 1)", "numbers"),
    Mutant("every thread joins all parts", COMBINE, "split += threads.y, source", "split++, source", "checker"),
    Mutant("all threads start at the first part", COMBINE, "source += first * part_stride;", "", "numbers"),
    Mutant("sums of other threads left out", COMBINE, "value += sums[other * threads.x + column];", ";", "numbers"),
    Mutant(
        "sums read before they are there", COMBINE, "threadgroup_barrier(mem_flags::mem_threadgroup);", "", "checker"
    ),
    Mutant("joined without the sink", COMBINE, "if (has_sinks) exponentials", "if (false) exponentials", "numbers"),
    Mutant("one column too many joined", COMBINE, "if (column < value_dim) target", "if (true) target", "checker"),
]
