"""Running mutants, each in a process of its own that may crash or hang."""

from __future__ import annotations

import faulthandler
import multiprocessing
import pathlib
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Iterable, Iterator, NamedTuple

from metal_simulator import LaunchError

from . import targets
from .mutant import Mutant

PROCESS_SECONDS = 300


class Outcome(NamedTuple):
    """What found a mutant: the first line of the checker's words and of the numbers' error, "" if it did not."""

    mutant: Mutant
    checker: str
    numbers: str
    broken: str = ""  # why it could not be made or run at all: the table is out of date

    @property
    def found(self) -> bool:
        return bool(self.checker or self.numbers)


def run_all(mutants: Iterable[Mutant], jobs: int) -> Iterator[Outcome]:
    """Outcomes in the order of the mutants."""
    targets.prepare()
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(run, mutants)


def run(mutant: Mutant) -> Outcome:
    """Both runs of one mutant."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        folder = pathlib.Path(scratch) / "kernels"
        shutil.copytree(targets.folder_of(mutant.file), folder)
        try:
            (folder / mutant.file).write_text(mutant.apply((folder / mutant.file).read_text()))
            checker, numbers = (_in_process(mutant.file, folder, check) for check in (True, False))
        except (ValueError, RuntimeError) as error:
            return Outcome(mutant, "", "", str(error))
    return Outcome(mutant, checker, numbers)


def _in_process(file: str, folder: pathlib.Path, check: bool) -> str:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, file, folder, check))
    process.start()
    sender.close()
    answered = receiver.poll(PROCESS_SECONDS)
    try:
        kind, text = receiver.recv() if answered else ("found", "does not end")
    except EOFError:
        kind, text = "broken" if check else "found", "crash of the process"
    process.kill() if not answered else process.join()
    if kind == "broken":
        raise RuntimeError(text)
    return text


def _work(sender, file: str, folder: pathlib.Path, check: bool) -> None:
    faulthandler.disable()  # some mutants crash without the checker, as they may: no trace of it in the log
    try:
        targets.run(file, folder, check)
        sender.send(("clean", ""))
    except (targets.Found, LaunchError) as error:
        lines = str(error).splitlines()
        sender.send(("found", lines[0] if check else f"launch: {lines[0]}"))
    except AssertionError as error:
        sender.send(("found", str(error).splitlines()[0] if str(error) else "wrong numbers"))
    except Exception as error:
        sender.send(("broken", f"{type(error).__name__}: {error}"))
