"""Wrong uses of cooperative tensors: refused by the compiler, by the launch, by the checker."""

import numpy as np
import pytest
from metal_simulator import CompileError, LaunchError, Library

PRODUCT = """#include <metal_stdlib>
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
using namespace metal;
using namespace mpp::tensor_ops;
kernel void product(device float* c, uint lane [[thread_index_in_simdgroup]]) {
  constexpr auto description =
      matmul2d_descriptor(%(shape)s, false, false, true, matmul2d_descriptor::mode::multiply_accumulate);
  matmul2d<description, %(scope)s> unit;
  auto left = unit.get_left_input_cooperative_tensor<%(types)s>();
  auto right = unit.get_right_input_cooperative_tensor<%(types)s>();
  auto sum = unit.get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  for (ushort i = 0; i < %(filled)s; i++) left[i] = 1;
  for (ushort i = 0; i < right.get_capacity(); i++) right[i] = 1;
  for (ushort i = 0; i < %(zeroed)s; i++) sum[i] = 0;
  %(leave)s
  if (%(when)s) unit.run(%(operands)s);
  for (ushort i = 0; i < sum.get_capacity(); i++) c[lane * 16 + i] = sum[i];
}
"""
RIGHT = {
    "shape": "16, 32, 16",
    "scope": "execution_simdgroup",
    "types": "half, half, float",
    "filled": "left.get_capacity()",
    "zeroed": "sum.get_capacity()",
    "leave": "",
    "when": "true",
    "operands": "left, right, sum",
}
RUN = 16  # the line of run


def launch(tmp_path, text, buffers, **keywords):
    path = tmp_path / "unit.metal"
    path.write_text(text)
    kernel = Library(path, language="metal4.0", deployment_target="26.2").kernel("product")
    return kernel.launch(buffers, (1, 1, 1), (32, 1, 1), **keywords)


def product(tmp_path, *, check_nan=False, **changes):
    c = np.zeros((32, 16), np.float32)
    return launch(tmp_path, PRODUCT % (RIGHT | changes), [c], check_nan=check_nan), c


def test_right(tmp_path):
    report, c = product(tmp_path, check_nan=True)
    assert report.findings == () and (c == 16).all()


@pytest.mark.parametrize(("changes", "message"), [
    ({"types": "char, char, int"}, "the simulator multiplies half, bfloat and float, no integers and no 8-bit types"),
    ({"types": "half, uchar, float"}, "no integers and no 8-bit types"),
    ({"types": "bfloat, half, float"}, "bfloat is not multiplied with half"),
    ({"types": "half, bfloat, float"}, "bfloat is not multiplied with half"),
    ({"types": "half, half, half"}, "the destination of these operands is float"),
    ({"shape": "16, 16, 16"}, "m, n and k are 16 or 32, and not all of them 16"),
    ({"shape": "16, 64, 16"}, "m, n and k are 16 or 32"),
    ({"shape": "8, 32, 16"}, "m and n are multiples of 16 up to 64"),
    ({"shape": "16, 32, 24"}, "k is a multiple of 16"),
    ({"shape": "16, 32, static_cast<int>(dynamic_extent)"}, "m, n and k are 16 or 32"),
    ({"scope": "execution_simdgroups<4>"}, "execution_simdgroup, one SIMD group, and no other scope"),
    ({"operands": "right, left, sum"}, "a cooperative tensor of another shape, or of another operand"),
    ({"operands": "left, right, left"}, "the destination is of another shape, or is an input"),
])  # fmt: skip
def test_refused(tmp_path, changes, message):
    with pytest.raises(CompileError, match=message):
        product(tmp_path, **changes)


@pytest.mark.parametrize(("changes", "message", "line"), [
    ({"filled": "9"}, "thread 0: element 8 of a cooperative tensor whose capacity is 8", 12),
    ({"zeroed": "(lane == 5 ? 17 : 16)"}, "thread 5: element 16 of a cooperative tensor whose capacity is 16", 14),
    ({"when": "lane < 16"}, "SIMD group 0 is at matmul2d with 16 of 32 lanes", RUN),
    ({"leave": "if (lane == 3) return;"}, "SIMD group 0 is at matmul2d with 31 of 32 lanes", RUN),
    ({"leave": "if (lane < 4) threadgroup_barrier(mem_flags::mem_none);"}, "diverged: lanes .* matmul2d", RUN),
])  # fmt: skip
def test_not_by_all_and_outside(tmp_path, changes, message, line):
    with pytest.raises(LaunchError, match=rf"{message}.*unit.metal:{line}\b"):
        product(tmp_path, **changes)


