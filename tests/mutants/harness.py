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
from typing import Callable, Iterable, Iterator, List, NamedTuple

import torch
from metal_simulator import LaunchError, SimulatorError

from . import targets
from .mutant import Mutant

PROCESS_SECONDS = 300


def _checker(file: str, folder: pathlib.Path) -> None:
    targets.run(file, targets.Run(folder, check=True))


def _numbers(file: str, folder: pathlib.Path) -> None:
    targets.run(file, targets.Run(folder, check=False))


def _fast_math(file: str, folder: pathlib.Path) -> None:
    targets.run(file, targets.Run(folder, check=False, fast_math=True))


RUNS = {"checker": _checker, "numbers": _numbers, "fast math": _fast_math, "strict check": targets.strictly}
OTHER = ("fast math", "strict check")  # run only for mutants that expect to be found by them
MAY_CRASH = (_numbers, _fast_math)  # without the checker, a mutant may write anywhere


class Outcome(NamedTuple):
    """What found a mutant: the first line of the checker's words and of the numbers' error, "" if it did not; other is
    what its entry expects instead of these two: the numbers of the fast-math build, or the strict check."""

    mutant: Mutant
    checker: str
    numbers: str
    other: str = ""
    broken: str = ""  # why it could not be made or run at all: the table is out of date

    @property
    def found(self) -> bool:
        return bool(self.checker or self.numbers or self.other)

    @property
    def as_expected(self) -> bool:
        """Whether it was found by what its entry says: the checker, whatever the numbers, or the numbers alone; or by
        neither of them, but by another."""
        by = "checker" if self.checker else "numbers" if self.numbers else "equivalent"
        if self.other and by == "equivalent":
            by = self.mutant.expected
        return not self.broken and by == self.mutant.expected


def run_all(mutants: Iterable[Mutant], jobs: int) -> Iterator[Outcome]:
    """Outcomes in the order of the mutants."""
    targets.prepare()
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(run, mutants)


@functools.lru_cache(maxsize=None)
def blame(file: str, expected: str) -> str:
    """What is found in a file without any mutation; "" if it is clean, else nothing that is found proves anything."""
    found = [words for words in _runs(file, targets.folder_of(file), expected) if words]
    return f"found without a mutation: {found[0]}" if found else ""


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
                return Outcome(mutant, "", "", broken="the mutation changes no code")
            (folder / mutant.file).write_text(mutated)
            expected = mutant.expected if mutant.expected in OTHER else ""
            found = _runs(mutant.file, folder, expected)
            blamed = blame(mutant.file, expected)
        except (ValueError, RuntimeError) as error:
            return Outcome(mutant, "", "", broken=str(error))
    return Outcome(mutant, "", "", broken=blamed) if blamed else Outcome(mutant, *found)


def _code(text: str) -> str:
    """Text without comments and white space."""
    return re.sub(r"//[^\n]*|/\*.*?\*/|\s+", "", text, flags=re.DOTALL)


def _runs(file: str, folder: pathlib.Path, other: str) -> List[str]:
    """What the checker and what the numbers find, and the `other` unless "". Raises RuntimeError for a kernel that
    cannot be run."""
    tasks = [RUNS["checker"], RUNS["numbers"], *([RUNS[other]] if other else [])]
    return [_in_process(task, file, folder) for task in tasks]


def _in_process(task: Callable, file: str, folder: pathlib.Path) -> str:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, task, file, folder))
    process.start()
    sender.close()
    answered = receiver.poll(PROCESS_SECONDS)
    try:
        kind, text = receiver.recv() if answered else ("found", "does not end")
    except EOFError:
        kind, text = "found" if task in MAY_CRASH else "broken", "crash of the process"
    process.kill() if not answered else process.join()
    if kind == "broken":
        raise RuntimeError(text)
    return text


def _work(sender, task: Callable, file: str, folder: pathlib.Path) -> None:
    faulthandler.disable()  # some mutants crash without the checker, as they may: no trace of it in the log
    torch.set_num_threads(1)  # a forked process has none of the threads that its parent may have started
    try:
        task(file, folder)
        sender.send(("clean", ""))
    except (targets.Found, LaunchError) as error:
        if isinstance(error, LaunchError) and ", threadgroup (" not in str(error):
            sender.send(("broken", f"the launch is refused: {error}"))
            return
        lines = str(error).splitlines()
        sender.send(("found", f"launch: {lines[0]}" if task in MAY_CRASH else lines[0]))
    except AssertionError as error:
        sender.send(("found", str(error).splitlines()[0] if str(error) else "wrong numbers"))
    except Exception as error:  # without the checker, what a mutant overwrites may be Python's own
        broken = task not in MAY_CRASH or isinstance(error, SimulatorError)
        sender.send(("broken" if broken else "found", f"{type(error).__name__}: {error}"))
