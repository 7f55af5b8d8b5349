"""Data for models of several outputs: all forms give the same; what does not fit is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from model_makers import set_uniform_weights, uniform
from two_heads import KIND, RATE, SPARSE, TALL, WEIGHTS, ByHand, X, compiled, fitted, heads

import gpuconv as gc
from gpuconv.data import Dataset, mixup
from gpuconv.errors import GpuconvError, InvalidArgumentError, ShapeError
from gpuconv.layers import Concatenate, Dense
from gpuconv.metrics import MeanSquaredError, Precision

# --- the ways to give data --------------------------------------------------------------------


def generator(count: int = 6) -> Any:
    for number in range(count):
        rows = slice(number % 3 * 4, number % 3 * 4 + 4)
        yield X[rows], {"kind": KIND[rows], "tall": TALL[rows]}, [WEIGHTS[rows], None]


def samples() -> Any:
    for i in range(11):
        yield X[i], {"tall": TALL[i], "kind": KIND[i]}, {"tall": WEIGHTS[i], "kind": 1.0}


ONES = np.ones(11)
FORMS: dict[str, dict[str, Any]] = {
    "tuple": {"y": (TALL, KIND), "sample_weight": (WEIGHTS, None)},
    "dict": {"y": {"kind": KIND, "tall": TALL}, "sample_weight": {"tall": WEIGHTS}},
    "lists": {"y": [TALL.tolist(), KIND.tolist()], "sample_weight": [WEIGHTS.tolist(), None]},
    "inputs by name": {"x": {"facts": X}, "sample_weight": [WEIGHTS, ONES]},
    "generator": {"x": generator(), "y": None, "steps_per_epoch": 3},
    "list of batches": {"x": list(generator(3)), "y": None},
    "data set": {
        "x": Dataset(X, (TALL, KIND), (WEIGHTS, ONES), batch_size=4),
        "y": None,
    },
    "data set by name": {
        "x": Dataset({"facts": X}, {"kind": KIND, "tall": TALL}, {"tall": WEIGHTS}, batch_size=4),
        "y": None,
    },
    "data set of samples": {"x": Dataset.from_generator(samples, batch_size=4), "y": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_data_give_the_same(form: str) -> None:
    model = compiled()
    expected = fitted(model, sample_weight=[WEIGHTS, None])
    weights = model.get_weights()
    set_uniform_weights(model, 1)
    model.compile(gc.optimizers.SGD(RATE), ["mse", SPARSE], ["mae", "accuracy"])
    near = {"rel": 1e-6} if form == "lists" else {"rel": 0, "abs": 0}  # lists become float32
    found = fitted(model, **FORMS[form])
    assert found == {name: pytest.approx(values, **near) for name, values in expected.items()}
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=near["rel"])


def test_one_array_of_weights_is_for_all_outputs() -> None:
    one, several = compiled(), compiled()
    history = fitted(one, sample_weight=WEIGHTS, validation_split=0.2)
    assert history == fitted(several, sample_weight=[WEIGHTS, WEIGHTS], validation_split=0.2)
    listed = fitted(compiled(), sample_weight=WEIGHTS.tolist(), validation_split=0.2)
    assert listed["kind_loss"] == pytest.approx(history["kind_loss"], rel=1e-6)


def test_validation() -> None:
    split = fitted(compiled(), validation_split=0.3)
    cut = {"x": X[:7], "y": [TALL[:7], KIND[:7]]}
    held = (X[7:], {"kind": KIND[7:], "tall": TALL[7:]})
    batches = [(X[7:], (TALL[7:], KIND[7:]))]
    data = Dataset(X[7:], (TALL[7:], KIND[7:]))
    for validation in (held, batches, data):
        assert fitted(compiled(), **cut, validation_data=validation) == split
    names = ["loss", "tall_loss", "kind_loss", "kind_accuracy", "tall_mae"]
    assert list(split) == [*names, *(f"val_{name}" for name in names)]


def test_single_batches_and_lists_of_numbers() -> None:
    model = compiled()
    reference = ByHand(model)
    tall, kind = reference.means(range(11))
    named = model.test_on_batch(X, [TALL, KIND], return_dict=True)
    assert list(named) == ["loss", "tall_loss", "kind_loss", "kind_accuracy", "tall_mae"]
    assert list(named.values()) == model.evaluate(X, (TALL, KIND), batch_size=11, verbose=0)
    assert model.train_on_batch(X, {"kind": KIND, "tall": TALL}) == list(named.values())
    assert named["loss"] == pytest.approx(tall + kind, rel=1e-12)
    predicted = model.predict(X, batch_size=4, verbose=0)
    for a, b in zip(predicted, model.predict_on_batch(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_several_inputs_by_name_and_in_lists() -> None:
    a, b = gc.Input((4,), name="left"), gc.Input((2,), name="right")
    x = Concatenate()([Dense(3)(a), b])
    model = gc.Model([a, b], [Dense(1, name="tall")(x), Dense(1, name="wide")(x)])
    set_uniform_weights(model, 1)
    state = model.get_weights()
    left, right, wide = uniform((11, 4), 1), uniform((11, 2), 2), uniform((11, 1), 9)
    histories = []
    forms: list[Any] = [[left, right], {"right": right, "left": left, "unused": wide}]
    forms += [[left.tolist(), right.tolist()]]
    forms += [Dataset({"right": right, "left": left}, [TALL, wide], batch_size=4)]
    forms += [[((left[i : i + 4], right[i : i + 4]), [TALL[i : i + 4], wide[i : i + 4]])
               for i in (0, 4, 8)]]  # fmt: skip
    for number, x in enumerate(forms):
        model.set_weights(state)
        model.compile("sgd", "mse")
        y = [TALL, wide] if number < 3 else None
        histories.append(fitted(model, x=x, y=y))
    assert all(history == histories[0] for history in histories)
    named = {"left": left, "right": right}
    for twin in (model, copy.deepcopy(model), model.optimize_for_inference()):
        assert twin.predict(named, verbose=0)[1].shape == (11, 1)
    for x, message in (
        ({"left": left}, "each input, left, right. Received: a dict without right, of left"),
        ([left], "each input, left, right.* 1 in a list"),
        (left, "each input, left, right.* ndarray of shape"),
        ([left, right, wide], "3 in a list"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            fitted(model, x=x, y=[TALL, wide])


# --- what is refused, before anything is done --------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"y": TALL}, InvalidArgumentError, r"y .*each output, tall, kind.* of shape \(11, 1\)"),
        ({"y": [TALL]}, InvalidArgumentError, r"y .*each output, tall, kind.* 1 in a list"),
        ({"y": [TALL, KIND, KIND]}, InvalidArgumentError, "3 in a list"),
        ({"y": [TALL, None]}, InvalidArgumentError, "none for kind"),
        ({"y": {"tall": TALL}}, InvalidArgumentError, "none for kind"),
        ({"y": {"tall": TALL, "kin": KIND}}, InvalidArgumentError, "Did you mean 'kind'.*'kin'"),
        ({"y": [KIND, TALL]}, GpuconvError, "kind: .*Received"),
        ({"y": [np.zeros((11, 2)), KIND]}, ShapeError, r"tall: labels must have .*\(11, 2\)"),
        ({"y": [TALL, KIND + 1]}, InvalidArgumentError, r"kind: labels must lie in \[0, 3\)"),
        ({"y": [TALL, KIND[:9]]}, ShapeError, r"y\['kind'\]|y\[1\] with 9"),
        ({"y": [TALL * np.nan, KIND]}, InvalidArgumentError, r"y\[0\] must hold finite"),
        ({"y": [TALL, ["a"] * 11]}, GpuconvError, r"y\['kind'\]"),
        ({"class_weight": {0: 2.0}}, InvalidArgumentError, "model of one output.*tall, kind"),
        ({"sample_weight": [WEIGHTS] * 3}, InvalidArgumentError, "sample_weight.* 3 in a list"),
        ({"sample_weight": {"tal": WEIGHTS}}, InvalidArgumentError, "Did you mean 'tall'"),
        ({"sample_weight": [WEIGHTS, TALL]}, ShapeError, "one number a sample"),
        ({"validation_data": (X, TALL)}, InvalidArgumentError, "each output, tall, kind"),
    ],
)
def test_data_that_does_not_fit(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = compiled()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        fitted(model, **given)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_metrics_are_tried_before_the_first_step() -> None:
    model = compiled(loss=["mse", SPARSE], metrics=[None, Precision()])
    before = model.get_weights()
    with pytest.raises(ShapeError, match="kind: "):
        fitted(model)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_batches_of_a_generator_that_do_not_fit() -> None:
    for item, message in (
        ((X, TALL), "batch 0: y must hold an array for each output"),
        ((X, {"tall": TALL, "kinds": KIND}), "batch 0: y .*Did you mean 'kind'"),
        ((X, [TALL, KIND[:, None] * [1, 1]]), "kind: class numbers"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            fitted(compiled(), x=iter([item]), y=None, epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": ["mse"]}, "an entry for each of the outputs tall, kind.* 1 in"),
        ({"loss": {"tall": "mse"}}, "name every output.*no kind"),
        ({"loss": {"tall": "mse", "knd": "mse"}}, "Did you mean 'kind'"),
        ({"loss": ["mse", "sparse"]}, "no loss"),
        ({"loss_weights": [1.0]}, "loss_weights must have an entry"),
        ({"loss_weights": 2.0}, "loss_weights must have an entry"),
        ({"loss_weights": {"tal": 2.0}}, "Did you mean 'tall'"),
        ({"loss_weights": ["mae", 1]}, "finite numbers.*'mae'"),
        ({"loss_weights": [np.inf, 1]}, "finite numbers"),
        ({"metrics": ["accuracy"]}, "an entry for each of tall, kind"),
        ({"metrics": "accuracy"}, "an entry for each of tall, kind"),
        ({"metrics": {"kid": "accuracy"}}, "Did you mean 'kind'"),
        ({"metrics": [["mae", "mae"], None]}, "different names"),
        ({"metrics": [MeanSquaredError("loss"), None]}, "none 'loss'"),
        ({"metrics": [METRIC := MeanSquaredError("a"), METRIC]}, "metrics of its own"),
    ],
)
def test_compile_refuses(options: dict[str, Any], message: str) -> None:
    model = compiled()
    before = model.objectives
    with pytest.raises(InvalidArgumentError, match=message):
        model.compile(**{"loss": ["mse", SPARSE], **options})
    assert model.objectives is before


def test_names_in_logs_that_would_meet() -> None:
    inputs = gc.Input((4,))
    a, b = Dense(1, name="a")(inputs), Dense(1, name="a_b")(inputs)
    with pytest.raises(InvalidArgumentError, match=r"different names in logs.*a_b_loss"):
        gc.Model(inputs, [a, b]).compile(loss="mse", metrics=[MeanSquaredError("b_loss"), None])
    val = Dense(1, name="val")(inputs)
    with pytest.raises(InvalidArgumentError, match="different names in logs"):
        gc.Model(inputs, [a, val]).compile(loss="mse")


def test_a_stack_that_ends_in_several_outputs() -> None:
    stack = gc.Sequential([heads()])
    stack.compile("sgd", "mse")
    with pytest.raises(InvalidArgumentError, match="ends in a layer of several outputs"):
        stack.fit(X, TALL, verbose=0)


# --- data sets ---


def test_mixup_blends_all_parts_by_the_same_weights() -> None:
    x, (tall, kind) = mixup(X, (TALL, KIND), num_classes=(None, 3), seed=4)
    np.testing.assert_array_equal(x, mixup(X, TALL, seed=4)[0])
    np.testing.assert_array_equal(tall, mixup(X, TALL, seed=4)[1])
    np.testing.assert_array_equal(kind, mixup(X, KIND, num_classes=3, seed=4)[1])
    named, y = mixup(
        {"a": X, "b": X * 2}, {"tall": TALL, "kind": KIND}, 0.2, {"kind": 3, "tall": None}, 4
    )
    np.testing.assert_array_equal(named["b"], 2 * x)
    np.testing.assert_array_equal(y["kind"], kind)
    with pytest.raises(InvalidArgumentError, match="one for each of 2 targets"):
        mixup(X, (TALL, KIND), num_classes=(3,))
    with pytest.raises(ShapeError, match="same number of samples"):
        mixup(X, (TALL, KIND[:3]), num_classes=(None, 3))

    def blended(g: Any, x: Any, y: Any) -> Any:
        return mixup(x, y, num_classes=(None, 3), seed=int(g.integers(2**62)))

    data = Dataset(X, (TALL, KIND), batch_size=4, seed=1).map(blended, random=True)
    model = compiled(loss=["mse", "categorical_crossentropy"])
    assert len(fitted(model, x=data, y=None)["kind_loss"]) == 2


def test_samples_of_a_generator() -> None:
    def pairs() -> Any:
        for i in range(5):
            yield {"a": X[i], "b": i}, (TALL[i], KIND[i])

    x, (tall, kind) = next(iter(Dataset.from_generator(pairs)))
    np.testing.assert_array_equal(x["a"], X[:5])
    assert x["b"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(tall, TALL[:5])
    assert kind.tolist() == KIND[:5].tolist()
    _, y = next(iter(Dataset.from_generator(lambda: [(X[0], (0.0, 1.0))])))
    assert y.tolist() == [[0.0, 1.0]]  # a tuple of numbers is one vector
    for items, message in (
        ([(X[0], {"a": 1}), (X[0], {"b": 1})], r"1 targets \('a'\).*1 \('b'\) for sample 1"),
        ([(X[0], (X[0], 1)), (X[0], 2)], "2 targets.*0 for sample 1"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            list(Dataset.from_generator(lambda items=items: items))  # type: ignore[misc]


def test_a_data_set_keeps_its_parts() -> None:
    data = Dataset({"a": X, "b": X}, (TALL, KIND), batch_size=4, shuffle=True, seed=3)
    for x, (tall, kind) in data:
        rows = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in x["a"]]
        np.testing.assert_array_equal(x["b"], x["a"])
        np.testing.assert_array_equal(tall, TALL[rows])
        np.testing.assert_array_equal(kind, KIND[rows])
    x, (tall, kind) = data.arrays()
    np.testing.assert_array_equal(x["b"], X)
    np.testing.assert_array_equal(tall, TALL)
    np.testing.assert_array_equal(kind, KIND)
    with pytest.raises(ShapeError, match=r"x with 11, y\[1\] with 3"):
        Dataset(X, (TALL, KIND[:3]))
    with pytest.raises(InvalidArgumentError, match="at least one array"):
        Dataset(X, {})
