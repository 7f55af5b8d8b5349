"""The static report on the device kernels, and the kernels themselves as the report sees them."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba.cuda")

from gpuconv.backends.cpu_probe import usable_cores
from gpuconv.testing import assembly, catalogue, kernel_figures
from gpuconv.testing.kernel_figures import Figures
from gpuconv.testing.occupancy import MULTIPROCESSORS, Occupancy, occupancy

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "kernel_report.py"
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

pytestmark = [
    pytest.mark.skipif(not SCRIPT.exists(), reason="needs the source tree"),
    pytest.mark.skipif(SIMULATED, reason="the simulator is on: nothing can be compiled"),
]
compiles = pytest.mark.skipif(
    bool(assembly.missing_tools()), reason=f"not installed: {', '.join(assembly.missing_tools())}"
)


@pytest.fixture(scope="module")
def report() -> Any:
    spec = importlib.util.spec_from_file_location("kernel_report", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    before = list(sys.path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


# --- the kernels of this package ----------------------------------------------------------------


def test_every_kernel_is_in_a_catalogue() -> None:
    assert catalogue.uncatalogued() == []


def test_every_kernel_is_in_the_kept_file_as_its_sources_are_now(report: Any) -> None:
    """Whatever compiles here or not; the remedy is ``kernel_report.py --update``."""
    kept = kernel_figures.read(report.KEPT)
    assert kept.sources == catalogue.source_digests()
    assert sorted(kept.table) == sorted(name for _, name in kernel_figures.selected())
    assert None not in kept.versions.values()


def test_kernels_of_the_kept_file_stay_in_registers(report: Any) -> None:
    """All but those that are known, and these as they are known."""
    local: dict[tuple[str, str], int] = {}
    for name, rows in kernel_figures.read(report.KEPT).table.items():
        assert tuple(rows) == assembly.ARCHITECTURES, name
        for architecture, row in rows.items():
            assert row.spills == 0, f"{name} on {architecture}"
            assert row.occupancy(architecture).blocks > 0, f"{name} on {architecture}"
            assert row.doubles == 0, f"{name} on {architecture}"
            if row.stack:
                local[name, architecture] = row.stack
    assert local == kernel_figures.KNOWN_STACKS


@compiles
def test_kernels_are_as_good_as_the_kept_file(report: Any) -> None:
    """On one architecture; what has not changed since the file was made is not compiled again.

    With other tools than the file's, nothing is known of any kernel: some are compiled here, all
    of them by ``python benchmarks/kernel_report.py --check``.
    """
    kept = kernel_figures.read(report.KEPT)
    same, current = kept.versions == kernel_figures.tool_versions(), kept.current()
    everything = kernel_figures.selected()
    stale = [(module, name) for module, name in everything if name not in current]
    if not same:
        stale = stale[:: max(1, len(stale) // 12)]
    found = kernel_figures.measure(stale, ["sm_90"], usable_cores()) if stale else {}
    worse, _ = kernel_figures.compare(kept.table, found, {name for _, name in everything}, same)
    assert worse == []


@compiles
def test_the_kept_file_is_honest(report: Any) -> None:
    """Some kernels whose figures need no compiling are compiled all the same."""
    current = kernel_figures.read(report.KEPT).current()
    arithmetic = [
        (module, spec.name)
        for module, specs in catalogue.catalogues().items()
        for spec in specs
        if spec.arithmetic and spec.name in current
    ]
    chosen = arithmetic[:: max(1, len(arithmetic) // 4)]
    found = kernel_figures.measure(chosen, ["sm_90"], usable_cores()) if chosen else {}
    for name, rows in found.items():
        assert rows["sm_90"] == current[name]["sm_90"], name


# --- occupancy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared", "blocks", "limited_by"),
    [
        # What NVIDIA's own cuda_occupancy.h answers, compiled and run for these numbers.
        ("sm_75", 256, 32, 0, 4, "threads"),
        ("sm_75", 256, 128, 33000, 1, "shared memory"),
        ("sm_75", 32, 32, 0, 16, "blocks"),
        ("sm_80", 256, 128, 16384, 2, "registers"),
        ("sm_80", 512, 140, 0, 0, "registers"),
        ("sm_90", 256, 168, 0, 1, "registers"),
        ("sm_90", 96, 200, 1000, 2, "registers"),
        ("sm_90", 128, 32, 49152, 4, "shared memory"),
        ("sm_90", 1024, 32, 0, 2, "registers"),
        ("sm_100", 64, 24, 0, 32, "threads"),
    ],
)
def test_occupancy(
    architecture: str, threads: int, registers: int, shared: int, blocks: int, limited_by: str
) -> None:
    warps = -(-threads // 32) * blocks
    expected = Occupancy(blocks, warps, limited_by)
    assert occupancy(architecture, threads, registers, shared) == expected


def test_every_architecture_of_the_report_has_its_limits() -> None:
    assert tuple(MULTIPROCESSORS) == assembly.ARCHITECTURES
    with pytest.raises(KeyError):
        occupancy("sm_60", 32, 32, 0)


# --- reading machine code -----------------------------------------------------------------------

LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, [R2] ;
        /*0020*/              @!P0 STS.128 [R8], R4 ;
        /*0030*/                   LDS.128 R12, [R9] ;
        /*0040*/                   FFMA R20, R12, R4, R20 ;
        /*0050*/                   FFMA R21, R13, R4, R21 ;
        /*0060*/               @P1 BRA 0x30 ;
        /*0070*/                   IADD3 R3, R3, 0x1, RZ ;
        /*0080*/                   IADD3 R3, R3, 0x1, RZ ;
        /*0090*/                   IADD3 R3, R3, 0x1, RZ ;
        /*00a0*/                   IADD3 R3, R3, 0x1, RZ ;
        /*00b0*/                   ISETP.NE.AND P2, PT, R3, RZ, PT ;
        /*00c0*/               @P2 BRA 0x80 ;
        /*00d0*/              @UP3 BRA.U !UP0, `(0x10) ;
        /*00e0*/                   EXIT ;
        /*00f0*/                   BRA 0xf0 ;
"""


