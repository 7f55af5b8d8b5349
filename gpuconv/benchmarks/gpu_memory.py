"""Every kernel of both engines singly: between canaries, and under compute-sanitizer.

    python -m gpuconv.benchmarks.gpu_memory guards --seconds 60       # no tool is needed
    python -m gpuconv.benchmarks.gpu_memory memcheck --seconds 60     # or racecheck, synccheck
    python -m gpuconv.benchmarks.gpu_memory guards --simulated --family padding

The cases of gpu_kernel_cases and gpu_raw are dealt out to processes. Each says which kernel it
launches before it does, and waits for the device after it, so that an error belongs to one kernel:
a process whose device is lost ends, and another goes on with the next case. Under a tool every
array has an allocation of its own; of Numba's kernels, racecheck and synccheck are asked only about
those with shared memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuconv.benchmarks import gpu_environment, gpu_shares
from gpuconv.benchmarks.gpu_shares import Message, Share, say

TOOLS = ("memcheck", "racecheck", "synccheck")
_SHARED_MEMORY = ("racecheck", "synccheck")
"""Tools that have something to say of kernels with shared memory alone."""
CLEAN, ERRORS, NOT_REACHED = "clean", "errors", "not reached"
_ENDED = {"time": "the time was up", "done": "its process ended before the last case"}
LOST = 3
"""Exit status of a process whose device is lost."""
_OPTIONS = (
    *("--padding", "64"),  # bytes between allocations that belong to nobody
    *("--report-api-errors", "no"),  # CuPy and Numba ask for things that need not be there
    *("--check-exit-code", "no"),
    *("--show-backtrace", "device"),
    *("--print-limit", "40"),
)
_REPORTED = re.compile(
    r"^=+ +(Invalid |Misaligned|Error: |ERROR: |Warning: Race|Race reported|Barrier error|"
    r"Uninitialized|Potential|Fatal|Internal|Device not supported|.*hazard detected)"
)
_SUMMARY = re.compile(r"SUMMARY: (\d+) (errors?|hazards? displayed)")
_FIRST_PORT = 49_200
_TRIES = 3
"""Processes of a share that may die while no kernel is right at all."""


@dataclass
class Survey:
    """What is known of each kernel.

    Attributes:
        states: by name: clean, errors or not reached.
        why: by name, what the errors were, the first lines of it.
        other: launches of forms that the catalogue has no entry for, in the same way.
        text: lines of a tool that belong to no kernel.
        counted: errors that the tool counted in all.
    """

    states: dict[str, str] = field(default_factory=dict)
    why: dict[str, list[str]] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    counted: int = 0

    def any_clean(self) -> bool:
        """Whether any kernel was right."""
        return CLEAN in self.states.values() or CLEAN in self.other.values()

    def clean(self, name: str) -> None:
        """Note that a launch was all right, if none was wrong before."""
        table = self._table(name)
        if table.get(name) != ERRORS:
            table[name] = CLEAN

    def wrong(self, name: str, lines: Sequence[str]) -> None:
        """Note that a launch was wrong."""
        self._table(name)[name] = ERRORS
        kept = self.why.setdefault(name, [])
        kept += lines[: max(0, 12 - len(kept))]

    def _table(self, name: str) -> dict[str, str]:
        return self.states if name in self.states else self.other


class Listener:
    """Turns what the processes of one share say into states.

    Attributes:
        last: number of the case that was begun last.
        running: the kernel that was launched last and is not known to have ended.
    """

    def __init__(self, survey: Survey) -> None:
        self.survey, self.last, self.running, self.complete = survey, -1, "", False
        self._recent = ""
        self._lines: list[str] = []

    def hear(self, message: Message) -> None:
        """Take one message."""
        if "case" in message:
            self.last = int(message["case"])
        elif "launch" in message:
            self.running = self._recent = str(message["launch"])
        elif "clean" in message:
            self.running = ""
            for name in message["clean"]:
                self.survey.clean(name)
        elif "wrong" in message:
            self.running = ""
            for name in message["wrong"]:
                self.survey.wrong(name, message["why"])
        elif "end" in message:
            self.complete = True
        else:
            self._text(str(message.get("text", "")))

    def died(self, status: int) -> None:
        """Blame the kernel that was running for the end of a process."""
        if self.running:
            self.survey.wrong(self.running, [f"the process ended with status {status}"])
            self.survey.wrong(self.running, self._lines[-6:])
        elif not self.complete:
            self.survey.text += self._lines[-3:]
        self.running, self._recent, self._lines = "", "", []

    def _text(self, line: str) -> None:
        counted = _SUMMARY.search(line)
        if counted:
            self.survey.counted += int(counted[1])
        elif _REPORTED.match(line):
            if self._recent:
                self.survey.wrong(self._recent, [line.strip("= ")])
            else:
                self.survey.text.append(line.strip("= "))
        elif line.startswith("=") and self.survey.why.get(self._recent):
            self.survey.wrong(self._recent, [line.strip("= ")])  # more of the same report
        elif line and not line.startswith("="):
            self._lines.append(line)


# --- the process that starts the others -----------------------------------------------------


def survey(
    mode: str, seconds: float, at_once: int, families: Sequence[str] = (), simulated: bool = False,
    program: Sequence[str] | None = None,
) -> Survey:  # fmt: skip
    """Launch every kernel in some processes, and say what is known of each when they have ended.

    Args:
        mode: ``"guards"``, or a tool of compute-sanitizer.
        seconds: when to stop, whatever is done by then.
        at_once: processes.
        families: of gpu_kernel_cases; default: all.
        simulated: use the CPU engine's arrays and Numba's simulator.
        program: compute-sanitizer's command; default: none for guards, else the one found here.
    """
    from gpuconv.benchmarks import gpu_kernels, gpu_raw

    broken = gpu_kernels.problem()
    kernels = [] if broken else gpu_kernels.names(shared_memory_only=mode in _SHARED_MEMORY)
    kernels += [] if simulated else gpu_raw.names()
    found = Survey(states=dict.fromkeys(kernels, NOT_REACHED))
    if broken:
        found.wrong("kernels of cuda:numba", [broken])
    if mode in TOOLS and program is None:
        program = [gpu_environment.sanitizer()]
    shares, listeners = [], [Listener(found) for _ in range(at_once)]
    for number, listener in enumerate(listeners):
        shares.append(
            Share(
                _command(mode, (number, at_once), families, simulated, program, listener),
                listener.hear,
                _goes_on(listener),
            )
        )
    gpu_shares.run_all(shares, seconds)
    unfinished = [share.ended for share, heard in zip(shares, listeners, strict=True)
                  if not heard.complete]  # fmt: skip
    found.text += [f"a share ended early: {_ENDED.get(why, why)}" for why in unfinished]
    return found


def _command(
    mode: str, part: tuple[int, int], families: Sequence[str], simulated: bool,
    program: Sequence[str] | None, listener: Listener,
) -> Callable[[int], Sequence[str]]:  # fmt: skip
    def command(count: int) -> Sequence[str]:
        words = [sys.executable, "-m", "gpuconv.benchmarks.gpu_memory", mode]
        words += ["--share", f"{part[0]}/{part[1]}", "--begin", str(listener.last + 1)]
        words += [word for family in families for word in ("--family", family)]
        if mode not in TOOLS:
            return words + ["--simulated"] * simulated
        assert program is not None
        ports = ("--port", str(_FIRST_PORT + 20 * part[0]))
        words += ["--simulated"] * simulated
        return [*program, "--tool", mode, *_OPTIONS, *ports, *words]

    return command


def _goes_on(listener: Listener) -> Callable[[int], bool]:
    before, deaths = -1, 0

    def again(status: int) -> bool:
        nonlocal before, deaths
        if status == 0 and listener.complete:
            return False
        listener.died(status)
        moved, before = listener.last > before, listener.last
        deaths += 1
        if deaths == _TRIES and not listener.survey.any_clean():
            listener.survey.text.append(f"{deaths} processes died before any kernel was right")
            return False
        return moved and not listener.complete

    return again


def summary(found: Survey) -> dict[str, Any]:
    """The facts of a survey; with ``wrong`` if something is."""
    states = found.states
    counts = {state: list(states.values()).count(state) for state in (CLEAN, ERRORS, NOT_REACHED)}
    facts: dict[str, Any] = {"kernels": counts, "other forms": found.other}
    facts["not reached"] = [name for name, state in states.items() if state == NOT_REACHED]
    facts["errors"] = dict(found.why)
    facts["states"] = states
    facts["tool"] = found.text[:20]
    bad = counts[ERRORS] + list(found.other.values()).count(ERRORS)
    if bad or found.counted:
        facts["wrong"] = f"{bad} kernel(s) with errors, {found.counted} errors counted by the tool"
    elif not counts[CLEAN]:
        facts["wrong"] = "no kernel was reached: " + "; ".join(found.text[:3])
    elif counts[NOT_REACHED]:
        facts["unfinished"] = f"{counts[NOT_REACHED]} kernels were not reached"
    return facts


# --- a process that launches ----------------------------------------------------------------


def launch_share(
    part: tuple[int, int], begin: int, exact: bool, shared_only: bool, families: Sequence[str],
    simulated: bool,
) -> int:  # fmt: skip
    """Launch the kernels of every n-th case; returns the exit status of this process."""
    from gpuconv.benchmarks import gpu_kernels, gpu_raw

    synchronize = _nothing if simulated else _synchronize()
    memory = gpu_kernels.host_memory() if simulated else gpu_kernels.device_memory(not exact)
    launched: list[str] = []

    def tell(name: str, kernel: Any, arguments: Any, start: Callable[[], None]) -> None:
        if shared_only and not (isinstance(kernel, str) or gpu_kernels.uses_shared_memory(kernel)):
            return
        say(launch=name)
        launched.append(name)
        start()
        synchronize()
        if exact:
            say(clean=[launched.pop()])

    def all_cases() -> Iterator[tuple[str, Any]]:
        if not gpu_kernels.problem():
            from gpuconv.benchmarks import gpu_kernel_cases

            yield from gpu_kernel_cases.cases(families)
        if not simulated and (not families or "raw" in families):
            from gpuconv.backends.cupy_runtime import CupyRuntime

            yield from gpu_raw.cases(CupyRuntime, tell)

    number, of = part
    watched = contextlib.nullcontext() if gpu_kernels.problem() else gpu_kernels.watching(tell)
    with watched:
        for index, (name, run) in enumerate(all_cases()):
            if index % of != number or index < begin:
                continue
            say(case=index, name=name)
            launched.clear()
            try:
                run(memory)
                problems = [] if exact else memory.problems()
            except Exception as error:
                say(wrong=launched[-1:] or [name], why=_in_words(error))
                memory.forget()
                if _is_lost(synchronize):
                    return LOST
                continue
            if exact:
                memory.forget()
            elif problems:
                say(wrong=launched, why=[f"{name}: {problem}" for problem in problems])
            else:
                say(clean=launched)
    say(end=True)
    return 0


def _nothing() -> None:
    """The simulator's launches have ended when they return."""


