"""MLX's attention for the matrix unit, unmodified from its wheel, beside float64, and with lane layouts of other GPUs.

    PYTHONPATH=simulator python simulator/tests/support/public_matrix_unit.py [FOLDER]

The wheel is downloaded into FOLDER (default: public_kernels in the simulator's cache) if it is not there yet.
"""

from __future__ import annotations

import itertools
import math
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Optional

import torch
from metal_simulator import Library
from metal_simulator.launch.matrix_unit import LAYOUTS
from metal_simulator.toolchain import cache

WHEEL, PLATFORM = "mlx-metal==0.32.4", "macosx_26_0_arm64"
KERNELS = """#include "mlx/backend/metal/kernels/utils.h"
#include "mlx/backend/metal/kernels/steel/attn/kernels/steel_attention_nax.h"
"""
NAMES = {torch.float16: "half", torch.bfloat16: "bfloat"}


def default_folder() -> Path:
    return cache.folder() / "public_kernels"


def headers(folder: Path) -> Optional[Path]:
    """Folder of MLX's headers; None where there is no wheel and none can be downloaded."""
    wheels = sorted(folder.glob("mlx_metal-*.whl"))
    if not wheels:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        subprocess.run([*command, "--platform", PLATFORM, "-d", str(folder), WHEEL], capture_output=True)
        wheels = sorted(folder.glob("mlx_metal-*.whl"))
    if not wheels:
        return None
    target = folder / wheels[-1].stem
    if not target.exists():
        with zipfile.ZipFile(wheels[-1]) as wheel:
            wheel.extractall(
                target, [n for n in wheel.namelist() if "backend/metal/kernels/" in n and n.endswith(".h")]
            )
    return target / "mlx" / "include"


class Attention:
    """MLX's kernel for one head_dim and type."""

    def __init__(self, include: Path, head_dim: int, dtype: torch.dtype, mask: bool = False):
        name, kind, mask_type = f"attention_{head_dim}", NAMES[dtype], "bool" if mask else NAMES[dtype]
        path = include.parent / f"{name}_{kind}_{mask_type}.metal"
        arguments = f"{kind}, 64, 32, {head_dim}, {head_dim}, 4, 1, {mask_type}, float"
        path.write_text(f'{KERNELS}instantiate_kernel("{name}", attention_nax, {arguments})\n')
        self.library = Library(path, [include], language="metal4.0", deployment_target="26.2")
        self.name, self.head_dim, self.dtype, self.masked = name, head_dim, dtype, mask

    def error(self, rows: int, keys: int, causal: bool = False, layout: str = "apple10", check: bool = False) -> float:
        """Largest difference from float64. check: with the checker, which must find nothing."""
        generator = torch.Generator().manual_seed(0)
        query, key, value = (
            torch.randn(2, n, self.head_dim, generator=generator).to(self.dtype) for n in (rows, keys, keys)
        )
        output, scale = torch.full_like(query, float("nan")), self.head_dim**-0.5
        blocks = math.ceil(rows / 64), math.ceil(keys / 32), rows // 64, keys // 32
        numbers = [1, 2, self.head_dim, rows, keys, 1, scale, *blocks, rows % 64, keys % 32, keys - rows]
        strides = [n for t in (query, key, value, output) for n in (0, *t.stride()[:2])]
        buffers = [query, key, value, output, struct.pack("6if7i12q", *numbers, *strides)]
        scores = query.double() @ key.double().transpose(1, 2) * scale
        if causal:
            scores.masked_fill_(torch.ones(rows, keys).triu(1 + keys - rows).bool(), float("-inf"))
        if self.masked:
            mask = torch.rand(rows, keys, generator=generator) > 0.3
            buffers += [struct.pack("3q", 0, 0, keys), mask]
            scores.masked_fill_(~mask, float("-inf"))
        constants = {"align_Q": rows % 64 == 0, "align_K": keys % 32 == 0, "has_mask": self.masked}
        constants |= {"do_causal": causal, "has_sinks": False, "save_lse": False}
        kernel = self.library.kernel(self.name, constants)
        grid, threads = (blocks[0], 2, 1), (32, 4, 1)
        report = kernel.launch(buffers, grid, threads, check=check, matrix_unit=layout)
        if report.findings:
            raise AssertionError("\n".join(map(str, report.findings)))
        return (output.double() - torch.softmax(scores, -1) @ value.double()).abs().max().item()


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    include = headers(folder)
    if include is None:
        print(f"no wheel of mlx-metal in {folder}, and none can be downloaded: skipped")
        return 0
    for dtype, head_dim, mask in itertools.product(NAMES, (64, 96, 128), (False, True)):
        attention = Attention(include, head_dim, dtype, mask)
        errors = {layout: attention.error(70, 90, layout=layout) for layout in LAYOUTS}
        errors["causal"] = attention.error(64, 96, causal=True)
        shown = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        print(f"{NAMES[dtype]}, head_dim {head_dim}{', mask' if mask else ''}: {shown}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
