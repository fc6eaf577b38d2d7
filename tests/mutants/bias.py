"""Mutants of biases and masks: the kernels' part, and the Python that plans, checks and computes without kernels."""

from .mutant import Mutant

BIAS, SEQUENCE = "bias.h", "sequence.h"
PROBLEM, WEIGHTS, ROWS = "planning/problem.py", "cpu/weights.py", "operators/cache_rows.py"
CHECKS = "checks/features.py"

MUTANTS = [
    # elements
    Mutant("mask: inverted", BIAS, "seen == 0 ? kMaskedScore", "seen != 0 ? kMaskedScore", "numbers"),
    Mutant("bias: not added", BIAS, "fma(float(bias), unit, factor * score)", "factor * score", "numbers"),
    Mutant(
        "bias: of any dtype of another unit",
        BIAS,
        "factor, 1 / scale, key0, lane);\n  else",
        "factor, 1, key0, lane);\n  else",
        "numbers",
    ),
    Mutant("bias: product without its factor", BIAS, "factor * score);", "score);", "numbers"),
    Mutant("bias: of the next key", BIAS, "row[kWhole ? key :", "row[kWhole ? key + 1 :", "numbers"),
    Mutant("bias: keys behind the last read", BIAS, "min(key, last)]", "key]", "checker"),
    Mutant("bias: one key too many", BIAS, "max(visible.at[i].end - 1, 0)", "max(visible.at[i].end, 0)", "checker"),
    Mutant(
        "bias: keys before the first read", BIAS, "max(visible.at[i].end - 1, 0)", "(visible.at[i].end - 1)", "checker"
    ),
    Mutant("bias: one for all keys walks", BIAS, " * bias.key_stride - first", " - first", "checker"),
    Mutant("bias: one for all keys walks whole blocks", BIAS, "is_full && bias.key_stride == 1", "is_full", "checker"),
    Mutant("bias: every block whole", BIAS, "is_full && bias.key_stride == 1", "bias.key_stride == 1", "checker"),
    Mutant(
        "bias: no block whole",
        BIAS,
        "is_full && bias.key_stride == 1",
        "false",
        "equivalent",
        "the clamp changes nothing in a whole block",
    ),
    Mutant("mask: a block that hides one key is skipped", BIAS, "shown |= load", "shown = load", "numbers"),
    Mutant("mask: each lane asks for itself", BIAS, "return simd_any(shown != 0);", "return shown != 0;", "checker"),
    Mutant(
        "mask: no block is skipped",
        BIAS,
        "return simd_any(shown != 0);",
        "return true;",
        "equivalent",
        "a hidden block weighs nothing",
    ),
    # rows
    Mutant("bias: of the next token", BIAS, "tile.token(r)) *", "tile.token(r) + 1) *", "checker"),
    Mutant("bias: of the key/value head", BIAS, "tile.head(r) *", "tile.head_kv *", "numbers"),
    Mutant("bias: of the first of the batch", BIAS, "tile.batch * params.bias.batch + ", "", "numbers"),
    Mutant("bias: of the first sequence", BIAS, "(tile.query_start + tile.token(r))", "tile.token(r)", "numbers"),
    Mutant(
        "bias: missing rows read",
        BIAS,
        "min(row0 + i * kFragment + lane.row, tile.rows() - 1)",
        "row0 + i * kFragment + lane.row",
        "checker",
    ),
    Mutant(
        "bias: fp32 as the queries' dtype", BIAS, "bias_is_float ? sizeof(float) : sizeof(T)", "sizeof(T)", "checker"
    ),
    Mutant("mask: as halves", BIAS, "bias_is_mask ? 1 :", "bias_is_mask ? 2 :", "checker"),
    # sequences
    Mutant("always aligned at the last key", SEQUENCE, "int(params.aligns_last) * (", "(", "numbers"),
    Mutant(
        "keys beyond the bias seen",
        SEQUENCE,
        "has_bias ? min(key_length, int(params.bias_keys)) : key_length",
        "key_length",
        "numbers",
    ),
    Mutant(
        "scores smaller once more for a bias beside ALiBi",
        "attention_forward.h",
        "has_alibi ? 1 : score.bias_factor",
        "score.bias_factor",
        "numbers",
    ),
    # the plan
    Mutant("plan: axes of one element walk", PROBLEM, "0 if size == 1 else stride for", "stride for", "checker"),
    Mutant(
        "plan: one bias is that of one key",
        PROBLEM,
        "UNBOUNDED if keys == 1 else keys",
        "keys",
        "numbers",
    ),
    Mutant(
        "plan: tokens and heads change places",
        PROBLEM,
        "batch[0] if batch else 0, token, head),",
        "batch[0] if batch else 0, head, token),",
        "checker",
    ),
    Mutant(
        "plan: no room for a bias",
        PROBLEM,
        "has_bias = problem.bias is not None and",
        "has_bias = False and",
        "numbers",
    ),
    Mutant("plan: fp32 for the queries' dtype", PROBLEM, "dtype == torch.float32,", "False,", "numbers"),
    # the CPU implementation
    Mutant("CPU: mask inverted", WEIGHTS, "return ~attn_bias if", "return attn_bias if", "numbers"),
    Mutant("CPU: blind rows are NaN", WEIGHTS, "        row_max.masked_fill_(blind, 0.0)\n", "", "numbers"),
    Mutant(
        "CPU: blind rows divided by 0",
        WEIGHTS,
        "        row_sum.masked_fill_(blind, 1.0)\n",
        "        pass\n",
        "numbers",
    ),
    Mutant(
        "CPU: blind rows with an lse",
        WEIGHTS,
        "        lse.masked_fill_(blind, -torch.inf)\n",
        "        pass\n",
        "numbers",
    ),
    Mutant(
        "CPU: exact rows of the first sequence's bias",
        WEIGHTS,
        "everything if bias.shape[0] == 1 else sequence",
        "everything if bias.shape[0] == 1 else slice(0, 1)",
        "numbers",
    ),
    Mutant(
        "CPU: exact rows of the first row's bias",
        WEIGHTS,
        "everything if bias.shape[2] == 1 else rows",
        "everything if bias.shape[2] == 1 else slice(0, 1)",
        "numbers",
    ),
    Mutant(
        "CPU: blind rows with a gradient of sinks",
        WEIGHTS,
        "            sink_weights.masked_fill_(blind, 0.0)\n",
        "            pass\n",
        "numbers",
    ),
    # rows of a cache
    Mutant(
        "cache: slots counted from the first key",
        ROWS,
        "+ cache_leftpad.long().clamp(0, slots).view(batch, 1, 1, 1)",
        "+ 0 * cache_leftpad.long().view(batch, 1, 1, 1)",
        "numbers",
    ),
    Mutant(
        "cache: tokens before sequences",
        ROWS,
        "attn_bias.expand(batch, -1, seqlen_q, -1).transpose(0, 1).flatten(1, 2)",
        "attn_bias.expand(batch, -1, seqlen_q, -1).permute(1, 2, 0, 3).flatten(1, 2)",
        "numbers",
    ),
    # checks
    Mutant("check: too few keys taken", CHECKS, "shape[-1] < keys:", "shape[-1] < 1:", "numbers"),
    Mutant("check: too few rows taken", CHECKS, "size in (1, axis) for", "size <= axis for", "numbers"),
    Mutant("check: float64 beyond fp32 hides", CHECKS, "attn_bias.clamp(-largest, largest)", "attn_bias", "numbers"),
]
