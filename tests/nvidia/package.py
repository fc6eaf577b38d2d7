"""The project's package without the kernels library, and the places that the build and the stages share."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import pathlib
import shutil
import sys
import tempfile
from typing import Dict, NamedTuple, Tuple

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_FOLDERS = ("simulator", "tools", "tests", "tests/support", "benchmarks", "benchmarks/nvidia")
sys.path[:0] = [str(ROOT / folder) for folder in _FOLDERS]

BUILT = ROOT / "build" / "nvidia"  # all that the GPU machine needs besides the repository
ARCHIVE = BUILT / "programs.zip"


def source_digests() -> Dict[str, str]:
    """Hash of each .metal file with all that it includes: programs are of no use for other sources."""
    from metal_simulator.source.files import read_source

    folder = ROOT / "flash_sdpa"
    paths = sorted([*folder.glob("*.metal"), *(ROOT / "benchmarks" / "nvidia").glob("*.metal")])
    return {path.name: read_source(path, [folder]).digest() for path in paths}


class Specialisation(NamedTuple):
    """What a plan asks of the build."""

    source: str
    kernel: str
    constants: Tuple[Tuple[str, bool], ...]
    threads: int


def specialisation(plan) -> Specialisation:
    x, y, z = plan.threads
    return Specialisation(plan.source, plan.kernel, tuple(sorted(plan.constants)), x * y * z)


def load_variant(folder: pathlib.Path):
    """The module of a staged variant, or of the torch-cpu variant of a staged build; equal variants are loaded once."""
    folder = pathlib.Path(folder)
    return _loaded(*[f for f in (folder / "torch-cpu", folder) if (f / "_ops.py").exists()][:1])


_modules = {}  # by what the builds call themselves


def _loaded(variant: pathlib.Path):
    identifier = (variant / "_ops.py").read_text()
    if identifier not in _modules:
        name = f"staged_{len(_modules)}"
        places = [str(variant)]
        spec = importlib.util.spec_from_file_location(name, variant / "__init__.py", submodule_search_locations=places)
        _modules[identifier] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        # Only Apple10 has a matrix unit: what serves without it takes its place.
        for tables in (_modules[identifier].planning.tiles, _modules[identifier].planning.backward_tiles):
            tables.MATRIX_UNIT.clear()
    return _modules[identifier]


@functools.lru_cache(maxsize=1)
def package():
    """The package, freshly staged, for this process alone: staging anew replaces the folder under all who read it."""
    import stage

    folder = pathlib.Path(tempfile.mkdtemp(prefix="metal_flash_sdpa_"))
    atexit.register(shutil.rmtree, folder)
    stage.stage(folder)
    return load_variant(folder)