def _synchronize() -> Callable[[], None]:
    import cupy

    synchronize: Callable[[], None] = cupy.cuda.runtime.deviceSynchronize
    return synchronize


def _is_lost(synchronize: Callable[[], None]) -> bool:
    try:
        synchronize()
    except Exception:
        # A sticky error of the device, whatever class CuPy gives it: that is the answer.
        return True
    return False


def _in_words(error: BaseException) -> list[str]:
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    last = traceback.extract_tb(error.__traceback__)[-1]
    return [*lines[:8], f"in {last.name}, line {last.lineno} of {os.path.basename(last.filename)}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Survey all kernels, or launch one share of them; returns 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("mode", choices=("guards", *TOOLS))
    add("--seconds", type=float, default=60)
    add("--processes", type=int, default=None, help="default: by cores and memory")
    add("--family", action="append", default=[], help="of cases; default: all; repeatable")
    add("--simulated", action="store_true", help="in Numba's simulator")
    add("--share", help=argparse.SUPPRESS)
    add("--begin", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    gpu_environment.mend()
    exact, shared_only = options.mode in TOOLS, options.mode in _SHARED_MEMORY
    if options.share:
        gpu_shares.end_with_parent()
        number, of = map(int, options.share.split("/"))
        return launch_share(
            (number, of), options.begin, exact, shared_only, options.family, options.simulated
        )
    at_once = options.processes or min(8, gpu_shares.processes())
    found = survey(options.mode, options.seconds, at_once, options.family, options.simulated)
    facts = summary(found)
    print(json.dumps(facts))
    return int("wrong" in facts)


if __name__ == "__main__":
    sys.exit(main())
