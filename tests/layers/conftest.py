"""What the tests of layers share."""

from __future__ import annotations

from typing import Any

import pytest

from gpuconv.backends import registry
from gpuconv.backends.base import Engine


@pytest.fixture
def indices_wanted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of an engine's max_pool was to give indices too."""
    wanted: list[bool] = []

    def recorded(method: Any) -> Any:
        def call(self: Engine, x: Any, geometry: Any, with_indices: bool) -> Any:
            wanted.append(with_indices)
            return method(self, x, geometry, with_indices)

        return call

    for engine_name in registry.engine_names("cpu"):
        cls = type(registry.engine(engine_name))
        monkeypatch.setattr(cls, "max_pool", recorded(cls.max_pool))
    return wanted


@pytest.fixture
def engine_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the engine methods that compute, as they are called."""
    calls: list[str] = []

    def recorded(method: Any, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return method(*arguments, **options)

        return call

    for engine_name in registry.engine_names("cpu"):
        cls = type(registry.engine(engine_name))
        for name in Engine.__abstractmethods__ - {"plan", "probe"}:
            monkeypatch.setattr(cls, name, recorded(getattr(cls, name), name))
    return calls
