"""Optimizers: golden numbers, formulas over several steps, clipping, decay, state."""

from __future__ import annotations

import gc
import json
import math
from typing import Any

import numpy as np
import pytest

from gpuconv import optimizers
from gpuconv.errors import InvalidArgumentError, ShapeError, UnknownArgumentError
from gpuconv.optimizers import schedules, torch_forms
from gpuconv.parameter import Parameter

NDArray = np.ndarray[Any, Any]


def parameter(value: Any, name: str = "w", dtype: str = "float64") -> Parameter:
    return Parameter(np.array(value, dtype), name)


def run(optimizer: optimizers.Optimizer, w: Parameter, gradients: list[Any]) -> NDArray:
    for g in gradients:
        w.grad = np.array(g, w.dtype)
        optimizer.step([w])
    return w.value


# --- golden numbers ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden_adam(dtype: str) -> None:
    w = parameter([1.0, 2.0, 3.0, 4.0], dtype=dtype)
    run(optimizers.Adam(learning_rate=0.5), w, [[1.0, 6.0, 7.0, 2.0]])
    np.testing.assert_allclose(w.value, [0.5, 1.5, 2.5, 3.5], atol=2e-6)


def test_sgd_by_hand() -> None:
    np.testing.assert_allclose(run(optimizers.SGD(0.5), parameter([1.0, 2.0]), [[1, -2]]), [0.5, 3])
    # v = -0.1, -0.19, -0.271
    w = run(optimizers.SGD(0.1, momentum=0.9), parameter([1.0]), [[1.0]] * 3)
    np.testing.assert_allclose(w, [1 - 0.1 - 0.19 - 0.271])
    # 0.9 v - 0.1 g with the same v
    w = run(optimizers.SGD(0.1, momentum=0.9, nesterov=True), parameter([1.0]), [[1.0]] * 2)
    np.testing.assert_allclose(w, [1 - (0.09 + 0.1) - (0.171 + 0.1)])


def test_the_first_step_of_the_others_by_hand() -> None:
    w = run(optimizers.RMSprop(0.1, rho=0.9, epsilon=0.01), parameter([1.0]), [[2.0]])
    np.testing.assert_allclose(w, [1 - 0.1 * 2 / math.sqrt(0.1 * 4 + 0.01)])
    w = run(optimizers.RMSprop(0.1, 0.9, epsilon=0.01, centered=True), parameter([1.0]), [[2.0]])
    np.testing.assert_allclose(w, [1 - 0.1 * 2 / math.sqrt(0.4 - 0.04 + 0.01)])
    w = run(optimizers.Adagrad(0.1, 0.5, 0.01), parameter([1.0]), [[2.0]])
    np.testing.assert_allclose(w, [1 - 0.1 * 2 / math.sqrt(4.51)])
    w = run(optimizers.AdamW(0.1, weight_decay=0.5, epsilon=0.0), parameter([3.0]), [[2.0]])
    np.testing.assert_allclose(w, [3 - 3 * 0.5 * 0.1 - 0.1])


DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
    "adam": {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "adamw": {"learning_rate": 0.001, "weight_decay": 0.004, "epsilon": 1e-7},
    "rmsprop": {
        "learning_rate": 0.001,
        "rho": 0.9,
        "momentum": 0.0,
        "epsilon": 1e-7,
        "centered": False,
    },
    "adagrad": {"learning_rate": 0.001, "initial_accumulator_value": 0.1, "epsilon": 1e-7},
    "torch_sgd": {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
    "torch_adam": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0},
    "torch_adamw": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-2},
    "torch_rmsprop": {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0,
        "momentum": 0,
        "centered": False,
    },
    "torch_adagrad": {
        "lr": 1e-2,
        "lr_decay": 0,
        "weight_decay": 0,
        "initial_accumulator_value": 0,
        "eps": 1e-10,
    },
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_names_and_configurations(name: str) -> None:
    optimizer = optimizers.get(name)
    config = optimizer.get_config()
    assert {key: config[key] for key in DEFAULTS[name]} == DEFAULTS[name]
    assert optimizer.name == name.removeprefix("torch_")
    stored = json.loads(json.dumps(optimizers.serialize(optimizer)))
    again = optimizers.get(stored)
    assert type(again) is type(optimizer)
    assert again.get_config() == config
    assert optimizers.get(optimizer) is optimizer
    assert type(optimizers.get(type(optimizer))) is type(optimizer)


