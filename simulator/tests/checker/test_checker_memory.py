"""The checker on overlapping buffers, copies of objects, vectors and their components."""

import numpy as np
import pytest
from checked_launch import X, findings, kernel, kinds, zeros


def test_races_through_overlapping_buffers(written):
    text = kernel("out[i] = x[(i + 1) % 64];")
    both = X.copy()
    found = findings(written(text), [both, both])
    assert kinds(found) == {"race: read and write"}
    assert {f.memory for f in found} == {"buffer 1 (out), which overlaps buffer 0 (x)"}
    (one,) = findings(written(text), [both[:64], both[63:]], threads=2)
    assert one.memory.startswith("buffer 1 (out)") and one.kind == "write out of bounds"


def test_races_between_threadgroups_through_overlapping_buffers(written):
    text = kernel("out[i] = x[i];", "device const float* x, device float* out, uint g [[thread_position_in_grid]]")
    both = zeros(192)
    text = text.replace("out[i] = x[i]", "out[g] = x[g]")
    (race,) = findings(written(text), [both[64:], both[:128]], groups=2)
    assert race.kind == "race between threadgroups: read and write" and race.count == 64
    assert (race.buffer, race.element, race.threadgroups) == (0, 0, ((1, 0, 0), (0, 0, 0)))


def test_what_overlapping_buffers_hold(written):
    """A value that is written through one is read through the other, and each ends where it ends."""
    both = np.arange(128, dtype=np.float32)
    text = kernel("out[i] = x[i] + 1;\nif (i == 63) out[i] += x[i + 1];")
    (found,) = findings(written(text), [both[:64], both[:96]])
    assert (found.kind, found.element) == ("read out of bounds", 64)
    assert both[:64].tolist() == [*range(1, 64), 128] and both[64:].tolist() == list(range(64, 128))


def test_a_buffer_bound_twice_has_one_address(written):
    """Kernels compare pointers to learn that an optional argument is not there."""
    text = kernel("out[i] = x == y ? 1 : 2;", "device const float* x, device const float* y, device float* out")
    out = zeros(64)
    for y, expected in ((X, 1), (X[1:], 2), (X.copy(), 2)):
        assert not findings(written(text), [X, y, out]) and set(out.tolist()) == {expected}
    assert not findings(written(text), [out, out, out]) and set(out.tolist()) == {1}


@pytest.mark.parametrize("type", ["Half", "Flag"])
def test_copies_may_read_padding(written, type):
    text = (
        "struct Half { half h; float f; };\nstruct Flag { float3 f; bool h; };\n"
        f"kernel void f(device {type}* out, uint i [[thread_index_in_threadgroup]]) {{\nthreadgroup {type} a[64];\n"
        "a[i].h = 1;\na[i].f = 2;\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nout[i] = a[63 - i];\n}"
    )
    room = np.zeros(64 * 32, np.uint8)
    assert not findings(written(text), [room])
    (found,) = findings(
        written(text.replace("a[i].h", "if (i != 5) a[i].h").replace("a[i].f", "if (i != 5) a[i].f")), [room]
    )
    assert (found.kind, found.element) == ("read of threadgroup memory never written", 5)


FILLED = """threadgroup float3 three[64];
threadgroup float4 four[64];
three[i].x = i;
three[i].y = 1;
three[i].z = 2;
four[i].y = 3;
threadgroup_barrier(mem_flags::mem_threadgroup);
if (i % 2) four[i - 1].z = 1;
const float3 v = three[63 - i];
out[i] = v.x + v.z + four[63 - i].y;"""


def test_components_of_vectors(written):
    """What is not used is not read: neither the fourth of three, nor components that nobody or another has written."""
    assert not findings(written(kernel(FILLED)), [X, zeros()])


@pytest.mark.parametrize(
    "old, new, kind, memory, line",
    [
        ("three[i].z = 2;", "", "read of threadgroup memory never written", "three", 6),  # reads all to write two
        ("+ four[63 - i].y", "+ four[63 - i].w", "read of threadgroup memory never written", "four", 13),
        ("+ four[63 - i].y", "+ four[62 - (i & 62)].z", "race: read and write", "four", 13),
        ("three[63 - i]", "three[64 - i]", "read out of bounds", "three", 12),
        ("three[i].x = i;\nthree[i].y = 1;\nthree[i].z = 2;", "three[i + 1] = i;", "write out of bounds", "three", 6),
        ("three[i].y = 1;", "three[i / 2].y = 1;", "race: two writes", "three", 7),
    ],
)
def test_seeded_bugs_in_components(written, old, new, kind, memory, line):
    assert old in FILLED
    found = findings(written(kernel(FILLED.replace(old, new))), [X, zeros()])
    places = {
        place for f in found if (f.kind, f.memory) == (kind, f"threadgroup memory ({memory})") for place in f.places
    }
    assert any(place.endswith(f"written.metal:{line}") for place in places), found


@pytest.mark.sampled(3)
@pytest.mark.parametrize("type", ["half3", "float3", "ulong3", "ulong4", "packed_half3", "char3"])
def test_accesses_of_every_size(written, type):
    """Vectors of three, and of more than 16 bytes: within bounds, then one past the end, twice the same, misaligned."""
    text = (
        f"kernel void f(device const {type}* x, device {type}* out, uint i [[thread_index_in_threadgroup]]) {{\n"
        "out[SCALE + OFFSET] = x[i];\n}"
    )
    size = {"half3": 8, "float3": 16, "ulong3": 32, "ulong4": 32, "packed_half3": 6, "char3": 4}[type]
    room = np.zeros(2 * 64 * size + 32, np.uint8)
    start = -room.ctypes.data % 32

    def run(scale, offset):
        library = written(text.replace("SCALE", scale).replace("OFFSET", offset))
        return findings(library, [room[start:][: 64 * size], room[start + 64 * size :][: 64 * size]])

    assert not run("i", "0")
    (found,) = run("i", "1")
    assert (found.kind, found.element, found.threads) == ("write out of bounds", 64, (63,))
    (found,) = run("i / 2", "0")
    assert (found.kind, found.element, found.count) == ("race: two writes", 0, 32)


@pytest.mark.parametrize(
    "body, element",
    [
        ("device Big* big = (device Big*)out;\nbig[i] = *(device const Big*)(x + 2);", 2),
        ("device Big* big = (device Big*)(out + 1);\nbig[i] = *(device const Big*)x;", 1),
        ("device Pair* pair = (device Pair*)((device half*)out + 1);\npair[i] = *(device const Pair*)x;", 0),
    ],
)
def test_misaligned_structs(written, body, element):
    text = "struct Big { float4 a, b, c; };\nstruct Pair { uint a, b; };\n" + kernel(body)
    room = np.zeros(2048, np.float32)
    x, out = (room[start : start + 512] for start in (-room.ctypes.data % 64 // 4, -room.ctypes.data % 64 // 4 + 1024))
    found = findings(written(text), [x, out], threads=2)
    assert "misaligned vector access" in kinds(found) and found[0].element == element
    assert found[0].places[0].endswith("written.metal:7")
