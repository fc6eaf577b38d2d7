"""The self-test of the staged build: `make selftest`. Options as of `python -m metal_flash_sdpa.selftest`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import kernels

if __name__ == "__main__":
    kernel = kernels.get_local_kernel(Path(__file__).resolve().parent.parent / "build")
    sys.exit(importlib.import_module(f"{kernel.__name__}.selftest.__main__").main())