def test_instructions_are_counted_with_their_modifiers() -> None:
    counted = assembly.count_instructions(LISTING)
    assert counted["LDG.E.128"] == counted["STS.128"] == counted["LDS.128"] == 1
    assert counted["FFMA"] == assembly.multiply_adds(counted) == 2
    assert counted["BRA"] == 3
    assert counted["BRA.U"] == 1


def test_the_loop_is_the_one_that_multiplies() -> None:
    """Not the longer one beside it, and not the one around both."""
    loop = assembly.count_instructions(assembly._inner_loop(LISTING))
    assert loop == {"LDS.128": 1, "FFMA": 2, "BRA": 1}
    idle = LISTING.replace("FFMA", "FADD")
    assert sum(assembly.count_instructions(assembly._inner_loop(idle)).values()) == 5
    assert assembly._inner_loop("/*0000*/ EXIT ;\n/*0010*/ BRA 0x10 ;") == ""


# --- comparing ----------------------------------------------------------------------------------

ROW = Figures(256, 64, 200, 50, 0.8, 4096, wide={"LDS": 4})


def compared(same_tools: bool = True, **changes: Any) -> tuple[list[str], list[str]]:
    new = dataclasses.replace(ROW, **changes)
    return kernel_figures.compare({"k": {"sm_90": ROW}}, {"k": {"sm_90": new}}, {"k"}, same_tools)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"registers": 65}, "k on sm_90: 64 -> 65 registers"),
        ({"share": 0.79}, "multiply-adds 80.0% -> 79.0% of the loop"),
        ({"spills": 8}, "uses local memory (8 bytes spilled, 0 of stack)"),
        ({"stack": 16}, "uses local memory (0 bytes spilled, 16 of stack)"),
        ({"doubles": 2}, "0 -> 2 double-precision instructions"),
        ({"static_shared": 65536}, "4 -> 3 blocks on a multiprocessor"),
        ({"threads": 1024, "registers": 65}, "cannot be launched, too many registers"),
    ],
)
def test_what_is_worse(changes: dict[str, Any], message: str) -> None:
    worse, _ = compared(**changes)
    assert message in worse[0]


def test_what_is_not_worse() -> None:
    assert compared() == ([], [])
    assert compared(share=0.797) == ([], [])  # one instruction
    assert compared(registers=60, share=0.85) == (
        [],
        ["k on sm_90: 64 -> 60 registers, multiply-adds 80.0% -> 85.0%"],
    )


def test_another_compiler_may_count_a_little_differently() -> None:
    assert compared(False, registers=64, share=0.78)[0] == []
    assert len(compared(False, registers=90)[0]) == 1
    assert len(compared(False, share=0.7)[0]) == 1
    assert len(compared(False, spills=4)[0]) == 1


