"""The type check of the Objective-C++ accepts the launcher and rejects deliberate mistakes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typecheck

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stands in for a Mac on Linux")
LAUNCHER, BINDING = typecheck.SOURCES
MISTAKES = {  # what is replaced, by what, and what the diagnostic names
    "misspelt selector": ("atIndex:index]", "atIndx:index]", "atIndx:"),
    "missing argument": (" threadsPerThreadgroup:group]", "]", "-dispatchThreadgroups:"),
    "missing receiver": ("[encoder setComputePipelineState", "[encoders setComputePipelineState", "encoders"),
    "wrong object": ("State:pipeline]", "State:stream]", "MTLComputePipelineState"),
    "wrong protocol": ("bit_cast(id<MTLBuffer>", "bit_cast(id<MTLFunction>", "MTLFunction"),
    "value for an address": ("setBytes:tensor.const_data_ptr()", "setBytes:tensor", "const void"),
    "error by value": ("error:&error] autorelease]", "error:error] autorelease]", "NSError"),
    "string of C": ("withName:[NSString stringWithUTF8String:name.c_str()]", "withName:name.c_str()", "NSString"),
    "number for an enumeration": ("static_cast<MTLGPUFamily>(1000 + family)", "1000 + family", "MTLGPUFamily"),
    "unknown method": ("newComputePipelineStateWithFunction:function", "newPipeline:function", "newPipeline"),
    "unknown property": ("maxTotalThreadsPerThreadgroup,", "maxThreads,", "maxThreads"),
    "unknown length": ("staticThreadgroupMemoryLength", "threadgroupMemoryLength", "threadgroupMemoryLength"),
    "unknown function of torch": ("stream->commandEncoder()", "stream->encoder()", "encoder"),
    "unknown name of torch": ("at::mps::getCurrentMPSStream()", "at::mps::getStream()", "getStream"),
    "unknown helper of torch": ("mps::dispatch_sync_with_rethrow", "mps::dispatch_rethrow", "dispatch_rethrow"),
    "unknown status": ("MTLCommandBufferStatusError", "MTLCommandBufferStatusFailed", "MTLCommandBufferStatusFailed"),
    "unknown part of a buffer": (".rootCommandBuffer", ".rootBuffer", "rootBuffer"),
    "unknown way to wait": ("SyncType::COMMIT_AND_WAIT", "SyncType::WAIT", "WAIT"),
    "another signature": (
        "at::IntArrayRef threads,\n                   bool waits) {",
        "at::IntArrayRef threads) {",
        "waits",
    ),
}
BINDING_MISTAKES = {
    "unknown function": ("&launch_kernel", "&launch_kernels", "launch_kernels"),
    "a function that is not declared": ("&describe_pipeline", "&describe_pipelines", "describe_pipelines"),
    "unknown method": ("operators.impl(", "operators.implement(", "implement"),
    "unknown key": ("DispatchKey::MPS", "DispatchKey::Nowhere", "Nowhere"),
}


@pytest.fixture(scope="module")
def precompiled(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that spare clang the reading of torch's headers, most of its work."""
    header = tmp_path_factory.mktemp("precompiled") / "torch.h"
    header.write_text(
        "".join(re.findall(r"(?m)^#\w+ <.*>\n|^#include <torch.*\n", LAUNCHER.read_text() + BINDING.read_text()))
    )
    result = typecheck.compile_for_macos(header, ["-o", str(header.with_suffix(".pch"))])
    assert result.returncode == 0, result.stderr
    return ["-include-pch", str(header.with_suffix(".pch"))]


def diagnostics(source: Path, mistake: tuple[str, str, str], folder: Path, options: list[str] = ()) -> list[str]:
    """Those of a copy of `source` with a mistake. The copy keeps its place beside the header that it includes."""
    for name in ("flash_sdpa", "torch-ext"):
        (folder / name).mkdir()
    shutil.copy(BINDING.with_suffix(".h"), folder / "torch-ext")
    old, new, _ = mistake
    text = source.read_text()
    assert old in text
    copy = folder / source.parent.name / source.name
    copy.write_text(text.replace(old, new, 1))
    return typecheck.typecheck(copy, options)


@pytest.mark.parametrize("source", typecheck.SOURCES, ids=lambda path: path.name)
def test_the_sources_are_accepted(source: Path) -> None:
    assert typecheck.typecheck(source) == []


@pytest.mark.sampled(8)
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_launcher_is_rejected(mistake, precompiled: list[str], tmp_path: Path) -> None:
    found = diagnostics(LAUNCHER, mistake, tmp_path, precompiled)
    assert any(mistake[2] in line for line in found), found


@pytest.mark.parametrize("mistake", BINDING_MISTAKES.values(), ids=BINDING_MISTAKES)
def test_a_mistake_in_the_binding_is_rejected(mistake, precompiled: list[str], tmp_path: Path) -> None:
    found = diagnostics(BINDING, mistake, tmp_path, precompiled)
    assert any(mistake[2] in line for line in found), found


def test_without_a_mistake_the_precompiled_headers_change_nothing(precompiled: list[str], tmp_path: Path) -> None:
    assert diagnostics(LAUNCHER, ("", "", ""), tmp_path, precompiled) == []


def test_headers_that_are_none(tmp_path: Path) -> None:
    command = [sys.executable, str(typecheck.ROOT / "tools" / "typecheck.py"), "--headers", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(typecheck.ROOT / "simulator")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "--headers must be a folder with torch's headers, got" in result.stderr
