"""Several processes at once, each with a share of the work, until all is done or the time is up.

A process says what it does in lines that begin with ``@`` and hold a JSON object; what else it
prints is kept as text. One that dies is followed by another, which goes on behind what it died of.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuconv.backends.cpu_probe import usable_cores
from gpuconv.benchmarks import gpu_environment

MARK = "@"
Message = dict[str, Any]


def say(**message: Any) -> None:
    """Tell the process that started this one."""
    print(MARK + json.dumps(message), flush=True)


def end_with_parent() -> None:
    """Let this process end when the one that started it has, whatever hangs here.

    A memory checker that is stopped leaves the program behind that it watched.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class Share:
    """The work of one process after the other.

    Attributes:
        command: makes the command from the number of the process: 0, then 1 after a death.
        hear: is given each message, and each other line as ``{"text": line}``.
        again: whether another process should follow the one that ended with a status.
        ended: says how it ended: ``"done"``, ``"time"`` or the reason why it did not go on.
    """

    command: Callable[[int], Sequence[str]]
    hear: Callable[[Message], None]
    again: Callable[[int], bool]
    ended: str = "time"
    tail: list[str] = field(default_factory=list)


def run_all(shares: Sequence[Share], seconds: float) -> None:
    """Work on all shares at once; returns when they have ended, at the latest after ``seconds``."""
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=_work, args=(share, end), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _work(share: Share, end: float) -> None:
    count = 0
    while time.monotonic() < end:
        status = _one(share, share.command(count), end)
        if status is None:
            return
        count += 1
        if not share.again(status):
            share.ended = "done" if status == 0 else f"exit status {status}"
            return


def _one(share: Share, command: Sequence[str], end: float) -> int | None:
    """Run one process; return its status, or None if the time is up."""
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ},
        )  # fmt: skip
    except OSError as error:
        share.hear({"text": str(error)})
        return 127
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(max(0.1, end - time.monotonic()), stop)
    timer.daemon = True
    timer.start()
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            share.hear(_message(line))
    timer.cancel()
    status = process.returncode
    return None if late.is_set() else status


def _message(line: str) -> Message:
    if line.startswith(MARK):
        try:
            found = json.loads(line[len(MARK) :])
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
    return {"text": line.rstrip("\n")}


def processes(memory_each: float = 1.5) -> int:
    """How many processes to run at once: a core each, and so many GiB of the device's memory."""
    most = min(usable_cores(), 16)
    free = _free_gib()
    return max(1, most if free is None else min(most, int(free / memory_each)))


def _free_gib() -> float | None:
    """Free memory of the first device."""
    try:
        return float(gpu_environment.nvidia_smi("memory.free")) / 1024
    except ValueError:
        return None
