"""Predict a prefill by three kernels, and draw the picture of README:

    make build
    python docs/pictures/predicted.py          # count, write predicted.json and predicted.svg: a minute or two
    python docs/pictures/predicted.py --draw   # draw predicted.svg from predicted.json alone

Ours and PyTorch's are counted as `make bench-peers` counts them (benchmarks/peers.py), MLX's in the same way, from the
headers of its wheel, which is downloaded. Each runs unmodified on the simulator, and each result is compared with
float64. MLX's tiles are those that its host code chooses on a GPU without a matrix unit. Level: counters, and the cost
model of the chips. Nothing is measured on a Mac.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA, PICTURE = HERE / "predicted.json", HERE / "predicted.svg"
TOKENS, HEAD_DIMS = 1024, (64, 128)
MLX_TILES = {64: (32, 32, 4, 1), 128: (32, 16, 4, 1)}  # by head_dim: rows, keys, SIMD groups along both
COLOURS = {"metal-flash-sdpa": "#0969da", "PyTorch": "#d4762b", "MLX": "#8250df"}
LEFT, COLUMN, ROOM, BAR, GAP = 180, 330, 75, 15, 14  # pixels; ROOM: for the number behind a bar


def mlx_prefill(include: Path, query, key, value, softmax_scale: float, causal: bool):
    """MLX's launch, as pytorch_attention.prefill is PyTorch's. query, key, value: [1, 1, tokens, head_dim], fp16, with
    whole tiles of rows and keys."""
    import pytorch_attention
    import torch
    from metal_simulator import Library

    tokens, head_dim = query.shape[2:]
    rows, keys, *groups = MLX_TILES[head_dim]
    name, path = f"attention_{head_dim}", include.parent / f"attention_{head_dim}.metal"
    path.write_text(
        '#include "mlx/backend/metal/kernels/utils.h"\n'
        '#include "mlx/backend/metal/kernels/steel/attn/kernels/steel_attention.h"\n'
        f'instantiate_kernel("{name}", attention, half, {rows}, {keys}, {head_dim}, {head_dim}, 4, 1, half, float)\n'
    )
    output = torch.full_like(query, float("nan"))
    blocks = tokens // rows, tokens // keys
    numbers = [1, 1, head_dim, tokens, tokens, 1, softmax_scale, *blocks, *blocks, 0, 0, 0]
    strides = [number for tensor in (query, key, value, output) for number in tensor.stride()[:3]]
    parameters = struct.pack("6if7i12q", *numbers, *strides)
    constants = {"align_Q": True, "align_K": True, "has_mask": False, "do_causal": causal}
    constants |= {"has_sinks": False, "save_lse": False}
    buffers = [query, key, value, output, parameters, None, None]
    grid = (blocks[0], 1, 1)
    return pytorch_attention.Dispatch(Library(path, [include]), name, constants, buffers, grid, (32, *groups))


def predicted() -> dict:
    """What predicted.json holds: microseconds by call, chip and library, the kernels that we planned, and versions."""
    sys.path[:0] = [str(ROOT / folder) for folder in ("benchmarks", "simulator", "simulator/tests")]
    import peers
    import pytorch_attention
    import torch
    from metal_simulator.profiler.report import chip_named
    from support import public_matrix_unit

    folder = public_matrix_unit.default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    include = public_matrix_unit.headers(folder)
    if include is None:
        raise RuntimeError(f"no wheel of {public_matrix_unit.WHEEL} in {folder}, and none can be downloaded")
    build, chips = peers.kernels.get_local_kernel(ROOT / "build"), [chip_named(name) for name in peers.CHIPS]
    calls: dict = {}
    planned: dict = {}
    for head_dim in HEAD_DIMS:
        for causal in (False, True):
            one = peers.inputs(1, 1, TOKENS, TOKENS, head_dim)
            launches = [
                pytorch_attention.prefill(*one, head_dim**-0.5, causal),
                mlx_prefill(include, *one, head_dim**-0.5, causal),
            ]
            theirs = [peers.theirs([launch], one, causal).repeated(peers.HEADS) for launch in launches]
            tensors = peers.inputs(peers.HEADS, peers.HEADS, TOKENS, TOKENS, head_dim)
            ours = peers.dense(build, chips, tensors, causal)
            call = f"head_dim {head_dim}{', causal' if causal else ''}"
            planned[call] = {chip.name: [profile.kernel for profile in ours[chip].profiles] for chip in chips}
            calls[call] = {
                chip.name: {
                    name: round(side.seconds(chip) * 1e6, 1) for name, side in zip(COLOURS, (ours[chip], *theirs))
                }
                for chip in chips
            }
    versions = {"PyTorch": torch.__version__.partition("+")[0], "MLX": public_matrix_unit.WHEEL.partition("==")[2]}
    settings = {"tokens": TOKENS, "heads": peers.HEADS, "dtype": "fp16", "versions": versions}
    return {**settings, "kernels": planned, "microseconds": calls}


def drawn(data: dict) -> str:
    """The picture, as SVG: a group of bars for each call, in a column for each chip."""
    calls, names = data["microseconds"], {"metal-flash-sdpa": "metal-flash-sdpa"}
    names |= {name: f"{name} {version}" for name, version in data["versions"].items()}
    longest = max(time for chips in calls.values() for times in chips.values() for time in times.values())
    what = f"{data['dtype']}, one sequence of {data['tokens']:,} tokens, {data['heads']} heads. "
    shapes = [
        text(20, 34, "Predicted time of one attention call: shorter is faster", size=17, weight=600),
        text(20, 56, what + "By the project's cost model, not measured on a Mac.", colour="#59636e"),
    ]
    x = 20
    for name, colour in COLOURS.items():
        shapes += [bar(x, 73, 12, 12, colour), text(x + 18, 84, names[name])]
        x += 42 + 7 * len(names[name])
    top = 122
    for row, call in enumerate(calls):
        middle = top + row * (3 * BAR + GAP) + 1.5 * BAR
        shapes.append(text(LEFT - 12, middle + 4, call, anchor="end"))
    for column, chip in enumerate(next(iter(calls.values()))):
        left, y = LEFT + column * COLUMN, top
        shapes.append(text(left, y - 8, chip, weight=600))
        for chips in calls.values():
            for name, time in chips[chip].items():
                length = round((COLUMN - ROOM) * time / longest, 1)
                shapes += [
                    bar(left, y, length, BAR - 2, COLOURS[name]),
                    text(left + length + 6, y + BAR - 4, f"{int(time + 0.5)} \u00b5s", size=12),
                ]
                y += BAR
            y += GAP
    return picture(LEFT + 2 * COLUMN, y, shapes)


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" fill="{colour}"/>'


def text(
    x: float, y: float, words: str, size: int = 13, weight: int = 400, colour: str = "#1f2328", anchor: str = "start"
):
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def picture(width: int, height: int, shapes: list[str]) -> str:
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f'  <rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        *(f"  {shape}" for shape in shapes),
        "</svg>\n",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict a prefill by three kernels, and draw it.")
    parser.add_argument("--draw", action="store_true", help="only draw predicted.json")
    if not parser.parse_args().draw:
        DATA.write_text(json.dumps(predicted(), indent=1) + "\n", encoding="ascii")
    PICTURE.write_text(drawn(json.loads(DATA.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
