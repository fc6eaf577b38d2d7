"""What a report says of the machine."""

from __future__ import annotations

import platform
from typing import Dict

import torch

from .._ops import ops


def describe() -> Dict[str, object]:
    """Chip, GPU, memory and versions; in a compiled build as Metal itself tells them. Never fails."""
    description: Dict[str, object] = {
        "os": platform.platform(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "build": ops.name,
    }
    if not torch.backends.mps.is_available():
        return {**description, "gpu": None}
    description.update(gpu=_ask(torch.backends.mps, "get_name"), cores=_ask(torch.backends.mps, "get_core_count"))
    description["memory"] = _ask(torch.mps, "recommended_max_memory")
    if hasattr(ops, "describe_device"):
        try:
            description.update(zip(("gpu", "family", "cores", "memory", "os"), ops.describe_device()))
        except RuntimeError as error:
            description["error"] = str(error).splitlines()[0]
    return description


def _ask(module, name: str):
    try:
        return getattr(module, name)()
    except (AttributeError, RuntimeError):
        return None


def synchronize(device: torch.device) -> None:
    """Waits until everything on the device is done."""
    if device.type == "mps":
        torch.mps.synchronize()
