"""Every kernel is launched by the GPU check, and what a kernel spoils is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuconv.benchmarks import gpu_environment, gpu_kernels, gpu_memory, gpu_raw, gpu_warm
from gpuconv.testing import host_cuda

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
hardware = pytest.mark.skipif(SIMULATED, reason="the simulator has forms of its own")


def launched(families: tuple[str, ...] = ()) -> dict[str, tuple[Any, ...]]:
    """What the cases launch, with the arguments, without launching it."""
    from gpuconv.benchmarks import gpu_kernel_cases

    found: dict[str, tuple[Any, ...]] = {}

    def tell(name: str, kernel: Any, arguments: tuple[Any, ...], start: Any) -> None:
        found[name] = arguments

    with gpu_kernels.watching(tell):
        for _, run in gpu_kernel_cases.cases(families):
            run(gpu_kernels.host_memory())
    return found


# --- all of them ------------------------------------------------------------------------------


@hardware
def test_no_kernel_of_the_catalogue_is_left_out() -> None:
    from gpuconv.testing import catalogue

    names = gpu_kernels.names()
    assert names == [s.name for specs in catalogue.catalogues().values() for s in specs]
    assert len(gpu_kernels._by_form()) == len(names)  # no two entries are taken for one
    found = launched()
    assert [name for name in names if name not in found] == []
    assert catalogue.uncatalogued() == []  # nor does the catalogue leave one out


@hardware
def test_a_kernel_without_a_case_would_be_noticed() -> None:
    found = launched(("padding", "transpose"))
    assert {name.partition("[")[0] for name in found} == {"pad", "pad_backward", "transpose"}
    missing = {name.partition("[")[0] for name in gpu_kernels.names() if name not in found}
    assert {"implicit_gemm", "direct", "softmax_rows"} <= missing


@hardware
def test_compiling_beforehand_makes_what_is_launched() -> None:
    from gpuconv.testing import catalogue

    signatures = {s.name: s.signature for specs in catalogue.catalogues().values() for s in specs}
    for name, arguments in launched(("padding", "updates", "softmax")).items():
        assert gpu_warm.types_of(arguments) == tuple(signatures[name])


KEYS = """
import json
from types import SimpleNamespace
from gpuconv.benchmarks import gpu_kernels, gpu_kernel_cases, gpu_warm

keys, codegen = {}, SimpleNamespace(magic_tuple=lambda: ("any", (9, 0)))

def tell(name, kernel, arguments, start):
    keys[name] = repr(kernel._cache._index_key(gpu_warm.types_of(arguments), codegen))

with gpu_kernels.watching(tell):
    for _, run in gpu_kernel_cases.cases(("softmax", "transpose", "padding", "normalization")):
        run(gpu_kernels.host_memory())
