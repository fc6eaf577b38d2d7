"""Lay out the pure-Python build variants that the kernels library loads: `make build`.

    build/torch-cpu/      the package
    build/torch-metal/    the package, and flash_sdpa/ with the text of the shaders

Beside the package each variant holds what the kernel builder would generate: `_ops.py`, which names the variant's own
operator namespace, and `metadata.json`, which describes the variant and lists the digest of every file.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("cpu", "metal")

OPS_MODULE = '''\
"""The operator namespace of this build. Generated."""

import torch

ops = torch.ops.{identifier}


def add_op_namespace_prefix(op_name: str) -> str:
    """The full name of operator `op_name` of this build."""
    return f"{identifier}::{{op_name}}"
'''

Files = dict[str, bytes]  # path inside the variant -> contents


def stage(destination: Path, root: Path = ROOT) -> list[Path]:
    """Write every variant below `destination` (created if needed), replacing older ones.

    `root` is the repository to read. Returns the variants' folders. Raises `FileNotFoundError` when the package or a
    shader that build.toml lists is missing; what was staged before is then left as it was.
    """
    build = tomllib.loads((root / "build.toml").read_text(encoding="utf-8"))
    variants = {f"torch-{backend}": variant_files(root, build, backend) for backend in BACKENDS}
    destination.mkdir(parents=True, exist_ok=True)
    return [replace_folder(destination / name, files) for name, files in variants.items()]


def variant_files(root: Path, build: dict, backend: str) -> Files:
    """All files of one variant; `build` is the parsed build.toml."""
    files = package_files(root / "torch-ext" / python_name(build))
    if backend == "metal":
        files |= shader_files(root, build)
    identifier = variant_identifier(build, backend, files)
    files["_ops.py"] = OPS_MODULE.format(identifier=identifier).encode()
    files["metadata.json"] = metadata(build, backend, identifier, files)
    return files


def package_files(package: Path) -> Files:
    """The Python sources of `package`. A local run of the kernel builder may have left an `_ops.py`: not ours."""
    files = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*.py")}
    files.pop("_ops.py", None)
    if "__init__.py" not in files:
        raise FileNotFoundError(f"no package at {package}")
    return files


def shader_files(root: Path, build: dict) -> Files:
    """The .metal and .h files that build.toml lists for the Metal kernels."""
    sources = [src for kernel in build["kernel"].values() if kernel["backend"] == "metal" for src in kernel["src"]]
    return {src: (root / src).read_bytes() for src in sources if src.endswith((".metal", ".h"))}


def variant_identifier(build: dict, backend: str, files: Files) -> str:
    """The variant's operator namespace: the same for the same contents, another one after any change."""
    contents = hashlib.sha256(json.dumps(build["general"], sort_keys=True).encode())
    for path in sorted(files):
        contents.update(f"\0{path}\0{len(files[path])}\0".encode() + files[path])
    return f"_{python_name(build)}_{backend}_{contents.hexdigest()[:16]}"


def metadata(build: dict, backend: str, identifier: str, files: Files) -> bytes:
    """metadata.json: the description of a variant whose other files are `files`."""
    general = build["general"]
    digests = {path: base64.b64encode(hashlib.sha256(files[path]).digest()).decode() for path in sorted(files)}
    description = {
        "name": general["name"],
        "id": identifier,
        "version": general["version"],
        "license": general["license"],
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {"algorithm": "sha256", "files": digests},
    }
    return (json.dumps(description, indent=2) + "\n").encode()


def python_name(build: dict) -> str:
    """The import name of the package: a dash is no letter in Python."""
    return build["general"]["name"].replace("-", "_")


def replace_folder(folder: Path, files: Files) -> Path:
    """Put `files` in place of whatever `folder` held, complete or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".staging-") as temporary:
        new = Path(temporary, "new")
        for path, contents in files.items():
            target = new / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents)
        if folder.exists():
            folder.rename(Path(temporary, "old"))
        new.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Stage the pure-Python build variants.")
    parser.add_argument("destination", nargs="?", type=Path, default=ROOT / "build", help="default: build/")
    for folder in stage(parser.parse_args().destination):
        description = json.loads((folder / "metadata.json").read_bytes())
        print(f"{folder}: {len(description['digest']['files']) + 1} files, id {description['id']}")


if __name__ == "__main__":
    main()
