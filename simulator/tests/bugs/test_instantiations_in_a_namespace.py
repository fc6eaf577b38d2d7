"""The arguments of an instantiation are looked up in its namespace."""

import numpy as np
from checked_launch import launch_clean

X = np.arange(1, 9, dtype=np.float32)


def test_instantiations_in_a_namespace(written):
    text = "namespace n {\nusing number = float;\ntemplate <typename T>\nkernel void f(device T* x) { x[0] += T(1); }\n"
    x = X.copy()
    launch_clean(written(text + 'template [[host_name("f_n")]] kernel void f<number>(device number*);\n}'), "f_n", [x])
    assert x[0] == 2
