"""Predict prefills and decoding by three kernels, and draw the picture of README:

    make build
    python docs/pictures/predicted.py          # count, write predicted.json and predicted.svg: a minute or two
    python docs/pictures/predicted.py --draw   # draw predicted.svg from predicted.json alone

All are counted as `make bench-peers` counts them (benchmarks/peers.py): each runs unmodified on the simulator, and each
result is compared with float64. Level: counters, and the cost model of the chips. Nothing is measured on a Mac.
"""

from __future__ import annotations

import argparse
import json
import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA, PICTURE = HERE / "predicted.json", HERE / "predicted.svg"
TOKENS, HEAD_DIMS, KEYS = 1024, (64, 128), 8192
COLOURS = {"metal-flash-sdpa": "#0969da", "PyTorch": "#d4762b", "MLX": "#8250df"}
LEFT, COLUMN, ROOM, BAR, GAP = 180, 330, 75, 15, 14  # pixels; ROOM: for the number behind a bar


def predicted() -> dict:
    """What predicted.json holds: microseconds by call (as peers.py names it), chip and library, the kernels that we
    planned, and versions."""
    sys.path[:0] = [str(ROOT / folder) for folder in ("benchmarks", "simulator", "tools")]
    import mlx_attention
    import peers
    import pytorch_attention
    from metal_simulator.profiler.report import chip_named

    for peer in (pytorch_attention, mlx_attention):
        if not peer.WHEEL.download():
            raise RuntimeError(f"{peer.WHEEL.package} {peer.WHEEL.version} cannot be downloaded")
    build, chips = peers.kernels.get_local_kernel(ROOT / "build"), [chip_named(name) for name in peers.CHIPS]
    calls: dict = {}
    planned: dict = {}
    prefill, decode = peers.prefill_cases(build, chips, HEAD_DIMS, TOKENS), peers.decode_cases(build, chips, KEYS)
    for case in (*prefill, *decode):
        planned[case.name] = {chip.name: [profile.kernel for profile in case.ours[chip].profiles] for chip in chips}
        calls[case.name] = {}
        for chip in chips:
            sides = {"metal-flash-sdpa": case.ours, **case.theirs}
            calls[case.name][chip.name] = {name: round(sides[name][chip].seconds(chip) * 1e6, 1) for name in COLOURS}
    versions = {"PyTorch": pytorch_attention.WHEEL.version, "MLX": mlx_attention.WHEEL.version}
    settings = {"tokens": TOKENS, "heads": peers.HEADS, "keys": KEYS, "dtype": "fp16", "versions": versions}
    return {**settings, "kernels": planned, "microseconds": calls}


def label(call: str) -> str:
    kind, _, *words = call.split()
    if kind == "decode":
        return f"one token, {words[1]} heads"
    return f"head_dim {words[-1][1:]}{', causal' if 'causal' in words else ''}"


def drawn(data: dict) -> str:
    """The picture, as SVG: a group of bars for each call, in a column for each chip."""
    calls, names = data["microseconds"], {"metal-flash-sdpa": "metal-flash-sdpa"}
    names |= {name: f"{name} {version}" for name, version in data["versions"].items()}
    longest = max(time for chips in calls.values() for times in chips.values() for time in times.values())
    prefill, decode = f"{data['tokens']:,} tokens with {data['heads']} heads", f"one token on {data['keys']:,} keys"
    what = f"{data['dtype']}: {prefill}, and {decode}. "
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
        shapes.append(text(LEFT - 12, middle + 4, label(call), anchor="end"))
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
    parser = argparse.ArgumentParser(description="Predict prefills and decoding by three kernels, and draw them.")
    parser.add_argument("--draw", action="store_true", help="only draw predicted.json")
    if not parser.parse_args().draw:
        DATA.write_text(json.dumps(predicted(), indent=1) + "\n", encoding="ascii")
    PICTURE.write_text(drawn(json.loads(DATA.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
