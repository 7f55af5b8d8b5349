"""Penalties in closed form, and their derivatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gpuconv import regularizers
from gpuconv.errors import InvalidArgumentError, UnknownArgumentError
from gpuconv.testing import check_directional

W = np.array([[1.0, -2.0], [0.0, 3.0]])


@pytest.mark.parametrize(
    ("regularizer", "value", "gradient"),
    [
        (regularizers.L1(0.5), 3.0, [[0.5, -0.5], [0.0, 0.5]]),
        (regularizers.L2(0.5), 7.0, [[1.0, -2.0], [0.0, 3.0]]),
        (regularizers.L1L2(0.5, 0.25), 6.5, [[1.0, -1.5], [0.0, 2.0]]),
        (regularizers.L1L2(), 0.0, [[0.0, 0.0], [0.0, 0.0]]),
        (regularizers.L1(), 0.06, [[0.01, -0.01], [0.0, 0.01]]),
        (regularizers.L2(), 0.14, [[0.02, -0.04], [0.0, 0.06]]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_gradient(
    regularizer: regularizers.Regularizer, value: float, gradient: Any, dtype: str
) -> None:
    w = W.astype(dtype)
    got = regularizer.value(w)
    assert isinstance(got, np.ndarray)
    assert (got.shape, got.dtype) == ((), dtype)
    assert float(got) == pytest.approx(value, rel=1e-6)
    assert float(regularizer(w)) == float(got)
    slope = regularizer.gradient(w)
    assert slope.dtype == dtype
    np.testing.assert_allclose(slope, gradient, rtol=1e-6)
    np.testing.assert_array_equal(w, W)
    assert not np.shares_memory(slope, w)


def test_gradient_is_the_derivative() -> None:
    w = np.random.default_rng(0).standard_normal((3, 4))
    both = regularizers.L1L2(0.3, 0.7)
    check_directional(both.value, lambda dy: dy * both.gradient(w), w)


def test_names_and_configurations() -> None:
    assert regularizers.get(None) is None
    for name, cls in (("l1", regularizers.L1), ("l2", regularizers.L2), ("L2", regularizers.L2)):
        assert type(regularizers.get(name)) is cls
    assert type(regularizers.get("l1_l2")) is regularizers.L1L2
    assert regularizers.L1(0.5).get_config() == {"l1": 0.5}
    stored = regularizers.serialize(regularizers.L1L2(0.1, 0.2))
    assert stored == {"class_name": "L1L2", "config": {"l1": 0.1, "l2": 0.2}}
    again = regularizers.get(stored)
    assert again is not None
    assert again.get_config() == stored["config"]


@pytest.mark.parametrize("factor", [-0.1, math.nan, math.inf, "0.1", None, True])
def test_bad_factors(factor: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"l2 must be a finite number.*Received: "):
        regularizers.L2(factor)


def test_unknown_words() -> None:
    with pytest.raises(UnknownArgumentError, match="it has l2"):
        regularizers.L2(l3=0.1)  # type: ignore[call-arg]
    with pytest.raises(InvalidArgumentError, match="no regularizer has this name"):
        regularizers.get("l3")
