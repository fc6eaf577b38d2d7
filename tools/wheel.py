"""Pack the pure-Python wheel: `make wheel`.

    dist/flash_sdpa_metal-<version>-py3-none-any.whl

It holds the package, the text of the shaders and nothing else. Its operators have a namespace of their own,
`metal_flash_sdpa`, so that a build from the hub can be loaded beside it. The same sources give the same bytes.

The name metal-flash-sdpa belongs to another distribution on PyPI, whose package is imported by the name of ours. Beside
it the import raises an error, as files of two packages in one folder are neither.
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

DISTRIBUTION, OTHER_DISTRIBUTION = "flash-sdpa-metal", "metal-flash-sdpa"
TORCH = "torch>=2.12"
PYTHON = ">=3.9"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip file can give
ALONE = f'''

def _refuse_another_package() -> None:
    import importlib.metadata

    try:
        version = importlib.metadata.version("{OTHER_DISTRIBUTION}")
    except importlib.metadata.PackageNotFoundError:
        return
    raise ImportError(
        "metal_flash_sdpa is installed twice, by {DISTRIBUTION} and by {OTHER_DISTRIBUTION} " + version + ", another "
        "project's: pip uninstall {OTHER_DISTRIBUTION} {DISTRIBUTION}, then pip install {DISTRIBUTION}"
    )


_refuse_another_package()
'''


def write_wheel(destination: Path, root: Path = ROOT) -> Path:
    """Write the wheel into the folder `destination`, created if needed, and return its path.

    Raises `FileNotFoundError` when the package, a shader that build.toml lists or a document is missing.
    """
    build = tomllib.loads((root / "build.toml").read_text(encoding="utf-8"))
    version = version_of(root / "torch-ext" / python_name(build))
    name = f"{DISTRIBUTION.replace('-', '_')}-{version}"
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


def version_of(package: Path) -> str:
    """The package's `__version__`, without importing it."""
    text = (package / "__init__.py").read_text(encoding="utf-8")
    [version] = re.findall(r'^__version__ = "(.+?)"', text, re.MULTILINE)
    return version


def wheel_files(root: Path, build: dict, version: str, info: str) -> Files:
    """All files of the wheel, the record of them last."""
    package = python_name(build)
    contents = package_files(root / "torch-ext" / package) | shader_files(root, build)
    contents["_ops.py"] = (OPS_MODULE.format(identifier=package) + ALONE).encode()
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
        "Name": DISTRIBUTION,
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
    path = write_wheel(parser.parse_args().destination)
    with zipfile.ZipFile(path) as archive:
        print(f"{path}: {len(archive.namelist())} files, {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
