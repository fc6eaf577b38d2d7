"""What runs when: `make test` takes a sample of the long tests, `make test-all`, every night, takes all of them.

* `@pytest.mark.nightly`: the test runs at night only;
* `@pytest.mark.sampled(4)`: one in four of its problems runs by day, always the same.
"""

from __future__ import annotations

import collections
import random


def pytest_addoption(parser):
    parser.addoption("--nightly", action="store_true", help="run all problems of every test, not a sample")


def pytest_configure(config):
    config.addinivalue_line("markers", "nightly: runs with --nightly only")
    config.addinivalue_line("markers", "sampled(one_in): without --nightly, one in so many of its problems runs")


def pytest_report_header(config):
    return "problems: all" if config.getoption("nightly") else "problems: of long tests a sample (--nightly: all)"


def pytest_collection_modifyitems(config, items):
    if config.getoption("nightly"):
        return
    sampled, left_out = collections.defaultdict(list), set()
    for item in items:
        if item.get_closest_marker("nightly"):
            left_out.add(item)
        elif item.get_closest_marker("sampled"):
            sampled[item.nodeid.partition("[")[0]].append(item)
    for name, problems in sampled.items():
        kept = -(-len(problems) // problems[0].get_closest_marker("sampled").args[0])
        # By chance: every fourth would always meet the same dtype.
        left_out.update(random.Random(name).sample(problems, len(problems) - kept))
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]
