"""A function template of a namespace, passed by its name with arguments that depend on the caller's."""

import numpy as np

SOURCE = """
#include <metal_stdlib>
using namespace metal;
namespace meta {
template <typename T, typename U> void add(int i, device T* x, U y) { x[i] += T(y); }
template <int N> struct At {
  template <typename F, typename... A> static void run(F f, A... given) { f(N, given...); }
};
}
template <typename T, typename U> void third(device T* x, U y) { meta::At<2>::run(meta::add<T, U>, x, y); }
template <typename T> kernel void k(device T* x [[buffer(0)]]) { third<T, int>(x, 3); }
template [[host_name("k")]] kernel void k<float>(device float*);
"""


def test_names_of_function_templates(written):
    library, x = written(SOURCE), np.ones(4, np.float32)
    assert library.check() == []
    library.kernel("k").launch([x], (1, 1, 1), (1, 1, 1))
    assert x.tolist() == [1, 1, 4, 1]
