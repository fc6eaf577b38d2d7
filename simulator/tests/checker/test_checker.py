"""The checker finds what numbers may miss, and finds nothing in kernels that are right."""

import time

import numpy as np
import pytest
from checked_launch import X, findings, kernel, kinds, launch, zeros
from metal_simulator import LaunchError

SUM = """kernel void f(device const float* x, device float* out, uint i [[thread_index_in_threadgroup]]) {
  threadgroup float a[64];
  a[i] = x[i];
  BARRIER
  out[i] = a[(i + 1) % 64];
}"""


def test_clean(written):
    out = np.zeros(64, np.float32)
    assert not findings(written(SUM.replace("BARRIER", "threadgroup_barrier(mem_flags::mem_threadgroup);")), [X, out])
    assert np.array_equal(out, np.roll(X, -1))


@pytest.mark.parametrize("order", ["forward", "reverse", 7])
def test_missing_barrier(written, order):
    found = findings(written(SUM.replace("BARRIER", "")), [X, np.zeros(64, np.float32)], order=order)
    assert "race: read and write" in kinds(found)
    race = next(f for f in found if f.kind == "race: read and write")
    assert race.buffer is None and race.memory == "threadgroup memory (a)" and race.threads[0] != race.threads[1]
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
    own = [f for f in found if not f.kind.startswith("race between threadgroups")]
    assert [(f.kind, f.threads, f.count) for f in own] == [("read of threadgroup memory never written", (8,), 3)]
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


@pytest.mark.parametrize("order", ["forward", "reverse", 3])
def test_race_between_threadgroups(written, order):
    text = kernel("out[i] = x[i];")
    found = findings(written(text), [X, zeros()], groups=5, order=order)
    assert kinds(found) == {"race between threadgroups: two writes"}
    (race,) = found
    assert race.threadgroups == ((0, 0, 0), (1, 0, 0)) and race.threads == (0, 0) and race.element == 0
    assert race.count == 64 and race.places[0].endswith("written.metal:4")


def test_race_of_a_read_with_another_threadgroup(written):
    text = (
        "kernel void f(device float* out, uint i [[thread_position_in_grid]]) {\n"
        "if (i % 2) out[i] = 1;\n else out[i] = out[(i + 63) % 256]; }"
    )
    found = findings(written(text), [zeros(256)], groups=4)
    assert "race between threadgroups: read and write" in kinds(found)


def test_a_threadgroup_may_read_what_it_wrote(written):
    text = "kernel void f(device float* out, uint i [[thread_position_in_grid]]) { out[i] = i; out[i] += 1; }"
    assert not findings(written(text), [zeros(256)], groups=4)


@pytest.mark.parametrize(
    "access, racing", [("atomic_load_explicit(a, memory_order_relaxed)", False), ("*(device uint*)a", True)]
)
def test_atomics_race_with_plain_accesses_only(written, access, racing):
    text = (
        "kernel void f(device atomic_uint* a, device uint* out, uint i [[thread_position_in_grid]]) {\n"
        f"if (i == 0) atomic_fetch_add_explicit(a, 1u, memory_order_relaxed);\nout[i] = {access}; }}"
    )
    found = findings(written(text), [np.zeros(1, np.uint32), np.zeros(128, np.uint32)], groups=2)
    expected = {"race: read and write", "race between threadgroups: read and write"}
    assert kinds(found) == (expected if racing else set())


def test_elements_are_those_of_the_parameter(written):
    text = kernel("out[i + 1] = float4(x[i]);", "device const float* x, device float4* out")
    (found,) = findings(written(text), [X, zeros(256)])
    assert (found.element, found.offset, found.size) == (64, 1024, 16)


def test_threadgroup_arrays_are_named(written):
    body = "threadgroup half a[7]; threadgroup float b[64][2];\nout[i] = a[i % 7] + b[i][1];"
    found = findings(written(kernel(body)), [X, zeros()])
    assert {(f.memory, f.element) for f in found} == {("threadgroup memory (a)", 0), ("threadgroup memory (b)", 1)}


def test_threadgroup_arguments_are_named(written):
    text = kernel("a[i + 60] = 1; out[i] = b[2 * i];", "device float* out, threadgroup half* a, threadgroup uint* b")
    found = findings(written(text), [zeros()], threadgroup_memory=[256, 256], threads=32)
    assert [(f.memory, f.element) for f in found] == [("threadgroup memory (b)", 0)]


