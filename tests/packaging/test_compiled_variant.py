"""The compiled variant, laid out without its binary, is what the loader expects."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from kernels._rust import Backend, Digest, DigestAlgorithm, Metadata
from stage import ROOT, stage

# In place of the binary: operators of the same schemas in the same namespace.
BINARY = """
import torch
library = torch.library.Library(__name__.rpartition(".")[2], "DEF")
calls = []
library.define({launch_kernel!r})
library.impl("launch_kernel", lambda *arguments: calls.append(arguments), "CPU")
library.define({describe_pipeline!r})
library.impl("describe_pipeline", lambda *arguments: (256, 9216, 32), "CompositeImplicitAutograd")
library.define({describe_device!r})
library.impl("describe_device", lambda: ("Apple M4 Max", 9, 40, 1 << 30, "Version 26.1"), "CompositeImplicitAutograd")
"""


@pytest.fixture
def variant(tmp_path: Path) -> Path:
    [folder] = stage(tmp_path, torch_version="2.13")
    return folder


def identifier(variant: Path) -> str:
    return Metadata.read_from_file(variant / "metadata.json").id


def run(variant: Path, code: str) -> subprocess.CompletedProcess:
    load = "from pathlib import Path\nfrom kernels import get_local_kernel\n"
    load += f"kernel = get_local_kernel(Path({str(variant)!r}))\n"
    return subprocess.run([sys.executable, "-c", load + code], capture_output=True, text=True, check=False)


def schemas() -> dict[str, str]:
    """The schemas of torch_binding.cpp, by name."""
    text = re.sub(r'"\n\s*"', "", (ROOT / "torch-ext" / "torch_binding.cpp").read_text())
    return {schema.partition("(")[0]: schema for schema in re.findall(r'"(\w+\(.*\) -> .*)"', text)}


def test_names(variant: Path) -> None:
    assert variant.name == "torch213-metal-aarch64-darwin"
    name = identifier(variant)
    assert re.fullmatch(r"_metal_flash_sdpa_metal_[0-9a-f]{16}", name)
    assert f"from . import {name}\n" in (variant / "_ops.py").read_text()
    assert f"ops = torch.ops.{name}\n" in (variant / "_ops.py").read_text()


def test_metadata(variant: Path) -> None:
    metadata = Metadata.read_from_file(variant / "metadata.json")
    assert (str(metadata.name), metadata.version, metadata.license) == ("metal-flash-sdpa", 1, "Apache-2.0")
    assert metadata.backend.backend_type == Backend.Metal
    metadata.digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, variant))


def test_it_holds_the_package_and_no_text_of_shaders(variant: Path) -> None:
    """Those are in the binary."""
    package = ROOT / "torch-ext" / "metal_flash_sdpa"
    expected = {path.relative_to(package).as_posix() for path in package.rglob("*.py")} | {"_ops.py", "metadata.json"}
    assert {path.relative_to(variant).as_posix() for path in variant.rglob("*") if path.is_file()} == expected


def test_any_compiled_source_changes_the_identifier(variant: Path, tmp_path: Path) -> None:
    build = tomllib.loads((ROOT / "build.toml").read_text())
    sources = [*build["torch"]["src"], *(src for kernel in build["kernel"].values() for src in kernel["src"])]
    root = tmp_path / "sources"
    for path in [ROOT / "build.toml", *(ROOT / "torch-ext").rglob("*.py"), *(ROOT / src for src in sources)]:
        copy = root / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    seen = {identifier(stage(tmp_path / "build", root, "2.13")[0])}
    assert seen == {identifier(variant)}
    for source in ("flash_sdpa/launch.mm", "torch-ext/torch_binding.cpp", "flash_sdpa/tile.h"):
        with (root / source).open("a") as file:
            file.write("\n")
        seen.add(identifier(stage(tmp_path / "build", root, "2.13")[0]))
    assert len(seen) == 4


def test_without_its_binary_it_names_it(variant: Path) -> None:
    result = run(variant, "")
    assert result.returncode != 0 and f"cannot import name '{identifier(variant)}'" in result.stderr


def test_with_operators_in_place_of_the_binary(variant: Path) -> None:
    (variant / f"{identifier(variant)}.py").write_text(BINARY.format(**schemas()))
    result = run(variant, """
import torch
[(name, target)] = kernel.launchers.available().items()
assert (name, target.device) == ("compiled", kernel.device.Device(9, 40)), name
assert kernel.launchers.metal() == kernel.launchers.metal() and kernel.launchers.metal().device == target.device
query = torch.randn(1, 40, 2, 64)
assert kernel.flash_attn_func(query, query, query).isfinite().all()  # on the CPU
described = kernel.selftest.pipelines.Described(target.launcher)
with kernel.launchers.use_launcher(described, target.device):
    kernel.flash_attn_func(query, query, query)
[call] = __import__(kernel.__name__, fromlist=["_ops"])._ops.__dict__[kernel.__name__].calls
[entry] = described.entries()
assert entry["kernel"] == call[0] and (entry["max_threads"], entry["is_capped"]) == (256, True), entry
assert call[0].startswith("attention_forward_f32_d64_v64") and any(buffer is query for buffer in call[3]), call
""")  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_the_command_refuses_what_is_no_version(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "stage.py"), str(tmp_path), "--compiled", "newest"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "--compiled must be a version like 2.13, got 'newest'" in result.stderr


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "stage.py"), str(tmp_path), "--compiled", "2.14.1"]
    subprocess.run(command, capture_output=True, check=True)
    [folder] = tmp_path.iterdir()
    assert folder.name == "torch214-metal-aarch64-darwin" and json.loads((folder / "metadata.json").read_text())["id"]