def test_torch_forms_keep_their_kind_in_configurations() -> None:
    stored = optimizers.serialize(torch_forms.AdamW(lr=0.1))
    assert stored["class_name"] == "torch.AdamW"
    a, b = parameter([1.0, -2.0]), parameter([1.0, -2.0])
    gradients = [[0.3, 1e-8], [0.1, -1e-8]]
    np.testing.assert_array_equal(
        run(torch_forms.AdamW(lr=0.1), a, gradients), run(optimizers.get(stored), b, gradients)
    )
    c = parameter([1.0, -2.0])
    run(optimizers.AdamW(0.1, 0.01, epsilon=1e-8), c, gradients)
    assert abs(a.value[1] - c.value[1]) > 1e-3


# --- the step ------------------------------------------------------------------------------


def test_step_updates_in_place_and_forgets_gradients() -> None:
    w, frozen, without = parameter([1.0]), parameter([1.0], "f"), parameter([1.0], "n")
    frozen.trainable = False
    w.grad, frozen.grad = np.array([1.0]), np.array([1.0])
    array = w.value
    optimizer = optimizers.SGD(0.5)
    optimizer.step(iter([w, frozen, without]))
    assert w.value is array
    assert (w.value[0], frozen.value[0], without.value[0]) == (0.5, 1.0, 1.0)
    assert w.grad is None
    assert frozen.grad is None
    assert optimizer.iterations == 1
    w.grad = np.array([1.0])
    optimizer.step([w], zero_grad=False)
    assert w.grad is not None
    optimizer.step([w])
    assert w.value[0] == -0.5
    w.grad = np.array([1.0])
    optimizer.zero_grad([w])
    assert w.grad is None
    optimizer.step([w])
    assert w.value[0] == -0.5


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.1}, {"global_clipnorm": 0.1}])
def test_gradients_are_not_modified(name: str, options: dict[str, float]) -> None:
    if name.startswith("torch_") and options:
        options = {"weight_decay": 0.1}
    optimizer = optimizers.get({"class_name": name, "config": options})
    w = parameter(np.arange(6.0).reshape(2, 3))
    g = np.arange(6.0).reshape(3, 2).T
    kept = g.copy()
    g.flags.writeable = False
    for _ in range(2):
        w.grad = g
        optimizer.step([w])
    np.testing.assert_array_equal(g, kept)
    assert not np.array_equal(w.value, np.arange(6.0).reshape(2, 3))


def test_values_in_another_memory_order_are_updated_too() -> None:
    w = Parameter(np.arange(6.0).reshape(3, 2).T, "w")
    expected = w.value - 0.5
    w.grad = np.ones((2, 3))
    optimizers.SGD(0.5).step([w])
    np.testing.assert_array_equal(w.value, expected)


def test_a_step_without_any_gradient_changes_nothing() -> None:
    w = parameter([1.0])
    for options in ({}, {"global_clipnorm": 1.0}, {"clipnorm": 1.0}, {"weight_decay": 0.1}):
        optimizers.SGD(0.5, **options).step([w])
    assert w.value[0] == 1.0


def test_parameters_may_be_given_at_the_start_as_in_pytorch() -> None:
    w = parameter([1.0])
    optimizer = torch_forms.SGD([w], lr=0.5)
    w.grad = np.array([1.0])
    optimizer.step()
    assert w.value[0] == 0.5
    w.grad = np.array([1.0])
    optimizer.zero_grad()
    assert w.grad is None
    assert optimizer.lr == 0.5
    for unbound in (torch_forms.SGD(lr=0.5), optimizers.SGD()):
        with pytest.raises(InvalidArgumentError, match=r"needs the parameters.*Received: None"):
            unbound.step()


