"""The staged variants: complete, described truthfully, and loadable the way users load them."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import embed
import pytest
from kernels._rust import Backend, Digest, DigestAlgorithm, DigestValidationError, Metadata
from stage import ROOT, stage

VARIANTS = ("torch-cpu", "torch-metal")
PACKAGE = ROOT / "torch-ext" / "metal_flash_sdpa"


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above the variants. Tests that load from it do so in a process of their own."""
    folder = tmp_path_factory.mktemp("staged")
    assert [variant.name for variant in stage(folder)] == list(VARIANTS)
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of what staging reads, to be changed."""
    root = tmp_path / "sources"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "torch-ext", root / "torch-ext", ignore=ignored)
    shutil.copytree(ROOT / "flash_sdpa", root / "flash_sdpa", ignore=ignored)
    shutil.copy(ROOT / "build.toml", root)
    return root


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def identifiers(variants: list[Path]) -> list[str]:
    return [Metadata.read_from_file(variant / "metadata.json").id for variant in variants]


def run_python(code: str, **environment: str) -> str:
    """The output of `code` in a fresh interpreter that cannot reach the hub."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(("variant", "backend"), [("torch-cpu", Backend.CPU), ("torch-metal", Backend.Metal)])
def test_metadata_describes_the_variant(staged: Path, variant: str, backend: Backend) -> None:
    metadata = Metadata.read_from_file(staged / variant / "metadata.json")
    assert str(metadata.name) == "metal-flash-sdpa"
    assert (metadata.version, metadata.license) == (1, "Apache-2.0")
    assert metadata.backend.backend_type == backend
    assert metadata.python_depends == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_digests_are_right(staged: Path, variant: str) -> None:
    metadata = Metadata.read_from_file(staged / variant / "metadata.json")
    metadata.digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, staged / variant))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("damage", ["changed", "removed", "added"])
def test_damage_is_detected(staged: Path, tmp_path: Path, variant: str, damage: str) -> None:
    damaged = shutil.copytree(staged / variant, tmp_path / variant)
    if damage == "changed":
        contents = bytearray((damaged / "planning" / "forward.py").read_bytes())
        contents[len(contents) // 2] ^= 1
        (damaged / "planning" / "forward.py").write_bytes(contents)
    elif damage == "removed":
        (damaged / "planning" / "forward.py").unlink()
    else:
        (damaged / "other.py").touch()
    digest = Metadata.read_from_file(damaged / "metadata.json").digest
    with pytest.raises(DigestValidationError):
        digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, damaged))


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytecode_does_not_count(staged: Path, tmp_path: Path, variant: str) -> None:
    """Importing a variant leaves bytecode in it."""
    used = shutil.copytree(staged / variant, tmp_path / variant)
    (used / "__pycache__").mkdir(exist_ok=True)
    (used / "__pycache__" / "planner.cpython-311.pyc").write_bytes(b"bytecode")
    digest = Metadata.read_from_file(used / "metadata.json").digest
    digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, used))


def test_staging_twice_gives_the_same_files(tmp_path: Path) -> None:
    first, second = (stage(tmp_path / name) for name in ("first", "second"))
    assert [files(variant) for variant in first] == [files(variant) for variant in second]


def test_variants_differ_in_their_identifier(staged: Path) -> None:
    cpu, metal = identifiers([staged / variant for variant in VARIANTS])
    assert cpu.startswith("_metal_flash_sdpa_cpu_") and metal.startswith("_metal_flash_sdpa_metal_")
    assert cpu.rpartition("_")[2] != metal.rpartition("_")[2]


def test_a_changed_source_changes_both_identifiers(sources: Path, tmp_path: Path) -> None:
    before = identifiers(stage(tmp_path / "before", sources))
    with (sources / "torch-ext" / "metal_flash_sdpa" / "planning" / "forward.py").open("a") as source:
        source.write("\n")
    after = identifiers(stage(tmp_path / "after", sources))
    assert before[0] != after[0] and before[1] != after[1]


def test_a_changed_shader_changes_the_metal_identifier_only(sources: Path, tmp_path: Path) -> None:
    before = identifiers(stage(tmp_path / "before", sources))
    with (sources / "flash_sdpa" / "attention_forward.metal").open("a") as source:
        source.write("\n")
    after = identifiers(stage(tmp_path / "after", sources))
    assert before[0] == after[0] and before[1] != after[1]


def test_a_removed_source_is_removed(sources: Path, tmp_path: Path) -> None:
    extra = sources / "torch-ext" / "metal_flash_sdpa" / "extra.py"
    extra.touch()
    variants = stage(tmp_path / "build", sources)
    assert all((variant / "extra.py").is_file() for variant in variants)
    extra.unlink()
    stage(tmp_path / "build", sources)
    assert not any((variant / "extra.py").exists() for variant in variants)


