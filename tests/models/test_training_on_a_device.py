"""Training on a device: the numbers of the CPU, and a step that never waits for the host."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends.selection import requested_backend
from gpuconv.backends.simulated import SimulatedArray
from gpuconv.backends.transfers import count_transfers
from gpuconv.errors import InvalidArgumentError
from gpuconv.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from gpuconv.models import Sequential
from gpuconv.testing.device_stand_in import StandIn, stand_in_device


@pytest.fixture(autouse=True)
def _device():
    with stand_in_device():
        yield


def model(backend, **options):
    gc.set_seed(5)
    network = Sequential(
        [
            Conv2D(4, 3, activation="relu", padding="same"),
            BatchNormalization(),
            MaxPooling2D(2),
            Dropout(0.25),
            Flatten(),
            Dense(3, activation="softmax"),
        ],
        backend=backend,
    )
    options = {"optimizer": "adam", "metrics": ["accuracy"], **options}
    network.compile(loss="sparse_categorical_crossentropy", **options)
    return network


def data(samples=22):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (samples, 6, 6, 2), "uint8"), rng.integers(0, 3, samples)


OPTIMIZERS = [
    gc.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0),
    gc.optimizers.AdamW(0.01, global_clipnorm=1.0),
    gc.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    gc.optimizers.Adagrad(0.01, clipvalue=0.5),
    gc.optimizers.Adam(gc.optimizers.schedules.ExponentialDecay(0.01, 2, 0.9)),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_a_run_has_the_numbers_of_the_cpu(optimizer):
    x, y = data()
    weights, histories = [], []
    for backend in ("cpu:numpy", "cuda-sim"):  # one arithmetic, so the same bits
        gc.set_seed(1)
        network = model(backend, optimizer=type(optimizer).from_config(optimizer.get_config()))
        gc.set_seed(2)
        history = network.fit(
            x, y, batch_size=8, epochs=2, validation_split=0.2, verbose=0, class_weight={0: 2.0}
        )
        histories.append(history.history)
        weights.append(network.get_weights())
        if backend == "cuda-sim":
            assert all(isinstance(p.value, SimulatedArray) for p in network.parameters)
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert histories[0] == histories[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_a_step_copies_the_batch_and_nothing_else(optimizer):
    x, y = data(40)
    gc.set_seed(1)
    network = model("cuda-sim", optimizer=optimizer)
    network.fit(x[:8], y[:8], batch_size=8, verbose=0)  # the first step creates what is kept
    seen = []

    class Watch(gc.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((counted.to_device, counted.to_host))

    with count_transfers() as counted:
        network.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[Watch()])
    to_device, to_host = seen[0]
    assert to_device == 5 * 2  # x and y of each of five batches
    # The epoch's numbers: the loss, and the two sums of the accuracy.
    assert to_host <= 3


def test_the_loss_is_read_when_it_is_shown():
    x, y = data(40)
    network = model("cuda-sim")
    network.fit(x[:8], y[:8], batch_size=8, verbose=0)

    class Show(gc.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                assert logs["loss"] > 0

    counts = []
    for callbacks in ([], [Show()]):
        with count_transfers() as counted:
            network.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
        counts.append(counted.to_host)
    assert counts[1] == counts[0] + 1


def test_evaluate_and_predict_wait_once_for_each_result():
    x, y = data(24)
    network = model("cuda-sim")
    network.build((None, 6, 6, 2))
    with count_transfers() as counted:
        network.evaluate(x, y, batch_size=8, verbose=0)
    assert (counted.to_device, counted.to_host <= 3) == (6, True)
    with count_transfers() as counted:
        predicted = network.predict(x, batch_size=8, verbose=0)
    assert (counted.to_device, counted.to_host) == (3, 3)
    assert isinstance(predicted, np.ndarray)


def test_labels_of_an_iterable_are_checked_before_they_leave_the_host():
    x, y = data(16)
    network = model("cuda-sim")
    with pytest.raises(InvalidArgumentError, match=r"labels must lie in \[0, 3\)"):
        network.fit([(x[:8], y[:8]), (x[8:], y[8:] + 2)], verbose=0)


def test_saving_and_moving_back(tmp_path):
    x, y = data(16)
    network = model("cuda-sim")
    network.fit(x, y, batch_size=8, verbose=0)
    expected = network.predict(x, verbose=0)
    network.save(tmp_path / "m.safetensors")
    loaded = gc.load_model(tmp_path / "m.safetensors")
    assert loaded.backend != "cuda-sim"
    loaded.to("cpu:numpy")  # the arithmetic of the stand-in
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    network.to("cpu:numpy")
    np.testing.assert_array_equal(network.predict(x, verbose=0), expected)
    network.fit(x, y, batch_size=8, verbose=0)  # the optimizer's state moved along


def test_an_engine_that_was_named_computes_everything(monkeypatch):
    seen = []
    for name in ("conv_forward", "conv_backward_weight", "adam_update", "softmax"):
        method = getattr(StandIn, name)

        def watched(self, *args, method=method, **kwargs):
            seen.append(requested_backend())
            return method(self, *args, **kwargs)

        monkeypatch.setattr(StandIn, name, watched)
    x, y = data(16)
    network = model("cuda-sim:stand-in")
    assert (network.backend, network.engine) == ("cuda-sim", "cuda-sim:stand-in")
    network.fit(x, y, batch_size=8, verbose=0)
    network.evaluate(x, y, verbose=0)
    network.predict(x, verbose=0)
    y, backward = network.forward(x.astype("float32"), training=True)
    backward(y)
    assert set(seen) == {"cuda-sim:stand-in"}
    assert {layer.engine for layer in network.layers} == {"cuda-sim:stand-in"}
    network.to("cuda-sim")
    seen.clear()
    network.predict(x, verbose=0)
    assert set(seen) == {"auto"}
