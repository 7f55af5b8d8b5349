"""What kernels are compiled for: the CPU's vectors, and the cache that keeps the machine code.

Kernels are functions that Numba compiles without Python objects and that let other threads
run. They take addresses and integers, so that there is one compiled form whatever the strides of an
array and whether it may be written. Compiling takes seconds, loading what is cached milliseconds.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
from llvmlite import binding, ir
from numba.core import caching, types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

from gpuconv_kernels import compiling
from gpuconv_kernels.host.pipeline import EntryCompiler, KernelCompiler, shape_loops

INT = ir.IntType(64)
REAL = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
ITEMSIZE = {"float32": 4, "float64": 8}
NUMBER = {"float32": types.float32, "float64": types.float64}


LINE = 64
"""Bytes of a line of the caches. What comes from memory comes in lines; a vector that lies across
two of them takes longer."""


class Host(NamedTuple):
    """The vector unit that code is generated for.

    Attributes:
        vector_bytes: width of a vector: 16, 32 or 64.
        registers: vectors that the CPU names.
    """

    vector_bytes: int
    registers: int

    def lanes(self, dtype: str) -> int:
        """Numbers in a vector."""
        return self.vector_bytes // ITEMSIZE[dtype]


@functools.cache
def host() -> Host:
    """Return the vector unit of this CPU; a modest one where it is not known."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return Host(64, 32)
    if features.get("avx2") and features.get("fma"):
        return Host(32, 16)
    return Host(16, 32 if features.get("neon") else 16)


_USUAL_L2 = 512 * 1024


@functools.cache
def second_level_cache() -> int:
    """Return the bytes of a core's L2 cache; half a megabyte where the system does not say.

    Read where Linux shows it. Where several cores share the cache, each counts for its part.
    """
    found = _USUAL_L2
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level = int((index / "level").read_text())
            size = (index / "size").read_text().strip()
            sharing = int((index / "shared_cpu_map").read_text().replace(",", ""), 16)
        except (OSError, ValueError):
            continue
        if level == 2 and size.endswith("K"):
            found = int(size[:-1]) * 1024
            cores = bin(sharing).count("1")
            if cores > 2:  # two may be the threads of one core
                found //= cores
    return min(max(found, 256 * 1024), 2 * 1024 * 1024)


# --- compiling, and keeping what was compiled ---------------------------------------------