def test_a_known_stack_frame_is_not_worse_and_a_larger_one_is() -> None:
    (name, architecture), size = next(iter(kernel_figures.KNOWN_STACKS.items()))

    def worse(on: str, **changes: int) -> list[str]:
        row = dataclasses.replace(ROW, **changes)
        return kernel_figures.compare({name: {on: ROW}}, {name: {on: row}}, {name}, True)[0]

    assert worse(architecture, stack=size) == []
    assert "uses local memory" in worse(architecture, stack=size + 8)[0]
    assert "uses local memory" in worse(architecture, stack=size, spills=4)[0]
    assert "uses local memory" in worse("sm_90", stack=size)[0]
    table = {name: {"sm_90": ROW, architecture: dataclasses.replace(ROW, stack=size)}}
    said = f"known to use local memory are only {name} ({architecture} {size} bytes)"
    assert kernel_figures.known_stacks(table) == said
    assert kernel_figures.known_stacks({"k": {"sm_90": ROW}}) == "none uses local memory"


def test_new_and_lost_kernels() -> None:
    table = {"k": {"sm_90": ROW}}
    assert kernel_figures.compare({}, table, {"k"}, True)[0] == [
        "k on sm_90: is new and not in the kept file"
    ]
    assert kernel_figures.compare(table, {}, set(), True)[0] == [
        "k: is in the kept file and no longer a kernel"
    ]
    assert kernel_figures.compare(table, {}, {"k"}, True)[0] == []  # it was not asked for


def test_the_kept_file_reads_back(tmp_path: Path) -> None:
    kept = kernel_figures.Kept({"ptxas": "1", "nvvm": None}, {"m": "ab"}, {"k[a]": {"sm_90": ROW}})
    path = tmp_path / "kernels.json"
    path.write_text(kernel_figures.written(kept), encoding="utf-8")
    assert kernel_figures.read(path) == kept
    assert kept.current() == {}  # of other tools
    assert kernel_figures.read(tmp_path / "none.json").table == {}


def test_patterns_of_names() -> None:
    name = "implicit_gemm[float32,128x64x8]"
    for pattern in ("implicit", "[float32", "implicit_gemm[*x8]", "*128?64*"):
        assert kernel_figures.matches(name, pattern), pattern
    for pattern in ("gemm*", "float64", "implicit_gemm[f]"):
        assert not kernel_figures.matches(name, pattern), pattern


# --- a package with toy kernels -----------------------------------------------------------------

TOY = """
from numba import types
from gpuconv_kernels.device.target import KernelSpec, compiled, cuda, flat, real
from {package}.helper import FACTOR


def make(dtype, kind):
    number = real(dtype)

    def toy(x, y, n):
        i = cuda.grid(1)
        total = number(0)
        for k in range(n):
            total += x[i + k] * number(FACTOR)
        y[i] = total

    def forgotten(x, y, n):
        y[cuda.grid(1)] = x[0]

    def indexed(x, y, n):
        kept = cuda.local.array(64, number)  # an index known only at run time: memory
        i = cuda.grid(1)
        for k in range(64):
            kept[(k * n) % 64] = x[i + k]
        y[i] = kept[n] + number(1.5)

    def double(x, y, n):
        y[cuda.grid(1)] = x[0] * 1.1

    return {{"toy": toy, "indexed": indexed, "double": double}}[kind]


def launcher(kind, dtype, forgotten=None):
    return compiled(make(dtype, kind), 128)


def catalogue():
    for kind in {kinds}:
        function = make("float32", kind)
        signature = (flat("float32"), flat("float32"), types.int32)
        yield KernelSpec(kind + "[float32]", function, signature, 128, arithmetic=kind == "toy")
"""