@pytest.mark.parametrize(("changes", "wrong"), [({"filled": "7"}, 8 * 32), ({"zeroed": "15"}, 32)])
def test_unset_elements_are_nan(tmp_path, changes, wrong):
    report, c = product(tmp_path, check_nan=True, **changes)
    assert np.isnan(c).sum() == wrong
    assert [(f.kind.split(":")[0], f.places[0].endswith(f":{RUN}")) for f in report.findings] == [
        ("NaN made from numbers", True)
    ]


STAGED = """#include <metal_stdlib>
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
using namespace metal;
using namespace mpp::tensor_ops;
kernel void product(device float* c, uint lane [[thread_index_in_simdgroup]]) {
  threadgroup half tile[512];
  for (short i = 0; i < 16; i++) tile[i * 32 + lane] = 1;
  %s
  tensor<threadgroup half, dextents<int, 2>, tensor_inline> left(tile, dextents<int, 2>(16, 16));
  tensor<threadgroup half, dextents<int, 2>, tensor_inline> right(tile, dextents<int, 2>(32, %s));
  constexpr auto description = matmul2d_descriptor(16, 32, 16);
  matmul2d<description, execution_simdgroup> unit;
  auto sum = unit.get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  unit.run(left, right, sum);
  for (ushort i = 0; i < sum.get_capacity(); i++) c[lane * 16 + i] = sum[i];
}
"""
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"


def test_races_on_operands_in_threadgroup_memory(tmp_path):
    c = np.zeros((32, 16), np.float32)
    assert launch(tmp_path, STAGED % (BARRIER, 16), [c], check=True).findings == ()
    found = launch(tmp_path, STAGED % ("", 16), [c], check=True).findings
    races = [f for f in found if f.kind.startswith("race")]
    assert races and all("tile" in f.memory and any(p.endswith(":14") for p in f.places) for f in races)


def test_operands_beyond_threadgroup_memory(tmp_path):
    text = (STAGED % (BARRIER, 17)).replace("(16, 32, 16)", "(16, 32, 32)").replace("(16, 16)", "(32, 16)")
    found = launch(tmp_path, text, [np.zeros((32, 16), np.float32)], check=True).findings
    assert {f.element for f in found} == {512} and "tile" in found[0].memory


GUARDED = """#include <metal_stdlib>
#if __METAL_VERSION__ >= 400 && defined(__HAVE_TENSOR__) && __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ >= 260200
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
kernel void unit(device float* c) { c[0] = mpp::tensor_ops::matmul2d_descriptor(16, 32, 16).m; }
#endif
kernel void other(device float* c) { c[0] = 1; }
"""


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("keywords", "present"), [
    ({}, False),
    ({"language": "metal4.0"}, False),
    ({"deployment_target": "26.2"}, False),
    ({"language": "metal3.1", "deployment_target": "26.2"}, False),
    ({"language": "metal4.0", "deployment_target": "26.1"}, False),
    ({"language": "metal4.0", "deployment_target": "26.2"}, True),
    ({"language": "metal4.0", "deployment_target": "27.0"}, True),
])  # fmt: skip
def test_guard(tmp_path, keywords, present):
    path = tmp_path / "guarded.metal"
    path.write_text(GUARDED)
    library = Library(path, **keywords)
    assert library.kernels == (("unit", "other") if present else ("other",))
    assert library.check() == []
    assert library.check("metal3.1") == []


@pytest.mark.parametrize("target", ["", "26.2.1", "Tahoe", "26,2", "-1"])
def test_targets_that_are_no_version(tmp_path, target):
    path = tmp_path / "guarded.metal"
    path.write_text(GUARDED)
    with pytest.raises(CompileError, match="deployment_target is a version of macOS"):
        Library(path, deployment_target=target)
    with pytest.raises(CompileError, match="no language 'metal5'"):
        Library(path, language="metal5")


def test_without_a_target_the_header_says_what_is_missing(tmp_path):
    path = tmp_path / "unit.metal"
    path.write_text(PRODUCT % RIGHT)
    with pytest.raises(CompileError, match="give Library a deployment_target"):
        Library(path, language="metal4.0").kernel("product")


def test_strict_check(tmp_path):
    path = tmp_path / "unit.metal"
    path.write_text(PRODUCT % RIGHT)
    library = Library(path, deployment_target="26.2")
    assert [str(d) for d in library.check("metal4.0")] == []
    found = [(d.line, d.message) for d in library.check("metal3.1") if d.severity == "error"]
    assert (4, "newer than metal3.1: mpp") in found
    own = "struct tensor { int mpp; };\nkernel void f(device int* x) { tensor t; t.mpp = 1; x[0] = t.mpp; }\n"
    path.write_text(f"#include <metal_stdlib>\n{own}")
    assert Library(path).check("metal3.1") == []