@pytest.mark.parametrize(
    "body, misaligned",
    [
        ("*(device float4*)(out + 4 * i) = 1;", False),
        ("*(device float4*)(out + 4 * i + 2) = 1;", True),
        ("*(device half4*)((device half*)out + 4 * i + 2) = 1;", True),
        ("*(device float2*)(out + 2 * i + 1) = 1;", True),
        ("*(device packed_float3*)(out + 3 * i + 1) = float3(1);", False),
        ("*(device packed_half4*)((device half*)out + 4 * i + 1) = half4(1);", False),
        ("*(device ulong4*)(out + 8 * (i % 4) + 4) = *(device ulong4*)(out + 64);", True),
    ],
)
def test_misaligned_vectors(written, body, misaligned):
    room = np.zeros(1024, np.float32)
    start = -room.ctypes.data % 64 // 4
    found = findings(written(kernel(body, "device float* out")), [room[start : start + 512]], threads=4)
    assert kinds(found) == ({"misaligned vector access"} if misaligned else set())


@pytest.mark.parametrize("type", ["half", "float", "float4"])
def test_unsigned_differences_below_0_name_their_variable(written, type):
    body = f"threadgroup {type} a[64], b[64], c[64];\nb[i - 1] = 1;\na[i] = c[i] = {type}(b[i] + 1);"
    found = findings(written(kernel(body)), [X, zeros()])
    (one,) = [f for f in found if f.kind == "write out of bounds"]
    assert (one.memory, one.element, one.threads) == ("threadgroup memory (b)", 2**32 - 1, (0,))


def test_far_indices_name_their_buffer(written):
    text = kernel("out[i] = x[ulong(i + 1) << 35];")
    (found,) = findings(written(text), [X, zeros()], threads=4)
    assert found.memory == "buffer 0 (x)" and found.element == 1 << 35 and found.count == 4


def test_writes_to_const_buffers(written):
    (found,) = findings(written(kernel("((device float*)x)[i] = 1;")), [X.copy(), zeros()])
    assert found.kind == "write to a const buffer" and found.memory == "buffer 0 (x)"


def test_elements_never_written(written):
    library = written(kernel("if (i % 10 != 3) out[i] = x[i];"))
    (found,) = launch(library, [X, zeros()], check_written=True).findings
    assert (found.kind, found.memory, found.element, found.count) == ("element never written", "buffer 1 (out)", 3, 7)
    assert not launch(library, [X, zeros()], check=True).findings
    with pytest.raises(LaunchError, match="check_written names buffer 0, which the kernel cannot write"):
        launch(library, [X, zeros()], check_written=[0])


def test_elements_never_written_of_strided_arrays(written):
    library = written(kernel("out[2 * i] = x[i];"))
    assert not launch(library, [X, zeros(128)[::2]], check_written=[1]).findings
    (found,) = launch(
        library, [X, zeros(130).reshape(5, 26)[:, ::2].copy().reshape(-1)[:65]], threads=33, check_written=[1]
    ).findings
    assert found.count == 32


@pytest.mark.parametrize(
    "body, line",
    [
        ("float y =\nsqrt(x[i] - 9);\nout[i] = y + 1;", 5),
        ("float y = (x[i] + 1) / 0.0f;\ny = y -\ny;\nout[i] = y;", 5),
        ("float2 y = float2(x[i], 1) /\nfloat2(0, 1);\nout[i] = y.x + y.y;", 4),
        ("simdgroup_float8x8 a, c;\nsimdgroup_load(a, x, 8);\nsimdgroup_multiply_accumulate(c, a, a, c);\n"
         "simdgroup_store(c, out, 8);", 6),
        ("float y;\nfor (int k = 0; k < int(x[i]); k++)\ny += 1;\nout[i] = y;", 7),
    ],
)  # fmt: skip
def test_nan(written, body, line):
    library = written(kernel(body))
    assert not launch(library, [X, zeros()], threads=32, check=True).findings
    found = launch(library, [X, zeros()], threads=32, check_nan=True).findings
    assert kinds(found) <= {"NaN made from numbers", "NaN written"} and len(found) == 1
    assert found[0].places[0].endswith(f"written.metal:{line}")


def test_no_nan(written):
    assert not launch(written(kernel("out[i] = exp(x[i]) + INFINITY;")), [X, zeros()], check_nan=True).findings


def test_divergence_names_both_lines(written):
    text = kernel("if (i % 2)\nout[i] = simd_sum(x[i]);\nelse\nout[i] = simd_sum(x[i] + 1);")
    with pytest.raises(LaunchError, match=r"another simd_sum, at .*written.metal:[57] and .*written.metal:[57]"):
        launch(written(text), [X, zeros()])


