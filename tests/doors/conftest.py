"""Doors are opened and closed within a test; nothing of them may be left behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

SDPA = "aten::scaled_dot_product_attention"


def traces() -> dict:
    """What doors change, in the whole process."""
    return {
        "dispatcher": [torch._C._dispatch_dump_table(name) for name in (SDPA, "aten::_flash_attention_forward")],
        "function": torch.nn.functional.scaled_dot_product_attention,
        "tag of compiled code": torch.compiler.config.cache_key_tag,
        "modules": sorted(name for name in sys.modules if name.partition(".")[0] == "flash_attn"),
        "finders": [
            finder for finder in sys.meta_path if "flash_sdpa" in type(finder).__module__
        ],  # no other library's
    }


@pytest.fixture(autouse=True)
def no_trace() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are too small for more
    before = traces()
    yield
    torch.set_num_threads(threads)
    assert traces() == before
