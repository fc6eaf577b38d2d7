"""A class may name initializer_list, as generated text does; it need not use it."""

import numpy as np


def test_classes_that_speak_of_initializer_lists(written):
    text = """
struct Row {
  float2 v[2];
  thread Row& operator=(initializer_list<float2> list) thread {
    const thread float2* at = list.begin();
    for (size_t i = 0; i < list.size(); i++) v[i] = at[i];
    return *this;
  }
};
kernel void k(device float* x) {
  Row row{};
  x[0] = row.v[1].y;
}
"""
    x = np.ones(1, np.float32)
    written(text).kernel("k").launch([x], (1, 1, 1), (1, 1, 1))
    assert x[0] == 0
