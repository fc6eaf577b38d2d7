"""Headers with Metal kernels, from a peer's wheel for macOS, which is never installed."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import zipfile
from typing import NamedTuple, Optional

from metal_simulator.toolchain import cache


def folder() -> pathlib.Path:
    """Where wheels are kept: in the simulator's cache."""
    return cache.folder() / "peers"


class Wheel(NamedTuple):
    """A wheel of a package registry; headers: the folder in it that holds them."""

    package: str
    version: str
    platform: str
    headers: str

    def download(self) -> bool:
        """Fetches the wheel unless it is there; returns whether it is."""
        if self._path() is None:
            folder().mkdir(parents=True, exist_ok=True)
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            pip += ["--platform", self.platform, "--dest", str(folder()), f"{self.package}=={self.version}"]
            subprocess.run(pip, capture_output=True)
        return self._path() is not None

    def include(self) -> Optional[pathlib.Path]:
        """A folder with the headers, by their names in the wheel; None if it was not downloaded."""
        path = self._path()
        if path is None:
            return None
        target = folder() / path.stem
        if not target.exists():
            with zipfile.ZipFile(path) as packed:
                names = (name for name in packed.namelist() if name.startswith(self.headers) and name.endswith(".h"))
                packed.extractall(target, names)
        return target

    def _path(self) -> Optional[pathlib.Path]:
        return next(iter(sorted(folder().glob(f"{self.package.replace('-', '_')}-{self.version}-*.whl"))), None)
