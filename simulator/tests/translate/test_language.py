"""Metal that clang knows differently, accepted and run, with every version of clang that is here."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

SIMULATOR = pathlib.Path(__file__).resolve().parents[2]
KERNELS = SIMULATOR / "tests" / "kernels"
X = np.float32([1, 2, 3, 4])
HALVES = np.arange(16, dtype=np.float16).reshape(4, 4)
# By the lines of the kernel: out[0], out[1], ...
EXPECTED = [2, 8 + 6, 8, 4 + 2 + 8 + 15, 30 + 2.5, 3, 3, 14, 9, -2, 1 + 3 + 2, 2, 1, 2.5, 20]


def test_language(library):
    assert [str(d) for d in library("language").check() if "no public kernel is known" not in d.message] == []
    out, halves = np.zeros(15, np.float32), HALVES.copy()
    pair = np.float32([10, 20]).tobytes()
    report = (
        library("language")
        .kernel("language", build="check")
        .launch([X, out, pair, halves], (1, 1, 1), (32, 1, 1), check=True)
    )
    assert [str(finding) for finding in report.findings] == []
    np.testing.assert_allclose(out, EXPECTED, rtol=1e-6)
    assert np.array_equal(halves[0], HALVES[1] / 2 + HALVES[2] * 2) and np.array_equal(halves[3], HALVES[3] * 4)


@pytest.mark.parametrize(
    "name, dtype, scales", [("scaled_float_3", np.float32, [1, 2, 3]), ("scaled_half_2", np.float16, [2, 5])]
)
def test_instantiation_by_signature(library, name, dtype, scales):
    x, out = np.arange(32, dtype=dtype), np.zeros(32, dtype)
    scales = np.array(scales, dtype)
    library("language").kernel(name, build="check").launch(
        [x, out, scales.tobytes()], (1, 1, 1), (32, 1, 1), check=True
    )
    assert np.array_equal(out, x * np.resize(scales, 32))


def test_zeroed_threadgroup_arrays_stay_unset(written):
    kernel = written("kernel void f(device float* x) { threadgroup float y[4] = {0}; x[0] = y[1]; }").kernel("f")
    x = np.zeros(1, np.float32)
    report = kernel.launch([x], (1, 1, 1), (1, 1, 1), check=True)
    assert np.isnan(x[0]) and [f.kind for f in report.findings] == ["read of threadgroup memory never written"]


VERSIONS = [str(version) for version in range(17, 23)] + ["ziglang"]


@pytest.mark.nightly
@pytest.mark.parametrize("version", VERSIONS)
def test_every_clang(tmp_path, version):
    """The command line with this clang: its version, the check, and products of matrices in half and bfloat."""
    if not (importlib.util.find_spec(version) if version == "ziglang" else shutil.which(f"clang-{version}")):
        pytest.skip(f"{'the package ziglang' if version == 'ziglang' else f'clang-{version}'} is not installed")

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(SIMULATOR), "METAL_SIMULATOR_CLANG": version}
        command = [sys.executable, "-m", "metal_simulator", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return done

    said = run("--version").stdout
    assert f"clang version {version}." in said or version == "ziglang" and "clang version" in said
    product, halves = KERNELS / "versions.metal", tmp_path / "out.npy"
    left = (np.arange(64).reshape(8, 8) % 7).astype(np.float16)
    np.save(tmp_path / "left.npy", left)
    assert run("check", str(product), "--errors-only").stdout == ""
    for kind in ("half", "bfloat"):
        done = run("run", str(product), f"gram_{kind}", f"x:half[8,8]={tmp_path}/left.npy", "out:float[8,8]=zeros",
                   "--grid", "1", "--threads", "32", "--output", f"out={halves}")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert np.array_equal(np.load(halves), left.astype(np.float32).T @ left.astype(np.float32) + left[0, 1])
