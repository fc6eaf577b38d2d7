"""Pack the pure-Python wheel: `make wheel`.

    dist/metal_flash_sdpa-<version>-py3-none-any.whl

It holds the package, the text of the shaders and nothing else. Its operators have a namespace of their own,
`metal_flash_sdpa`, so that a build from the hub can be loaded beside it. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import tomllib
import zipfile
from pathlib import Path

from stage import OPS_MODULE, ROOT, Files, package_files, python_name, shader_files

TORCH = "torch>=2.12"
PYTHON = ">=3.9"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip file can give


def write_wheel(destination: Path, version: str | None = None, root: Path = ROOT) -> Path:
    """Write the wheel into the folder `destination`, created if needed, and return its path.

    version: of the wheel; by default the kernel's version, as 1.0.0. Raises `ValueError` if it is none, and
    `FileNotFoundError` when the package, a shader that build.toml lists or a document is missing.
    """
    build = tomllib.loads((root / "build.toml").read_text(encoding="utf-8"))
    version = version or f"{build['general']['version']}.0.0"
    if not re.fullmatch(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?", version):
        raise ValueError(f"version must be like 1.2.0 or 1.2.0rc1, got {version!r}")
    name = f"{python_name(build)}-{version}"
    files = wheel_files(root, build, version, f"{name}.dist-info")
    destination.mkdir(parents=True, exist_ok=True)
    path = destination / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, contents in files.items():
            entry = zipfile.ZipInfo(file, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, contents)
    return path


def wheel_files(root: Path, build: dict, version: str, info: str) -> Files:
    """All files of the wheel, the record of them last."""
    package = python_name(build)
    contents = package_files(root / "torch-ext" / package) | shader_files(root, build)
    contents["_ops.py"] = OPS_MODULE.format(identifier=package).encode()
    files = {f"{package}/{path}": contents[path] for path in sorted(contents)}
    files[f"{info}/licenses/LICENSE"] = (root / "LICENSE").read_bytes()
    files[f"{info}/METADATA"] = metadata(root, build, version).encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: metal-flash-sdpa\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/RECORD"] = record(files, f"{info}/RECORD").encode()
    return files


def metadata(root: Path, build: dict, version: str) -> str:
    """https://packaging.python.org/specifications/core-metadata/"""
    general = build["general"]
    fields = {
        "Metadata-Version": "2.4",
        "Name": general["name"],
        "Version": version,
        "Summary": "Flash-Attention-style scaled dot product attention for Apple GPUs",
        "License-Expression": general["license"],
        "License-File": "LICENSE",
        "Requires-Python": PYTHON,
        "Requires-Dist": TORCH,
        "Description-Content-Type": "text/markdown",
    }
    header = "".join(f"{field}: {value}\n" for field, value in fields.items())
    return f"{header}\n{(root / 'README.md').read_text(encoding='utf-8')}"


def record(files: Files, own_path: str) -> str:
    """Path, digest and size of each file; the record's own line has neither."""
    lines = []
    for path, contents in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(contents).digest()).decode().rstrip("=")
        lines.append(f"{path},sha256={digest},{len(contents)}\n")
    return "".join(lines) + f"{own_path},,\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack the pure-Python wheel.")
    parser.add_argument("destination", nargs="?", type=Path, default=ROOT / "dist", help="default: dist/")
    parser.add_argument("--version", help="of the wheel; default: the kernel's version, as 1.0.0")
    options = parser.parse_args()
    try:
        path = write_wheel(options.destination, options.version)
    except ValueError as error:
        parser.error(str(error))
    with zipfile.ZipFile(path) as archive:
        print(f"{path}: {len(archive.namelist())} files, {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
