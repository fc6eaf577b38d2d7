"""The checker finds what numbers may miss, and finds nothing in kernels that are right."""

import numpy as np
import pytest
from metal_simulator import LaunchError

SUM = """kernel void f(device const float* x, device float* out, uint i [[thread_index_in_threadgroup]]) {
  threadgroup float a[64];
  a[i] = x[i];
  BARRIER
  out[i] = a[(i + 1) % 64];
}"""
X = np.arange(64, dtype=np.float32)


def kernel(body, arguments="device const float* x, device float* out"):
    return f"kernel void f({arguments}, uint i [[thread_index_in_threadgroup]]) {{\n{body}\n}}"


def findings(library, buffers, threads=64, groups=1, **keywords):
    return library.kernel("f").launch(buffers, (groups, 1, 1), (threads, 1, 1), check=True, **keywords).findings


def kinds(found):
    return {f.kind for f in found}


def test_clean(written):
    out = np.zeros(64, np.float32)
    assert not findings(written(SUM.replace("BARRIER", "threadgroup_barrier(mem_flags::mem_threadgroup);")), [X, out])
    assert np.array_equal(out, np.roll(X, -1))


@pytest.mark.parametrize("order", ["forward", "reverse", 7])
def test_missing_barrier(written, order):
    found = findings(written(SUM.replace("BARRIER", "")), [X, np.zeros(64, np.float32)], order=order)
    assert "race: read and write" in kinds(found)
    race = next(f for f in found if f.kind == "race: read and write")
    assert race.buffer is None and race.memory == "threadgroup memory" and race.threads[0] != race.threads[1]
    assert any("written.metal:5" in p or "written.metal:7" in p for p in race.places)


def test_barrier_of_the_wrong_memory_orders_nothing(written):
    text = SUM.replace("BARRIER", "threadgroup_barrier(mem_flags::mem_device);")
    assert kinds(findings(written(text), [X, np.zeros(64, np.float32)])) == {"race: read and write"}


def test_simdgroup_barrier_orders_one_simdgroup_only(written):
    text = SUM.replace("BARRIER", "simdgroup_barrier(mem_flags::mem_threadgroup);")
    assert "race: read and write" in kinds(findings(written(text), [X, np.zeros(64, np.float32)]))
    assert not findings(written(text.replace("64", "32")), [X, np.zeros(64, np.float32)], threads=32)


def test_race_on_device_memory(written):
    text = "kernel void f(device float* out, uint i [[thread_index_in_threadgroup]]) { out[i / 2] = i; }"
    found = findings(written(text), [np.zeros(64, np.float32)])
    assert kinds(found) == {"race: two writes"} and found[0].buffer == 0 and found[0].count == 32
    assert "buffer 0 (out)" in str(found[0])


@pytest.mark.parametrize(
    "body, kind, offset",
    [
        ("out[i + 1] = x[i];", "write out of bounds", 256),
        ("out[i] = x[int(i) - 1];", "read out of bounds", -4),
        ("out[i] = x[i + 3000000000ul];", "read out of bounds", 12000000000),
        (
            "if (i < 16) ((device float4*)out)[i] = *(device const float4*)(x + 61);",
            "read out of bounds",
            244,
        ),
    ],
)
def test_out_of_bounds(written, body, kind, offset):
    text = kernel(body)
    out = np.zeros(66, np.float32)
    found = [f for f in findings(written(text), [X, out[1:65]]) if f.kind == kind]
    assert found and found[0].offset == offset and found[0].places[0].endswith("written.metal:4")
    assert out[0] == 0 and out[65] == 0, "neighbours keep their values"


def test_out_of_bounds_reads_give_poison(written):
    out = np.zeros(64, np.float32)
    assert findings(written(kernel("out[i] = x[i + 1];")), [X, out])
    assert np.isnan(out[63]) and out[62] == 63


def test_out_of_bounds_of_threadgroup_memory(written):
    body = "threadgroup float a[64]; a[i + 1] = i; threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = a[i + 1];"
    assert kinds(findings(written(kernel(body)), [X, np.zeros(64, np.float32)])) == {
        "read out of bounds",
        "write out of bounds",
    }


def test_uninitialised_threadgroup_memory(written):
    text = SUM.replace("a[i] = x[i];", "if (i != 9) a[i] = x[i];")
    text = text.replace("BARRIER", "threadgroup_barrier(mem_flags::mem_threadgroup);")
    out = np.zeros(64, np.float32)
    found = findings(written(text), [X, out], groups=3)
    assert [(f.kind, f.threads, f.count) for f in found] == [("read of threadgroup memory never written", (8,), 3)]
    assert np.isnan(out[8]), "threadgroup memory starts poisoned"


def test_unbound_buffer(written):
    text = "kernel void f(device const float* x, device float* out) { *out = *x; }"
    found = findings(written(text), [None, np.zeros(1, np.float32)], threads=1)
    assert kinds(found) == {"read out of bounds"} and "not bound" in found[0].memory


def test_wild_pointer_is_survived(written):
    text = "kernel void f(device float* out, uint i [[thread_index_in_threadgroup]]) { out[ulong(i + 1) << 44] = 1; }"
    with pytest.raises(LaunchError, match="memory fault.*\nwrite out of bounds"):
        findings(written(text), [X.copy()])


@pytest.mark.parametrize("first", ["x", "out"])
def test_aliased_views_in_a_checked_launch(written, first):
    both = np.zeros(128, np.float32)
    both[::2] = X
    text, views = kernel("out[2 * i] = x[2 * i];"), [both[::2], both[1::2]]
    if first == "out":
        text, views = kernel("out[2 * i] = x[2 * i];", "device float* out, device const float* x"), views[::-1]
    assert not findings(written(text), views)
    assert np.array_equal(both[1::2], X) and np.array_equal(both[::2], X)


def test_same_findings_on_every_number_of_cores(written):
    library = written(SUM.replace("BARRIER", "").replace("out[i]", "out[i % 50]"))
    reports = [findings(library, [X, np.zeros(64, np.float32)], groups=40, workers=w) for w in (1, 2, 4)]
    assert reports[0] and all(r == reports[0] for r in reports)
