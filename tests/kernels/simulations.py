"""The files of tests/device in Numba's simulator, each in a process of its own.

A kernel whose barrier is missed by a thread hangs for ever in the simulator: hence processes, with
a hard time limit. ``python simulations.py FILE PARENT`` is such a process.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

FOLDER = pathlib.Path(__file__).parents[1] / "device"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))
LONGEST = (  # from 45 to 20 seconds of a core; the others take 3 to 7
    "test_engine_numba.py",
    "test_direct.py",
    "test_device_pooling.py",
    "test_implicit_gemm.py",
    "test_depthwise_gradient.py",
    "test_weight_gradient.py",
)
SECONDS = 600  # ten times what the slowest takes on two cores that nobody else uses

Done = subprocess.CompletedProcess[str]


def run_file(name: str) -> list[str]:
    """The command that runs a file of tests/device."""
    return [sys.executable, __file__, name, str(os.getpid())]


def end_with(parent: int) -> None:
    """Let this process end when its parent has, however that ended and whatever hangs here."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def by_length(name: str) -> int:
    """Sorts the longest first."""
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


class Simulations:
    """Processes in the order of ``names``, so many at once as were started.

    Attributes:
        results: of every name, when it has ended; an exception if it ran out of time.
    """

    def __init__(
        self,
        names: Sequence[str],
        command: Callable[[str], list[str]] = run_file,
        seconds: float = SECONDS,
    ) -> None:
        self.results: dict[str, Future[Done]] = {name: Future() for name in names}
        self._command = command
        self._seconds = seconds
        self._waiting = deque(names)
        self._running: set[subprocess.Popen[str]] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, at_once: int) -> None:
        """Let so many run at once from now on; never fewer than before."""
        while len(self._threads) < at_once:
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Begin no more, end what runs, and wait until it has ended."""
        with self._lock:
            self._waiting.clear()
            for process in self._running:
                process.kill()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                name = self._waiting.popleft()
                result = self.results[name]
                try:
                    process = self._begin(name)
                except OSError as error:
                    result.set_exception(error)
                    continue
                self._running.add(process)
            try:
                result.set_result(self._end(process))
            except Exception as error:  # whoever waits for the result must learn of it
                result.set_exception(error)
            with self._lock:
                self._running.discard(process)

    def _begin(self, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "OMP_NUM_THREADS": "1"},
            cwd=FOLDER.parents[1],
        )

    def _end(self, process: subprocess.Popen[str]) -> Done:
        try:
            out, err = process.communicate(timeout=self._seconds)
        except subprocess.TimeoutExpired as late:
            process.kill()
            late.output, late.stderr = process.communicate()
            raise
        return Done(process.args, process.returncode, out, err)


if __name__ == "__main__":
    import pytest

    end_with(int(sys.argv[2]))
    sys.exit(
        pytest.main(
            ["-q", "-x", "-o", "addopts=", "-p", "no:cacheprovider", str(FOLDER / sys.argv[1])]
        )
    )
