"""Cursors: what libclang gives of a text at once is what it gives part by part."""

import pytest
from clang.cindex import CursorKind
from metal_simulator import Library
from metal_simulator.translate import cursors, reading

TEXT = """
#include <metal_stdlib>
using namespace metal;

struct Node {
  device Node* next;  // names the class that it is a part of
  int count;
};

template <typename T>
struct Pair {
  T first, second;
  template <typename U>
  Pair(U both) : first(static_cast<T>(both)), second(static_cast<T>(both)) {}
};

__attribute__((always_inline)) inline int twice(int x, constant int* table) {
  for (int i = 0; i < 2; i++) x += table[i] > 0 ? x : (x, i);
  return x;
}

kernel void f(device float* out [[buffer(0)]], constant int* table [[buffer(1)]]) {
  auto add = [&](float a) { return a + 1; };
  out[0] = add(float(twice(3, table)));
  switch (table[0]) {
    case 1: out[1] = 2; break;
    default: do { out[1] += 1; } while (out[1] < 9);
  }
}
"""


@pytest.fixture
def unit(tmp_path):
    """The text as libclang reads it, no part of which has been asked for."""
    path = tmp_path / "text.metal"
    path.write_text(TEXT)
    text, declarations = Library(path)._read
    source = reading._readable(text, declarations, [], reading._brackets(declarations.tokens))
    unit = reading._parse(source, False)
    cursors.number_places(unit, len(source))
    return unit


def tree(cursor, depth=0) -> list:
    """A line for each of its parts."""
    here = "  " * depth, cursor.kind.name, cursor.spelling, cursors.span(cursor), cursor.type.spelling
    is_leaf = cursor.kind == CursorKind.INTEGER_LITERAL  # that of a `case` holds itself, if asked for at once
    parts = [] if is_leaf else cursors.children(cursor)
    return [here, *(line for part in parts for line in tree(part, depth + 1))]


def own(unit) -> list:
    return [cursor for cursor in unit.cursor.get_children() if cursors.is_own(cursor)]


def test_all_parts_at_once(unit) -> None:
    one_by_one = list(map(tree, own(unit)))
    whole = list(map(cursors.with_all_parts, own(unit)))
    assert all(hasattr(cursor, "_children") for cursor in whole)
    assert list(map(tree, whole)) == one_by_one
    assert "CXX_STATIC_CAST_EXPR" in str(one_by_one)


def test_parts_of_nothing_known_are_asked_one_by_one(unit, monkeypatch) -> None:
    one_by_one = list(map(tree, own(unit)))
    monkeypatch.setattr(cursors, "_identity", lambda cursor: object())
    assert [tree(cursors.with_all_parts(cursor)) for cursor in own(unit)] == one_by_one
