"""Objects of classes in constant memory: made by operators, cast, and passed to functions of class templates."""

import numpy as np
import pytest
from checked_launch import launch_clean

CODE = """
class Pair {
 public:
  Pair() = default;
  constexpr Pair(int low) : low(low), high(0) {}
  constexpr Pair(ulong high, ulong low) : low(low), high(high) {}
  constexpr Pair operator+(const Pair other) const { return Pair(high + other.high, low + other.low); }
  constexpr Pair operator-(const Pair other) const { return Pair(high - other.high, low - other.low); }
  ulong low, high;
};
constexpr static const constant Pair three = Pair(1, 2) + Pair(1);
constexpr static const constant Pair nine = Pair(1, 2) + three + Pair(1) - Pair(0, 3) + Pair(6);
template <ulong high, ulong low> class Field {
 public:
  constexpr Field(Pair value) : value(value) {}
  ulong result() const { return EXPRESSION.low; }
 private:
  Pair value;
  constexpr static const constant Pair size = Pair(high, low);
  constexpr static const constant Pair rest = Pair(high, 7) - size + Pair(1);
  Pair sum(const Pair a, const Pair b) const { return a + b; }
  template <uint times> Pair repeated(Pair of) const {
    Pair all = Pair(0);
    for (uint i = 0; i < times; i++) all = sum(all, of);
    return all;
  }
};
kernel void k(device ulong* out) {
  out[0] = three.low;
  out[1] = nine.low;
  out[2] = Field<2, 5>(Pair(1, 10)).result();
}
"""
EXPRESSIONS = {  # and what they give
    "sum(value, size)": 15,
    "sum(Pair(1), rest)": 4,
    "sum(((Pair)size) - value, value)": 5,
    "sum(static_cast<Pair>(size) - value, value)": 5,
    "sum(Pair(size) - value, value)": 5,
    "repeated<3>(value)": 30,
    "this->template repeated<3>(size)": 15,
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_constants_of_classes(written, expression):
    library = written(CODE.replace("EXPRESSION", expression))
    assert [str(d) for d in library.check() if d.severity == "error"] == []
    out = np.zeros(3, np.uint64)
    launch_clean(library, "k", [out])
    assert out.tolist() == [3, 9, EXPRESSIONS[expression]]
