#!/usr/bin/env bash
# Set up the development environment: a virtual environment with pinned packages, and clang for the simulator.
#   tools/setup.sh <python> <folder of the virtual environment>
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
environment=$2

fail() {
    echo "setup: $*" >&2
    exit 1
}

set_up_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "the developer tools need Python 3.11 or later, and '$python' is not; run e.g. make PYTHON=python3.12"
    echo "setup: virtual environment in $environment"
    "$python" -m venv "$environment" || fail "'$python -m venv' failed (on Debian: install the package python3-venv)"
    echo "setup: installing $(grep '^torch==' requirements-torch.txt) (the largest download)"
    "$environment/bin/python" -m pip install --quiet --requirement requirements-torch.txt
    "$environment/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' 2>/dev/null ||
        fail "this torch is a build for CUDA, for which the kernels library takes no variant of here; install torch's" \
            "CPU build with $environment/bin/python -m pip (docs/releasing.md, PIP_EXTRA_INDEX_URL), then run this again"
    echo "setup: installing requirements.txt"
    "$environment/bin/python" -m pip install --quiet --requirement requirements.txt
}

# Says what is wrong when the simulator, which knows best, finds no clang.
find_clang() {
    PYTHONPATH=simulator "$environment/bin/python" -c '
import sys
from metal_simulator.errors import ToolchainError
from metal_simulator.toolchain.clang import find_clang
try:
    find_clang()
except ToolchainError as error:
    sys.exit(f"setup: {error}")
'
}

set_up_clang() {
    find_clang 2>/dev/null && return
    local as_root=()
    [[ $(id -u) == 0 ]] || as_root=(sudo -n)
    if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
        echo "setup: installing the package clang-19"
        "${as_root[@]}" apt-get update --quiet=2 || echo "setup: apt-get update failed; trying with the package lists at hand"
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 clang-19 >/dev/null || true
    fi
    find_clang
}

set_up_python
set_up_clang