print(json.dumps(keys))
"""


@hardware
@pytest.mark.skipif(not gpu_environment.has("numba_cuda"), reason="its cache is looked at")
def test_what_one_process_compiles_another_finds() -> None:
    """Numba looks for a kernel by what its closure holds, which must not differ by chance."""
    paths = os.pathsep.join(p for p in sys.path if p)
    found = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", KEYS], capture_output=True, text=True, timeout=100, check=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert len(set(found[0].values())) == len(found[0]) > 40


@hardware
def test_kernels_with_shared_memory() -> None:
    shared = set(gpu_kernels.names(shared_memory_only=True))
    assert {"transpose[float32]", "softmax_rows[float64]", "sum_bricks[float32]"} <= shared
    assert not {"sgd[float32]", "pad[float32, zeros]", "activation[float32,relu]"} & shared


def test_no_kernel_in_cuda_is_left_out() -> None:
    found: dict[str, int] = {}

    def tell(name: str, kernel: Any, arguments: Any, start: Any) -> None:
        found[name] = found.get(name, 0) + 1

    memory = gpu_kernels.host_memory()
    for _, run in gpu_raw.cases(host_cuda.HostRuntime, tell):
        run(memory)
        memory.forget()  # nothing was launched, so every result is poison
    assert set(found) == set(gpu_raw.names())


@pytest.mark.skipif(host_cuda.compiler() is None, reason="takes g++ on Linux")
def test_kernels_in_cuda_between_canaries() -> None:
    memory = gpu_kernels.host_memory()
    count = 0
    for name, run in gpu_raw.cases(host_cuda.HostRuntime, lambda n, k, a, start: start()):
        if "float32" in name and ("pad" in name or "sgd" in name):
            run(memory)
            assert memory.problems() == []
            count += 1
    assert count > 8


# --- what is noticed --------------------------------------------------------------------------


def spoil(memory: gpu_kernels.Memory, what: Callable[[Any, Any], None]) -> list[str]:
    x = memory.put(np.arange(5, dtype="float32"))
    y = memory.output(5, "float32")
    y[...] = x
    what(x, y)
    return memory.problems()


def beside(array: Any, index: int) -> Any:
    """The element so many behind the first of an array, whatever lies there."""
    return np.lib.stride_tricks.as_strided(array[:1], (index + 1,), array.strides)[index:]


def test_what_a_kernel_spoils_is_noticed() -> None:
    memory = gpu_kernels.host_memory()
    assert spoil(memory, lambda x, y: None) == []
    assert "written beside it" in spoil(memory, lambda x, y: beside(y, 5).fill(1))[0]
    assert "written beside it" in spoil(memory, lambda x, y: beside(x, 5).fill(1))[0]
    assert "it was changed" in spoil(memory, lambda x, y: x.__setitem__(2, 9))[0]
    assert "1 of its numbers were not" in spoil(memory, lambda x, y: y.__setitem__(4, np.nan))[0]
    read_beside = spoil(memory, lambda x, y: y.__setitem__(slice(0, 1), beside(x, 5)))
    assert "come from NaN" in read_beside[0]
    memory.output((3,), "int64")
    assert "3 of its numbers" in memory.problems()[0]
    assert memory.problems() == []  # each array is looked at once


def test_arrays_between_canaries_are_aligned() -> None:
    memory = gpu_kernels.host_memory()
    for dtype in ("float32", "float64", "int64"):
        assert memory.put(np.ones((3, 5), dtype)).ctypes.data % 16 == 0
    assert memory.scratch(0, "float32") is None


@hardware
def test_a_survey_in_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    families = ["random numbers", "padding"]
    found = gpu_memory.survey("guards", 200, 1, families, simulated=True)
    facts = gpu_memory.summary(found)
    assert facts["errors"] == {}
    assert "wrong" not in facts
    assert {name for name, state in found.states.items() if state == gpu_memory.CLEAN} == {
        name for name in gpu_kernels.names() if name.startswith(("pad", "dropout"))
    }
    assert "kernels were not reached" in facts["unfinished"]


# --- compute-sanitizer ------------------------------------------------------------------------

# It launches nothing: it says what a process under the tool might say, and the tool.
TOOL = """
import json, sys

def say(**message):
    print("@" + json.dumps(message), flush=True)

words = sys.argv[1:]
begin = int(words[words.index("--begin") + 1])
with open({log!r}, "a") as log:
    print(" ".join(words), file=log)
print("========= COMPUTE-SANITIZER")
if begin == 0:
    say(case=0, name="first")
    say(launch="sgd[float32]")
    say(clean=["sgd[float32]"])
    say(case=1, name="second")
    say(launch="adam[float32]")
    print("========= Invalid __global__ write of size 4 bytes")
    print("=========     at adam+0x80 in adam.py:3")
    print("RuntimeError: the device is lost")
    print("========= ERROR SUMMARY: 1 error")
    sys.exit({status})
