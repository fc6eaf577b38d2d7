"""Draw finding.svg, what a terminal shows of missing_barrier.metal: python simulator/docs/picture.py"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMAND = (
    "python -m metal_simulator run missing_barrier.metal sum x:float[256]=random out:float[4]=zeros"
    " --grid 4 --threads 64"
)
COLUMNS, LINE, MARGIN = 88, 19, 16  # characters; pixels
WIDTH = round(COLUMNS * 7.83) + 2 * MARGIN


def finding() -> str:
    """What the command prints, with this folder left out."""
    line, environment = [sys.executable, *COMMAND.split()[1:]], {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(line, cwd=HERE, env=environment, capture_output=True, text=True)
    if done.returncode != 1 or done.stderr:
        raise RuntimeError(f"status {done.returncode}, where a finding gives 1: {done.stdout}{done.stderr}")
    return done.stdout.replace(f"{HERE}/", "")


def drawn(output: str) -> str:
    """The picture of the command and its output, as SVG."""
    rows = [(row, "#8b949e") for row in textwrap.wrap(f"$ {COMMAND}", COLUMNS, break_on_hyphens=False)]
    for line in output.splitlines():
        colour = "#ff7b72" if line.startswith("race") else "#e6edf3"
        rows += [(row, colour) for row in textwrap.wrap(line, COLUMNS, break_on_hyphens=False)]
    height = len(rows) * LINE + 2 * MARGIN
    texts = [
        f'  <text x="{MARGIN}" y="{MARGIN + LINE * number + 14}" fill="{colour}">{escape(row)}</text>'
        for number, (row, colour) in enumerate(rows)
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13">',
        f'  <rect width="{WIDTH}" height="{height}" rx="8" fill="#0d1117"/>',
        *texts,
        "</svg>\n",
    ])  # fmt: skip


if __name__ == "__main__":
    (HERE / "finding.svg").write_text(drawn(finding()), encoding="utf-8")
