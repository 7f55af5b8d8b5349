"""What every GPU kernel becomes on each architecture, found out without a GPU.

    python benchmarks/kernel_report.py                          # all kernels, four architectures
    python benchmarks/kernel_report.py --kernel implicit_gemm --architecture sm_90
    python benchmarks/kernel_report.py --check                  # against results/kernels.json
    python benchmarks/kernel_report.py --update                 # keep what was found

Compiles each kernel of the catalogue as Numba does when it is launched and reads the assembler's
output and the machine code. Needs numba-cuda, nvidia-cuda-nvcc, nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm from the package index. ``--check`` ends with status 1 when a kernel uses local
memory (but for ``kernel_figures.KNOWN_STACKS``), needs more registers than before, has fewer
multiply-adds in its loop, or is new or gone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))

from gpuconv.backends.cpu_probe import usable_cores
from gpuconv.io import atomic_path
from gpuconv.testing import kernel_figures
from gpuconv.testing.assembly import ARCHITECTURES, missing_tools
from gpuconv.testing.catalogue import PACKAGE, catalogues, source_digests, uncatalogued
from gpuconv.testing.kernel_figures import Kept, Table

KEPT = Path(__file__).resolve().parent / "results" / "kernels.json"
WIDTH = 150
"""Columns of the kept table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kernel", help="only names with this part, or like this: 'max_pool*64*'")
    parser.add_argument(
        "--architecture", action="append", choices=ARCHITECTURES, help="default: all; repeatable"
    )
    parser.add_argument("--check", action="store_true", help="compare with the kept file")
    parser.add_argument("--update", action="store_true", help="write the kept file and its table")
    parser.add_argument(
        "--fresh", action="store_true", help="compile all, also what has not changed"
    )
    parser.add_argument("--kept", type=Path, default=KEPT, help="default: results/kernels.json")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="default: cores")
    parser.add_argument("--package", default=PACKAGE, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    missing = missing_tools()
    if missing or os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        why = f"missing: {', '.join(missing)}" if missing else "NUMBA_ENABLE_CUDASIM=1 is set"
        print(f"kernel_report: nothing can be compiled here; {why}", file=sys.stderr)
        return 2
    kernels = kernel_figures.selected(options.kernel, options.package)
    if not kernels:
        print(f"kernel_report: no kernel is called {options.kernel!r}", file=sys.stderr)
        return 2
    kept = kernel_figures.read(options.kept)
    try:
        found = find(options, kernels, kept)
    except RuntimeError as error:
        print(f"kernel_report: {error}", file=sys.stderr)
        return 1
    show(found, sys.stdout)
    status = check(options, found, kept) if options.check else 0
    if options.update:
        update(options, found, kept)
    return status


def find(options: argparse.Namespace, kernels: list[tuple[str, str]], kept: Kept) -> Table:
    """Return the figures of the kernels: what still holds is taken from the kept file."""
    wanted = options.architecture or list(ARCHITECTURES)
    known = {} if options.fresh else kept.current(options.package)
    stale = [(m, n) for m, n in kernels if not {*wanted} <= {*known.get(n, {})}]
    measured: Table = {}
    if stale:
        with progress(len(stale)) as tell:
            measured = kernel_figures.measure(
                stale, wanted, max(1, options.processes), tell, options.package
            )
    print(
        f"{len(stale)} kernels compiled; {len(kernels) - len(stale)} are in {options.kept.name} "
        f"with the same sources and tools" + (" (--fresh compiles all)" if known else "")
    )
    return {name: measured.get(name) or {a: known[name][a] for a in wanted} for _, name in kernels}


def check(options: argparse.Namespace, found: Table, kept: Kept) -> int:
    """Compare with the kept file; print what is worse; return the exit status."""
    tools = kernel_figures.tool_versions()
    names = {name for _, name in kernel_figures.selected(None, options.package)}
    same = kept.versions == tools
    worse, better = kernel_figures.compare(kept.table, found, names, same)
    worse += [
        f"{where} is compiled, but is in no catalogue" for where in uncatalogued(options.package)
    ]
    if not same:
        print(f"The kept file was made with {kept.versions}; here it is {tools}")
    for line in better:
        print(f"better: {line}")
    for line in worse:
        print(f"WORSE: {line}")
    if worse:
        print(f"{len(worse)} problem(s). If they are meant: --update", file=sys.stderr)
        return 1
    print(
        f"{len(found)} kernels are as good as in {options.kept.name}, "
        f"{kernel_figures.known_stacks(found)}"
    )
    return 0


def update(options: argparse.Namespace, found: Table, kept: Kept) -> None:
    """Write the kept file and its table; a part of the kernels replaces only those."""
    tools, digests = kernel_figures.tool_versions(), source_digests(options.package)
    current = kept.current(options.package)
    table: Table = {}
    sources: dict[str, str] = {}
    for module, specs in catalogues(options.package).items():
        complete = True
        for spec in specs:
            old, new = kept.table.get(spec.name, {}), found.get(spec.name, {})
            rows = {**old, **new}
            if rows:
                table[spec.name] = {a: rows[a] for a in ARCHITECTURES if a in rows}
            held = {**current.get(spec.name, {}), **new}
            complete = complete and {*ARCHITECTURES} <= {*held}
        if complete:  # else what was not compiled now is compiled when it is next asked for
            sources[module] = digests[module]
    options.kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.kept) as temporary:
        content = kernel_figures.written(Kept(tools, sources, table))
        temporary.write_text(content, encoding="utf-8")
    text = options.kept.with_suffix(".txt")
    with atomic_path(text) as temporary, temporary.open("w", encoding="utf-8") as file:
        made_with = ", ".join(f"{tool} {version}" for tool, version in tools.items())
        file.write(f"Device kernels, compiled with {made_with}\n\n")
        show(table, file)
    print(f"Wrote {options.kept} and {text.name}")


