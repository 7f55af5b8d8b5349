"""Compiling device kernels for a named architecture on a machine without a GPU.

Numba makes PTX, ``ptxas`` assembles it and reports registers, spills and shared memory, and
``cuobjdump`` shows the instructions. Needs the packages numba-cuda[cu13], nvidia-cuda-nvcc,
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm; nothing is run on a device.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib.util
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from gpuconv.backends.cuda_numba_setup import give_row_stack
from gpuconv_kernels.device.target import KernelSpec

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")
"""Turing, Ampere, Hopper, Blackwell."""

_MULTIPLY_ADD = ("FFMA", "FFMA2", "DFMA", "HFMA2", "HMMA", "DMMA")
"""FFMA2 is Blackwell's pair of multiply-adds, HMMA and DMMA are the tensor cores'."""

_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_]*)([A-Z0-9_.]*)")


@dataclass(frozen=True)
class Assembled:
    """What the assembler said about one kernel on one architecture.

    Attributes:
        registers: of a thread.
        shared_bytes: of a block, those fixed at compile time.
        stack_bytes, spill_bytes: local memory of a thread; 0 where all stays in registers.
        instructions: name -> how often it stands in the machine code, with its modifiers.
        inner_loop: the same for the loop in which the kernel does its work.
    """

    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int
    instructions: collections.Counter[str]
    inner_loop: collections.Counter[str]


def missing_tools() -> list[str]:
    """Names of the packages that are not there; empty if kernels can be assembled."""
    missing = []
    if importlib.util.find_spec("numba_cuda") is None:
        missing.append("numba-cuda[cu13]")
    for program in ("ptxas", "cuobjdump", "nvdisasm"):
        if _tool(program) is None:
            missing.append(f"nvidia-cuda-{'nvcc' if program == 'ptxas' else program}")
    return missing


def assemble(spec: KernelSpec, architecture: str, disassemble: bool = True) -> Assembled:
    """Compile one kernel for one architecture.

    Args:
        spec, architecture: such as ``"sm_90"``.
        disassemble: False leaves out the instructions, which take longest.

    Raises:
        RuntimeError: the compiler or the assembler refuses it; what it said is in the message.
    """
    ptx = compile_ptx(spec, architecture)
    with tempfile.TemporaryDirectory() as folder:
        source, binary = pathlib.Path(folder, "kernel.ptx"), pathlib.Path(folder, "kernel.cubin")
        source.write_text(ptx)
        said = _run("ptxas", f"-arch={architecture}", "-v", str(source), "-o", str(binary)).stderr
        listing = _run("cuobjdump", "--dump-sass", str(binary)).stdout if disassemble else ""
    return Assembled(
        registers=_number(said, r"Used (\d+) registers"),
        shared_bytes=_number(said, r"(\d+) bytes smem"),
        stack_bytes=_number(said, r"(\d+) bytes stack frame"),
        spill_bytes=_number(said, r"(\d+) bytes spill stores")
        + _number(said, r"(\d+) bytes spill loads"),
        instructions=count_instructions(listing),
        inner_loop=count_instructions(_inner_loop(listing)),
    )


def compile_ptx(spec: KernelSpec, architecture: str) -> str:
    """Return the PTX of a kernel."""
    from numba import cuda

    give_row_stack()
    library = _library(spec)
    if library is not None:
        return str(library.get_asm_strs(cc=_capability(architecture))[0])
    compile_kernel: Any = cuda.compile_ptx  # numba-cuda's, whose arguments Numba's own lacks
    with _pretended_device(_capability(architecture)):
        ptx, _ = compile_kernel(
            spec.function,
            spec.signature,
            cc=_capability(architecture),
            launch_bounds=_launch_bounds(spec),
        )
    return str(ptx)


@functools.lru_cache(maxsize=1)
def _library(spec: KernelSpec) -> Any:
    """Return Numba's code library of a kernel, which makes PTX for any architecture.

    Typing and lowering, nine tenths of the time, are then done once for all of them. None where
    numba-cuda does not have the function that makes it, which is not part of its interface.
    """
    from numba.cuda import compiler

    make = getattr(compiler, "_compile_pyfunc_with_fixup", None)
    if make is None:
        return None
    lowest = _capability(ARCHITECTURES[0])
    with _pretended_device(lowest):
        library, _ = make(
            spec.function,
            spec.signature,
            debug=None,
            lineinfo=False,
            device=False,
            fastmath=False,
            cc=lowest,
            opt=None,
            abi="numba",
            abi_info=None,
            forceinline=False,
            launch_bounds=_launch_bounds(spec),
            lto=False,
        )
    return library


def _capability(architecture: str) -> tuple[int, int]:
    number = architecture.removeprefix("sm_")
    return int(number[:-1]), int(number[-1])


def _launch_bounds(spec: KernelSpec) -> int | tuple[int, int]:
    return (spec.threads, spec.min_blocks) if spec.min_blocks else spec.threads


@contextlib.contextmanager
def _pretended_device(capability: tuple[int, int]) -> Iterator[None]:
    # Numba compiles the functions that a kernel calls for the device at hand, and asks for it.
    from numba.cuda import dispatcher

    kept = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = kept


def count_instructions(listing: str) -> collections.Counter[str]:
    """Count the instructions of a disassembly, modifiers included (``LDG.E.128``)."""
    return collections.Counter(
        found[1] + found[2] for found in map(_INSTRUCTION.search, listing.splitlines()) if found
    )


def _inner_loop(listing: str) -> str:
    """The lines of the loop in which the kernel does its work.

    That is the shortest loop, from target to backward branch, with at least half of the
    multiply-adds that stand in loops; without any, the longest loop that has none inside.
    """
    lines = listing.splitlines()
    loops = _loops(lines)
    if not loops:
        return ""
    heaviest = max(_multiply_adds(lines[a:b]) for a, b in loops)
    if heaviest:
        first, last = min(
            (loop for loop in loops if 2 * _multiply_adds(lines[slice(*loop)]) >= heaviest),
            key=lambda loop: loop[1] - loop[0],
        )
    else:
        innermost = [
            (a, b)
            for a, b in loops
            if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)
        ]
        first, last = max(innermost, key=lambda loop: loop[1] - loop[0])
    return "\n".join(lines[first:last])


def _loops(lines: list[str]) -> list[tuple[int, int]]:
    address_of = [re.search(r"/\*([0-9a-f]{4,})\*/", line) for line in lines]
    at = {int(found[1], 16): i for i, found in enumerate(address_of) if found}
    loops = []
    for i, line in enumerate(lines):
        jump, here = re.search(r"\bBRA\S*\s+(?:\S+,\s*)*`?\(?0x([0-9a-f]+)", line), address_of[i]
        # A jump to itself pads the end of every kernel.
        if jump and here and int(jump[1], 16) < int(here[1], 16):
            loops.append((at[int(jump[1], 16)], i + 1))
    return loops


def _multiply_adds(lines: list[str]) -> int:
    return multiply_adds(count_instructions("\n".join(lines)))


def multiply_adds(counted: collections.Counter[str]) -> int:
    """How many of the counted instructions are a multiply-add of real numbers, packed ones too."""
    return sum(count for name, count in counted.items() if name.partition(".")[0] in _MULTIPLY_ADD)


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = _tool(program)
    if path is None:
        raise RuntimeError(f"{program} was not found; missing: {', '.join(missing_tools())}")
    folder = os.pathsep.join([str(path.parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [str(path), *arguments], capture_output=True, text=True, env={**os.environ, "PATH": folder}
    )
    if done.returncode:
        raise RuntimeError(f"{program} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done


def _tool(program: str) -> pathlib.Path | None:
    """The program of NVIDIA's packages; the machine's own may be too old for the PTX."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        for found in sorted(pathlib.Path(folder).glob(f"*/bin/{program}")):
            return found
    return None
