"""The wheel: what is in it, what it says of itself, and its use in an environment that has nothing but torch."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import embed
import pytest
import torch
from stage import ROOT, stage
from wheel import write_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment in which the wheel is installed and torch can be imported, and nothing of ours."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", "--no-cache-dir", str(wheel)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "torch.pth").write_text(str(Path(torch.__file__).parents[1]))
    return folder / "bin" / "python"


def run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """In an empty folder and without the user's settings, so that only what is installed can be imported."""
    return subprocess.run([str(python), "-I", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_it_holds_the_package_the_shaders_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == "flash_sdpa_metal-1.0.0-py3-none-any.whl"
    package, shaders = ROOT / "torch-ext" / "metal_flash_sdpa", ROOT / "flash_sdpa"
    expected = {f"metal_flash_sdpa/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    expected |= {
        f"metal_flash_sdpa/flash_sdpa/{path.name}" for path in shaders.iterdir() if path.suffix in (".metal", ".h")
    } - {f"metal_flash_sdpa/flash_sdpa/{name}" for name in embed.FILES}  # which a module has
    expected |= {"metal_flash_sdpa/_ops.py"}
    expected |= {
        f"flash_sdpa_metal-1.0.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")
    }
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(expected)


def test_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read("flash_sdpa_metal-1.0.0.dist-info/METADATA"))
        tags = email.message_from_bytes(archive.read("flash_sdpa_metal-1.0.0.dist-info/WHEEL"))
    assert (metadata["Name"], metadata["Version"]) == ("flash-sdpa-metal", "1.0.0")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Dist"] == "torch>=2.12" and metadata["Requires-Python"] == ">=3.9"
    assert metadata.get_payload().startswith("# metal-flash-sdpa\n")
    assert tags["Tag"] == "py3-none-any" and tags["Root-Is-Purelib"] == "true"


def test_the_same_sources_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    assert write_wheel(tmp_path).read_bytes() == wheel.read_bytes()


def test_another_package_of_the_same_name_is_refused(python: Path, tmp_path: Path) -> None:
    """By its distribution, whichever of the two was installed last."""
    [packages] = python.parents[1].glob("lib/python*/site-packages")
    other = packages / "metal_flash_sdpa-0.1.2.dist-info"
    other.mkdir()
    try:
        (other / "METADATA").write_text("Metadata-Version: 2.1\nName: metal-flash-sdpa\nVersion: 0.1.2\n")
        result = run(python, "-c", "import metal_flash_sdpa", cwd=tmp_path)
    finally:
        shutil.rmtree(other)
    assert result.returncode != 0
    assert "ImportError: metal_flash_sdpa is installed twice, by flash-sdpa-metal and by metal-flash-sdpa 0.1.2" in (
        result.stderr
    )
    assert "pip uninstall metal-flash-sdpa flash-sdpa-metal" in result.stderr


USE = """
import math, torch, metal_flash_sdpa as attention
query = torch.randn(2, 9, 4, 32)
output = attention.flash_attn_func(query, query, query, causal=True)
expected = torch.nn.functional.scaled_dot_product_attention(*(query.transpose(1, 2),) * 3, is_causal=True)
assert (output - expected.transpose(1, 2)).abs().max() < 1e-5
assert torch.ops.metal_flash_sdpa.attention_forward.default
print(attention.__file__)
"""


def test_a_new_user(python: Path, tmp_path: Path) -> None:
    result = run(python, "-c", USE, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(python.parents[1])


def test_the_run_time_launcher_has_its_text(python: Path, tmp_path: Path) -> None:
    """Which is what tensors on mps go to."""
    code = "import metal_flash_sdpa as attention; print(*attention.launchers.available())"
    assert run(python, "-c", code, cwd=tmp_path).stdout.split() == ["run-time"]


def test_without_mps_the_run_time_launcher_says_so(python: Path, tmp_path: Path) -> None:
    code = f"{USE}\nwith attention.launchers.use_launcher(attention.launchers.available()['run-time'].launcher):\n"
    result = run(python, "-c", f"{code}    attention.flash_attn_func(query, query, query)", cwd=tmp_path)
    assert result.returncode != 0 and "RuntimeError" in result.stderr and "mps" in result.stderr.lower()


def test_beside_a_build_from_the_hub(python: Path, tmp_path: Path) -> None:
    build = stage(tmp_path / "build")[1]
    code = f"""
import sys, importlib.util, json, torch, metal_flash_sdpa
identifier = json.load(open({str(build / "metadata.json")!r}))["id"]
spec = importlib.util.spec_from_file_location(identifier, {str(build / "__init__.py")!r})
sys.modules[identifier] = hub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub)
query = torch.randn(1, 5, 2, 32)
assert torch.equal(hub.flash_attn_func(query, query, query), metal_flash_sdpa.flash_attn_func(query, query, query))
assert hub.operators.attention_forward is not metal_flash_sdpa.operators.attention_forward
"""
    result = run(python, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
