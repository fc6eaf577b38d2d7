"""Mutants of the kernel that appends to a cache."""

from .mutant import Mutant

FILE = "cache_append.metal"

MUTANTS = [
    Mutant("append: behind the cache", FILE, "|| at >= params.capacity", "", "checker"),
    Mutant("append: before the cache", FILE, "|| at < 0 ", "", "numbers"),
    Mutant("append: a place too many", FILE, "place >= params.places", "place > params.places", "checker"),
    Mutant("append: negative places", FILE, "place < 0 || ", "", "checker"),
    Mutant("append: a token too many", FILE, "token >= params.new_tokens || ", "", "checker"),
    Mutant("append: a query too many", FILE, " || token >= params.query_tokens", "", "checker"),
    Mutant("append: a head too many", FILE, "head >= params.num_heads || ", "", "checker"),
    Mutant("append: angles behind the last", FILE, "max(params.angles - 1, long(0))", "params.capacity * 2", "checker"),
    Mutant("append: places of the first sequence", FILE, "sequence * params.place_stride + ", "", "numbers"),
    Mutant("append: the first page", FILE, " + at / params.page_size", "", "numbers"),
    Mutant("append: slots of the first page", FILE, "at % params.page_size", "at", "numbers"),
    Mutant("append: rows in order", FILE, "if (params.place_stride > 0)", "if (params.place_stride > 9)", "numbers"),
    Mutant("append: half of an int64", FILE, "index, long words) {", "index, long) { const long words = 1;", "checker"),
    Mutant(
        "append: the high word extended", FILE, "ulong(uint(values[2 * index]))", "ulong(values[2 * index])", "numbers"
    ),
    Mutant(
        "append: lengths saturate",
        FILE,
        "int(uint(given) + uint(params.new_tokens))",
        "int(clamp(given + params.new_tokens, long(0), params.capacity))",
        "numbers",
    ),
    Mutant("append: queries by the first", FILE, "token * params.query_step", "0", "numbers"),
    Mutant("append: angles of the first position", FILE, "sines += angle * params.sine_stride;", "", "numbers"),
    Mutant("append: turned backwards", FILE, "x_sine + y_cosine", "y_cosine - x_sine", "numbers"),
    Mutant(
        "append: rounded in between", FILE, "= float(source[first])", "= float(T(1.25f) * source[first])", "numbers"
    ),
    Mutant("append: every pair side by side", FILE, "int(params.pair_distance)", "1", "checker"),
    Mutant("append: nothing but the rotated", FILE, "column < columns", "column < 2 * pairs", "numbers"),
    Mutant("append: a column too many", FILE, "column < columns", "column <= columns", "checker"),
    Mutant("append: lanes of a smaller group", FILE, "pair += kSimdWidth", "pair += 2 * kSimdWidth", "numbers"),
    Mutant(
        "append: values rotated, too",
        FILE,
        "params.value_dim, 0, cosines",
        "params.value_dim, pairs, cosines",
        "checker",
    ),
    Mutant("append: values like keys", FILE, "params.value_dim, 0,", "head_dim, 0,", "checker"),
]