def test_pytorch_counts_the_steps_of_each_parameter() -> None:
    def late(optimizer: optimizers.Optimizer) -> float:
        early, w = parameter([1.0], "a"), parameter([1.0], "b")
        early.grad = np.array([1.0])
        optimizer.step([early, w])
        early.grad, w.grad = np.array([1.0]), np.array([1.0])
        optimizer.step([early, w])
        return float(w.value[0])

    # As the first step of w: m / (1 - beta_1) = sqrt(v / (1 - beta_2)) = 1.
    assert late(torch_forms.Adam(lr=0.1, eps=0.0)) == pytest.approx(0.9)
    # As the second step of the optimizer.
    expected = 1 - 0.1 * math.sqrt(1 - 0.999**2) / (1 - 0.9**2) * 0.1 / math.sqrt(0.001)
    assert late(optimizers.Adam(0.1, epsilon=0.0)) == pytest.approx(expected)


# --- clipping and weight decay -------------------------------------------------------------


def moved(optimizer: optimizers.Optimizer, *gradients: Any) -> list[NDArray]:
    """Return what one step of plain gradient descent with rate 1 takes off zeros."""
    parameters = [parameter(np.zeros(np.shape(g)), str(i)) for i, g in enumerate(gradients)]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = np.array(g, "float64")
    optimizer.step(parameters)
    return [-p.value for p in parameters]


def test_clipping() -> None:
    by_value = moved(optimizers.SGD(1.0, clipvalue=0.5), [3.0, -0.2], [-4.0])
    np.testing.assert_array_equal(by_value[0], [0.5, -0.2])
    np.testing.assert_array_equal(by_value[1], [-0.5])
    by_norm = moved(optimizers.SGD(1.0, clipnorm=2.0), [3.0, 4.0], [1.0], [0.0])
    np.testing.assert_allclose(by_norm[0], [1.2, 1.6])
    np.testing.assert_array_equal(by_norm[1], [1.0])
    np.testing.assert_array_equal(by_norm[2], [0.0])
    together = moved(optimizers.SGD(1.0, global_clipnorm=2.6), [3.0, 4.0], [12.0])
    np.testing.assert_allclose(together[0], [0.6, 0.8])
    np.testing.assert_allclose(together[1], [2.4])
    small = moved(optimizers.SGD(1.0, global_clipnorm=14.0), [3.0, 4.0], [12.0])
    np.testing.assert_array_equal(small[1], [12.0])


def test_a_gradient_that_is_not_finite_shows_under_global_clipping() -> None:
    found = moved(optimizers.SGD(1.0, global_clipnorm=1.0), [1.0, np.inf], [1.0])
    assert np.isnan(found[0]).all()
    assert np.isnan(found[1]).all()


def test_decoupled_weight_decay_acts_before_the_step() -> None:
    w = run(optimizers.SGD(0.1, weight_decay=0.5), parameter([2.0]), [[1.0]])
    np.testing.assert_allclose(w, [2 - 2 * 0.5 * 0.1 - 0.1])
    w = run(torch_forms.SGD(lr=0.1, weight_decay=0.5), parameter([2.0]), [[1.0]])
    np.testing.assert_allclose(w, [2 - 0.1 * (1 + 0.5 * 2)])


def test_small_weight_decay_keeps_its_digits_in_float32() -> None:
    """1 - 2e-7 is 1 - 1.8e-7 in float32, yet values shrink on average by what they should."""
    values = np.random.default_rng(0).uniform(1, 2, 100_000).astype("float32")
    w = Parameter(values.copy(), "w")
    optimizer = optimizers.SGD(1e-6, weight_decay=0.2)
    for _ in range(20):
        w.grad = np.zeros_like(values)
        optimizer.step([w])
    lost = (values.astype("float64") - w.value).sum() / values.sum(dtype="float64")
    assert lost == pytest.approx(20 * 2e-7, rel=0.02)


# --- the learning rate ---------------------------------------------------------------------