class Toys:
    """A package of toy kernels in a folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder / name, name
        self.folder.mkdir()
        self.write("__init__", "")
        self.write("helper", "FACTOR = 2.0\n")

    def write(self, module: str, text: str) -> None:
        (self.folder / f"{module}.py").write_text(text, encoding="utf-8")

    def kernels(self, *kinds: str) -> None:
        """Write the module with its kernels, and forget what was imported of it."""
        self.write("toys", TOY.format(package=self.name, kinds=kinds))
        for module in [m for m in sys.modules if m.partition(".")[0] == self.name]:
            del sys.modules[module]
        importlib.invalidate_caches()
        catalogue.catalogues.cache_clear()


@pytest.fixture
def toys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Toys]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files change within a second
    yield Toys(tmp_path, "toys_" + re.sub(r"\W", "_", request.node.name))
    catalogue.catalogues.cache_clear()


def test_the_source_digest_follows_imports(toys: Toys) -> None:
    toys.kernels("toy")
    first = catalogue.source_digests(toys.name)
    assert list(first) == [f"{toys.name}.toys"]
    assert catalogue.source_digests(toys.name) == first
    toys.write("helper", "FACTOR = 3.0\n")
    assert catalogue.source_digests(toys.name) != first
    toys.write("helper", "FACTOR = 2.0\n")
    assert catalogue.source_digests(toys.name) == first


def test_two_kernels_of_one_name_are_refused(toys: Toys) -> None:
    toys.kernels("toy", "toy")
    with pytest.raises(ValueError, match=r"a name of its own.* Received: 'toy\[float32\]'"):
        catalogue.catalogues(toys.name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def k(x): pass\nf = compiled(k, 32)", ["k"]),
        ("def a():\n def k(x): pass\n return target.compiled(k, 32, 2)", ["k"]),
        ("def m():\n def k(x): pass\n return k\nf = compiled(m(), 32)", ["k"]),
        ("def m():\n def k(x): pass\n return k\ndef g():\n h = m()\n return compiled(h, 8)", ["k"]),
        (
            "def m(s):\n def a(x): pass\n def b(x):\n  return 3\n return a if s else b\n"
            "f = compiled(m(1), 8)",
            ["a", "b"],
        ),
        ("f = compiled(table[3], 32)", ["table[3]"]),
        ("f = compile(k)", []),
    ],
)
def test_what_is_compiled_is_read_from_the_source(text: str, expected: list[str]) -> None:
    assert catalogue.compiled_functions(text) == expected


def test_a_kernel_in_no_catalogue_is_found(toys: Toys) -> None:
    toys.write(
        "more",
        "from gpuconv_kernels.device.target import compiled\n"
        "def stray(x):\n    pass\n\ndef launcher():\n    return compiled(stray, 32)\n",
    )
    toys.kernels("toy")
    assert f"{toys.name}.more: stray" in catalogue.uncatalogued(toys.name)
    assert f"{toys.name}.toys: toy" not in catalogue.uncatalogued(toys.name)


@compiles
def test_the_report_from_end_to_end(
    toys: Toys, report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "results" / "kernels.json"
    words = ["--package", toys.name, "--kept", str(kept), "--processes", "1"]

    def run(*more: str) -> tuple[int, str]:
        status = report.main([*words, *more])
        said = capsys.readouterr()
        return status, said.out + said.err

    toys.kernels("toy")
    assert "toy[float32]" in run("--update")[1]
    rows = kernel_figures.read(kept).table["toy[float32]"]
    assert tuple(rows) == assembly.ARCHITECTURES
    for row in rows.values():
        assert (row.spills, row.stack, row.doubles, row.dynamic_shared) == (0, 0, 0, 0)
        assert 0 < row.registers < 64
        assert 0 < row.share < 1
        assert row.loop < row.instructions
    assert "toy[float32]" in kept.with_suffix(".txt").read_text()
    capsys.readouterr()

    status, said = run("--check", "--architecture", "sm_80")
    assert "0 kernels compiled; 1 are in kernels.json" in said
    assert "are as good as in kernels.json" in said or "in no catalogue" in said

    # Memory of a thread's own, and double precision where float32 was meant.
    toys.kernels("toy", "indexed", "double")
    status, said = run("--check", "--architecture", "sm_90")
    assert status == 1
    assert "3 kernels compiled" in said
    assert "WORSE: indexed[float32] on sm_90: uses local memory" in said
    assert "WORSE: indexed[float32] on sm_90: is new" in said
    run("--update", "--kernel", "double", "--architecture", "sm_90")
    table = kernel_figures.read(kept).table
    assert table["double[float32]"]["sm_90"].doubles > 0
    assert table["toy[float32]"] == rows  # the others are as they were
    assert "no kernel is called 'none'" in run("--kernel", "none")[1]


@compiles
def test_a_kernel_that_does_not_compile_is_named(
    toys: Toys, report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toys.kernels("toy")
    toys.write(
        "broken",
        "from gpuconv_kernels.device.target import KernelSpec, flat\n"
        "def bad(x):\n    x[0] = 'word'\n\ndef catalogue():\n"
        "    yield KernelSpec('bad[float32]', bad, (flat('float32'),), 32)\n",
    )
    catalogue.catalogues.cache_clear()
    words = ["--package", toys.name, "--kept", str(tmp_path / "k.json"), "--processes", "1"]
    assert report.main([*words, "--architecture", "sm_90"]) == 1
    assert "bad[float32] on sm_90: " in capsys.readouterr().err


def test_without_the_tools_the_report_says_which_are_missing(
    report: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "missing_tools", lambda: ["nvidia-cuda-nvcc"])
    assert report.main([]) == 2
    assert "nothing can be compiled here; missing: nvidia-cuda-nvcc" in capsys.readouterr().err
    monkeypatch.setattr(report, "missing_tools", list)
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert report.main([]) == 2
    assert "NUMBA_ENABLE_CUDASIM=1 is set" in capsys.readouterr().err
