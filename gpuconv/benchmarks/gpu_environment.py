"""What a GPU machine has and lacks, what its packages are known to get wrong, and what is done.

The check runs on images that others made: packages may be missing, folders may be read-only,
libraries of CUDA may come from wheels or from a toolkit. :data:`VARIABLES` is all that is set for
the processes of the check, :func:`mend` all that is changed inside of them, and :func:`notes` says
in words what a reader of the report should know.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gpuconv.backends import cuda_numba_setup
from gpuconv.backends.packages import installed_version
from gpuconv.benchmarks import machine
from gpuconv.settings import CACHE_VARIABLE

VARIABLES: dict[str, str] = {
    "PYTHONPATH": "the checkout and its folder kernels: nothing needs to be installed",
    "PYTHONUNBUFFERED": "1: what a part said before it was stopped is not lost",
    "PYTHONDONTWRITEBYTECODE": "1: the checkout may be read-only",
    "NUMBA_CACHE_DIR": "compiled kernels, where a home that is read-only does not matter",
    "CUPY_CACHE_DIR": "the same for CuPy's",
    "CUDA_CACHE_PATH": "the same for the driver's",
    CACHE_VARIABLE: "the same for gpuconv's choices",
    "MPLCONFIGDIR": "the same for Matplotlib's",
    "CUDA_HOME": "the toolkit, if neither this nor CUDA_PATH is set: Numba looks there for NVVM",
    "CUDA_PATH": "the toolkit, if neither this nor CUDA_HOME is set: CuPy looks there for headers",
}
"""What is set for every process that the check starts, and why."""

PACKAGES: dict[str, str] = {
    "numba": "kernels of cuda:numba: all their parts are left out",
    "numba-cuda": "kernels of cuda:numba: all their parts are left out",
    "cupy": "everything: it owns the memory of the device",
    "pytest": "the part tests",
    "hypothesis": "the test files that import it",
    "torch": "the columns of PyTorch in the timings",
    "matplotlib": "the picture of the timings",
    "rich": "nothing here",
    "PIL": "nothing here",
    "safetensors": "nothing here",
    "threadpoolctl": "nothing here",
}
"""What is left out where a package is missing."""


def variables(caches: Path) -> dict[str, str]:
    """Return :data:`VARIABLES` with their values here, over those of this process."""
    paths = [str(machine.CHECKOUT), str(machine.CHECKOUT / "kernels")]
    if os.environ.get("PYTHONPATH"):  # packages that were unpacked rather than installed
        paths.append(os.environ["PYTHONPATH"])
    found = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(os.pathsep.join(paths).split(os.pathsep))),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "CUPY_CACHE_DIR": str(caches / "cupy"),
        "CUDA_CACHE_PATH": str(caches / "driver"),
        CACHE_VARIABLE: str(caches / "gpuconv"),
        "MPLCONFIGDIR": str(caches / "matplotlib"),
    }
    root = toolkit()
    if root and not (os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")):
        found["CUDA_HOME"] = found["CUDA_PATH"] = root
    return found


def folder_for_caches() -> Path:
    """Return a folder for compiled kernels: the user's, kept for the next run, or a new one."""
    return cuda_numba_setup.writable_folder("gpu_check")


# --- where things are -----------------------------------------------------------------------


