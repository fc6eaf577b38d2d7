"""Lay out the pure-Python build variants that the kernels library loads: `make build`.

    build/torch-cpu/      the package
    build/torch-metal/    the package, and flash_sdpa/ with the text of the shaders

and, when asked for, the compiled variant of a torch version, as the kernel builder lays it out but without the binary:

    build/torch213-metal-aarch64-darwin/    the package

Beside the package each variant holds what the kernel builder would generate: `_ops.py`, which names the variant's own
operator namespace, and `metadata.json`, which describes the variant and lists the digest of every file.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
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

# The builder imports the binary, which defines operators in the namespace that it is called by.
COMPILED_OPS_MODULE = OPS_MODULE.replace("import torch\n", "import torch\n\nfrom . import {identifier}\n")

Files = dict[str, bytes]  # path inside the variant -> contents


def stage(destination: Path, root: Path = ROOT, torch_version: str | None = None) -> list[Path]:
    """Write every pure-Python variant, or the compiled one of a torch version, replacing older ones.

    They come below `destination`, which is created if needed. `root` is the repository to read. Returns the
    variants' folders. Raises `FileNotFoundError` when the package or a file that build.toml lists is missing; what was
    staged before is then left as it was.
    """
    build = tomllib.loads((root / "build.toml").read_text(encoding="utf-8"))
    if torch_version:
        variants = {compiled_variant_name(torch_version): compiled_variant_files(root, build)}
    else:
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


def compiled_variant_name(torch_version: str) -> str:
    """The builder's name of the variant for a torch version, "2.13" or "2.13.0"."""
    major, minor = torch_version.split(".")[:2]
    return f"torch{major}{minor}-metal-aarch64-darwin"


def compiled_variant_files(root: Path, build: dict) -> Files:
    """All files of a compiled variant but the binary, which is called by the identifier in metadata.json."""
    files = package_files(root / "torch-ext" / python_name(build))
    identifier = variant_identifier(build, "metal", files | source_files(root, build))
    files["_ops.py"] = COMPILED_OPS_MODULE.format(identifier=identifier).encode()
    files["metadata.json"] = metadata(build, "metal", identifier, files)
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


def source_files(root: Path, build: dict) -> Files:
    """Every file that build.toml lists: what the builder compiles."""
    sources = [*build["torch"]["src"], *(src for kernel in build["kernel"].values() for src in kernel["src"])]
    return {src: (root / src).read_bytes() for src in sources}


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
    parser.add_argument("--compiled", metavar="TORCH", help="the compiled variant of this torch version instead")
    options = parser.parse_args()
    if options.compiled and not re.fullmatch(r"\d+\.\d+(\.\d+)?", options.compiled):
        parser.error(f"--compiled must be a version like 2.13, got {options.compiled!r}")
    for folder in stage(options.destination, torch_version=options.compiled):
        description = json.loads((folder / "metadata.json").read_bytes())
        print(f"{folder}: {len(description['digest']['files']) + 1} files, id {description['id']}")


if __name__ == "__main__":
    main()
