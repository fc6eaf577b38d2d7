"""Metal compute kernels on a CPU: compile unmodified .metal files with stock clang, run, check."""

from .checker.findings import Finding
from .errors import CompileError, Diagnostic, LaunchError, SimulatorError, ToolchainError
from .launch.request import LaunchReport
from .library import Kernel, Library
from .profiler import cost_model, report
from .profiler.counters import Profile
from .version import VERSION as __version__

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
    "__version__",
    "cost_model",
    "report",
]
