"""``gpuconv.config``: its settings, what it refuses, and where the cache folder is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

from gpuconv import settings
from gpuconv.backends.cpu_probe import usable_cores
from gpuconv.errors import InvalidArgumentError
from gpuconv.settings import Config, cache_folder
from gpuconv_kernels import threads
from gpuconv_kernels.threads import usual_threads


def test_the_defaults() -> None:
    config = Config()
    assert (config.autotune, config.deterministic) == (False, True)
    assert config.chosen_workspace_limit is None
    assert 1 <= config.workspace_limit <= 256 * 2**20


def test_the_workspace_is_a_sixteenth_of_a_small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    settings._default_workspace.cache_clear()
    monkeypatch.setattr(settings, "physical_memory", lambda: 2**30)
    try:
        assert Config().workspace_limit == 2**26
    finally:
        settings._default_workspace.cache_clear()


def test_settings_are_kept() -> None:
    config = Config()
    config.autotune, config.deterministic, config.workspace_limit = True, False, np.int64(500)
    assert repr(config) == (
        f"Config(autotune=True, deterministic=False, threads={usual_threads()}, winograd=auto, "
        f"workspace_limit=500)"
    )
    assert config.chosen_workspace_limit == 500
    config.autotune = np.bool_(False)
    assert config.autotune is False
    config.workspace_limit = None
    assert config.chosen_workspace_limit is None


@pytest.mark.parametrize("name", ["autotune", "deterministic"])
@pytest.mark.parametrize("value", [1, 0, None, "yes", np.ones(2, bool)])
def test_switches_take_booleans_only(name: str, value: object) -> None:
    config = Config()
    before = repr(config)
    with pytest.raises(InvalidArgumentError, match=rf"{name} must be True or False\. Received: "):
        setattr(config, name, value)
    assert repr(config) == before


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True, np.array([7])])
def test_an_impossible_workspace(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"at least 1, or None\. Received: "):
        Config().workspace_limit = value  # type: ignore[assignment]


def test_one_number_of_threads_for_kernels_and_blas() -> None:
    config = Config()
    assert config.threads == usual_threads()
    config.threads = np.int64(1)
    try:
        assert (config.threads, threads.threads()) == (1, 1)
        pools = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
        assert pools
        assert {p["num_threads"] for p in pools} == {1}
    finally:
        config.threads = None
    assert config.threads == threads.threads() == usual_threads()


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True, np.array([7])])
def test_an_impossible_number_of_threads(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"threads must be .*, or None\. Received: "):
        Config().threads = value  # type: ignore[assignment]


@pytest.mark.parametrize("words", [("3", ""), ("", "3"), ("3", "2"), ("0", "3,1"), ("x", "3")])
def test_the_usual_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]
) -> None:
    monkeypatch.setenv("GPUCONV_THREADS", words[0])
    monkeypatch.setenv("OMP_NUM_THREADS", words[1])
    assert threads._find_usual() == 3


def test_the_usual_number_of_threads_is_that_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUCONV_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads._find_usual() == usable_cores()


@pytest.mark.parametrize("value", ["auto", "off", 2, 4, 6])
def test_winograds_tiles(value: str | int) -> None:
    config = Config()
    config.winograd = value
    assert config.winograd == value


@pytest.mark.parametrize("value", [3, "on", True, None, 2.5])
def test_other_tiles_are_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"one of 'auto', 'off', 2, 4, 6\. Received: "):
        Config().winograd = value  # type: ignore[assignment]


def test_a_slip_gets_a_suggestion() -> None:
    with pytest.raises(AttributeError, match=r"no setting 'autotun'\. Did you mean 'autotune'\?"):
        Config().autotun = True  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no setting 'determinstic'"):
        Config().determinstic = True  # type: ignore[attr-defined]


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPUCONV_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert not (tmp_path / "mine").exists()
    monkeypatch.setenv("GPUCONV_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = {
        "linux": tmp_path / "shared" / "gpuconv",
        "darwin": tmp_path / "Library" / "Caches" / "gpuconv",
        "win32": tmp_path / "local" / "gpuconv" / "Cache",
    }
    for platform, folder in expected.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_folder() == folder
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "gpuconv"
