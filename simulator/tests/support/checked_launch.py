"""Launches under the checker, most of a kernel f."""

import numpy as np

X = np.arange(64, dtype=np.float32)


def kernel(body, arguments="device const float* x, device float* out"):
    return f"kernel void f({arguments}, uint i [[thread_index_in_threadgroup]]) {{\n{body}\n}}"


def findings(library, buffers, threads=64, groups=1, **keywords):
    build = "nan" if keywords.get("check_nan") else "check"
    grid = (groups, 1, 1)
    return library.kernel("f", build=build).launch(buffers, grid, (threads, 1, 1), check=True, **keywords).findings


def kinds(found):
    return {f.kind for f in found}


def launch(library, buffers, threads=64, groups=1, **keywords):
    return library.kernel("f").launch(buffers, (groups, 1, 1), (threads, 1, 1), **keywords)


def launch_clean(library, name, buffers, grid=(1, 1, 1), threads=(1, 1, 1)):
    """Launches under the checker, which must find nothing."""
    report = library.kernel(name, build="check").launch(buffers, grid, threads, check=True)
    assert [str(finding) for finding in report.findings] == []


def zeros(count=64):
    return np.zeros(count, np.float32)
