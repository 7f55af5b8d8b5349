"""Sharing tasks among threads: each once, from any number of callers, after fork too."""

import ctypes
import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpuconv_kernels import threads
from gpuconv_kernels.host import parallel, scheduling, spinning
from gpuconv_kernels.host.kernel import Kernel, Words
from gpuconv_kernels.host.memory import address, view

LINUX = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not Linux")


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

    return Kernel(count)


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


@LINUX
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


@LINUX
def test_short_turns_change_nothing_else(in_a_thread):
    """A thread that others wait for keeps its policy, its weight and its cores."""

    def look():
        return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)

    def ask():
        before = look()
        asked = scheduling.ask_for_short_turns()
        assert look() == before
        return asked

    assert in_a_thread(ask) == (platform.machine() in ("x86_64", "aarch64"))


@pytest.fixture
def in_a_thread():
    """Run a function in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda function: pool.submit(function).result()


def test_threads_sleep_soon_where_others_want_the_core():
    """Giving way takes long there: they look for a short time then, and do not give way."""
    now, takes, given = [10**9], [1000], [0]

    @ctypes.CFUNCTYPE(ctypes.c_int32)
    def give_way():
        given[0] += 1
        now[0] += takes[0]
        return 0

    @ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_int64))
    def clock(kind, words):
        words[0], words[1] = divmod(now[0], 10**9)
        return 0

    place, wanted = aligned(spinning.PLACE_BYTES), np.zeros(1, np.int64)
    function, _ = spinning._functions()

    def ways_given():
        before = given[0]
        yielding, telling = (ctypes.cast(f, ctypes.c_void_p).value for f in (give_way, clock))
        assert function(address(place), 3, 20, 6, yielding, telling, address(wanted)) == 3
        return given[0] - before

    assert (ways_given(), wanted[0]) == (6, 0)
    takes[0] = 3_000_000
    assert ways_given() == 1
    assert wanted[0] > now[0]
    assert ways_given() == 0
    now[0], takes[0] = int(wanted[0]), 1000
    assert ways_given() == 6


@pytest.mark.skipif(not hasattr(time, "clock_gettime"), reason="no such clock")
def test_the_clock_is_the_systems():
    telling = spinning._clock()
    words = (ctypes.c_int64 * 2)()
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p)(telling)
    before = time.clock_gettime_ns(spinning._CLOCK)
    assert function(spinning._CLOCK, ctypes.addressof(words)) == 0
    assert before <= words[0] * 10**9 + words[1] <= time.clock_gettime_ns(spinning._CLOCK)


def test_attending_ends_and_works_on_open_jobs_only():
    place, others = aligned(spinning.PLACE_BYTES), np.zeros(1, np.int64)
    wanted = address(others)
    words, done = Words(), np.zeros(5, np.int64)
    code = COUNT.prepare(words, 5, (address(done), 1))
    number, seats, code_word = (
        place[at // 8 :] for at in (spinning.OPEN, spinning.SEATS, spinning.CODE)
    )
    code_word[:2] = code, words.address
    assert spinning.attend(address(place), 6, wanted) == 6  # none is open
    number[0] = 7
    assert spinning.attend(address(place), 7, wanted) == 7  # one that it knows
    assert spinning.attend(address(place), 6, wanted) == 7  # one that wants nobody
    assert not done.any()
    seats[0] = 1
    assert spinning.attend(address(place), 6, wanted) == 7
    assert (done == 1).all()
    assert not place[spinning.INSIDE // 8]


def test_the_caller_waits_for_who_is_inside():
    place, done = aligned(spinning.PLACE_BYTES), np.zeros(1, np.int64)
    words, inside = Words(), place[spinning.INSIDE // 8 :]
    code = COUNT.prepare(words, 1, (address(done), 1))
    inside[0] = 1
    caller = threading.Thread(
        target=spinning.sharing(),
        args=(address(place), 1, 1, code, words.address, words.failed, *spinning.patience()),
    )
    caller.start()
    caller.join(0.05)
    assert caller.is_alive()
    assert done[0] == 1
    inside[0] = 0
    caller.join(10)
    assert not caller.is_alive()
    assert not place[spinning.OPEN // 8]


def aligned(count):
    room = np.zeros(count // 8 + 8, np.int64)
    return room[-address(room) % 64 // 8 :]


def test_a_kernel_that_finds_no_memory():
    def allocate(counter, tasks, count, of):
        task = parallel.take(counter)
        while task < tasks:
            room = np.empty(count if task == of[1] else 1, np.int64)
            room[0] = task
            task = parallel.take(counter)

    kernel = Kernel(allocate)
    parallel.run(kernel, 8, 1, (0, 3))
    for _ in range(20):
        with pytest.raises(MemoryError, match="not whole"):
            parallel.run(kernel, 8, 2**59, (0, 3))
        parallel.run(kernel, 8, 2**59, (0, 9))  # words are clean again


def test_numbers_of_every_kind():
    reals, integers = view("float64"), view("int64")

    def write(counter, tasks, first, real, pair, results, wholes):
        for task in range(tasks):
            reals(results, tasks)[task] = first * real
        integers(wholes, 2)[0] = pair[0]
        integers(wholes, 2)[1] = pair[1]

    results, wholes = np.zeros(2), np.zeros(2, np.int64)
    kernel = Kernel(write)
    arguments = (True, 2.5, (np.int64(-3), 2**40), address(results), address(wholes))
    parallel.run(kernel, 2, *arguments)
    assert results.tolist() == [2.5, 2.5]
    assert wholes.tolist() == [-3, 2**40]
    with pytest.raises(TypeError):  # another number of arguments than before
        parallel.run(kernel, 2, *arguments, 1)
    with pytest.raises(ValueError, match=r"at most 117 numbers\. Received: 200"):
        parallel.run(Kernel(write), 2, tuple(range(200)))


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
