"""A checker that cannot see says so: three kernels with mistakes prove it, once for each clang."""

import os

import numpy as np
import pytest
from checked_launch import X, findings, kernel, zeros
from metal_simulator import ToolchainError
from metal_simulator.checker import checking
from metal_simulator.launch import canaries, runtime
from metal_simulator.library import _load_checking
from metal_simulator.toolchain import cache
from metal_simulator.toolchain.clang import find_clang

RACE, BOUNDS, UNSET = canaries.MISTAKES


@pytest.fixture
def clean(written, tmp_path, monkeypatch):
    """A kernel without mistakes, and a cache in which nothing has been proved."""
    built = cache.folder() / f"runtime-{cache.key(find_clang().version, sorted(runtime.layout()))}.so"
    monkeypatch.setenv("METAL_SIMULATOR_CACHE", str(tmp_path / "cache"))
    if built.exists():  # which takes long to compile
        cache.put(built.name, built.read_bytes())
    canaries.require.cache_clear()
    yield lambda: written(kernel("out[i] = x[i];"))
    canaries.require.cache_clear()


def without(hook):
    """checking.edited, but the calls of some of the hooks are lost."""
    edited = checking.edited
    kept = lambda line: f" call void @{hook}" not in line  # noqa: E731
    return lambda text, nan: "\n".join(filter(kept, edited(text, nan).split("\n")))


def test_every_mistake_is_found(clean):
    assert canaries._missed(find_clang(), _load_checking) == []
    assert findings(clean(), [X, zeros()]) == ()


@pytest.mark.parametrize(
    "hook, missed",
    [
        ("__tsan_write", [RACE]),
        ("__tsan_read", [BOUNDS, UNSET]),
        ("__tsan_", [RACE, BOUNDS, UNSET]),
    ],
)
def test_lost_hooks(clean, monkeypatch, hook, missed):
    monkeypatch.setattr(checking, "edited", without(hook))
    for _ in range(2):  # a failed proof is not kept
        with pytest.raises(ToolchainError) as error:
            findings(clean(), [X, zeros()])
        clang = find_clang()
        text = f"the checker misses {' and '.join(map(repr, missed))}; METAL_SIMULATOR_CLANG takes another clang"
        assert str(error.value).endswith(text) and f"{clang.version} ({clang.path})" in str(error.value)
    report = clean().kernel("f").launch([X, zeros()], (1, 1, 1), (64, 1, 1))  # without the checker it works
    assert report.findings == ()


def test_a_clang_that_does_not_instrument(clean, tmp_path, monkeypatch):
    clang = tmp_path / "clang"
    clang.write_text(f'#!/bin/bash\nexec {find_clang().path} "${{@/-fsanitize=thread/-w}}"\n')
    clang.chmod(0o700)
    monkeypatch.setenv("METAL_SIMULATOR_CLANG", str(clang))
    for keywords in ({}, {"check_nan": True}, {"check_written": True}):
        with pytest.raises(ToolchainError, match=rf"be checked with .*\({clang}\).*{RACE!r} and {BOUNDS!r} and"):
            findings(clean(), [X, zeros()], **keywords)


def test_a_proof_is_kept(clean, monkeypatch):
    findings(clean(), [X, zeros()])
    canaries.require.cache_clear()  # as in another process
    monkeypatch.setattr(canaries, "_missed", lambda *_: pytest.fail("it is proved again"))
    findings(clean(), [np.ones(64, np.float32), zeros()])
    monkeypatch.setattr(canaries, "_missed", lambda *_: [RACE])
    with pytest.raises(ToolchainError, match=r"checked with clang version 99 \(another\)"):
        canaries.require(find_clang()._replace(path="another", version="clang version 99"), _load_checking)
    monkeypatch.setattr(cache, "simulator_digest", lambda: "another simulator")
    canaries.require.cache_clear()
    with pytest.raises(ToolchainError, match=os.path.basename(find_clang().path)):
        canaries.require(find_clang(), _load_checking)