# Nobody calls kernels from C, nor their parts from Python: what those need is not compiled.
_njit: Any = numba.njit
_KERNEL = {
    "pipeline_class": EntryCompiler,
    "error_model": "numpy",
    "nogil": True,
    "no_cfunc_wrapper": True,
}
_INLINED = {
    "pipeline_class": KernelCompiler,
    "error_model": "numpy",
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
_ENTRY = {"pipeline_class": EntryCompiler, "error_model": "numpy", "no_cpython_wrapper": True}
_NATIVE = {
    "pipeline_class": KernelCompiler,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

_folder: Path | None = None


_VERSIONS_KEPT = 4


def keep_compiled_in(folder: Path | None) -> None:
    """Say where machine code is kept between processes; None: nowhere, the default.

    Each version of the kernels, and each kind of CPU, has a folder of its own in there.
    """
    global _folder
    _folder = None if folder is None else folder / _version()


def _make(folder: Path) -> None:
    """Make the folder of this version, and remove those that have not been made for longest."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    versions = sorted(folder.parent.iterdir(), key=lambda f: f.stat().st_mtime)
    for old in versions[:-_VERSIONS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def compiled(function: Callable[..., Any], *choices: object) -> Any:
    """Compile ``function`` when it is first called, or take it from the cache on disk.

    Args:
        function: made by a factory; what it calls is compiled into it.
        choices: all that the factory made it for: equal choices mean equal code.
    """
    dispatcher = _njit(**_KERNEL)(function)
    if _folder is not None:
        dispatcher._cache = _Cache(function, _folder, repr(choices))
    return dispatcher


_entries: list[Any] = []
"""Machine code lives as long as what compiled it."""


def entry(function: Callable[..., None], integers: int, *choices: object) -> int:
    """Compile ``function`` of so many integers and return the address of its code.

    A kernel that calls an address is compiled once for whatever stands there.
    """
    dispatcher = _njit(**_ENTRY)(function)
    if _folder is not None:
        dispatcher._cache = _Cache(function, _folder, repr(choices))
    result = _compile(dispatcher, (types.intp,) * integers)
    name = result.fndesc.llvm_cfunc_wrapper_name
    return int(result.library.get_pointer_to_function(name))


def native(function: Callable[..., None], kinds: tuple[Any, ...], *choices: object) -> int:
    """Compile ``function`` of arguments of such ``kinds``; return the address of its code.

    It is called as Numba's functions call each other; see :mod:`kernel`.
    """
    dispatcher = _njit(**_NATIVE)(function)
    if _folder is not None:
        dispatcher._cache = _Cache(function, _folder, repr((choices, kinds)))
    result = _compile(dispatcher, kinds)
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def _compile(dispatcher: Any, kinds: tuple[Any, ...]) -> Any:
    start, is_collecting = time.perf_counter(), gc.isenabled()
    gc.disable()  # a seventh of the time: Numba makes many objects, and has even more
    try:
        dispatcher.compile(kinds)
    finally:
        if is_collecting:
            gc.enable()
    if not dispatcher.stats.cache_hits:
        compiling.count(time.perf_counter() - start)
    (result,) = dispatcher.overloads.values()
    _entries.append(dispatcher)
    return result


def inlined(function: Callable[..., Any]) -> Any:
    """Make a function that kernels call and that disappears in them."""
    return _njit(**_INLINED)(function)


@functools.cache
def wide_loops(dtype: str) -> Any:
    """Return ``f()``: the kernel that calls it has its innermost loops made as wide as it pays.

    For loops of long formulas over many numbers; see :func:`pipeline.shape_loops`.
    """
    lanes, vectors = host().lanes(dtype), 4 if host().registers >= 32 else 2

    @intrinsic
    def wide_loops(typing_context):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            shape_loops(builder.function, lanes, vectors)
            return context.get_dummy_value()

        return types.void(), generate

    return wide_loops


@functools.cache
def _version() -> str:
    """A digest of all that decides the machine code: sources, compiler, CPU.

    Numba would notice changes of the file of a kernel, and not of the files of what it calls.
    """
    cpu = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    python = f"{sys.version_info[:2]} {numba.__version__} {binding.llvm_version_info}"
    digest = hashlib.sha256(f"{python} {cpu}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return _version()

    def get_disambiguator(self) -> str:
        return self._name


class _Impl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    def __init__(self, function: Callable[..., Any], folder: Path, choices: str) -> None:
        module = function.__module__.rpartition(".")[2]
        # A file for each kernel: Numba numbers the kernels of one file, and two processes that
        # compile at the same time might give two of them the same number.
        which = hashlib.sha256(choices.encode()).hexdigest()[:16]
        self._lineno = function.__code__.co_firstlineno
        self._locator = _Locator(folder, module)
        self._filename_base = f"{module}.{function.__name__}.{which}"


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, in our folder, told by name and not by the bytes of closures what is equal.

    Closures contain functions that Numba numbers anew in every process.
    """

    def __init__(self, function: Callable[..., Any], folder: Path, choices: str) -> None:
        self._name = repr(function)
        self._py_func = function
        self._choices = choices
        self._impl = _Impl(function, folder, choices)
        self._cache_path = str(folder)
        self._cache_file = caching.IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=_version(),
        )
        self.enable()

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return sig, codegen.magic_tuple(), self._choices

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever reading a damaged file raises: as if it were not there
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            _make(Path(self._cache_path))
            try:
                super().save_overload(sig, data)
            except (pickle.PickleError, EOFError, ValueError):  # a damaged index: a new one
                self.flush()
                super().save_overload(sig, data)
        except OSError:  # a full or read-only disk: the kernel works, the next process compiles
            self.disable()
