"""What the assembler says about every device kernel, as figures that are kept and compared."""

from __future__ import annotations

import concurrent.futures
import fnmatch
import json
import multiprocessing
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from gpuconv.backends.packages import installed_version
from gpuconv.testing import assembly
from gpuconv.testing.catalogue import PACKAGE, catalogues, kernel, source_digests
from gpuconv.testing.occupancy import Occupancy, occupancy
from gpuconv_kernels.device.target import KernelSpec

SHARE_NOISE: Final = 0.005
"""A share of multiply-adds this much lower is not worse: one instruction in two hundred."""
OTHER_COMPILER: Final = 0.03
"""The same between two versions of the compiler, which orders and counts differently."""
READ_ON: Final = "sm_90"
"""Where the instructions of every kernel are read; those of arithmetic are read everywhere.
Disassembling takes a second, longer than compiling for one more architecture."""
KNOWN_STACKS: Final[Mapping[tuple[str, str], int]] = {
    (f"direct[float64, 4x2, taps {taps}/2]", "sm_100"): 64 for taps in (3, 5, 7)
}
"""(kernel, architecture) -> bytes of its stack frame: the kernels known to use local memory.
For sm_100 the compiler (NVVM 13.5) leaves a loop over a thread's 4x2 results rolled, so that they
are indexed and need an address: eight float64. Below it, it unrolls the loop. None of them spills.
"""
_TOOLS: Final = {
    "numba": "numba",
    "numba-cuda": "numba-cuda",
    "llvmlite": "llvmlite",
    "nvvm": "nvidia-nvvm",
    "ptxas": "nvidia-cuda-nvcc",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One kernel on one architecture.

    Attributes:
        threads: of a block.
        registers, stack, spills: of a thread; the last two in bytes of local memory.
        static_shared, dynamic_shared: bytes of a block.
        instructions: in the whole kernel; 0 where they were not read.
        loop: instructions of the loop in which it works.
        share: multiply-adds by ``loop``; 0 where the kernel is not one of arithmetic.
        wide: accesses of 16 bytes in that loop, such as ``{"LDS": 4}``.
        doubles: double-precision instructions, where the kernel is not one for float64.
    """

    threads: int
    registers: int
    instructions: int = 0
    loop: int = 0
    share: float = 0.0
    static_shared: int = 0
    dynamic_shared: int = 0
    stack: int = 0
    spills: int = 0
    wide: dict[str, int] = field(default_factory=dict)
    doubles: int = 0

    def occupancy(self, architecture: str) -> Occupancy:
        """Return how many blocks a multiprocessor holds, and what limits them."""
        shared = self.static_shared + self.dynamic_shared
        return occupancy(architecture, self.threads, self.registers, shared)


Table = dict[str, dict[str, Figures]]
"""Kernel name -> architecture -> figures."""


def in_registers(name: str, architecture: str, row: Figures) -> bool:
    """Whether a kernel uses no local memory, or not more than is known of it."""
    return not row.spills and row.stack <= KNOWN_STACKS.get((name, architecture), 0)


def known_stacks(table: Table) -> str:
    """Return in words which kernels of a table use local memory as is known: none, or which."""
    found: dict[str, list[str]] = {}
    for name, architecture, row in _each(table):
        if row.stack and in_registers(name, architecture, row):
            found.setdefault(name, []).append(f"{architecture} {row.stack} bytes")
    if not found:
        return "none uses local memory"
    return "known to use local memory are only " + ", ".join(
        f"{name} ({', '.join(where)})" for name, where in found.items()
    )


def tool_versions() -> dict[str, str | None]:
    """Return the versions of what turns a kernel into machine code."""
    return {tool: installed_version(package) for tool, package in _TOOLS.items()}


def figures(spec: KernelSpec, architecture: str) -> Figures:
    """Compile a kernel and return its figures.

    Raises:
        RuntimeError: the compiler or the assembler refuses it.
    """
    made = assembly.assemble(spec, architecture, spec.arithmetic or architecture == READ_ON)
    loop = sum(made.inner_loop.values())
    fused = assembly.multiply_adds(made.inner_loop)
    return Figures(
        threads=spec.threads,
        registers=made.registers,
        instructions=sum(made.instructions.values()),
        loop=loop,
        share=round(fused / loop, 4) if spec.arithmetic and loop else 0.0,
        static_shared=made.shared_bytes,
        dynamic_shared=spec.dynamic_shared_bytes,
        stack=made.stack_bytes,
        spills=made.spill_bytes,
        wide=_wide(made.inner_loop),
        doubles=0 if "float64" in spec.name else _doubles(made.instructions),
    )


def _wide(counted: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, count in counted.items():
        word, *modifiers = name.split(".")
        if "128" in modifiers and word in ("LDG", "LDS", "STS", "STG"):
            found[word] = found.get(word, 0) + count
    return dict(sorted(found.items()))


def _doubles(counted: Mapping[str, int]) -> int:
    words = ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX", "DMMA")
    return sum(
        count
        for name, count in counted.items()
        if name.split(".")[0] in words
        or (name.startswith(("F2F", "I2F", "F2I", "FRND")) and "F64" in name.split("."))
    )


# --- all kernels, in processes of their own -----------------------------------------------------


def selected(pattern: str | None = None, package: str = PACKAGE) -> list[tuple[str, str]]:
    """Return ``(module, kernel name)`` of the catalogue, those that match ``pattern``.

    A pattern is a part of the name, or has ``*`` or ``?`` and then stands for all of it.
    """
    return [
        (module, spec.name)
        for module, specs in catalogues(package).items()
        for spec in specs
        if pattern is None or matches(spec.name, pattern)
    ]


def matches(name: str, pattern: str) -> bool:
    """Whether a kernel's name is meant by a pattern; brackets stand for themselves."""
    if "*" in pattern or "?" in pattern:
        return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))
    return pattern in name


