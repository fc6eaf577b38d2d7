"""The command line: check, run and report."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Optional, Sequence

from ..errors import LaunchError, SimulatorError
from ..library import Library
from ..strict import language
from ..toolchain.clang import find_clang
from ..version import VERSION
from . import json_output, report, specification
from .specification import EXIT_STATUS


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs a command line (sys.argv without the program's name) and returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.version:
            print(version())
            return 0
        status = options.run(options)
        sys.stdout.flush()
        return status
    except SimulatorError as error:
        print(f"metal_simulator: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"metal_simulator: not enough memory: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would say so as it exits
        return 2


def version() -> str:
    """The simulator's version and the clang in use. Raises ToolchainError if there is none."""
    clang = find_clang()
    return f"metal_simulator {VERSION} with {clang.version} ({clang.path})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m metal_simulator", description="Metal compute kernels on a CPU", epilog=EXIT_STATUS
    )
    parser.add_argument("--version", action="store_true", help="print the version, and which clang is used")
    parser.set_defaults(run=lambda options: parser.error("a command is needed: check, run or report"))
    commands = parser.add_subparsers(title="commands")
    _add_check(commands)
    _add_run(commands)
    report.add_command(commands)
    return parser


def _add_check(commands) -> None:
    summary = "what Apple's compiler would reject, and lints"
    parser = commands.add_parser("check", help=summary, description=summary, epilog=EXIT_STATUS)
    parser.add_argument("files", nargs="+", metavar="FILE", help=".metal files")
    parser.add_argument("--include", "-I", action="append", default=[], help="folder for #include lines")
    parser.add_argument("--errors-only", action="store_true", help="no warnings")
    parser.add_argument("--language", choices=language.NAMES, help="refuse what is newer than its C++ (14, 17)")
    specification.add_target(parser)
    json_output.add_option(parser, "the diagnostics")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    found = []
    for file in options.files:
        for diagnostic in Library(file, options.include, deployment_target=options.deployment_target).check(
            options.language
        ):
            if diagnostic.severity == "error" or not options.errors_only:
                found.append(diagnostic)
                if options.json != json_output.STANDARD_OUTPUT:
                    print(diagnostic)
    json_output.write(options.json, {"diagnostics": [diagnostic._asdict() for diagnostic in found]})
    return int(len(found) > 0)


def _add_run(commands) -> None:
    parser = specification.launch_parser(commands, "run", "run a kernel, with the checker")
    parser.add_argument("--order", default="forward", help="forward, reverse or a seed")
    parser.add_argument("--no-check", action="store_true", help="without the checker")
    parser.add_argument("--check-written", action="store_true", help="findings for elements that nobody writes")
    parser.add_argument("--check-nan", action="store_true", help="findings for NaN made of numbers")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for one threadgroup (60)")
    parser.add_argument("--output", "-o", action="append", default=[], metavar="NAME=FILE.npy", help="write a buffer")
    parser.add_argument("--print", action="append", default=[], metavar="NAME", help="print a buffer")
    json_output.add_option(parser, "the findings")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.no_check and (options.check_written or options.check_nan):
        raise LaunchError("--no-check goes with neither --check-written nor --check-nan")
    if options.print and options.json == json_output.STANDARD_OUTPUT:
        raise LaunchError("--print and --json - would mix on the standard output; give --json a file")
    library = specification.library(options)
    build = "run" if options.no_check else "nan" if options.check_nan else "check"
    kernel = library.kernel(options.kernel, specification.constants(options.constant), build)
    buffers = specification.buffers(kernel.parameters, options.buffers)
    indices = {p["name"]: p["index"] for p in kernel.parameters if p["kind"] == "buffer"}
    outputs = [_output(text, indices) for text in options.output]
    printed = [(name, _index(name, indices)) for name in options.print]
    launched = kernel.launch(
        buffers,
        specification.three("--grid", options.grid),
        specification.three("--threads", options.threads),
        order=_order(options.order),
        check=not options.no_check,
        check_written=options.check_written,
        check_nan=options.check_nan,
        timeout=options.timeout,
        threadgroup_memory=options.threadgroup_memory or None,
        matrix_unit=options.matrix_unit,
    )
    for index, path in outputs:
        _save(path, buffers[index])
    for name, index in printed:
        print(f"{name} = {buffers[index]}")
    count = len(launched.findings)
    if options.json != json_output.STANDARD_OUTPUT:
        for finding in launched.findings:
            print(finding)
        checked = "not checked" if options.no_check else f"{count} finding{'' if count == 1 else 's'}"
        print(f"{kernel.name}: {launched.threadgroups} threadgroups, {checked}")
    json_output.write(
        options.json,
        {
            "kernel": kernel.name,
            "threadgroups": launched.threadgroups,
            "checked": not options.no_check,
            "findings": [finding._asdict() for finding in launched.findings],
        },
    )
    return int(count > 0)


def _order(text: str):
    if text in ("forward", "reverse"):
        return text
    try:
        return int(text)
    except ValueError:
        raise LaunchError(f"--order is forward, reverse or a number, not {text!r}") from None


def _output(text: str, indices: dict) -> tuple:
    name, equals, path = text.partition("=")
    if not equals or not path.endswith(".npy"):
        raise LaunchError(f"--output is NAME=FILE.npy, not {text!r}")
    return _index(name, indices), Path(path)


def _index(name: str, indices: dict) -> int:
    if name.isdigit() and int(name) in indices.values():
        return int(name)
    if name not in indices:
        raise LaunchError(f"no buffer {name!r}; the kernel has {', '.join(indices)}")
    return indices[name]


def _save(path: Path, buffer: object) -> None:
    import numpy

    try:
        numpy.save(path, numpy.frombuffer(buffer, numpy.uint8) if isinstance(buffer, bytes) else buffer)
    except OSError as error:
        raise LaunchError(f"cannot write {path}: {error.strerror}") from None
