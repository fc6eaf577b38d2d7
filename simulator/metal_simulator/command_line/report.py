"""The `report` command: counters and predicted times of a kernel."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import SimulatorError
from ..profiler import cost_model
from ..profiler.plot import plot
from ..profiler.report import as_fields, chip_named, families, simdgroup_clocks, text
from . import json_output, specification


def add_command(subparsers) -> None:
    """Adds `report` to a command line; its options.run(options) returns the exit status."""
    summary = "count a kernel's instructions and memory traffic, and predict its time on Apple GPUs"
    parser = specification.launch_parser(subparsers, "report", summary)
    parser.add_argument("--chip", action="append", default=[], help="only this chip (may be repeated)")
    json_output.add_option(parser, "counters and predictions")
    parser.add_argument("--plot", metavar="FILE.png", help="draw where the clocks go; needs matplotlib")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The `report` command. Raises SimulatorError."""
    chips = [chip_named(name) for name in options.chip] or cost_model.CHIPS
    if options.plot and not Path(options.plot).parent.is_dir():
        raise SimulatorError(f"cannot write {options.plot}: no folder {Path(options.plot).parent}")
    library = specification.library(options)
    kernel = library.kernel(options.kernel, specification.constants(options.constant), "count")
    profile = kernel.profile(
        specification.buffers(kernel.parameters, options.buffers),
        specification.three("--grid", options.grid),
        specification.three("--threads", options.threads),
        threadgroup_memory=options.threadgroup_memory,
        matrix_unit=options.matrix_unit,
    )
    if options.json != json_output.STANDARD_OUTPUT:
        print(text(profile, chips))
    json_output.write(options.json, as_fields(profile, chips))
    if options.plot:
        bars = [(name, simdgroup_clocks(profile, family)) for family, name in families(profile).items()]
        plot(options.plot, bars, profile.kernel)
    return 0