def test_learning_rate() -> None:
    optimizer = optimizers.SGD(0.5)
    optimizer.learning_rate = 0.25
    assert optimizer.learning_rate == 0.25
    np.testing.assert_array_equal(run(optimizer, parameter([1.0]), [[1.0]]), [0.75])
    assert optimizer.get_config()["learning_rate"] == 0.25


@pytest.mark.parametrize(
    ("optimizer", "word"),
    [
        (optimizers.SGD(schedules.PiecewiseConstantDecay([0], [1.0, 0.5])), "learning_rate"),
        (torch_forms.SGD(lr=schedules.PiecewiseConstantDecay([0], [1.0, 0.5])), "lr"),
    ],
)
def test_schedules_go_on_with_the_steps(optimizer: optimizers.Optimizer, word: str) -> None:
    w = parameter([8.0])
    assert optimizer.learning_rate == 1.0
    np.testing.assert_array_equal(run(optimizer, w, [[1.0]]), [7.0])
    assert optimizer.learning_rate == 0.5
    np.testing.assert_array_equal(run(optimizer, w, [[1.0]]), [6.5])
    stored = json.loads(json.dumps(optimizers.serialize(optimizer)))
    assert stored["config"][word]["class_name"] == "PiecewiseConstantDecay"
    assert optimizers.get(stored).learning_rate == 1.0
    with pytest.raises(InvalidArgumentError, match=r"a schedule decides.*Received: 0.1"):
        optimizer.learning_rate = 0.1
    optimizer.learning_rate = schedules.ExponentialDecay(0.1, 1, 0.5)
    assert optimizer.learning_rate == pytest.approx(0.025)


