"""The kernel as transformers loads it, alone or with an instrument in between."""

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
def loaded(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The kernel; both repository names lead to its build."""
    build = Path(kernel.__file__).parent.parent
    monkeypatch.setenv("LOCAL_KERNELS", f"{REPOSITORY}={build}:{LISTED_REPOSITORY}={build}")
    flash_attention._loaded_implementation = None  # transformers keeps the functions that it loaded last
    yield kernel
    flash_attention._loaded_implementation = None


@pytest.fixture
def instrument(loaded: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Instrument:
    """In front of the kernel's functions."""
    return Instrument(loaded, monkeypatch)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The models are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
