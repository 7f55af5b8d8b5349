"""Which backend is in force: by block, process and environment, and what happens without it."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from gpuconv.backends import registry, selection
from gpuconv.backends.base import Probe
from gpuconv.backends.selection import (
    requested_backend,
    resolve_device,
    set_backend,
    use_backend,
)
from gpuconv.errors import BackendUnavailableError, InvalidArgumentError

MISSING = Probe(False, "no NVIDIA driver", "Install the driver.")


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch):
    monkeypatch.delenv("GPUCONV_BACKEND", raising=False)
    monkeypatch.setattr(selection, "_process", None)
    selection.forget_devices()
    yield
    selection.forget_devices()


@pytest.fixture
def only_cpu(monkeypatch):
    monkeypatch.setattr(registry.cuda_probe, "probe_cuda", lambda: MISSING)
    monkeypatch.setattr(registry.cuda_probe, "probe_simulator", lambda: MISSING)


@pytest.fixture
def with_cuda(monkeypatch):
    monkeypatch.setattr(registry, "probe_device", lambda device: Probe(True, f"a good {device}"))


def test_the_default_is_automatic():
    assert requested_backend() == "auto"


def test_the_nearest_choice_wins(monkeypatch):
    monkeypatch.setenv("GPUCONV_BACKEND", "cpu:numpy")
    assert requested_backend() == "cpu:numpy"
    set_backend("cpu")
    assert requested_backend() == "cpu"
    with use_backend("cpu:numpy"):
        assert requested_backend() == "cpu:numpy"
        with use_backend("auto"):
            assert requested_backend() == "auto"
        assert requested_backend() == "cpu:numpy"
    assert requested_backend() == "cpu"
    set_backend("auto")
    assert requested_backend() == "auto"


def test_an_empty_variable_is_no_choice(monkeypatch):
    monkeypatch.setenv("GPUCONV_BACKEND", "")
    assert requested_backend() == "auto"


def test_a_block_ends_when_it_fails():
    with pytest.raises(ZeroDivisionError), use_backend("cpu"):
        _ = 1 / 0
    assert requested_backend() == "auto"


def test_a_block_decorates_functions():
    @use_backend("cpu")
    def inside():
        return requested_backend()

    assert (inside(), inside(), requested_backend()) == ("cpu", "cpu", "auto")


def test_threads_do_not_see_each_other():
    barrier = threading.Barrier(2, timeout=10)
    seen = {}

    def work(name):
        with use_backend(name):
            barrier.wait()
            seen[name] = requested_backend()
            barrier.wait()

    threads = [threading.Thread(target=work, args=(n,)) for n in ("cpu", "cpu:numpy")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"cpu": "cpu", "cpu:numpy": "cpu:numpy"}
    assert requested_backend() == "auto"


def test_set_backend_reaches_other_threads():
    set_backend("cpu")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(requested_backend()))
    thread.start()
    thread.join()
    assert seen == ["cpu"]


def test_tasks_do_not_see_each_other():
    async def work(name, mine, other):
        with use_backend(name):
            mine.set()
            await other.wait()
            return requested_backend()

    async def both():
        first, second = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(
            work("cpu", first, second), work("cpu:numpy", second, first), work("auto", first, first)
        )

    assert asyncio.run(both()) == ["cpu", "cpu:numpy", "auto"]


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("cpuu", "cpu"),
        ("CPU", "cpu"),
        ("cuda:0", "cuda"),
        ("gpu", "cuda"),
        ("GPU", "cuda"),
        ("cpu:nunpy", "cpu:numpy"),
        ("automatic", "auto"),
    ],
)
def test_unknown_names_get_a_suggestion(name, suggested):
    for choose in (set_backend, resolve_device, lambda n: use_backend(n).__enter__()):
        with pytest.raises(InvalidArgumentError, match=f"'{suggested}'\\? Received: '{name}'"):
            choose(name)
    assert requested_backend() == "auto"


@pytest.mark.parametrize("name", ["tensorflow-probability", "", None, 3, "cpu:"])
def test_other_unknown_names(name):
    with pytest.raises(InvalidArgumentError, match=r"expected one of auto, cpu, .*Received: "):
        set_backend(name)


def test_a_wrong_variable_is_named_in_the_error(monkeypatch):
    monkeypatch.setenv("GPUCONV_BACKEND", "quantum")
    for function in (requested_backend, resolve_device):
        with pytest.raises(InvalidArgumentError, match=r"GPUCONV_BACKEND: .*Received: 'quantum'"):
            function()
    with use_backend("cpu"):
        assert resolve_device()[0] == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:cupy", "cuda:numba", "cuda-sim", "cuda-sim:numba"])
def test_what_is_named_never_falls_back(only_cpu, monkeypatch, name):
    for choose in (set_backend, resolve_device, lambda n: use_backend(n).__enter__()):
        with pytest.raises(
            BackendUnavailableError, match=r"no NVIDIA driver\. Install the driver\."
        ):
            choose(name)
    assert requested_backend() == "auto"
    monkeypatch.setenv("GPUCONV_BACKEND", name)
    selection.environment.cache_clear()
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver"):
        resolve_device()


class Later:
    """Of an engine that cannot run."""

    @staticmethod
    def probe():
        return Probe(False, "not part of this version")


def test_an_engine_that_cannot_run_is_refused_with_its_reason(monkeypatch):
    monkeypatch.setattr(registry, "_MODULES", {"cpu:later": f"{__name__}:Later"})
    with pytest.raises(BackendUnavailableError, match=r"'cpu:later' .*not part of this version"):
        set_backend("cpu:later")


def test_a_device_whose_engines_cannot_run_says_so(monkeypatch):
    monkeypatch.setattr(registry.cuda_probe, "probe_cuda", lambda: Probe(True, "a device"))
    monkeypatch.setattr(registry, "_MODULES", {"cuda:later": f"{__name__}:Later"})
    with pytest.raises(BackendUnavailableError, match="cuda:later: not part of this version"):
        set_backend("cuda")


def test_named_devices_resolve_with_their_reason(monkeypatch):
    assert resolve_device("cpu") == ("cpu", "'cpu' was asked for")
    assert resolve_device("cpu:numpy")[0] == "cpu"
    monkeypatch.setenv("GPUCONV_BACKEND", "cpu")
    assert resolve_device() == ("cpu", "'cpu' was asked for by GPUCONV_BACKEND")
    set_backend("cpu:numpy")
    assert resolve_device() == ("cpu", "'cpu:numpy' was asked for by set_backend")
    with use_backend("cpu"):
        assert resolve_device() == ("cpu", "'cpu' was asked for by use_backend")


def test_automatic_falls_back_and_says_so_once(only_cpu, caplog):
    with caplog.at_level(logging.INFO, logger="gpuconv"):
        for name in (None, "auto", None):
            device, reason = resolve_device(name)
            assert device == "cpu"
            assert "no NVIDIA driver" in reason
    assert [record.getMessage() for record in caplog.records] == [
        "computing on the CPU: no NVIDIA driver"
    ]


def test_automatic_prefers_cuda(with_cuda, caplog):
    with caplog.at_level(logging.INFO, logger="gpuconv"):
        assert resolve_device() == ("cuda", "automatic: a good cuda")
    assert not caplog.records


def test_the_cpu_never_looks_for_cuda(monkeypatch):
    def forbidden():
        raise AssertionError("looked for CUDA")

    for name in ("probe_cuda", "probe_driver", "probe_cupy", "probe_numba_cuda", "probe_simulator"):
        monkeypatch.setattr(registry.cuda_probe, name, forbidden)
    set_backend("cpu")
    assert resolve_device()[0] == "cpu"
    with use_backend("cpu:numpy"):
        assert resolve_device()[0] == "cpu"
