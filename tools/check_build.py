"""What Linux can tell of the kernel builder's build: `make check-build`.

The builder's own parser reads build.toml, what it does not notice is checked here, the card is rendered as the builder
renders it, and the compiled variant, laid out without its binary, is offered to the loader as on a Mac.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

import embed
import jinja2
import stage
from kernels import variants
from kernels._rust import Build, Metadata
from kernels.backends import Metal
from packaging.version import Version

ROOT = stage.ROOT
EDITION = 5  # docs/releasing.md says how to move to the next one
COMPILED = (".metal", ".h", ".mm")
TORCH_VERSIONS = ("2.12", "2.13", "2.14", "2.15")


def problems(root: Path) -> list[str]:
    """Everything wrong with build.toml in `root` that the builder's parser accepts."""
    build = tomllib.loads((root / "build.toml").read_text(encoding="utf-8"))
    sources = [*build["torch"].get("src", []), *(src for kernel in build["kernel"].values() for src in kernel["src"])]
    return [
        *edition_problems(build),
        *backend_problems(build),
        *missing_files(root, sources),
        *unlisted_files(root, sources),
        *compiled_too_early(sources),
        *repeated_names(sources),
        *not_ascii(root, sources),
    ]


def edition_problems(build: dict) -> list[str]:
    return [] if build["general"].get("edition") == EDITION else [f"edition is not {EDITION}"]


def backend_problems(build: dict) -> list[str]:
    listed = set(build["general"]["backends"])
    built = {kernel["backend"] for kernel in build["kernel"].values()}
    return [f"backend {backend} is listed but has no kernel" for backend in listed - built] + [
        f"backend {backend} has a kernel but is not listed" for backend in built - listed
    ]


def missing_files(root: Path, sources: list[str]) -> list[str]:
    return [f"{src} does not exist" for src in sources if not (root / src).is_file()]


def unlisted_files(root: Path, sources: list[str]) -> list[str]:
    """A file that is not listed does not exist in the build, headers included."""
    found = [path for path in (root / "flash_sdpa").rglob("*") if path.suffix in COMPILED]
    found = [path for path in found if path.name not in embed.FILES]
    found += [path for path in (root / "torch-ext").glob("*") if path.is_file()]
    return [
        f"{path} is not listed" for path in sorted({file.relative_to(root).as_posix() for file in found} - set(sources))
    ]


def compiled_too_early(sources: list[str]) -> list[str]:
    """The builder cannot set the deployment target that kernels of the matrix unit need."""
    return [f"{src} is listed, but for run time only" for src in sources if Path(src).name in embed.FILES]


def repeated_names(sources: list[str]) -> list[str]:
    """Each .metal becomes one object file, named after it."""
    names = Counter(Path(src).stem for src in sources if src.endswith(".metal"))
    return [f"several shaders are called {name}" for name, count in names.items() if count > 1]


def not_ascii(root: Path, sources: list[str]) -> list[str]:
    """The run-time compiler takes ASCII only."""
    files = [src for src in sources if (root / src).is_file()]
    return [f"{src} is not ASCII" for src in files if not (root / src).read_bytes().isascii()]


def card(root: Path) -> str:
    """CARD.md with the variables that the builder offers, and its setting of the template engine."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    general = tomllib.loads((root / "build.toml").read_text())["general"]
    variables = {
        "repo_id": general["hub"]["repo-id"],
        "version": general["version"],
        "license": general["license"].lower(),
        "functions": ["flash_attn_func"],
        "layers": None,
        "has_benchmark": (root / "benchmarks" / "benchmark.py").is_file(),
        "upstream": None,
        "source": None,
    }
    return environment.from_string((root / "CARD.md").read_text()).render(variables)


def is_chosen(torch_version: str, macos: str, built_for: str) -> bool:
    """Whether the loader on a Mac with an Apple GPU prefers the compiled variant to the pure-Python one."""
    offered = [stage.compiled_variant_name(built_for), "torch-metal", "torch-cpu"]
    chosen, _ = variants._resolve_variant_for_system(
        variants=[variants.parse_variant(name) for name in offered],
        selected_backend=Metal(),
        cpu="aarch64",
        os="darwin",
        torch_version=Version(torch_version),
        torch_cxx11_abi=None,
        tvm_ffi_version=None,
        macos_version=Version(macos),
    )
    return chosen[0].variant_str == offered[0]


def main() -> int:
    build = Build.open(ROOT)
    print(f"[loader] build.toml: parsed by the builder's parser, backends {[str(b) for b in build.general.backends]}")
    found = problems(ROOT)
    print(*found, f"[loader] build.toml: {len(found) or 'no'} problems that the parser does not notice", sep="\n")
    print(f"[loader] CARD.md: rendered, {len(card(ROOT).splitlines())} lines")
    for version in TORCH_VERSIONS:
        with tempfile.TemporaryDirectory() as folder:
            [variant] = stage.stage(Path(folder), torch_version=version)
            name = Metadata.read_from_file(variant / "metadata.json").id
        if not is_chosen(version, "26.0", version):
            found.append(variant.name)
        state = "not chosen" if variant.name in found else "chosen"
        print(f"[loader] {variant.name}: {state} on macOS 26 with torch {version}; the binary would be {name}.abi3.so")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