say(case=begin, name="third")
say(launch="dropout[float32]")
say(clean=["dropout[float32]"])
say(launch="sgd[float64]")
say(clean=["sgd[float64]"])
print("========= ERROR SUMMARY: 0 errors")
say(end=True)
"""


def surveyed(tmp_path: Path, source: str, **words: Any) -> tuple[gpu_memory.Survey, str]:
    log, program = tmp_path / "log", tmp_path / "tool.py"
    words.setdefault("status", 3)
    text = source.replace("{log!r}", repr(str(log))).replace("{status}", str(words["status"]))
    program.write_text(textwrap.dedent(text))
    found = gpu_memory.survey("memcheck", 60, 1, program=[sys.executable, str(program)])
    return found, log.read_text() if log.exists() else ""


@pytest.mark.parametrize("status", [gpu_memory.LOST, 134])
def test_an_error_belongs_to_one_kernel_and_the_rest_is_still_checked(
    tmp_path: Path, status: int
) -> None:
    found, log = surveyed(tmp_path, TOOL, status=status)
    assert found.states["sgd[float32]"] == found.states["dropout[float32]"] == gpu_memory.CLEAN
    assert found.states["adam[float32]"] == gpu_memory.ERRORS
    assert found.states["adam[float64]"] == gpu_memory.NOT_REACHED
    why = found.why["adam[float32]"]
    assert why[:2] == ["Invalid __global__ write of size 4 bytes", "at adam+0x80 in adam.py:3"]
    assert f"the process ended with status {status}" in why
    assert "COMPUTE-SANITIZER" not in why  # that is the next process
    facts = gpu_memory.summary(found)
    assert facts["wrong"] == "1 kernel(s) with errors, 1 errors counted by the tool"
    first, second = log.splitlines()
    assert "--tool memcheck" in first
    assert "--begin 2" in second


def test_a_tool_that_reaches_no_kernel_is_no_pass(tmp_path: Path) -> None:
    found, _ = surveyed(tmp_path, "print('========= Error: Device not supported')")
    facts = gpu_memory.summary(found)
    assert facts["wrong"].startswith("no kernel was reached: Error: Device not supported")
    found = gpu_memory.survey("memcheck", 60, 1, program=["/no/such/tool"])
    assert "no kernel was reached" in gpu_memory.summary(found)["wrong"]


def test_a_device_that_is_always_lost_is_not_asked_for_ever(tmp_path: Path) -> None:
    source = """
        import sys
        begin = sys.argv[sys.argv.index("--begin") + 1]
        print('@{"case": ' + begin + ', "name": "x"}')
        print('@{"launch": "sgd[float32]"}', flush=True)
        sys.exit(3)
    """
    found, _ = surveyed(tmp_path, source)
    assert "3 processes died before any kernel was right" in found.text
    assert found.states["sgd[float32]"] == gpu_memory.ERRORS


def test_races_are_counted_though_no_kernel_ends(tmp_path: Path) -> None:
    source = """
        print('@{"case": 0, "name": "x"}')
        print('@{"launch": "transpose[float32]"}')
        print("========= Error: Race reported between Write access at transpose+0x1 and Read")
        print('@{"clean": ["transpose[float32]"]}')
        print('@{"end": true}')
        print("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)")
    """
    found, _ = surveyed(tmp_path, source)
    assert found.states["transpose[float32]"] == gpu_memory.ERRORS
    assert "2 errors counted" in gpu_memory.summary(found)["wrong"]


def test_a_survey_ends_when_its_time_is_up(tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text("import time; time.sleep(60)")
    found = gpu_memory.survey("memcheck", 2, 2, program=[sys.executable, str(program)])
    assert found.text == ["a share ended early: the time was up"] * 2


def test_a_process_ends_with_the_one_that_started_it() -> None:
    waits = "from gpuconv.benchmarks import gpu_shares; import os, time; "
    waits += "gpu_shares.end_with_parent(); print(os.getpid(), flush=True); time.sleep(100)"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {waits!r}])"
    paths = os.pathsep.join(p for p in sys.path if p)
    between = subprocess.Popen(
        [sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    with between:
        assert between.stdout is not None
        assert int(between.stdout.readline()) > 0
        between.kill()
        assert between.stdout.read() == ""  # both have ended: nobody holds the pipe any more


# --- compiling beforehand ---------------------------------------------------------------------


class Kernel:
    """A kernel that counts how often it was compiled."""

    def __init__(self, fails: bool = False) -> None:
        self.count, self.fails = 0, fails

    def compile(self, types: Any) -> None:
        self.count += 1
        if self.fails:
            raise TypeError("no such overload")


def test_shares_compile_each_kernel_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels = [Kernel(fails=number == 4) for number in range(10)]
    listed = [(f"k{n}", kernel, (np.float32(1), 2)) for n, kernel in enumerate(kernels)]
    monkeypatch.setattr(gpu_warm, "kernels_by_weight", lambda: listed)
    monkeypatch.setattr(gpu_warm, "_compile_for_cupy", lambda: ["sums.cu float32"])
    for number in range(3):
        gpu_warm.compile_share(number, 3)
    assert [kernel.count for kernel in kernels] == [1] * 10
    said = [json.loads(line[1:]) for line in capsys.readouterr().out.splitlines()]
    assert {"compiled": "sums.cu float32"} in said
    assert {"failed": "k4", "why": "TypeError: no such overload"} in said


def test_what_did_not_compile_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(shares: Any, seconds: float) -> None:
        shares[0].hear({"compiled": "a", "seconds": 2.0})
        shares[0].ended = "done"
        shares[1].hear({"failed": "b", "why": "no such overload"})

    monkeypatch.setattr(gpu_warm.gpu_shares, "run_all", run_all)
    facts = gpu_warm.warm(1, 2)
    assert facts["wrong"] == "1 kernels did not compile"
    assert (facts["compiled"], facts["failed"]) == (1, {"b": "no such overload"})
