"""What tests of kernels share: compiled CPU kernels, and the processes of the simulator.

In a session of one process those begin with it if their tests are among the ones that will run, one
at a time beside the other tests, which keep one core busy. Their tests come last and wait for the
rest of them, which then have all cores. They end with the session.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
import simulations

from gpuconv.backends.cpu_probe import usable_cores
from gpuconv.settings import cache_folder


@pytest.fixture
def lines_of_any_size(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """However little there is to do, few channels are computed line by line."""
    from gpuconv_kernels.host import few_channels_forward

    monkeypatch.setattr(few_channels_forward, "_LEAST_PRODUCTS", 0)
    few_channels_forward.pays.cache_clear()
    yield
    few_channels_forward.pays.cache_clear()


STARTED = pytest.StashKey[simulations.Simulations]()


def simulated_file(item: pytest.Item) -> str | None:
    """The file of tests/device for whose process a test waits."""
    if not isinstance(item, pytest.Function) or "simulated" not in item.fixturenames:
        return None
    name: str = item.callspec.params["name"]
    return name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: simulated_file(item) is not None)  # the others stay in order


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    names = {name for name in map(simulated_file, session.items) if name is not None}
    if not names or session.config.option.collectonly:
        return (yield)
    runs = simulations.Simulations(sorted(names, key=simulations.by_length))
    session.config.stash[STARTED] = runs
    if "PYTEST_XDIST_WORKER" not in os.environ:  # there every core is busy with other tests
        runs.start(1)
    try:
        return (yield)
    finally:
        runs.stop()


@pytest.fixture
def simulated(pytestconfig: pytest.Config) -> simulations.Simulations:
    """The processes; only tests that come last ask for it, so all cores are free."""
    runs = pytestconfig.stash[STARTED]
    runs.start(usable_cores())
    return runs


@pytest.fixture(scope="session", autouse=True)
def _compiled_kernels_are_kept() -> None:
    """Where the engine keeps them, so that each is compiled once and not in every session."""
    from gpuconv_kernels.host import target

    target.keep_compiled_in(cache_folder() / "kernels")
