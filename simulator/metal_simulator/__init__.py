"""Metal compute kernels on a CPU: compile unmodified .metal files with stock clang, run, check."""

from .counters import Profile
from .errors import CompileError, Diagnostic, LaunchError, SimulatorError, ToolchainError
from .findings import Finding
from .launch import LaunchReport
from .library import Kernel, Library

__all__ = [
    "CompileError",
    "Diagnostic",
    "Finding",
    "Kernel",
    "LaunchError",
    "LaunchReport",
    "Library",
    "Profile",
    "SimulatorError",
    "ToolchainError",
]
