#!/usr/bin/env bash
# Runs the kernel builder at the revision that flake.nix pins, by nix.
#   tools/kernel_builder.sh build-and-copy --print-build-logs
set -euo pipefail
cd "$(dirname "$0")/.."
command -v nix >/dev/null || {
    echo "kernel_builder: nix is not installed: https://nixos.org/download" >&2
    exit 2
}
if [[ $(uname) == Darwin ]] && ! xcodebuild -showComponent MetalToolchain >/dev/null 2>&1; then
    echo "kernel_builder: no Metal toolchain: install Xcode 26, then run xcodebuild -downloadComponent MetalToolchain" >&2
    exit 2
fi
builder=$(sed -n 's/.*"\(github:huggingface\/kernels\/[0-9a-f]\{40\}\)".*/\1/p' flake.nix)
exec nix run "$builder#kernel-builder" -- "$@"