def has(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def toolkit() -> str:
    """Return the root of the CUDA toolkit, or nothing."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name) and Path(os.environ[name]).is_dir():
            return os.environ[name]
    compiler = shutil.which("nvcc")
    near = [Path(compiler).resolve().parent.parent] if compiler else []
    installed = sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    for root in (*near, Path("/usr/local/cuda"), *installed):
        if (root / "nvvm").is_dir() or (root / "include" / "cuda_runtime.h").is_file():
            return str(root)
    return ""


def sanitizer() -> str:
    """Return the path of compute-sanitizer: on the PATH, in the toolkit, in NVIDIA's wheel."""
    found = shutil.which("compute-sanitizer")
    if found:
        return found
    roots = [Path(toolkit())] if toolkit() else []
    roots += sorted(Path("/usr/local").glob("cuda*"), reverse=True)
    roots += [folder / "nvidia" / "cu13" for folder in _package_folders()]
    for root in roots:
        for place in ("bin", "compute-sanitizer"):
            candidate = root / place / "compute-sanitizer"
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return str(candidate)
    return ""


def nvidia_smi(*queries: str) -> str:
    """Return what nvidia-smi says of the first device, which takes no context; or nothing."""
    words = [f"--query-gpu={','.join(queries)}", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        done = subprocess.run(
            ["nvidia-smi", *words], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _package_folders() -> list[Path]:
    known = [sysconfig.get_paths()[name] for name in ("purelib", "platlib")]
    return [Path(entry) for entry in dict.fromkeys([*known, *sys.path]) if entry]


def _library(pattern: str) -> str:
    """Where a file of CUDA's lies that compiling needs, in a wheel or in the toolkit."""
    for folder in _package_folders():
        for top in ("nvidia/cu13", "nvidia/cuda_nvcc", "nvidia/cuda_nvrtc", "nvidia/cuda_runtime"):
            for path in sorted((folder / top).glob(pattern)):
                return str(path)
    root = toolkit()
    for path in sorted(Path(root).glob(pattern)) if root else ():
        return str(path)
    return ""


def libraries() -> dict[str, str]:
    """Return what compiling needs and where it was found; nothing where it was not."""
    return {
        "NVVM": _library("lib/libnvvm.so*") or _library("nvvm/lib*/libnvvm.so*"),
        "libdevice": _library("nvvm/libdevice/libdevice*.bc"),
        "CUDA headers": _library("include/cuda_runtime.h"),
    }


# --- what is known to go wrong --------------------------------------------------------------


def notes() -> list[str]:
    """Say what a reader of the report should know about this machine, and what is done about it."""
    return [*_about_packages(), *_about_versions(), *_about_libraries()]


def _about_packages() -> Iterator[str]:
    for name, left_out in PACKAGES.items():
        missing = installed_version(name) is None if name == "numba-cuda" else not has(name)
        if missing:
            yield f"{name} is not installed; without it is left out: {left_out}"
    if not sanitizer():
        yield (
            "compute-sanitizer was found neither on the PATH, nor in a CUDA toolkit, nor in the "
            "package nvidia-cuda-sanitizer-api: no memory checker ran; the canaries did"
        )


def _about_versions() -> Iterator[str]:
    numpy, numba_cuda = installed_version("numpy"), installed_version("numba-cuda")
    if numba_cuda and _number(numpy) >= (2, 5) and _number(numba_cuda) <= (0, 30):
        yield (
            f"numba-cuda {numba_cuda} asks for numpy.row_stack when it compiles, which NumPy "
            f"{numpy} no longer has: gpuconv gives it back (it was another name of vstack); "
            f"programs without gpuconv cannot compile a kernel"
        )
    numba = installed_version("numba")
    if numba and _number(numpy) >= (2, 5) and _number(numba) < (0, 67):
        yield f"Numba {numba} does not know NumPy {numpy}; Numba 0.67 is the first that does"
    if _number(numba) >= (0, 66) and _looks_for_dates(numba_cuda):
        yield (
            f"numba-cuda {numba_cuda} cannot be imported beside Numba {numba}, which moved its "
            f"types of dates: the processes of this check put them back; numba-cuda 0.30.4 is the "
            f"first that finds them"
        )
    if numba_cuda and _number(numba_cuda) < (0, 30):
        yield f"numba-cuda {numba_cuda} is older than 0.30, with which gpuconv is developed"
    if numba_cuda and not _redirected():
        yield (
            "numba-cuda lies on the PYTHONPATH, where its .pth file is not read, so numba.cuda "
            "would be the older target inside Numba: the processes of this check redirect it"
        )
    compiler, linker = installed_version("nvidia-nvvm"), installed_version("nvidia-nvjitlink")
    if compiler and linker and _number(compiler) > _number(linker):
        yield (
            f"NVVM {compiler} may write PTX that nvJitLink {linker} does not read "
            f"('Unsupported .version'): install both of one release of CUDA"
        )


def _about_libraries() -> Iterator[str]:
    found = libraries()
    for name in ("NVVM", "libdevice"):
        if not found[name]:
            yield (
                f"{name} is neither in NVIDIA's wheels (nvidia-nvvm) nor in a toolkit (CUDA_HOME): "
                f"numba-cuda can compile nothing"
            )
    if not found["CUDA headers"]:
        yield (
            "the headers of CUDA are neither in a wheel (nvidia-cuda-runtime) nor in a toolkit "
            "(CUDA_PATH): CuPy compiles only what includes none"
        )
    wheel, root = installed_version("nvidia-cuda-nvrtc"), _toolkit_version()
    if wheel and root and _number(wheel) != _number(root):
        yield (
            f"NVRTC is {wheel}, from a wheel, the toolkit {root}: CuPy may compile with the one "
            f"and the headers of the other, and fail in cuda_fp8 or cuda_fp16"
        )


def _toolkit_version() -> str:
    path = Path(toolkit() or os.devnull) / "version.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _number(version: str | None, count: int = 2) -> tuple[int, ...]:
    """The first numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", version or "")[:count])


def _looks_for_dates(numba_cuda: str | None) -> bool:
    """Whether numba-cuda fails where Numba's types of dates are not where they were."""
    return numba_cuda is not None and _number(numba_cuda, 3) < (0, 30, 4)


def _redirected() -> bool:
    """Whether the .pth file has been read that sends ``numba.cuda`` to numba-cuda."""
    return "_numba_cuda_redirector" in sys.modules or not has("_numba_cuda_redirector")


# --- what is changed inside of a process ----------------------------------------------------


def mend() -> list[str]:
    """Mend what :func:`notes` tells of in this process, before Numba is imported; say what."""
    mended = []
    if has("numba_cuda") and cuda_numba_setup.give_row_stack():
        mended.append("numpy.row_stack")
    if not _redirected():
        importlib.import_module("_numba_cuda_redirector")
        mended.append("numba.cuda is numba-cuda")
    looks = _looks_for_dates(installed_version("numba-cuda"))
    if looks and cuda_numba_setup.give_types_of_dates():
        mended.append("Numba's types of dates")
    if has("numba_cuda") and cuda_numba_setup.lock_cache():
        mended.append("Numba's cache is used by one process at a time")
    return mended


def can_share_caches() -> bool:
    """Whether several processes may compile at once; see :func:`mend`."""
    return has("fcntl")
