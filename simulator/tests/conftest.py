"""Fixtures for the tests of the simulator: the teaching kernels of kernels/, and kernels written in a test."""

import pathlib

import pytest
from metal_simulator import Library

KERNELS = pathlib.Path(__file__).parent / "kernels"
HEADER = "#include <metal_stdlib>\nusing namespace metal;\n"


@pytest.fixture
def library():
    """library("row_sum") is the Library of kernels/row_sum.metal."""
    return lambda name: Library(KERNELS / f"{name}.metal")


@pytest.fixture
def written(tmp_path):
    """written(text) is the Library of a file with this text; line 3 is the first line of the text."""

    def write(text: str) -> Library:
        path = tmp_path / "written.metal"
        path.write_text(HEADER + text)
        return Library(path)

    return write