# --- state ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"momentum": 0.9}),
        ("adam", {}),
        ("adamw", {}),
        ("rmsprop", {"momentum": 0.5, "centered": True}),
        ("adagrad", {}),
        ("torch_sgd", {"momentum": 0.9, "dampening": 0.5}),
        ("torch_adam", {}),
        ("torch_rmsprop", {"momentum": 0.5, "centered": True}),
        ("torch_adagrad", {"lr_decay": 0.1}),
    ],
)
def test_training_goes_on_exactly_from_saved_state(name: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    gradients = [(rng.standard_normal((3, 2)), rng.standard_normal(4)) for _ in range(6)]

    def make() -> tuple[optimizers.Optimizer, list[Parameter]]:
        optimizer = optimizers.get({"class_name": name, "config": options})
        ones = parameter(np.ones((3, 2)), "kernel", "float32"), parameter(np.ones(4), "bias")
        for p in ones:
            p.path = f"dense/{p.name}"
        return optimizer, list(ones)

    def steps(optimizer: optimizers.Optimizer, parameters: list[Parameter], part: Any) -> None:
        for pair in part:
            for p, g in zip(parameters, pair, strict=True):
                p.grad = g.astype(p.dtype)
            optimizer.step(parameters)

    whole, expected = make()
    steps(whole, expected, gradients)
    first, before = make()
    steps(first, before, gradients[:3])
    state = first.state_dict(before)
    assert int(state["iterations"]) == 3
    assert all(isinstance(a, np.ndarray) for a in state.values())
    second, after = make()
    for p, q in zip(after, before, strict=True):
        p.assign(q.value)
    second.load_state_dict(state, after)
    kept = {key: array.copy() for key, array in state.items()}
    steps(second, after, gradients[3:])
    for p, q in zip(after, expected, strict=True):
        np.testing.assert_array_equal(p.value, q.value)
    for key, array in state.items():
        np.testing.assert_array_equal(array, kept[key])
    assert second.state_dict(after).keys() == state.keys()


def test_keys_of_the_state() -> None:
    w, unused = parameter([1.0]), parameter([1.0], "unused")
    w.path = "conv2d/kernel"
    optimizer = optimizers.Adam()
    run(optimizer, w, [[1.0]])
    assert sorted(optimizer.state_dict([w, unused])) == [
        "conv2d/kernel/first_moment",
        "conv2d/kernel/second_moment",
        "iterations",
    ]
    assert optimizers.SGD().state_dict([w]) == {"iterations": 0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"iterations": None}, InvalidArgumentError, "with 'iterations'"),
        ({"w/first_moment": None}, InvalidArgumentError, "keeps first_moment, second_moment"),
        ({"w/velocity": np.zeros(2)}, InvalidArgumentError, "other parameters or to another"),
        ({"v/first_moment": np.zeros(2)}, InvalidArgumentError, "other parameters or to another"),
        ({"w/first_moment": np.zeros(3)}, ShapeError, r"w/first_moment: expected the shape \(2,\)"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    w = parameter([1.0, 2.0])
    optimizer = optimizers.Adam()
    run(optimizer, w, [[1.0, 2.0]])
    good = optimizer.state_dict([w])
    state = {k: v for k, v in {**good, **change}.items() if v is not None}
    if "iterations" in state:
        state["iterations"] = np.array(7)
    with pytest.raises(error, match=f"{message}.*Received: "):
        optimizer.load_state_dict(state, [w])
    again = optimizer.state_dict([w])
    assert again.keys() == good.keys()
    for key in good:
        np.testing.assert_array_equal(again[key], good[key])


def test_paths_must_be_different() -> None:
    with pytest.raises(InvalidArgumentError, match=r"path of its own.*Received: 'w' twice"):
        optimizers.Adam().state_dict([parameter([1.0]), parameter([2.0])])


def test_state_goes_with_its_parameter() -> None:
    optimizer = optimizers.Adam()
    run(optimizer, parameter(np.ones(1000)), [np.ones(1000)])
    gc.collect()
    assert len(optimizer._slots) == 0


# --- bad arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.SGD(lr=0.1), "Did you mean 'learning_rate'"),
        (lambda: optimizers.Adam(amsgrad=True), "no argument 'amsgrad'"),
        (lambda: optimizers.Adam(beta1=0.9), "Did you mean 'beta_1'"),
        (lambda: optimizers.RMSprop(eps=1e-3), "Did you mean 'epsilon'"),
        (lambda: optimizers.SGD(clip_norm=1.0), "Did you mean 'clipnorm'"),
        (lambda: torch_forms.Adam(amsgrad=True), "no argument 'amsgrad'"),
        (lambda: torch_forms.SGD(learning_rate=0.1), "no argument 'learning_rate'"),
    ],
)
def test_unknown_arguments(make: Any, message: str) -> None:
    with pytest.raises(UnknownArgumentError, match=f"{message}.*Received: "):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.SGD(-0.1), "learning_rate must be"),
        (lambda: optimizers.SGD(math.nan), "learning_rate must be"),
        (lambda: optimizers.SGD("fast"), "learning_rate must be"),  # type: ignore[arg-type]
        (lambda: optimizers.SGD(momentum=1.5), r"momentum must be a number in \[0, 1\]"),
        (lambda: optimizers.Adam(beta_1=1.0), r"beta_1 must be a number in \[0, 1\)"),
        (lambda: optimizers.Adam(epsilon=-1e-7), "epsilon must be"),
        (lambda: optimizers.AdamW(weight_decay=None), "AdamW needs"),  # type: ignore[arg-type]
        (lambda: optimizers.Adam(weight_decay=-0.1), "weight_decay must be"),
        (lambda: optimizers.SGD(clipnorm=0), "clipnorm must be positive"),
        (lambda: optimizers.SGD(clipnorm=1.0, clipvalue=1.0), "only one of"),
        (lambda: torch_forms.SGD(nesterov=True), "nesterov needs"),
        (lambda: torch_forms.SGD(momentum=0.9, dampening=0.1, nesterov=True), "nesterov needs"),
        (lambda: torch_forms.Adam(betas=(0.9,)), "betas must be"),
        (lambda: optimizers.get("adam2"), "Did you mean 'adam'"),
        (lambda: optimizers.get(None), "expected an? optimizer"),  # type: ignore[arg-type]
    ],
)
def test_impossible_arguments(make: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{message}.*Received: "):
        make()
