"""Every default of every class that Keras has under the same name."""

from __future__ import annotations

import inspect
import os
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras itself brings no arrays
keras = pytest.importorskip("keras")

from gpuconv import (  # noqa: E402
    callbacks,
    initializers,
    layers,
    losses,
    metrics,
    optimizers,
    regularizers,
)
from gpuconv.optimizers import schedules  # noqa: E402

MODULES = [
    (layers, keras.layers),
    (losses, keras.losses),
    (metrics, keras.metrics),
    (optimizers, keras.optimizers),
    (schedules, keras.optimizers.schedules),
    (initializers, keras.initializers),
    (regularizers, keras.regularizers),
    (callbacks, keras.callbacks),
]
BASES = {"Layer", "Loss", "Metric", "Optimizer", "Callback", "Initializer", "Regularizer"}
OWN_WORDS = {"name", "dtype"}
"""Names come from the class here; the dtype's default says what Keras's policy says."""


def shared(ours: ModuleType, theirs: Any) -> list[Any]:
    names = sorted((set(dir(ours)) & set(dir(theirs))) - BASES)
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in names]
    return [pytest.param(*p, id=p[0].__name__) for p in pairs if all(map(inspect.isclass, p))]


PAIRS = [pair for modules in MODULES for pair in shared(*modules)]


def defaults(cls: Any) -> dict[str, Any]:
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def one_for_all(value: Any) -> Any:
    """``((1, 1), (1, 1))`` and ``(1, 1)`` mean the same as 1."""
    while isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    return value


def test_there_is_something_to_compare() -> None:
    assert len(PAIRS) > 90


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_defaults_agree(ours: Any, theirs: Any) -> None:
    wanted = defaults(theirs)
    for word, value in defaults(ours).items():
        if word in wanted and word not in OWN_WORDS:
            assert one_for_all(value) == one_for_all(wanted[word]), word
