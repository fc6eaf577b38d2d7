"""Whatever changes in the simulator, what it compiled before is stale."""

import shutil
from pathlib import Path

import metal_simulator
import pytest
from metal_simulator.toolchain import cache

PACKAGE = Path(metal_simulator.__file__).parent
FILES = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file()]
FOLDERS = sorted({path.parent for path in FILES if "__pycache__" not in path.parts})


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """The digest of a copy of the package, and the copy's folder."""
    package = shutil.copytree(PACKAGE, tmp_path / "metal_simulator")
    monkeypatch.setattr(cache, "PACKAGE", package)
    return cache.simulator_digest.__wrapped__, package


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_change_in_any_folder(digest, folder):
    digest, package = digest
    before = digest()
    changed = sorted(path for path in (package / folder).iterdir() if path.is_file())[-1]
    changed.write_bytes(changed.read_bytes() + b"\n")
    assert digest() != before


def test_a_file_that_moves_to_another_folder(digest):
    digest, package = digest
    before = digest()
    (package / "source" / "tokens.py").rename(package / "translate" / "tokens.py")
    assert digest() != before


def test_what_python_keeps_for_itself_says_nothing(digest):
    digest, package = digest
    before = digest()
    (package / "source" / "__pycache__").mkdir(exist_ok=True)
    (package / "source" / "__pycache__" / "tokens.pyc").write_bytes(b"compiled")
    assert digest() == before
