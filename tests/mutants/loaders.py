"""Mutants of the ways from device memory to the matrix products and back."""

from .mutant import Mutant

MAIN, TILE, STAGED, DIRECT = "attention_forward.metal", "tile.h", "blocks_staged.h", "blocks_direct.h"

MUTANTS = [
    # rows of queries and outputs
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
        "equivalent",
        "a missing row is read as the last one, and not stored",
    ),
    Mutant(
        "query rows: all",
        TILE,
        "const bool exists = r < rows.count;",
        "const bool exists = true;",
        "equivalent",
        "a missing row is read as the last one, and not stored",
    ),
    Mutant(
        "heads of a group swapped", TILE, "(r % group_size) * head_stride", "(r / group_size) * head_stride", "checker"
    ),
    Mutant("token of a row", TILE, "(r / group_size) * token_stride", "(r % group_size) * token_stride", "checker"),
    Mutant("lane rows", TILE, "(quad & 4) + (short(lane) / 2) % 4", "(quad & 4) + (short(lane) / 2) % 2", "checker"),
    Mutant(
        "lane columns", TILE, "(quad & 2) * 2 + (short(lane) % 2) * 2", "(quad & 2) + (short(lane) % 2) * 2", "checker"
    ),
    Mutant(
        "lane rows and columns swapped",
        TILE,
        "return {short((quad & 4) + (short(lane) / 2) % 4), short((quad & 2) * 2 + (short(lane) % 2) * 2)};",
        "return {short((quad & 2) * 2 + (short(lane) % 2) * 2), short((quad & 4) + (short(lane) / 2) % 4)};",
        "checker",
    ),
    Mutant("unaligned query as vectors", TILE, "if (exists && is_aligned && next", "if (exists && next", "checker"),
    Mutant("query pairs that are not adjacent", TILE, " && next == column + 1 &&", " &&", "checker"),
    Mutant(
        "missing query columns as vectors",
        TILE,
        "next == column + 1 && has_column(rows.columns, column)",
        "next == column + 1",
        "checker",
    ),
    Mutant("missing query column", TILE, "if (has_column(rows.columns, column)) pair[0]", "pair[0]", "checker"),
    Mutant("missing next query column", TILE, "if (has_column(rows.columns, next)) pair[1]", "pair[1]", "checker"),
    Mutant("next query column in memory", TILE, "pair[1] = source[next];", "pair[1] = source[column + 1];", "numbers"),
    Mutant("sign of the scale", TILE, "T(factor * float(pair[0])), T(factor", "T(float(pair[0])), T(factor", "numbers"),
    Mutant(
        "unaligned output as vectors",
        TILE,
        "if (is_aligned && has_column(rows.columns, column)) {\n          *(device",
        "if (has_column(rows.columns, column)) {\n          *(device",
        "checker",
    ),
    Mutant(
        "missing output columns as vectors",
        TILE,
        "if (is_aligned && has_column(rows.columns, column)) {\n          *(device",
        "if (is_aligned) {\n          *(device",
        "checker",
    ),
    Mutant(
        "missing output column",
        TILE,
        "if (has_column(rows.columns, column)) target[column]",
        "target[column]",
        "checker",
    ),
    Mutant(
        "missing next output column",
        TILE,
        "if (has_column(rows.columns, column + 1)) target",
        "if (has_column(rows.columns, column)) target",
        "checker",
    ),
    Mutant(
        "output in the order of memory",
        TILE,
        "ValueTile::value_column(j, lane.column);",
        "j * kFragment + lane.column;",
        "numbers",
    ),
    Mutant(
        "query in the order of memory",
        TILE,
        "column = KeyTile::key_column(j, lane.column), next = KeyTile::key_column(j, lane.column + 1);",
        "column = j * kFragment + lane.column, next = column + 1;",
        "numbers",
    ),
    # rows of keys and values
    Mutant("block's first token stays", MAIN, "keys.first = values.first = key0;", "", "numbers"),
    Mutant("number of keys stays", TILE, "return length - first;", "return length;", "checker"),
    Mutant("first key stays", TILE, "    if (!is_paged) data += tokens * stride;\n", "", "numbers"),
    Mutant("first page moves", TILE, "if (!is_paged) data += tokens", "data += tokens", "checker"),
    Mutant("page of the block's first token", TILE, "pages.id(token) *", "pages.id(first) *", "numbers"),
    Mutant("page in the block", TILE, "token = first + r;", "token = r;", "numbers"),
    # staged
    Mutant(
        "no padding of shared rows",
        STAGED,
        "kStride = kColumns + kChunk;",
        "kStride = kColumns;",
        "equivalent",
        "padding only keeps rows out of the same banks",
    ),
    Mutant(
        "shared rows too close",
        STAGED,
        "target += kRowStep * Tile::kStride;",
        "target += kRowStep * (Tile::kStride - Tile::kChunk);",
        "checker",
    ),
    Mutant("shared memory too small", STAGED, "kBytes = kRows * kStride", "kBytes = (kRows - 1) * kStride", "checker"),
    Mutant("fragments of the first slice", STAGED, " + slice * (kColumns / kSlices);", ";", "numbers"),
    Mutant(
        "fragment rows and columns swapped",
        STAGED,
        "i * kFragment * kStride + j * kFragment",
        "j * kFragment * kStride + i * kFragment",
        "checker",
    ),
    Mutant(
        "fragments overlap", STAGED, "i * kFragment * kStride + j * kFragment", "i * kFragment * kStride + j", "numbers"
    ),
    Mutant("keys not transposed", STAGED, "ulong2(0, 0), true);", "ulong2(0, 0), false);", "numbers"),
    Mutant("key rows and columns swapped", STAGED, "b.frag(n, k)", "b.frag(k, n)", "checker"),
    Mutant("value rows and columns swapped", STAGED, "b.frag(k, n)", "b.frag(n, k)", "checker"),
    Mutant(
        "staged query columns reversed",
        STAGED,
        "key_column(short j, short c) { return j * kFragment + c; }",
        "key_column(short j, short c) { return j * kFragment + 7 - c; }",
        "numbers",
    ),
    Mutant(
        "staged output columns reversed",
        STAGED,
        "value_column(short j, short c) { return j * kFragment + c; }",
        "value_column(short j, short c) { return j * kFragment + 6 - c; }",
        "numbers",
    ),
    Mutant(
        "unaligned rows as vectors",
        STAGED,
        "if (is_aligned) {\n    *(threadgroup",
        "if (true) {\n    *(threadgroup",
        "checker",
    ),
    Mutant(
        "one element of a chunk",
        STAGED,
        "has_column(count, e) ? source[e] :",
        "has_column(count, e) ? source[e + 1] :",
        "checker",
    ),
    Mutant("missing elements of a chunk", STAGED, "has_column(count, e) ? source[e] : T(0)", "source[e]", "checker"),
    Mutant(
        "chunk's place forgotten",
        STAGED,
        "copy_chunk(target, source, rows.columns - column);",
        "copy_chunk(target, source, rows.columns);",
        "checker",
    ),
    Mutant(
        "left-over threads stay",
        STAGED,
        "  if (row >= kRowStep) return;  // left over where rows do not divide the threads\n",
        "",
        "checker",
    ),
    Mutant(
        "threads start at one row", STAGED, "rows.data + row * rows.stride + column;", "rows.data + column;", "numbers"
    ),
    Mutant(
        "threads store at one row",
        STAGED,
        "tile.data + row * Tile::kStride + column;",
        "tile.data + column;",
        "checker",
    ),
    Mutant("whole with a row missing", STAGED, "rows.count() >= kRows;", "rows.count() >= kRows - 1;", "checker"),
    Mutant(
        "never whole",
        STAGED,
        "is_whole = rows.count() >= kRows;",
        "is_whole = false;",
        "equivalent",
        "it only saves comparisons",
    ),
    Mutant("missing keys: one row too few", STAGED, "r + row < rows.count())", "r + row <= rows.count())", "checker"),
    Mutant("missing keys: never", STAGED, "(is_whole || r + row < rows.count()) && ", "", "checker"),
    Mutant(
        "missing keys: one row too many", STAGED, "r + row < rows.count())", "r + row + 1 < rows.count())", "numbers"
    ),
    Mutant("missing chunks read", STAGED, " && has_column(rows.columns, column)) {", ") {", "checker"),
    Mutant("missing keys are not zeroed", STAGED, "*(threadgroup float4*)target = float4(0);", ";", "checker"),
    Mutant(
        "missing keys are 1",
        STAGED,
        "*(threadgroup float4*)target = float4(0);",
        "*(threadgroup float4*)target = float4(1);",
        "equivalent",
        "the weights of missing keys and the query's missing columns are exactly 0: any finite number does",
    ),
    Mutant(
        "staging one step longer", STAGED, "r < kRows; r += kRowStep", "r < kRows + kRowStep; r += kRowStep", "checker"
    ),
    Mutant(
        "staging one step shorter", STAGED, "r < kRows; r += kRowStep", "r < kRows - kRowStep; r += kRowStep", "checker"
    ),
    Mutant("staging past the last row", STAGED, "kRows % kRowStep == 0 || r + row < kRows", "true", "checker"),
    Mutant(
        "pages not looked up",
        STAGED,
        "        if (is_paged) source = rows.paged_row(r + row) + column;\n",
        "",
        "numbers",
    ),
    Mutant(
        "pages of the first step", STAGED, "rows.paged_row(r + row) + column", "rows.paged_row(row) + column", "numbers"
    ),
    Mutant("staged source stays", STAGED, "    source += kRowStep * rows.stride;\n", "", "numbers"),
    # direct
    Mutant(
        "narrower loads of values",
        DIRECT,
        "chunk_of(16 / sizeof(T), kSliceColumns / 4)",
        "chunk_of(8 / sizeof(T), kSliceColumns / 4)",
        "equivalent",
        "the same elements, in more loads",
    ),
    Mutant("key columns not permuted", DIRECT, "c * kKeyChunk + j % kKeyChunk", "c + j % kKeyChunk * 8", "checker"),
    Mutant("key chunks overlap", DIRECT, "j / kKeyChunk * kKeyChunk * 8", "j / kKeyChunk * 8", "numbers"),
    Mutant(
        "value columns not permuted",
        DIRECT,
        "c / 2 * kValueChunk + j % kFragments * 2",
        "c + j % kFragments * 8",
        "checker",
    ),
    Mutant(
        "value chunks overlap",
        DIRECT,
        "j / kFragments * kValueChunk * 4",
        "j / kFragments * kValueChunk * 2",
        "checker",
    ),
    Mutant(
        "odd value columns",
        DIRECT,
        "j % kFragments * 2 + c % 2",
        "j % kFragments * 2",
        "equivalent",
        "only the even column of a pair is asked for",
    ),
    Mutant("direct rows of the block's start", DIRECT, "rows.data + first * rows.stride", "rows.data", "numbers"),
    Mutant("last page not held", DIRECT, "min(int(first), rows.count() - 1)", "int(first)", "checker"),
    Mutant(
        "last page held one key late",
        DIRECT,
        "min(int(first), rows.count() - 1)",
        "min(int(first), rows.count())",
        "checker",
    ),
    Mutant(
        "other row is the missing one", DIRECT, "other = is_paged ? start : rows.data;", "other = start;", "checker"
    ),
    Mutant(
        "direct missing keys: one row too few",
        DIRECT,
        "first + r < rows.count() ?",
        "first + r <= rows.count() ?",
        "checker",
    ),
    Mutant("direct missing keys: never", DIRECT, "first + r < rows.count() ?", "true ?", "checker"),
    Mutant(
        "direct missing keys: one row too many",
        DIRECT,
        "first + r < rows.count() ?",
        "first + r + 1 < rows.count() ?",
        "numbers",
    ),
    Mutant("direct rows of a fragment", DIRECT, "? start + r * rows.stride :", "? start :", "numbers"),
    Mutant("direct columns of the first slice", DIRECT, ": other) + slice * kSliceColumns;", ": other);", "numbers"),
    Mutant(
        "direct columns past the slice's",
        DIRECT,
        "return rows.columns - slice * kSliceColumns;",
        "return rows.columns;",
        "checker",
    ),
    Mutant("direct missing chunks read", DIRECT, "kCount >= 2 && !has_column(columns, 0)", "false", "checker"),
    Mutant(
        "half a chunk of 16 bytes",
        DIRECT,
        "*(thread uint4*)chunk = *(device const uint4*)source;",
        "*(thread uint2*)chunk = *(device const uint2*)source;",
        "numbers",
    ),
    Mutant(
        "unaligned chunks as vectors", DIRECT, "else if (is_aligned && kCount == 2)", "else if (kCount == 2)", "checker"
    ),
    Mutant("direct missing columns", DIRECT, "has_column(columns, e) ? source[e] : T(0)", "source[e]", "checker"),
    Mutant("second key is the first", DIRECT, "lane.column + 1);", "lane.column);", "numbers"),
    Mutant("key pairs swapped", DIRECT, "{first[e], second[e]}", "{second[e], first[e]}", "numbers"),
    Mutant(
        "key columns of the lane's column",
        DIRECT,
        "b.key_column(k, lane.row)",
        "b.key_column(k, lane.column)",
        "numbers",
    ),
    Mutant("query fragment of the chunk's start", DIRECT, "a.frag[m][k + e]", "a.frag[m][k]", "numbers"),
    Mutant(
        "first key's columns not counted",
        DIRECT,
        "first_row + column, b.columns() - column",
        "first_row + column, b.columns()",
        "numbers",
    ),
    Mutant(
        "value rows by column", DIRECT, "b.row(k * kFragment, lane.row)", "b.row(k * kFragment, lane.column)", "numbers"
    ),
    Mutant(
        "value pairs of one element",
        DIRECT,
        "{pairs[2 * e], pairs[2 * e + 1]}",
        "{pairs[2 * e], pairs[2 * e]}",
        "numbers",
    ),
    Mutant(
        "value columns not counted",
        DIRECT,
        "load_chunk<kChunk>(pairs, row + column, b.columns() - column);",
        "load_chunk<kChunk>(pairs, row + column, b.columns());",
        "checker",
    ),
    Mutant(
        "output fragment of the chunk's start",
        DIRECT,
        "simdgroup_multiply_accumulate(c.frag[m][n + e], a.frag[m][k], b_fragment, c.frag[m][n + e]);",
        "simdgroup_multiply_accumulate(c.frag[m][n], a.frag[m][k], b_fragment, c.frag[m][n]);",
        "numbers",
    ),
]