COLUMNS: dict[str, str] = {
    "arch": "architecture, sm_",
    "threads": "of a block",
    "regs": "registers of a thread",
    "spill": "bytes of local memory of a thread, stack included",
    "shared": "bytes of a block, + those given at launch",
    "blocks": "that a multiprocessor holds, and what limits them",
    "warps": "that it then holds",
    "loop": "instructions of the loop in which the kernel works; -: read on sm_90 alone",
    "FMA": "multiply-adds in it",
    "16-byte accesses": "in it: LDG, STG global; LDS, STS shared",
    "double": "double-precision instructions in a kernel that is not for float64",
}


def show(table: Table, file: Any) -> None:
    """Print the table: a block of lines a kernel, one an architecture."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    terminal = file.isatty()
    console = Console(file=file, width=None if terminal else WIDTH)
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    shown.add_column("kernel", overflow="fold")
    for name in COLUMNS:
        left = name in ("blocks", "16-byte accesses")
        shown.add_column(name, justify="left" if left else "right", no_wrap=True)
    for name, rows in table.items():
        for number, (architecture, row) in enumerate(rows.items()):
            held = row.occupancy(architecture)
            local = row.spills + row.stack
            extra = f" + {row.dynamic_shared}" if row.dynamic_shared else ""
            wide = ", ".join(f"{count} {word}" for word, count in row.wide.items())
            shown.add_row(
                Text("" if number else name),
                architecture.removeprefix("sm_"),
                str(row.threads),
                str(row.registers),
                Text(str(local), "bold red" if local else "") if local else "-",
                f"{row.static_shared}{extra}",
                f"{held.blocks} ({held.limited_by})",
                str(held.warps),
                str(row.loop) if row.instructions else "-",
                f"{row.share:.0%}" if row.share else "-",
                wide or "-",
                Text(str(row.doubles), "bold red") if row.doubles else "-",
            )
    console.print(shown)
    for name, meaning in COLUMNS.items():
        print(f"  {name}: {meaning}", file=file)


@contextmanager
def progress(total: int) -> Any:
    """Show on a terminal how many kernels are done; yield what is to be told each one's name."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("Compiling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("{task.description}", markup=False), console=console,
        transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=total)

        def tell(name: str) -> None:
            bar.update(task, advance=1, description=name)

        reporter: Callable[[str], None] = tell
        yield reporter


if __name__ == "__main__":
    sys.exit(main())
