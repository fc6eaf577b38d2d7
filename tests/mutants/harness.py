"""Running mutants, each in a process of its own that may crash or hang."""

from __future__ import annotations

import faulthandler
import functools
import multiprocessing
import pathlib
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Iterable, Iterator, NamedTuple, Tuple

import torch
from metal_simulator import LaunchError, SimulatorError

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

    @property
    def as_expected(self) -> bool:
        """Whether it was found by what its entry says: the checker, whatever the numbers, or the numbers alone."""
        by = "checker" if self.checker else "numbers" if self.numbers else "equivalent"
        return not self.broken and by == self.mutant.expected


def run_all(mutants: Iterable[Mutant], jobs: int) -> Iterator[Outcome]:
    """Outcomes in the order of the mutants."""
    targets.prepare()
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(run, mutants)


@functools.lru_cache(maxsize=None)
def blame(file: str) -> str:
    """What is found in a file without any mutation; "" if it is clean, else nothing that is found proves anything."""
    checker, numbers = _runs(file, targets.folder_of(file))
    return f"found without a mutation: {checker or numbers}" if checker or numbers else ""


def run(mutant: Mutant) -> Outcome:
    """Both runs of one mutant. It is broken, not found, if it cannot be made, does not compile, changes nothing but
    comments and white space, or if its file is not clean without it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        folder = pathlib.Path(scratch) / "kernels"
        shutil.copytree(targets.folder_of(mutant.file), folder)
        try:
            text = (folder / mutant.file).read_text()
            mutated = mutant.apply(text)
            if _code(mutated) == _code(text):
                return Outcome(mutant, "", "", "the mutation changes no code")
            (folder / mutant.file).write_text(mutated)
            checker, numbers = _runs(mutant.file, folder)
            blamed = blame(mutant.file)
        except (ValueError, RuntimeError) as error:
            return Outcome(mutant, "", "", str(error))
    return Outcome(mutant, "", "", blamed) if blamed else Outcome(mutant, checker, numbers)


def _code(text: str) -> str:
    """Text without comments and white space."""
    return re.sub(r"//[^\n]*|/\*.*?\*/|\s+", "", text, flags=re.DOTALL)


def _runs(file: str, folder: pathlib.Path) -> Tuple[str, str]:
    """What the checker and what the numbers find. Raises RuntimeError for a kernel that cannot be run."""
    return _in_process(file, folder, True), _in_process(file, folder, False)


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
    torch.set_num_threads(1)  # a forked process has none of the threads that its parent may have started
    try:
        targets.run(file, folder, check)
        sender.send(("clean", ""))
    except (targets.Found, LaunchError) as error:
        if isinstance(error, LaunchError) and ", threadgroup (" not in str(error):
            sender.send(("broken", f"the launch is refused: {error}"))
            return
        lines = str(error).splitlines()
        sender.send(("found", lines[0] if check else f"launch: {lines[0]}"))
    except AssertionError as error:
        sender.send(("found", str(error).splitlines()[0] if str(error) else "wrong numbers"))
    except Exception as error:  # without the checker, what a mutant overwrites may be Python's own
        broken = check or isinstance(error, SimulatorError)
        sender.send(("broken" if broken else "found", f"{type(error).__name__}: {error}"))
