"""What tests know of the clang that they run with."""

import pytest
from metal_simulator.toolchain.clang import find_clang


def since(major: int, reason: str) -> pytest.MarkDecorator:
    """Skips a test with an older clang. reason: what that does"""
    found = find_clang().major
    return pytest.mark.skipif(found < major, reason=f"clang {found} {reason}")
