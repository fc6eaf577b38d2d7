"""What can go wrong, as exceptions with one clear message each."""

from __future__ import annotations

from typing import NamedTuple


class SimulatorError(Exception):
    """Base of every error the simulator raises on purpose."""


class ToolchainError(SimulatorError):
    """No usable clang."""


class CompileError(SimulatorError):
    """The Metal source cannot be read, compiled or specialised as asked; `diagnostics` holds the details, if any."""

    def __init__(self, message: str, diagnostics=()):
        super().__init__(message)
        self.diagnostics = tuple(diagnostics)


class LaunchError(SimulatorError):
    """Wrong arguments for a launch, or a kernel that diverged, deadlocked, faulted or did not end; `findings` are those
    of the checker until then."""

    def __init__(self, message: str, findings=()):
        super().__init__(message)
        self.findings = tuple(findings)


class Diagnostic(NamedTuple):
    """One finding of the strict check, at a place in the user's own source (line and column count from 1)."""

    file: str
    line: int
    column: int
    severity: str  # "error" or "warning"
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.message}"
