"""The version: of the package, its wheel and what `--version` prints."""

VERSION = "0.1.0"
