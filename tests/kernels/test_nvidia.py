"""The kernels as the back end for NVIDIA GPUs builds them: nothing here runs on a GPU. Skipped without ptxas."""

from __future__ import annotations

import pathlib

import embed
import pytest
from metal_simulator import Library, ToolchainError
from metal_simulator.nvidia.compile import build
from metal_simulator.nvidia.tools import find_assembler

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "flash_sdpa"


@pytest.fixture(autouse=True)
def ptxas() -> None:
    try:
        find_assembler()
    except ToolchainError as error:
        pytest.skip(str(error))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("matrix", ["exact", "fast"])
@pytest.mark.parametrize("source", sorted({path.name for path in FOLDER.glob("*.metal")} - set(embed.SOURCES)))
def test_attention(source, matrix):
    """The first and the last kernel of the file, with constants set after loading: all features at once."""
    library = Library(FOLDER / source, [FOLDER])
    for name in (library.kernels[0], library.kernels[-1]):
        description = build(library, name, threads=128, matrix=matrix).description
        assert description["resources"]["generic_accesses"] == 0
        assert description["resources"]["threadgroup_bytes"] == library_bytes(library, name, description["unset"])


def library_bytes(library: Library, name: str, constants) -> int:
    """Threadgroup memory by the back end of this machine."""
    return library.kernel(name, dict.fromkeys(constants, False)).threadgroup_bytes
