"""The kernel as transformers loads it, with an instrument in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import modeling_flash_attention_utils as flash_attention

from .instrument import Instrument
from .zoo import LISTED_REPOSITORY, REPOSITORY


@pytest.fixture
def instrument(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instrument]:
    """Both repository names lead to the staged build, and its functions through the instrument."""
    build = Path(kernel.__file__).parent.parent
    monkeypatch.setenv("LOCAL_KERNELS", f"{REPOSITORY}={build}:{LISTED_REPOSITORY}={build}")
    flash_attention._loaded_implementation = None  # transformers keeps the functions that it loaded last
    yield Instrument(kernel, monkeypatch)
    flash_attention._loaded_implementation = None


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The models are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