@pytest.mark.parametrize(
    "body, line, threads",
    [
        ("float y = 0;\nif (i >= 48)\ny = simd_sum(x[i]);\nout[i] = y;", 6, (48, 32)),
        ("float y = x[i];\nif (i == 40) return;\nout[i] = simd_shuffle_xor(y, 1);", 6, (32, 40)),
        ("for (uint k = 0; k < min(i, 5u); k++)\nif (simd_any(k == 9))\nout[i] = 1;", 5, (1, 0)),
    ],
)
@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_collectives_that_some_lanes_never_reach(written, body, line, threads, order):
    library = written(kernel(body))
    found = findings(library, [X, zeros()], order=order)
    assert kinds(found) == {"collective in divergent control flow"}
    assert found[0].threads == threads and found[0].places == (f"{library.source.path}:{line}",)
    assert not launch(library, [X, zeros()]).findings


def test_a_partial_simdgroup_does_not_diverge(written):
    assert not findings(written(kernel("out[i] = simd_sum(x[i]);")), [X, zeros()], threads=40)


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("thread", [0, 31, 62, 63])
def test_an_atomic_access_hides_no_plain_one_of_its_thread(written, order, thread):
    """Whichever thread comes last: its own atomic access was the last before its plain one."""
    atomics = [
        ("atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);", "out[0] = *(threadgroup uint*)&count;"),
        ("out[i] = atomic_load_explicit(&count, memory_order_relaxed);", "*(threadgroup uint*)&count = 1;"),
    ]
    for atomic, plain in atomics:
        body = f"""threadgroup atomic_uint count;
if (i == 0) atomic_store_explicit(&count, 0, memory_order_relaxed);
threadgroup_barrier(mem_flags::mem_threadgroup);
{atomic}
if (i == {thread}) {plain}"""
        found = findings(written(kernel(body)), [X, zeros()], order=order)
        assert kinds(found) == {"race: read and write"}


# Long enough for other threadgroups to begin.
SLOW = "float y = x[0] + 1; if (i == 3) for (uint k = 0; k < 3000000; k++) y = fma(y, 0.999f, 1.0f);"


def test_reports_do_not_depend_on_cores_when_threadgroups_race(written):
    """What a threadgroup reads of another depends on who ran first, and so would what it does then."""
    body = f"""if (g == 0) {{ {SLOW} out[1] = y; }}
threadgroup_barrier(mem_flags::mem_none);
if (out[0] == 0) out[i + 64] = 1;
out[0] = 1;"""
    text = kernel(body, "device const float* x, device float* out, uint g [[threadgroup_position_in_grid]]")
    library = written(text)
    reports = [findings(library, [X, zeros()], groups=24, workers=w) for w in (1, 2, 4)]
    assert reports[0] and all(r == reports[0] for r in reports)


def test_findings_of_a_failed_launch_do_not_depend_on_cores(written):
    text = (
        "kernel void f(device float* out, uint i [[thread_index_in_threadgroup]],\n"
        "uint g [[threadgroup_position_in_grid]]) {\nout[i / 2] = 1;\n"
        f"if (g == 5 && i == 3) {{ device const float* x = out; {SLOW} out[0] = y; return; }}\n"
        "threadgroup_barrier(mem_flags::mem_device);\n}"
    )
    library, failures = written(text), set()
    for workers in (1, 2, 4, 7):
        with pytest.raises(LaunchError, match="63 of 64 threads wait") as error:
            findings(library, [zeros()], groups=40, workers=workers)
        failures.add((str(error.value), error.value.findings))
    assert len(failures) == 1


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    "body, line",
    [
        ("while (true) {}", 4),
        ("uint n = 0;\nwhile (x[0] == 0)\nout[1] = n++;", 6),
        ("while (true)\nthreadgroup_barrier(mem_flags::mem_none);", 5),
        ("while (true)\nout[i] = simd_sum(out[i]);", 5),
    ],
)
def test_endless_kernels_are_stopped(written, body, line, check):
    start = time.monotonic()
    with pytest.raises(LaunchError, match=r"threadgroup \(0, 0, 0\): thread \d+: stopped after 0.2 seconds") as error:
        launch(written(kernel(body)), [X, zeros()], groups=3, check=check, timeout=0.2)
    assert any(f"written.metal:{n}" in str(error.value) for n in (line, line - 1)) and time.monotonic() - start < 60


@pytest.mark.parametrize("timeout", [0, -1, "long"])
def test_wrong_timeout(written, timeout):
    with pytest.raises(LaunchError, match="timeout is a number of seconds above 0"):
        launch(written(kernel("out[i] = x[i];")), [X, zeros()], timeout=timeout)


def test_findings_are_bounded_and_the_same_on_every_number_of_cores(written):
    lines = "\n".join(f"out[(i + {n}) % 64] = {n};" for n in range(300))
    library = written(kernel(lines))
    reports = [findings(library, [X, zeros()], groups=6, workers=w) for w in (1, 3)]
    assert 100 < len(reports[0]) <= 256 and reports[0] == reports[1]
