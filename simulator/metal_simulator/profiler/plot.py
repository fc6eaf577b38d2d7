"""Stacked bars of where the clocks of kernels go. Needs matplotlib, which nothing else does."""

from __future__ import annotations

from typing import Dict, Sequence, Tuple

from ..errors import SimulatorError
from .cost_model import LABEL

# Classes that are drawn together.
_GROUPS = {
    "matrix products": ("mma_half", "mma_bfloat", "mma_mixed", "mma_float"),
    "simple": ("simple",),
    "exp2, log2": ("exponential",),
    "divide, rsqrt": ("divide", "rsqrt"),
    "shuffle, reduction": ("shuffle", "reduction"),
    "convert": ("convert", "bfloat_convert"),
    "addresses, integer": ("shift", "integer_multiply", "wide_add"),
}


def plot(path: str, bars: Sequence[Tuple[str, Dict[str, float]]], title: str) -> None:
    """Writes a picture. bars: label and clocks by class of instruction of each bar.

    Raises SimulatorError when matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SimulatorError("--plot needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(max(5.0, 1.2 * len(bars) + 3.5), 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bottom = [0.0] * len(bars)
    for name, classes in _GROUPS.items():
        heights = [sum(clocks.get(c, 0) for c in classes) for _, clocks in bars]
        axes.bar(range(len(bars)), heights, bottom=bottom, label=name)
        bottom = [low + height for low, height in zip(bottom, heights)]
    axes.set_xticks(range(len(bars)), [label for label, _ in bars], rotation=30, ha="right")
    axes.set_ylabel("clocks per SIMD group")
    axes.set_title(title, fontsize=9)
    figure.supxlabel(
        f"{LABEL.replace('; ', chr(10))}\nM3 and later run complex operations beside the others", fontsize=7
    )
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise SimulatorError(f"cannot write {path}: {error}") from None
