"""Member functions that differ by their object's address space, and pointers and references to what they give.

libclang does not tell them apart: what it refuses for an address space alone, clang judges; the rest is read as ever.
"""

import numpy as np
import pytest
from metal_simulator import CompileError

ROW = """
struct Row {
  float e[4];
  thread float& at(int i) thread { return e[i]; }
  threadgroup float& at(int i) threadgroup { return e[i]; }
  thread float& operator[](int i) thread { return e[i]; }
  threadgroup float& operator[](int i) threadgroup { return e[i]; }
  thread float* all() thread { return e; }
  threadgroup float* all() threadgroup { return e; }
};
struct Part { threadgroup float* to; Part(threadgroup Row& r, bool2 at) : to(&r[at.y]) {} };
float first(threadgroup const float* p, int2 i) { return p[i.x]; }
float next(threadgroup const float& p, int2 i) { return p + i.x; }
threadgroup float* second(threadgroup Row& r) { return &r.at(1); }
template <typename T> T fourth(threadgroup const T* p, T over) { return p[0] + over; }
struct Reader { float of(threadgroup const float* p) const { return *p; } };
template <typename T> T third(threadgroup T& row, int2 a, int2 b) {
  threadgroup float* p = &row[(a < b).y];
  threadgroup float& q = row.at((a < b).x);
  T copy;
  copy[0] = *p + q;
  return copy;
}
"""
# Each gives row[1], which is 1; comparisons of vectors, which are at work in them, would give row[-1] in clang's way.
CASES = {
    "a pointer": "threadgroup float* p = &row[(a < b).y]; x[0] = *p;",
    "a pointer to constant": "threadgroup const float* p = &row[(a < b).y]; x[0] = *p;",
    "a reference": "threadgroup float& p = row.at((a < b).y); x[0] = p;",
    "an alias of a pointer": "using P = threadgroup float*; P p = &row[(a < b).y]; x[0] = *p;",
    "an assignment": "threadgroup float* p = nullptr; p = &row[(a < b).y]; x[0] = *p;",
    "of two": "threadgroup float* q = row.all(); threadgroup float* p = a.x < 0 ? q : &row[(a < b).y]; x[0] = *p;",
    "what is returned": "x[0] = *second(row);",
    "an array": "threadgroup float* p = row.all(); x[0] = p[(a < b).y];",
    "an argument": "x[0] = first(&row[0], int2(a < b).yx);",
    "an argument that is a reference": "x[0] = next(row[0], int2(a < b).yx);",
    "an argument of a template": "x[0] = fourth(&row[(a < b).y], 0.0f);",
    "a cast": "x[0] = ((threadgroup Row*)&row[(a < b).y])->at((a < b).x);",
    "a reinterpret_cast": "x[0] = reinterpret_cast<threadgroup Row*>(&row[(a < b).y])->at((a < b).x);",
    "a reinterpret_cast to a vector": "x[0] = reinterpret_cast<threadgroup const float2&>(row[(a < b).x]).y;",
    "of a member function": "x[0] = Reader().of(&row[(a < b).y]);",
    "in front of a constructor's body": "x[0] = *Part(row, a < b).to;",
    "in a template": "x[0] = third(row, a, b)[0];",
}
KERNEL = """
kernel void k(device float* x) {
  threadgroup Row row;
  Row own;
  for (int i = 0; i < 4; i++) row.e[i] = own.e[i] = i;
  int2 a = int2(x[1]), b = int2(2, 3);
  %s
}"""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_to_threadgroup_memory(written, body):
    library = written(ROW + KERNEL % body)
    assert [str(d) for d in library.check() if d.severity == "error"] == []
    x = np.array([-1, 2], np.float32)
    library.kernel("k").launch([x], (1, 1, 1), (1, 1, 1))
    assert x[0] == 1


WRONG = {
    "an unknown name": "threadgroup float* p = &row[nowhere(a)]; x[0] = *p;",
    "an unknown function": "threadgroup float* p = nowhere(a); x[0] = *p;",
    "an unknown member": "threadgroup float& p = row.at(a.none); x[0] = p;",
    "another type": "threadgroup int* p = &row[1]; x[0] = *p;",
    "another address space": "threadgroup float* p = &own[1]; x[0] = *p;",
    "a reference to another address space": "threadgroup float& p = own.at(1); x[0] = p;",
    "an assignment": "threadgroup float* p; p = &own[1]; x[0] = *p;",
    "an assignment of another type": "threadgroup int* p; p = &row[1]; x[0] = *p;",
    "an argument": "x[0] = first(&own[0], a);",
    "an argument beside": "x[0] = first(&row[0], row);",
    "an argument of a template": "x[0] = fourth(&own[0], 0.0f);",
    "an argument of a template beside": "x[0] = fourth(&row[0], row);",
    "a reinterpret_cast": "threadgroup float* p = reinterpret_cast<threadgroup float*>(&own[0]); x[0] = *p;",
    "an array": "threadgroup float* p = own.all(); x[0] = *p;",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_with_its_line(written, body):
    library = written(ROW + KERNEL % body)
    line = next(i for i, text in enumerate(library.source.path.read_text().splitlines(), 1) if body in text)
    assert {d.line for d in library.check() if d.severity == "error"} == {line}
    with pytest.raises(CompileError) as error:
        library.kernel("k")
    assert {d.line for d in error.value.diagnostics} == {line}


def test_what_libclang_alone_refuses_is_an_error_there(written):
    """clang would take it, but nobody has looked at what is in it."""
    body = "threadgroup float* p = &row[__builtin_astype(a < b, int2).y]; x[0] = *p;"
    row = """struct Row { float e[4];
      thread float& operator[](int i) thread { return e[i]; }
      threadgroup float& operator[](int i) threadgroup { return e[i]; } };"""
    library = written(row + KERNEL % body)
    line = next(i for i, text in enumerate(library.source.path.read_text().splitlines(), 1) if body in text)
    assert {d.line for d in library.check() if d.severity == "error"} == {line}
    with pytest.raises(CompileError, match="cannot be read"):
        library.kernel("k")