def measure(
    kernels: Iterable[tuple[str, str]],
    architectures: Iterable[str] = assembly.ARCHITECTURES,
    processes: int = 1,
    progress: Callable[[str], None] = lambda name: None,
    package: str = PACKAGE,
) -> Table:
    """Compile kernels for architectures, in parallel processes.

    Args:
        kernels: ``(module, name)``, as from :func:`selected`.
        architectures: such as ``"sm_90"``.
        processes: how many at once.
        progress: called with the name of each kernel when it is done.
        package: whose catalogues they stand in.

    Raises:
        RuntimeError: a kernel does not compile; its name is in the message.
    """
    wanted, names = tuple(architectures), list(kernels)
    table: Table = {}
    context = multiprocessing.get_context("spawn")  # Numba's threads do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        waiting = {pool.submit(_measure_one, *n, wanted, package): n[1] for n in names}
        try:
            for done in concurrent.futures.as_completed(waiting):
                table[waiting[done]] = done.result()
                progress(waiting[done])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {name: table[name] for _, name in names}


def _measure_one(
    module: str, name: str, architectures: tuple[str, ...], package: str
) -> dict[str, Figures]:
    spec = kernel(module, name, package)
    found = {}
    for architecture in architectures:
        try:
            found[architecture] = figures(spec, architecture)
        except Exception as error:  # also Numba's, which do not survive the way to the parent
            raise RuntimeError(f"{name} on {architecture}: {error}") from None
    return found


# --- the kept file ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of figures.

    Attributes:
        versions: of the tools that it was made with.
        sources: module -> digest of what its kernels were made of.
        table: the figures.
    """

    versions: dict[str, str | None]
    sources: dict[str, str]
    table: Table

    def current(self, package: str = PACKAGE) -> Table:
        """Return the figures that still hold: of the same sources, by the same tools."""
        if self.versions != tool_versions():
            return {}
        now = source_digests(package)
        return {
            spec.name: self.table[spec.name]
            for module, specs in catalogues(package).items()
            if self.sources.get(module) == now[module]
            for spec in specs
            if spec.name in self.table
        }


def read(path: Path) -> Kept:
    """Read a file of figures; an empty one if there is none."""
    if not path.exists():
        return Kept({}, {}, {})
    content = json.loads(path.read_text(encoding="utf-8"))
    table = {
        name: {architecture: Figures(**row) for architecture, row in rows.items()}
        for name, rows in content["kernels"].items()
    }
    return Kept(content["versions"], content["sources"], table)


def written(kept: Kept) -> str:
    """Return the text of a file of figures: a line a kernel and architecture, so changes show."""

    def rows(of: Mapping[str, Figures]) -> str:
        return ",\n".join(f'   "{a}": {json.dumps(_not_zero(f))}' for a, f in of.items())

    body = ",\n".join(f"  {json.dumps(n)}: {{\n{rows(of)}\n  }}" for n, of in kept.table.items())
    head = f' "versions": {json.dumps(kept.versions)},\n "sources": {json.dumps(kept.sources)}'
    return f'{{\n{head},\n "kernels": {{\n{body}\n }}\n}}\n'


def _not_zero(row: Figures) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if value}


def compare(
    kept: Table, found: Table, catalogue: Container[str], same_tools: bool
) -> tuple[list[str], list[str]]:
    """Return what is wrong or worse, and what is better, each in words.

    ``catalogue`` holds the names of all kernels that there are, ``found`` those that were measured.
    With another compiler than the kept file's, more registers count only where they cost a block
    on the multiprocessor, and the share of multiply-adds may fall a little.
    """
    worse = [f"{name}: is in the kept file and no longer a kernel" for name in kept
             if name not in catalogue]  # fmt: skip
    better = []
    noise = SHARE_NOISE if same_tools else OTHER_COMPILER
    for name, architecture, new in _each(found):
        where = f"{name} on {architecture}"
        if not in_registers(name, architecture, new):
            worse.append(
                f"{where}: uses local memory ({new.spills} bytes spilled, {new.stack} of stack)"
            )
        held = new.occupancy(architecture)
        if held.blocks == 0:
            worse.append(f"{where}: cannot be launched, too many {held.limited_by}")
        old = kept.get(name, {}).get(architecture)
        if old is None:
            worse.append(f"{where}: is new and not in the kept file")
            continue
        before = old.occupancy(architecture)
        if new.registers > old.registers and (same_tools or held.blocks < before.blocks):
            worse.append(f"{where}: {old.registers} -> {new.registers} registers")
        elif held.blocks < before.blocks:
            worse.append(f"{where}: {before.blocks} -> {held.blocks} blocks on a multiprocessor")
        if new.share < old.share - noise:
            worse.append(f"{where}: multiply-adds {old.share:.1%} -> {new.share:.1%} of the loop")
        if new.doubles > old.doubles:
            worse.append(
                f"{where}: {old.doubles} -> {new.doubles} double-precision instructions, and is "
                f"not a kernel for float64"
            )
        if new.registers < old.registers or new.share > old.share + noise:
            better.append(
                f"{where}: {old.registers} -> {new.registers} registers, multiply-adds "
                f"{old.share:.1%} -> {new.share:.1%}"
            )
    return worse, better


def _each(table: Table) -> Iterator[tuple[str, str, Figures]]:
    for name, rows in table.items():
        for architecture, row in rows.items():
            yield name, architecture, row