def test_a_failure_leaves_the_old_variants(sources: Path, tmp_path: Path) -> None:
    before = [files(variant) for variant in stage(tmp_path / "build", sources)]
    (sources / "flash_sdpa" / "tile.h").unlink()
    with pytest.raises(FileNotFoundError, match=r"tile\.h"):
        stage(tmp_path / "build", sources)
    assert [files(tmp_path / "build" / variant) for variant in VARIANTS] == before
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == list(VARIANTS)


def test_neither_bytecode_nor_foreign_files_are_staged(sources: Path, tmp_path: Path) -> None:
    package = sources / "torch-ext" / "metal_flash_sdpa"
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "planner.cpython-311.pyc").touch()
    (package / "notes.txt").touch()
    for variant in stage(tmp_path / "build", sources):
        assert {Path(path).suffix for path in files(variant)} <= {".py", ".json", ".metal", ".h"}


def test_the_package_is_staged_as_it_is(staged: Path) -> None:
    expected = {path: text for path, text in files(PACKAGE).items() if path.endswith(".py")}
    for variant in VARIANTS:
        found = {path: text for path, text in files(staged / variant).items() if path.endswith(".py")}
        del found["_ops.py"]
        assert found == expected


def test_only_the_metal_variant_carries_the_shaders(staged: Path) -> None:
    shaders = {path: text for path, text in files(ROOT / "flash_sdpa").items() if path.endswith((".metal", ".h"))}
    for name in embed.FILES:  # every variant has their text in its package
        del shaders[name]
    assert shaders and files(staged / "torch-metal" / "flash_sdpa") == shaders
    assert not (staged / "torch-cpu" / "flash_sdpa").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_shipped_package_imports_only_torch_and_itself(staged: Path, variant: str) -> None:
    allowed = {*sys.stdlib_module_names, "torch"}
    for path in (staged / variant).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.partition(".")[0] in allowed, f"{path.name} imports {node.module}"
            if isinstance(node, ast.Import):
                assert {name.name.partition(".")[0] for name in node.names} <= allowed, path.name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_shipped_package_parses_as_python_3_9(staged: Path, variant: str) -> None:
    for path in (staged / variant).rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))


def test_public_names_are_a_literal_list() -> None:
    """The builder reads `__all__` without running the package."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assigned = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]
    names = [ast.literal_eval(element) for element in assigned[0].elts]
    assert isinstance(assigned[0], ast.List)
    assert {"flash_attention_varlen", "flash_attn_varlen_func", "flash_attn_func"} <= set(names)


USE = """
import torch
query = torch.randn(5, 2, 32)
cu_seqlens = torch.tensor([0, 2, 5], dtype=torch.int32)
output = kernel.flash_attn_varlen_func(query, query, query, cu_seqlens, cu_seqlens, 3, 3)
assert output.shape == query.shape and output.isfinite().all()
assert hasattr(getattr(torch.ops, kernel.__name__), "attention_forward")
print(kernel.__name__)
"""


@pytest.mark.parametrize(
    "path", [".", "torch-cpu", "torch-metal"], ids=["chosen by the loader", "torch-cpu", "torch-metal"]
)
def test_get_local_kernel(staged: Path, path: str) -> None:
    load = "from pathlib import Path\nfrom kernels import get_local_kernel\n"
    name = run_python(f"{load}kernel = get_local_kernel(Path({str(staged / path)!r}))\n{USE}")
    expected = staged / ("torch-cpu" if path == "." else path)
    assert [name] == identifiers([expected])


def test_get_kernel_with_local_kernels(staged: Path) -> None:
    load = "from kernels import get_kernel\nkernel = get_kernel('org/metal-flash-sdpa', version=1)\n"
    name = run_python(load + USE, LOCAL_KERNELS=f"org/metal-flash-sdpa={staged}")
    assert [name] == identifiers([staged / "torch-cpu"])


def test_both_variants_in_one_process(staged: Path) -> None:
    """Each build has its own operator namespace, so several can be loaded side by side."""
    load = "from pathlib import Path\nfrom kernels import get_local_kernel\n"
    both = "".join(f"kernel = get_local_kernel(Path({str(staged / name)!r}))\n{USE}" for name in VARIANTS)
    assert run_python(load + both).split() == identifiers([staged / name for name in VARIANTS])


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "stage.py"), str(tmp_path / "build")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for line, variant in zip(lines, VARIANTS, strict=True):
        folder = tmp_path / "build" / variant
        identifier = json.loads((folder / "metadata.json").read_text())["id"]
        assert line == f"{folder}: {len(files(folder))} files, id {identifier}"
