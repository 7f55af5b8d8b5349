"""Sharing tasks among threads: each once, from any number of callers, after fork too."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from gpuconv_kernels import threads
from gpuconv_kernels.host import parallel, spinning, target
from gpuconv_kernels.host.memory import address, view


@pytest.fixture(autouse=True)
def _four_threads():
    threads.set_threads(4)
    yield
    threads.set_threads(None)


def counting():
    array = view("int64")

    def count(counter, tasks, done, rounds):
        marks = array(done, tasks)
        task = parallel.take(counter)
        while task < tasks:
            for _ in range(rounds):
                marks[task] += 1
            task = parallel.take(counter)

    return target.compiled(count)


COUNT = counting()


@pytest.mark.parametrize("tasks", [1, 2, 3, 50])
def test_every_task_is_done_once(tasks):
    done = np.zeros(tasks, np.int64)
    for _ in range(200):
        parallel.run(COUNT, tasks, address(done), 10)
    assert (done == 2000).all()


def test_many_python_threads_at_once():
    wrong = []

    def work(number):
        done = np.zeros(20, np.int64)
        for _ in range(100):
            parallel.run(COUNT, 20, address(done), number)
        if not (done == 100 * number).all():
            wrong.append(number)

    callers = [threading.Thread(target=work, args=(n + 1,)) for n in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_words_of_jobs_come_back():
    done = np.zeros(8, np.int64)
    parallel.run(COUNT, 8, address(done), 1)
    before = len(parallel._pool._words)
    for _ in range(100):
        parallel.run(COUNT, 8, address(done), 1)
    assert len(parallel._pool._words) == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not Linux")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a single core")
def test_threads_keep_off_the_callers_core(monkeypatch):
    allowed = os.sched_getaffinity(0)
    done = np.zeros(8, np.int64)
    for core in sorted(allowed)[:2]:
        monkeypatch.setattr(parallel, "current_core", lambda core=core: core)
        parallel.run(COUNT, 8, address(done), 1)
        helpers = [t for t in threading.enumerate() if t.name.startswith("gpuconv-")]
        assert helpers
        for thread in helpers:
            assert os.sched_getaffinity(thread.native_id) == allowed - {core}
    assert os.sched_getaffinity(0) == allowed  # the caller's own is not touched


def test_waiting_ends():
    word = np.array([3, 0], np.int64)
    counter = np.zeros(1, np.int64)
    word[1] = address(counter)
    assert not spinning.wait_for_work(address(word), 3)  # nothing new
    assert not spinning.wait_for_work(address(word), 2)  # new, but nobody has begun
    counter[0] = 1
    assert spinning.wait_for_work(address(word), 2)
    assert not spinning.wait_for_zero(address(counter))
    counter[0] = 0
    assert spinning.wait_for_zero(address(counter))


PROGRAM = """
import os, sys
import numpy as np
sys.path[:0] = {paths!r}
from gpuconv_kernels import threads
from gpuconv_kernels.host import parallel
from test_host_parallel import COUNT, address

threads.set_threads(3)
done = np.zeros(30, np.int64)
parallel.run(COUNT, 30, address(done), 2)
child = os.fork()
parallel.run(COUNT, 30, address(done), 2)
assert (done == 4).all(), done
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_process_makes_threads_of_its_own():
    program = PROGRAM.format(paths=[os.path.dirname(__file__), *sys.path])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.stdout.strip() == "both", result.stderr
