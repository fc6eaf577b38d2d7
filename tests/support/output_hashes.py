"""Whether two commits compute the same bits: hashes of what every simulated launch of the tests writes.

On each of the two, with this file alone and one --hypothesis-seed for both:

    PYTHONPATH=simulator:tools:FOLDER_OF_THIS_FILE python -m pytest -p output_hashes --output-hashes FILE tests

then `python output_hashes.py OLD NEW` prints what differs and what one side lacks, and exits with status 1 if anything
does. A launch's key is its test's id and its number there. What a fixture launches counts for the first test that uses
it: `--dist loadfile` keeps that one the same with pytest-xdist.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys

WRITTEN = ("output", "lse", "row_softmax", "grad")  # beginnings of names; scratch may hold what nobody wrote


def digest(plan, tensors) -> str:
    """Of all bits that a launch writes; beside it the kernel's name."""
    import torch  # not where hashes are compared

    found = hashlib.sha256()
    for name in plan.arguments:
        if isinstance(name, str) and name.startswith(WRITTEN):
            found.update(tensors[name].detach().contiguous().flatten().view(torch.uint8).numpy())
    return f"{found.hexdigest()[:16]} {plan.kernel}"


class Recorder:
    def __init__(self, path: str):
        self.path, self.item, self.hashes = path, None, {}

    def pytest_sessionstart(self) -> None:
        from simulated_launcher import SimulatedLauncher

        launch = SimulatedLauncher.__call__

        def recording(launcher, plan, tensors):
            launch(launcher, plan, tensors)
            if self.item is not None:
                self.item.user_properties.append(("launch", digest(plan, tensors)))

        SimulatedLauncher.__call__ = recording

    def pytest_runtest_setup(self, item) -> None:
        self.item = item

    def pytest_runtest_logreport(self, report) -> None:  # where workers of pytest-xdist report, too
        launches = [value for name, value in report.user_properties if name == "launch"]
        self.hashes |= {f"{report.nodeid} {number}": value for number, value in enumerate(launches)}

    def pytest_sessionfinish(self, session) -> None:
        if not hasattr(session.config, "workerinput"):
            pathlib.Path(self.path).write_text(json.dumps(self.hashes, indent=0, sort_keys=True) + "\n")


def pytest_addoption(parser) -> None:
    parser.addoption("--output-hashes", metavar="FILE", help="file for hashes of what simulated launches write")


def pytest_configure(config) -> None:
    if path := config.getoption("--output-hashes"):
        config.pluginmanager.register(Recorder(path))


def main(old_path: str, new_path: str) -> int:
    old, new = (json.loads(pathlib.Path(path).read_text()) for path in (old_path, new_path))
    either = sorted(old.keys() | new.keys())
    lines = [f"{key}: {old.get(key)}, {new.get(key)}" for key in either if old.get(key) != new.get(key)]
    print(*lines, f"{len(either) - len(lines)} launches are equal, {len(lines)} not", sep="\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
