"""A Metal file and its kernels."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from . import collector
from .compile import BUILDS, compile_kernel
from .errors import CompileError, Diagnostic, LaunchError
from .launch import canaries, runtime
from .launch.request import LaunchReport, Settings, launch
from .limits import THREADGROUP_LIMIT
from .profiler.counters import Profile
from .source.accounting import account, read_kernels
from .source.declarations import Declarations, Function, Instantiation
from .source.files import preprocess, read_source
from .strict import check
from .strict.language import predefined
from .toolchain import cache
from .toolchain.clang import FAST_MATH, Clang, find_clang
from .translate.function_constants import near, spell_constants
from .translate.positions import POSITIONS
from .translate.rewrite import Shared, read_types, shared


class Library:
    """A .metal file, unmodified.

    include: folders in which its #include lines are looked up
    fast_math: compile kernels as Metal does by default: no infinities, no NaN, no signed zeros, sums in any order,
        reciprocals for divisions. What a kernel then makes of an infinity or a NaN is not defined.
    language: "metal4.0", with tensors, or "metal3.1": what the source is told of it by __METAL_VERSION__ and
        __HAVE_TENSOR__. None: it is told version 4.0, and has no tensors
    deployment_target: of macOS, such as "26.2": __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__. None: that is not defined.

    Raises CompileError if the file does not exist, for another language and for a target that is no version, and
    ToolchainError if there is no clang; everything else waits until it is needed.

    What a back end needs of it: source (the files), clang, fast_math, digest, text, declarations, shared, function.
    """

    def __init__(
        self,
        path,
        include: Sequence = (),
        *,
        fast_math: bool = False,
        language: Optional[str] = None,
        deployment_target: Optional[str] = None,
    ):
        self.source = read_source(path, include)
        self.clang = find_clang()
        self.fast_math = fast_math
        self.language, self.deployment_target = language, deployment_target
        self._predefined = predefined(language, deployment_target)
        # Of the contents and what they are told: where the files lie does not matter.
        self.digest = " ".join([self.source.digest(), *self._predefined])

    @functools.cached_property
    def _read(self) -> Tuple[str, Declarations]:
        flags = [*(FAST_MATH if self.fast_math else []), *self._predefined]
        return read_kernels(preprocess(self.clang, self.source, True, flags))

    @property
    def text(self) -> str:
        """The preprocessed text, with the stand-in headers; what `declarations` point into."""
        return self._read[0]

    @functools.cached_property
    @collector.paused()
    def declarations(self) -> Declarations:
        """The kernels, instantiations and function constants that the text declares.

        Raises CompileError if the file does not preprocess, or declares a kernel that cannot be read.
        """
        return account(read_types(*self._read))

    @functools.cached_property
    def shared(self) -> Shared:
        """What the builds of all its kernels share."""
        return shared(self.text, self.declarations)

    @property
    def kernels(self) -> Tuple[str, ...]:
        """Host names of all kernels: first those of functions, in the order of the file, then those of explicit
        instantiations, in theirs."""
        name = "library-" + cache.key(self.clang.version, self.digest, self.fast_math)
        known = cache.read(name)
        if known is None:
            known = {"kernels": list(self.declarations.kernels())}
            cache.write(name, known)
        return tuple(known["kernels"])

    @collector.paused()
    def check(self, language: Optional[str] = None) -> List[Diagnostic]:
        """Strict check of the whole file, every instantiation included: what Apple's compiler rejects, and lints.

        language: "metal3.1" (C++14) or "metal4.0" (C++17): what is newer than its C++ is an error, too. None: that of
            the library.
        Raises CompileError for another language, and for a file that does not even preprocess.
        """
        found = check.check(self.clang, self.source, self.digest, language or self.language, self.deployment_target)
        try:
            len(self.kernels)  # accounts for every word kernel
        except CompileError as error:
            return [*found, *(d for d in error.diagnostics if d not in found)]
        return found

    def kernel(self, host_name: str, constants: Optional[Mapping[str, object]] = None, build: str = "run") -> "Kernel":
        """A kernel specialised for function constants (name -> bool, int or float), compiled or taken from the cache.

        build: what is compiled now: "run" for launches, "check" for those with the checker, "nan" for those with
            check_nan, "count" for profiles. The others are compiled when they are needed.
        Raises CompileError: unknown kernel, constant or build, a constant the kernel needs and does not get, source
        that does not compile.
        """
        if build not in BUILDS:
            raise CompileError(f"build is one of {', '.join(BUILDS)}, not {build!r}")
        return Kernel(self, host_name, dict(constants or {}), build)

    def function(self, host_name: str) -> Tuple[Function, Optional[Instantiation]]:
        """The function of a kernel and, of a template, its instantiation.

        Raises CompileError for a kernel that does not exist, or takes what nobody can give it here.
        """
        kernels = self.declarations.kernels()
        if host_name not in kernels:
            raise CompileError(f"no kernel {host_name!r} in {self.source.path}{near(host_name, list(kernels))}")
        for p in kernels[host_name][0].parameters:
            if p.kind not in ("buffer", "threadgroup", *POSITIONS):
                place, kind = f"{p.token.file}:{p.token.line}", p.kind and f" [[{p.kind}]]"
                raise CompileError(f"{place}: error: {host_name} cannot be run: nothing here gives '{p.name}'{kind}")
        return kernels[host_name]

    @collector.paused()
    def _build(self, host_name: str, constants: Mapping[str, object], mode: str) -> Tuple[str, dict]:
        """Name of the compiled kernel in the cache, and its description. A hit runs no clang."""
        typed = sorted((name, type(value).__name__, repr(value)) for name, value in constants.items())
        name = "kernel-" + cache.key(self.clang.version, self.digest, host_name, typed, mode, self.fast_math)
        known = cache.read(name)
        if known is None or not (cache.folder() / f"{name}.so").exists():
            kernel = self.function(host_name)
            values = spell_constants(self.declarations.constants, constants)
            known = compile_kernel(
                self.clang,
                self.source,
                self.shared,
                kernel,
                values,
                mode,
                self.fast_math,
                name,
            )
            known["gates"] = {p["gate"]: bool(constants.get(p["gate"], True)) for p in known["parameters"] if p["gate"]}
            cache.write(name, known)
        return name, known


class Budget(NamedTuple):
    """What a kernel takes of a core, whatever it is launched on.

    threadgroup_bytes: of threadgroup variables; registers: estimate of live 32-bit registers per lane from family 9 on,
    see profiler/registers.py, registers_by_family of all (registers.of_family reads them); private_bytes: arrays kept
    in memory, per thread; instructions: of the optimised code that cost something
    """

    threadgroup_bytes: int
    registers: float
    private_bytes: int
    instructions: int
    registers_by_family: Mapping[str, Sequence[float]]


class Kernel:
    """One kernel, specialised and compiled; ready to launch any number of times, from any thread."""

    def __init__(self, library: Library, host_name: str, constants: Mapping[str, object], build: str):
        self.name = host_name
        self._library, self._constants = library, constants
        self._loaded: Dict[str, Tuple] = {}
        self._description = self.load(build)[3]

    def load(self, mode: str) -> Tuple:
        """A build: the runtime, its code, the path of that, its description; made when it is first asked for."""
        if mode not in self._loaded:
            self._loaded[mode] = self._load(mode)
        return self._loaded[mode]

    def _load(self, mode: str) -> Tuple:
        runtime_library = runtime.load(self._library.clang)
        name, description = self._library._build(self.name, self._constants, mode)
        path = cache.folder() / f"{name}.so"
        try:
            code = ctypes.CDLL(str(path))
        except OSError as error:
            raise CompileError(f"the compiled kernel {path} does not load: {error}") from None
        code.files = [str(file) for file in self._library.source.files]
        code.metal_static_bytes.restype = code.metal_threadgroup_start.restype = ctypes.c_uint64
        used = code.metal_static_bytes()
        if used > THREADGROUP_LIMIT:
            raise CompileError(
                f"kernel {self.name} uses {used} bytes of threadgroup memory; the limit is {THREADGROUP_LIMIT}"
            )
        return runtime_library, code, path, {**description, "static_bytes": used}

    @property
    def threadgroup_bytes(self) -> int:
        """Bytes of threadgroup variables (without [[threadgroup(n)]] arguments)."""
        return self._description["static_bytes"]

    @property
    def parameters(self) -> Tuple[dict, ...]:
        """Its parameters in order: name, kind (buffer, threadgroup or a position), index, constant, gate."""
        return tuple(dict(p) for p in self._description["parameters"])

    def budget(self) -> Budget:
        """Its static budget; nothing runs."""
        counted = self.load("count")[3]
        return Budget(self.threadgroup_bytes, *(counted[name] for name in Budget._fields[1:]))

    def launch(
        self,
        buffers: Sequence,
        grid: Sequence[int],
        threads: Sequence[int],
        order="forward",
        check: bool = False,
        threadgroup_memory: Optional[Sequence[int]] = None,
        workers: Optional[int] = None,
        timeout: Optional[float] = 60,
        check_written: Union[bool, Sequence[int]] = False,
        check_nan: bool = False,
        matrix_unit: Optional[str] = None,
    ) -> LaunchReport:
        """Runs the kernel over a grid of threadgroups; buffers are read and written in place.

        buffers: by buffer index: torch CPU tensor (any strides), NumPy array, bytes (constant data), None (unbound)
        grid: threadgroups (x, y, z); threads: threads per threadgroup (x, y, z), at most 1024 in all
        order: "forward", "reverse" or an int seed: the order of a group's threads and of the groups
        check: with the checker; non-empty `findings` of the report mean trouble
        threadgroup_memory: bytes of the [[threadgroup(n)]] arguments by n
        workers: cores to use, all by default
        timeout: seconds of processor time that one threadgroup may take; None for any
        check_written: a finding for elements never written, of these buffers (True: of all that the kernel may write);
            implies check
        check_nan: a finding where a thread first makes a NaN out of numbers, or of memory or a variable that nobody
            set; implies check
        matrix_unit: lane layout of cooperative tensors, one of launch/matrix_unit.LAYOUTS; None for what the variable
            METAL_SIMULATOR_MATRIX_UNIT of the environment names, else "apple10"
        Raises LaunchError for wrong arguments, and for a kernel that diverges, deadlocks, faults or does not end;
        ToolchainError for a clang with which the checker misses what it must find (see launch/canaries.py).
        """
        chosen = (order, check, threadgroup_memory, workers, timeout, check_written, check_nan)
        settings = Settings(*chosen, count=False, matrix_unit=matrix_unit)
        return self._launch(buffers, grid, threads, settings)

    def profile(
        self,
        buffers: Sequence,
        grid: Sequence[int],
        threads: Sequence[int],
        order="forward",
        threadgroup_memory: Optional[Sequence[int]] = None,
        workers: Optional[int] = None,
        timeout: Optional[float] = 600,
        matrix_unit: Optional[str] = None,
    ) -> Profile:
        """Runs the kernel as launch does, and counts instructions and memory traffic; see counters.Profile, and
        cost_model.predict for what they mean in time. Arguments and errors are those of launch."""
        settings = Settings(order, False, threadgroup_memory, workers, timeout, False, False, True, matrix_unit)
        return self._launch(buffers, grid, threads, settings).profile

    def _launch(self, buffers, grid, threads, settings: Settings) -> LaunchReport:
        mode = settings.mode(self.name)
        if mode == "nan" and self._library.fast_math:
            raise LaunchError(f"kernel {self.name}: check_nan needs a build without fast math, which knows no NaN")
        if mode in ("check", "nan"):
            canaries.require(self._library.clang, _load_checking)
        return launch(self.name, self.load(mode), buffers, grid, threads, settings)


def _load_checking(clang: Clang, path: Path, host_name: str):
    """A kernel of a file, in the build that checks, by this clang; for canaries.require."""
    library = Library(path)
    library.clang = clang
    return library.kernel(host_name, build="check").load("check")
