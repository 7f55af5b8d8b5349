"""Training models of several outputs: by hand in NumPy, and as the models of one output."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import labels, set_uniform_weights, uniform
from two_heads import KIND, OTHERS, RATE, SPARSE, TALL, WEIGHTS, ByHand, X, compiled, fitted, heads

import gpuconv as gc
from gpuconv.backends.transfers import count_transfers
from gpuconv.callbacks import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    TerminateOnNaN,
)
from gpuconv.errors import InvalidArgumentError, NotBuiltError
from gpuconv.layers import Add, Conv2D, Dense, Flatten
from gpuconv.metrics import MeanSquaredError, Precision
from gpuconv.models.objectives import Objectives
from gpuconv.testing.device_stand_in import stand_in_device

# --- the numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", [None, [0.3, 2.0]])
@pytest.mark.parametrize("weights", [None, (WEIGHTS, WEIGHTS), (WEIGHTS, OTHERS)])
def test_epochs_by_hand(factors: Any, weights: Any) -> None:
    model = compiled(loss_weights=factors)
    reference = ByHand(model)
    given = None if weights is None else list(weights)
    history = fitted(model, epochs=1, sample_weight=given)
    scales = (np.ones(11), np.ones(11)) if weights is None else weights
    sums = np.zeros(2)
    for start in (0, 4, 8):
        rows = range(start, min(start + 4, 11))
        sums += reference.means(rows, scales) * len(rows)
        reference.step(rows, factors or (1, 1), scales)
    tall, kind = sums / 11
    assert history["tall_loss"] == pytest.approx([tall], rel=1e-12)
    assert history["kind_loss"] == pytest.approx([kind], rel=1e-12)
    total = tall * (factors or (1, 1))[0] + kind * (factors or (1, 1))[1]
    assert history["loss"] == pytest.approx([total], rel=1e-12)
    for a, b in zip(model.get_weights(), (reference.w, reference.v, reference.k), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    tall, kind = reference.means(range(11))
    found = model.evaluate(X, [TALL, KIND], verbose=0, return_dict=True)
    assert found["tall_loss"] == pytest.approx(tall, rel=1e-12)
    assert found["kind_loss"] == pytest.approx(kind, rel=1e-12)


def test_gradients_are_the_weighted_sum_of_separate_ones() -> None:
    model = heads()
    before = model.get_weights()
    changes = []
    for number, loss in ((0, "mse"), (1, SPARSE)):
        twin = copy.deepcopy(model)
        one = gc.Model(twin.inputs, twin.outputs[number])
        one.compile(gc.optimizers.SGD(1.0), loss)
        one.train_on_batch(X, (TALL, KIND)[number])
        pairs = zip(before, twin.get_weights(), strict=True)
        changes.append([after - array for array, after in pairs])
    model.compile(gc.optimizers.SGD(1.0), ["mse", SPARSE], loss_weights={"tall": 0.25, "kind": 3})
    model.train_on_batch(X, [TALL, KIND])
    for array, after, a, b in zip(before, model.get_weights(), *changes, strict=True):
        np.testing.assert_allclose(after - array, 0.25 * a + 3 * b, rtol=1e-10, atol=1e-14)


def test_outputs_without_common_layers_learn_as_models_of_their_own() -> None:
    inputs = gc.Input((6, 6, 2))
    images, sizes, kinds = uniform((12, 6, 6, 2), 1), uniform((12, 1), 2), labels(12, 3, 3)
    size = Dense(1, name="size")(Flatten()(Conv2D(3, 3, activation="relu")(inputs)))
    kind = Dense(3, activation="softmax", name="kind")(Flatten()(Conv2D(4, 3)(inputs)))
    both = gc.Model(inputs, [size, kind])
    set_uniform_weights(both, 3)
    singles = [copy.deepcopy(gc.Model(inputs, output)) for output in (size, kind)]
    options: dict[str, Any] = {"batch_size": 5, "epochs": 3, "verbose": 0}
    both.compile("adam", ["mse", SPARSE], ["mae", "accuracy"])
    gc.set_seed(2)
    joint = both.fit(images, (sizes, kinds), **options).history
    for single, name, loss, metric, y in (
        (singles[0], "size", "mse", "mae", sizes),
        (singles[1], "kind", SPARSE, "accuracy", kinds),
    ):
        single.compile("adam", loss, [metric])
        gc.set_seed(2)
        alone = single.fit(images, y, **options).history
        assert joint[f"{name}_loss"] == alone["loss"]
        assert joint[f"{name}_{metric}"] == alone[metric]
        state = both.state()
        for key, array in single.state().items():
            np.testing.assert_array_equal(state[key], array)


def test_a_list_of_one_output_is_trained_as_the_output() -> None:
    several = heads()
    one = copy.deepcopy(several)
    listed, plain = (
        gc.Model(several.inputs, several.outputs[:1]),
        gc.Model(one.inputs, one.output[0]),
    )
    histories = []
    for model, y in ((listed, [TALL]), (listed, TALL), (plain, TALL)):
        set_uniform_weights(model, 1)
        model.compile(gc.optimizers.SGD(RATE), "mse", ["mae"])
        histories.append(fitted(model, y=y, validation_split=0.3))
    assert list(histories[0]) == ["loss", "mae", "val_loss", "val_mae"]
    assert histories[0] == histories[1] == histories[2]
    assert len(listed.predict(X, verbose=0)) == 1
    assert one.state().keys() == several.state().keys()


def test_saturated_softmaxes_still_learn() -> None:
    """Each is fused with its loss: the separate steps would divide by a vanishing probability."""
    inputs = gc.Input((2,))
    shared = Dense(3, activation="softmax", use_bias=False, name="shared")
    side = Dense(1, name="side")(inputs)
    model = gc.Model(inputs, [shared(inputs), side, shared(side_by_side(inputs))])
    assert model.output_names == ["shared", "side", "shared_1"]
    shared.kernel.value[...] = [[100, 0, 0], [0, 0, 0]]
    model.compile(gc.optimizers.SGD(1.0), [SPARSE, "mse", SPARSE])
    assert model.network_and_loss()[2] == [0, 2]
    x, y = np.array([[1.0, 0.0]], "f4"), np.array([1])
    losses = model.train_on_batch(x, [y, np.zeros((1, 1)), y], return_dict=True)
    assert losses["shared_loss"] == pytest.approx(100)
    np.testing.assert_allclose(shared.kernel.value[0], [98, 2, 0], atol=1e-5)
    np.testing.assert_allclose(model.predict(x, verbose=0)[0].sum(), 1, rtol=1e-6)


def side_by_side(x: Any) -> Any:
    return Add()([x, Dense(2, kernel_initializer="zeros", name="nothing")(x)])


def test_outputs_without_loss_take_no_part() -> None:
    model = compiled(loss={"tall": "mse", "kind": None}, metrics={"kind": "accuracy"})
    kept = model.get_layer("kind").get_weights()[0]
    history = fitted(model)
    assert list(history) == ["loss", "kind_accuracy"]
    np.testing.assert_array_equal(model.get_layer("kind").get_weights()[0], kept)
    expected = model.get_weights()
    model = compiled(loss=["mse", None], metrics=None)
    for number, y in enumerate(([TALL, None], [TALL], TALL, {"tall": TALL}, {"tall": TALL})):
        set_uniform_weights(model, 1)
        assert fitted(model, y=y)["loss"] == history["loss"], number
        for a, b in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(InvalidArgumentError, match=r"each output, tall.*none for tall"):
        fitted(model, y=[None, KIND])
    with pytest.raises(NotBuiltError, match="no loss yet"):
        fitted(compiled(loss=[None, None]))


# --- the rest of training ---------------------------------------------------------------------


def test_callbacks_know_the_names(tmp_path: Path) -> None:
    model = compiled(metrics=[None, ["accuracy"]])
    stop = EarlyStopping("val_kind_accuracy", patience=1)
    best = tmp_path / "{epoch}-{val_tall_loss:.3f}.safetensors"
    callbacks = [
        stop,
        CSVLogger(tmp_path / "log.csv"),
        ModelCheckpoint(best, "val_tall_loss", save_best_only=True),
    ]
    history = fitted(model, epochs=6, validation_split=0.3, callbacks=callbacks)
    assert stop.best == max(history["val_kind_accuracy"])
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert header == ["epoch", *sorted(history)]
    assert (tmp_path / f"1-{history['val_tall_loss'][0]:.3f}.safetensors").exists()


def test_higher_is_better_for_the_metric_of_this_output() -> None:
    model = heads()
    metrics = [MeanSquaredError("hits"), Precision(name="hits")]
    model.compile("sgd", ["mse", SPARSE], metrics)
    for name, higher in (("val_kind_hits", True), ("tall_hits", False), ("kind_loss", False)):
        callback = EarlyStopping(name)
        callback.model = model
        assert callback.improves(2.0, 1.0) == higher


def test_progress_shows_all_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(compiled(), epochs=1, verbose=2)
    line = capsys.readouterr().out
    for name in ("loss", "tall_loss", "kind_loss", "kind_accuracy", "tall_mae"):
        assert f" {name}: " in line


def test_a_loss_that_is_no_number_is_named() -> None:
    terminate = TerminateOnNaN()
    wrong = TALL.copy()
    wrong[5] = 1e200  # whose square is too large
    with np.errstate(all="ignore"):
        fitted(compiled(), y=[wrong, KIND], callbacks=terminate)
    assert terminate.stopped_at == (0, 1)
    assert terminate.began_in == "tall_loss"


def test_small_batches_act_as_a_large_one() -> None:
    weights = []
    for size, steps in ((4, None), (2, 2)):
        model = compiled(gc.optimizers.SGD(RATE, momentum=0.9, gradient_accumulation_steps=steps))
        fitted(model, x=X[:8], y=[TALL[:8], KIND[:8]], batch_size=size)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_regularizers_count_once_in_the_total() -> None:
    inputs = gc.Input((4,))
    h = Dense(3, kernel_regularizer="l2", name="body", dtype="float64")(inputs)
    outputs = [Dense(1, name="a", dtype="float64")(h), Dense(1, name="b", dtype="float64")(h)]
    model = gc.Model(inputs, outputs)
    model.compile("sgd", "mse", loss_weights=[2.0, 0.5])
    found = model.train_on_batch(X, [TALL, TALL], return_dict=True)
    model = gc.Model(inputs, outputs)
    model.compile("sgd", "mse", loss_weights=[2.0, 0.5])
    tested = model.test_on_batch(X, [TALL, TALL], return_dict=True)
    penalty = 0.01 * (model.get_layer("body").kernel.value ** 2).sum()
    assert tested["loss"] == pytest.approx(
        2 * tested["a_loss"] + 0.5 * tested["b_loss"] + penalty, rel=1e-12
    )
    assert found["loss"] > tested["loss"]


@pytest.mark.parametrize("how", ["file", "deepcopy"])
def test_a_compiled_model_is_kept(how: str, tmp_path: Path) -> None:
    options = {"loss": [gc.losses.Huber(0.5), SPARSE], "loss_weights": [0.5, None]}
    model = compiled(gc.optimizers.Adam(0.01), metrics=[["mae", "mse"], None], **options)
    fitted(model)
    if how == "file":
        model.save(tmp_path / "m.safetensors")
        twin = gc.load_model(tmp_path / "m.safetensors")
    else:
        twin = copy.deepcopy(model)
    assert fitted(twin) == fitted(model)
    assert list(twin.named_metrics) == ["tall_mae", "tall_mse"]
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_goes_on_from_its_backup(tmp_path: Path) -> None:
    class Stop(gc.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    whole = compiled("adam")
    expected = fitted(whole, epochs=4, shuffle=True)
    parts = compiled("adam")
    parts.shuffle_stream = copy.deepcopy(whole.shuffle_stream)
    assert parts.shuffle_stream is not None
    parts.shuffle_stream.state = (parts.shuffle_stream.state[0], 0)
    with pytest.raises(KeyboardInterrupt):
        fitted(parts, epochs=4, shuffle=True, callbacks=[BackupAndRestore(tmp_path), Stop()])
    parts = compiled("adam")
    found = fitted(parts, epochs=4, shuffle=True, callbacks=BackupAndRestore(tmp_path))
    assert found == expected
    for a, b in zip(parts.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_warmup_and_profile() -> None:
    for model in (compiled(), heads()):
        before = model.get_weights()
        gc.warmup(model, (4, 4), verbose=0)
        for a, b in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
        assert {row.name for row in model.profile(X, repeats=1).rows} == {"body", "tall", "kind"}
    found = compiled().profile(X, [TALL, KIND], repeats=1)
    assert all(row.backward_ms is not None for row in found.rows)


def test_a_device_gives_the_numbers_of_the_cpu() -> None:
    histories, weights = [], []
    with stand_in_device():
        for backend in ("cpu:numpy", "cuda-sim"):
            model = heads(backend=backend)
            model.compile("adam", ["mse", SPARSE], ["mae", "accuracy"], loss_weights=[0.5, 2.0])
            histories.append(fitted(model, sample_weight=[WEIGHTS, None], validation_split=0.3))
            weights.append(model.get_weights())
            batches = [(X, (TALL, KIND + 1))]
            with pytest.raises(InvalidArgumentError, match="kind: labels must lie"):
                fitted(model, x=batches, y=None)
    assert histories[0] == histories[1]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_on_a_device_copies_the_batch_and_nothing_else() -> None:
    with stand_in_device():
        model = heads(backend="cuda-sim")
        model.compile("adam", ["mse", SPARSE], ["mae", "accuracy"], loss_weights=[0.5, 2.0])
        fitted(model, epochs=1)  # the first step creates what is kept
        with count_transfers() as counted:
            fitted(model, epochs=1)
    assert counted.to_device == 3 * 3  # inputs and two targets of each of three batches
    assert counted.to_host <= 3 + 2 * 2  # once an epoch: the losses, and each metric's two sums


def test_one_output_is_one_objective() -> None:
    objectives = Objectives.of(["only"], False, {"only": "mse"}, 0.5, {"only": ["mae"]})
    y, predictions = np.array([[1.0], [2.0]]), np.array([[2.0], [5.0]])
    (value,), gradient = objectives.compute(y, predictions)
    assert value == 2.5
    np.testing.assert_array_equal(gradient, [[0.5], [1.5]])
    assert objectives.evaluate(y, predictions) == [2.5]
    assert (objectives.loss_names, list(objectives.metrics)) == (["loss"], ["mae"])
