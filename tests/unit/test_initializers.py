"""Initializers: scales in closed form, seeds, names, and bad input."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from gpuconv import initializers
from gpuconv.errors import (
    DTypeError,
    InvalidArgumentError,
    ShapeError,
    UnknownArgumentError,
)
from gpuconv.random import set_seed

NAMES = [
    "zeros",
    "ones",
    "constant",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variance_scaling",
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "torch_uniform",
    "orthogonal",
    "identity",
]
CLASSES = [
    "Zeros",
    "Ones",
    "Constant",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "GlorotUniform",
    "GlorotNormal",
    "HeUniform",
    "HeNormal",
    "LecunUniform",
    "LecunNormal",
    "TorchUniform",
    "Orthogonal",
    "Identity",
]
RANDOM = [n for n in NAMES if n not in ("zeros", "ones", "constant", "identity")]


@pytest.mark.parametrize(("name", "class_name"), list(zip(NAMES, CLASSES, strict=True)))
def test_names_classes_and_configurations(name: str, class_name: str) -> None:
    made = initializers.get(name)
    assert type(made).__name__ == class_name
    assert type(initializers.get(class_name)) is type(made)
    assert type(initializers.get(getattr(initializers, class_name))) is type(made)
    stored = json.loads(json.dumps(initializers.serialize(made)))
    assert initializers.serialize(initializers.get(stored)) == stored


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_results_are_new_contiguous_arrays_of_the_dtype(name: str, dtype: str) -> None:
    made = initializers.get(name)
    a, b = made((4, 6), dtype), made([4, 6], dtype)
    for array in (a, b):
        assert array.shape == (4, 6)
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable
    assert not np.shares_memory(a, b)
    assert made((4, 4)).dtype == np.float32


def test_constants() -> None:
    np.testing.assert_array_equal(initializers.get("zeros")((2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(initializers.get("ones")((), "int64"), 1)
    np.testing.assert_array_equal(initializers.Constant(2.5)((2,)), [2.5, 2.5])
    rows = initializers.Constant(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(rows((3, 2)), [[1, 2]] * 3)
    np.testing.assert_array_equal(initializers.get(initializers.serialize(rows))((2,)), [1, 2])
    np.testing.assert_array_equal(initializers.Identity(2.0)((2, 3)), [[2, 0, 0], [0, 2, 0]])


@pytest.mark.parametrize(
    ("shape", "fans"),
    [
        ((), (1, 1)),
        ((7,), (7, 7)),
        ((3, 5), (3, 5)),
        ((3, 4, 5), (12, 15)),
        ((3, 3, 3, 32), (27, 288)),
        ((2, 3, 4, 5, 6), (120, 144)),
    ],
)
def test_fans(shape: tuple[int, ...], fans: tuple[int, int]) -> None:
    assert initializers.compute_fans(shape) == fans


SHAPE = (3, 3, 20, 30)
FAN_IN, FAN_OUT = 180, 270


def test_limit_of_the_first_convolution_of_the_seed_network() -> None:
    values = initializers.GlorotUniform(seed=1)((3, 3, 3, 32))
    assert np.abs(values).max() <= np.float32(0.138013)
    assert np.abs(values).max() > 0.137


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("glorot_uniform", math.sqrt(6 / (FAN_IN + FAN_OUT))),
        ("he_uniform", math.sqrt(6 / FAN_IN)),
        ("lecun_uniform", math.sqrt(3 / FAN_IN)),
        ("torch_uniform", 1 / math.sqrt(FAN_IN)),
        ("random_uniform", 0.05),
    ],
)
def test_uniform_distributions(name: str, limit: float) -> None:
    values = initializers.get({"class_name": name, "config": {"seed": 3}})(SHAPE, "float64")
    assert np.abs(values).max() <= limit
    assert np.abs(values).max() > 0.999 * limit
    # Five standard deviations of the mean and of the mean square.
    n = values.size
    assert abs(values.mean()) < 5 * limit / math.sqrt(3 * n)
    assert abs((values**2).mean() - limit**2 / 3) < 5 * limit**2 * math.sqrt(4 / 45 / n)
    counts, _ = np.histogram(values, bins=10, range=(-limit, limit))
    assert (np.abs(counts - n / 10) < 5 * math.sqrt(n * 0.09)).all()


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_normal", 2 / (FAN_IN + FAN_OUT)),
        ("he_normal", 2 / FAN_IN),
        ("lecun_normal", 1 / FAN_IN),
        ("variance_scaling", 1 / FAN_IN),
        ("truncated_normal", (0.05 * 0.87962566103423978) ** 2),
    ],
)
def test_truncated_normal_distributions(name: str, variance: float) -> None:
    values = initializers.get({"class_name": name, "config": {"seed": 4}})(SHAPE, "float64")
    cut = 2 * math.sqrt(variance) / 0.87962566103423978
    assert np.abs(values).max() <= cut
    assert np.abs(values).max() > 0.99 * cut
    assert values.var() == pytest.approx(variance, rel=0.02)
    assert abs(values.mean()) < 5 * math.sqrt(variance / values.size)


def test_normal_distributions() -> None:
    values = initializers.RandomNormal(mean=2.0, stddev=3.0, seed=0)((50_000,), "float64")
    assert values.mean() == pytest.approx(2.0, abs=0.06)
    assert values.std() == pytest.approx(3.0, rel=0.02)
    assert np.abs(values - 2).max() > 9
    wide = initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=0)
    assert wide((10, 5000)).var() == pytest.approx(2 / 5000, rel=0.03)
    assert wide((10, 5000)).std() * 3 < np.abs(wide((10, 5000))).max()


def test_scaling_modes() -> None:
    for mode, n in (("fan_in", 180), ("fan_out", 270), ("fan_avg", 225)):
        made = initializers.VarianceScaling(3.0, mode, "uniform", seed=0)
        assert np.abs(made(SHAPE)).max() == pytest.approx(math.sqrt(9 / n), rel=1e-3)
    assert initializers.VarianceScaling(distribution="normal").distribution == "truncated_normal"


def test_torch_uniform_takes_the_inputs_of_a_bias_from_the_caller() -> None:
    bias = initializers.TorchUniform(fan_in=25, seed=0)((10_000,))
    assert 0.1999 < np.abs(bias).max() <= 0.2
    with pytest.raises(ShapeError, match="give fan_in"):
        initializers.TorchUniform()((8,))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (3, 3, 2, 4), (2, 2, 30), (4, 4)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    values = initializers.Orthogonal(gain=2.0, seed=5)(shape, "float64").reshape(-1, shape[-1])
    rows, columns = values.shape
    gram = values @ values.T if rows < columns else values.T @ values
    np.testing.assert_allclose(gram, 4 * np.eye(min(rows, columns)), atol=1e-12)


def test_orthogonal_has_no_preferred_sign() -> None:
    signs = [initializers.Orthogonal(seed=s)((2, 2))[0, 0] > 0 for s in range(200)]
    assert 60 < sum(signs) < 140


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_repeats_and_no_seed_goes_on(name: str) -> None:
    seeded = initializers.get({"class_name": name, "config": {"seed": 11}})
    again = initializers.get(initializers.serialize(seeded))
    np.testing.assert_array_equal(seeded((3, 4)), seeded((3, 4)))
    np.testing.assert_array_equal(seeded((3, 4)), again((3, 4)))
    fresh = initializers.get(name)
    assert not np.array_equal(fresh((3, 4)), fresh((3, 4)))
    assert not np.array_equal(initializers.get(name)((3, 4)), initializers.get(name)((3, 4)))


def test_the_global_seed_decides_where_there_is_none() -> None:
    def draw() -> list[np.ndarray[Any, Any]]:
        set_seed(42)
        first, second = initializers.HeNormal(), initializers.GlorotUniform()
        return [second((3, 3)), first((3, 3)), second((3, 3))]

    for a, b in zip(draw(), draw(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_any_callable_passes() -> None:
    def halves(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray[Any, Any]:
        return np.full(shape, 0.5, dtype)

    assert initializers.get(halves) is halves
    with pytest.raises(InvalidArgumentError, match="only a registered initializer"):
        initializers.serialize(halves)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: initializers.get("glorot"), InvalidArgumentError),
        (lambda: initializers.get(None), InvalidArgumentError),  # type: ignore[arg-type]
        (lambda: initializers.get(3), InvalidArgumentError),  # type: ignore[arg-type]
        (lambda: initializers.HeNormal(seed=-1), InvalidArgumentError),
        (lambda: initializers.HeNormal(seed=1.5), InvalidArgumentError),  # type: ignore[arg-type]
        (lambda: initializers.HeNormal(sede=1), UnknownArgumentError),  # type: ignore[call-arg]
        (lambda: initializers.VarianceScaling(scale=0.0), InvalidArgumentError),
        (lambda: initializers.VarianceScaling(mode="fan"), InvalidArgumentError),
        (lambda: initializers.VarianceScaling(distribution="cauchy"), InvalidArgumentError),
        (lambda: initializers.RandomNormal(stddev=-1), InvalidArgumentError),
        (lambda: initializers.RandomUniform(1.0, 0.0), InvalidArgumentError),
        (lambda: initializers.TorchUniform(fan_in=0), InvalidArgumentError),
        (lambda: initializers.Identity()((2, 2, 2)), ShapeError),
        (lambda: initializers.Orthogonal()((4,)), ShapeError),
        (lambda: initializers.Constant([1.0, 2.0])((3,)), ShapeError),
        (lambda: initializers.Zeros()((2, -1)), ShapeError),
        (lambda: initializers.Zeros()(None), ShapeError),  # type: ignore[arg-type]
        (lambda: initializers.Zeros()((None, 3)), ShapeError),  # type: ignore[arg-type]
        (lambda: initializers.HeNormal()((2, 2), "int32"), DTypeError),
    ],
)
def test_bad_input(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Received: "):
        make()
