"""The checkers must catch what they are there to catch, and the tables must be sound."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuconv.parameter import Parameter
from gpuconv.testing import (
    assert_close,
    assert_exact,
    check_directional,
    check_inner_product,
    check_layer,
    numerical_gradient,
    reference,
    tolerance,
)
from gpuconv.testing.cases import (
    AVG_POOL_CASES,
    CONV_CASES,
    CONV_TRANSPOSE_CASES,
    ERROR_CASES,
    MAX_POOL_CASES,
    distinct_values,
    generator,
    small_integers,
    views_of,
)


class Affine:
    """``y = relu(sum of inputs * scale + offset)`` with switches for every kind of mistake."""

    def __init__(self, mistake: str = "") -> None:
        self.mistake = mistake
        self.scale = Parameter(np.array([1.5, -2.0, 0.5]), "scale")
        self.offset = Parameter(np.array([0.1, 0.2, -0.3]), "offset")
        self.counter = Parameter(np.zeros(1), "counter", trainable=False)
        self.parameters = [self.scale, self.offset, self.counter]
        self.calls = 0

    def forward(self, x: Any, training: bool) -> tuple[Any, Callable[[Any], Any]]:
        self.calls += 1
        self.counter.value += 1
        several = isinstance(x, list)
        total = sum(x) if several else x
        linear = total * self.scale.value + self.offset.value
        if self.mistake == "random":
            linear = linear * np.random.default_rng(self.calls).random()
        if self.mistake == "float32":
            linear = linear.astype(np.float32)
        if self.mistake == "input modified":
            total += 1

        def backward(dy: Any) -> Any:
            given = dy
            dy = dy * (linear > 0)
            wrong = 1.001 if self.mistake == "scale" else 1.0
            dscale = wrong * (dy * total).sum(axis=(0, 1))
            if self.mistake == "overwrites":
                self.scale.grad = dscale
            else:
                self.scale.add_gradient(dscale)
            if self.mistake == "shape":
                self.offset.add_gradient(dy.sum(axis=0))
            elif self.mistake != "missing":
                self.offset.add_gradient(dy.sum(axis=(0, 1)))
            if self.mistake == "frozen":
                self.counter.add_gradient(np.zeros(1))
            dx = dy * self.scale.value * (2.0 if self.mistake == "input" else 1.0)
            if self.mistake == "dy modified":
                given *= 0.0
            if not several:
                return dx
            return [dx, dx * 1.01] if self.mistake == "second" else [dx for _ in x]

        return np.maximum(linear, 0), backward


@pytest.fixture
def x() -> np.ndarray:
    return distinct_values(np.random.default_rng(1), (2, 4, 3))


def test_check_layer_accepts_a_right_layer(x: np.ndarray) -> None:
    layer = Affine()
    check_layer(layer, x)
    check_layer(layer, [x, 2 * x, -x])
    assert layer.scale.value.tolist() == [1.5, -2.0, 0.5]
    assert layer.scale.grad is None


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("scale", r"parameter 'scale': differences give .* relative error 0\.00(0999|1)"),
        ("input", r"input: differences give .* relative error 0\.5"),
        ("missing", "'offset' is trainable but has no gradient"),
        ("shape", r"'offset' of shape \(3,\) has a gradient of shape \(4, 3\)"),
        ("overwrites", "'scale': a second backward must add"),
        ("frozen", "'counter' is not trainable but has a gradient"),
        ("dy modified", "backward modified dy"),
        ("input modified", "the layer modified its input 0"),
        ("float32", "the output must be float64"),
        ("random", "a second backward must add|not deterministic"),
    ],
)
def test_check_layer_finds(mistake: str, message: str, x: np.ndarray) -> None:
    with pytest.raises(AssertionError, match=message):
        check_layer(Affine(mistake), x)


def test_check_layer_names_the_wrong_input(x: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="input 1: differences") as caught:
        check_layer(Affine("second"), [x, x + 1])
    assert "input 0" not in str(caught.value)
    assert "parameter" not in str(caught.value)


def test_check_layer_rewinds_random_layers(x: np.ndarray) -> None:
    layer = Affine("random")

    def reset() -> None:
        layer.calls = 0

    # The random factor is missing from the gradient: found, now that it stands still.
    with pytest.raises(AssertionError, match="input: differences give"):
        check_layer(layer, x, reset=reset)


def test_check_directional() -> None:
    a, b = np.array([0.5, -1.5]), np.array([2.0, 3.0])

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sin(a) * b**3

    def right(dy: np.ndarray) -> list[np.ndarray]:
        return [dy * np.cos(a) * b**3, dy * np.sin(a) * 3 * b**2]

    check_directional(function, right, [a, b], tolerance=1e-8)
    with pytest.raises(AssertionError, match="b: differences give"):
        check_directional(
            function, lambda dy: [right(dy)[0], right(dy)[1] * 1.00001], [a, b], ["a", "b"]
        )
    with pytest.raises(AssertionError, match="1 gradients for 2 inputs"):
        check_directional(function, lambda dy: right(dy)[:1], [a, b])
    with pytest.raises(AssertionError, match="input 0: no gradient"):
        check_directional(function, lambda dy: [None, right(dy)[1]], [a, b])
    with pytest.raises(AssertionError, match="input 0: differences give"):
        check_directional(function, lambda dy: [np.nan * dy, right(dy)[1]], [a, b])
    with pytest.raises(AssertionError, match="input 0: differences give"):
        check_directional(function, lambda dy: [0 * dy, right(dy)[1]], [a, b])
    with pytest.raises(AssertionError, match="input must be float64"):
        check_directional(np.sin, np.cos, a.astype(np.float32))


def test_check_directional_steps_over_kinks_and_reports_jumps() -> None:
    near_kinks = np.array([1e-5, -1e-4, 1e-3, 1.0])
    check_directional(np.abs, lambda dy: dy * np.sign(near_kinks), near_kinks)
    with pytest.raises(AssertionError, match="do not settle"):
        check_directional(np.sign, lambda dy: 0 * dy, np.array([0.0, 1.0]))


def test_numerical_gradient() -> None:
    x = np.array([[0.3, -2.0], [1.0, 0.7]])
    found = numerical_gradient(lambda v: float((np.exp(v) * v).sum()), x)
    np.testing.assert_allclose(found, np.exp(x) * (1 + x), rtol=1e-9)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("dx_factor", "dw_factor", "message"),
    [
        (1.0, 1.0, ""),
        (1.25, 1.0, "backward_input: <value, gradient>"),
        (1.0, 0.5, "backward_weight: <value, gradient>"),
        (np.ones((3, 1, 1, 1)), 1.0, r"backward_input gives the shape \(3, 5, 5, 2\)"),
    ],
)
def test_check_inner_product(dx_factor: Any, dw_factor: Any, message: str, exact: bool) -> None:
    rng = generator("inner product")
    shapes = (1, 5, 5, 2), (3, 3, 2, 3), (1, 3, 3, 3)
    if exact:
        x, w, dy = (small_integers(rng, shape) for shape in shapes)
    else:
        x, w, dy = (rng.standard_normal(shape) for shape in shapes)

    def check() -> None:
        check_inner_product(
            reference.conv,
            lambda dy, w: dx_factor * reference.conv_backward_input(dy, w, x.shape),
            lambda dy, x: dw_factor * reference.conv_backward_weight(dy, x, w.shape),
            x,
            w,
            dy,
            exact=exact,
        )

    if not message:
        check()
        return
    with pytest.raises(AssertionError, match=message):
        check()


def test_tolerance_grows_with_the_root_of_the_length() -> None:
    assert tolerance("float32", 400) == pytest.approx(20 * tolerance(np.float32))
    assert tolerance("float64") < 1e-14 < tolerance("float32") < 1e-6 < tolerance("float16")
    assert tolerance("float32", 0) == tolerance("float32", 1)
    with pytest.raises(KeyError):
        tolerance("int32")


def test_assert_close() -> None:
    expected = np.array([[1.0, -100.0], [np.nan, np.inf]])
    assert_close(expected.astype(np.float32), expected)
    assert_close(expected * (1 + 1e-15), expected)
    assert_close(np.zeros((0, 3), np.float32), np.zeros((0, 3)))
    off = expected.copy()
    off[0, 1] += 1e-4
    with pytest.raises(AssertionError, match=r"1 of 4 .* the worst at \(0, 1\): .* error 0\.0001"):
        assert_close(off, expected)
    assert_close(off, expected, scale=1e12)
    assert_close(off.astype(np.float32), expected, reduction_length=100)
    with pytest.raises(AssertionError, match=r"shape \(4,\) where \(2, 2\)"):
        assert_close(expected.ravel(), expected)
    for bad in (1.0, np.nan, -np.inf):
        with pytest.raises(AssertionError, match=r"the worst at \(1, 1\)"):
            assert_close(np.array([[1.0, -100.0], [np.nan, bad]]), expected)


def test_assert_close_scale_for_each_element() -> None:
    assert_close(np.array([1.0, 1e6 + 1e-9]), np.array([1.0, 1e6]), scale=np.array([1.0, 1e6]))
    with pytest.raises(AssertionError, match=r"the worst at \(0,\)"):
        assert_close(np.array([1.0 + 1e-9, 1e6]), np.array([1.0, 1e6]), scale=np.array([1.0, 1e6]))


def test_assert_exact() -> None:
    assert_exact(np.array([1.0, np.nan], np.float32), np.array([1.0, np.nan]))
    with pytest.raises(AssertionError, match="1 of 2"):
        assert_exact(np.array([1.0, 2.0]), np.array([1.0, np.nextafter(2.0, 3.0)]))


@pytest.mark.parametrize(
    "table",
    [CONV_CASES, CONV_TRANSPOSE_CASES, MAX_POOL_CASES, AVG_POOL_CASES, ERROR_CASES],
    ids=["conv", "conv_transpose", "max_pool", "avg_pool", "errors"],
)
def test_tables_have_unique_ids(table: tuple[Any, ...]) -> None:
    ids = [str(case) for case in table]
    assert len(ids) == len(set(ids))


def test_tables_cover_what_breaks_things() -> None:
    assert {case.rank for case in CONV_CASES} == {1, 2, 3}
    assert {case.batch for case in CONV_CASES} >= {0, 1, 2}
    modes = {case.padding_mode for case in CONV_CASES}
    assert modes == {"zeros", "reflect", "replicate", "circular"}
    assert any(case.groups == case.channels > 1 for case in CONV_CASES)
    assert any(case.kernel == case.input for case in CONV_CASES)
    for table in (CONV_TRANSPOSE_CASES, MAX_POOL_CASES, AVG_POOL_CASES):
        assert {case.rank for case in table} == {1, 2, 3}
        assert any(case.batch == 0 for case in table)


def test_error_cases_are_sound() -> None:
    for case in ERROR_CASES:
        re.compile(case.match)

    class Refuses:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            return lambda *arguments, **options: (name, arguments, options)

    name, arguments, options = ERROR_CASES[0].call(Refuses())
    assert name == "conv2d"
    assert all(isinstance(a, np.ndarray) for a in arguments)
    assert options == {}


def test_views_have_equal_values_in_other_memory() -> None:
    array = small_integers(generator("views"), (2, 4, 5, 3))
    views = dict(views_of(array))
    for name, view in views.items():
        np.testing.assert_array_equal(view, array, err_msg=name)
        assert view.dtype == array.dtype
        assert not np.shares_memory(view, array)
    assert not views["read-only"].flags.writeable
    assert not views["unaligned"].flags.aligned
    for name in ("fortran", "channels-first", "every-second", "backwards", "slice"):
        assert not views[name].flags.c_contiguous, name
    for name, view in views_of(np.zeros((0, 4, 3))):
        assert view.shape == (0, 4, 3), name


def test_values_to_feed() -> None:
    rng = generator("values")
    integers = small_integers(rng, (1000,))
    assert integers.dtype == np.float32
    assert set(integers.tolist()) == set(range(-4, 5))
    for size in (6, 7):
        values = np.sort(distinct_values(rng, (size,)))
        assert np.diff(values).min() > 0.2
        assert np.abs(values).min() > 0.05
    assert generator("a").random() == generator("a").random() != generator("b").random()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (reference.conv, [(1, 5, 4, 2), (3, 3, 2, 3), (3,)]),
        (lambda dy, w: reference.conv_backward_input(dy, w, (1, 3, 2)), [(1, 2, 3), (2, 2, 3)]),
        (lambda dy, x: reference.conv_backward_weight(dy, x, (2, 2, 3)), [(1, 2, 3), (1, 3, 2)]),
        (reference.sum_channels, [(50, 3)]),
        (reference.conv_transpose, [(1, 5, 4, 2), (3, 3, 3, 2), (3,)]),
        (
            lambda dy, w: reference.conv_transpose_backward_input(dy, w, (1, 3, 2)),
            [(1, 4, 3), (2, 3, 2)],
        ),
        (
            lambda dy, x: reference.conv_transpose_backward_weight(dy, x, (2, 3, 2)),
            [(1, 4, 3), (1, 3, 2)],
        ),
        (lambda x: reference.avg_pool(x, 3), [(1, 7, 2)]),
        (lambda dy: reference.avg_pool_backward(dy, (1, 7, 2), 3), [(1, 2, 2)]),
        (lambda x: reference.adaptive_avg_pool(x, 2), [(1, 5, 2)]),
        (reference.dense, [(3, 4), (4, 5), (5,)]),
        (lambda dy, x, w: reference.dense_backward(dy, x, w)[0], [(3, 5), (3, 4), (4, 5)]),
        (lambda dy, x, w: reference.dense_backward(dy, x, w)[1], [(3, 5), (3, 4), (4, 5)]),
        (reference.softmax, [(3, 4)]),
        (reference.softmax_backward, [(3, 4), (3, 4)]),
        (reference.mean_squared_error, [(3, 4), (3, 4)]),
        (lambda x, y: reference.categorical_crossentropy(x, y, True), [(3, 4), (3, 4)]),
        (lambda dy, x: reference.activation_backward(dy, x, "gelu"), [(5,), (5,)]),
        (lambda x, g, b: reference.batch_norm(x, g, b, 1e-3)[0], [(5, 2), (2,), (2,)]),
        (lambda x, g, b: reference.layer_norm(x, g, b, 1e-3), [(5, 2), (2,), (2,)]),
        (lambda x, g, b: reference.group_norm(x, g, b, 2, 1e-3), [(5, 3, 2), (2,), (2,)]),
        (lambda x: reference.upsample_bilinear(x, 3), [(1, 4, 2)]),
    ],
)
def test_reference_computes_in_float64_whatever_it_is_given(
    function: Callable[..., np.ndarray], shapes: list[tuple[int, ...]]
) -> None:
    rng = generator("float64")
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    found = function(*arrays)
    assert found.dtype == np.float64
    assert_exact(found, function(*(a.astype(np.float64) for a in arrays)))
