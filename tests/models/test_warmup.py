"""A warm-up prepares everything that a training needs and changes nothing of the model."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import dispatch, layers
from gpuconv import random as seeds
from gpuconv.backends import registry
from gpuconv.backends.base import Plan
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.selection import use_backend
from gpuconv.dispatch import selecting, tuning
from gpuconv.dispatch.tuning import Tuner
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.settings import config
from gpuconv.warming import Warmup, warmup

SHAPE = (6, 12, 12, 3)


@pytest.fixture(autouse=True)
def _nothing_decided(monkeypatch):
    monkeypatch.delenv("GPUCONV_BACKEND", raising=False)
    forget()
    yield
    config.autotune = False
    forget()


def forget():
    for cached in (registry.engine, selecting._select, selecting._usable):
        cached.cache_clear()


def network(**options):
    """Every kind of state that a step changes: parameters, statistics, masks, optimizer."""
    return gc.Sequential(
        [
            layers.Conv2D(8, 3, padding="same", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(2),
            layers.SpatialDropout2D(0.25),
            layers.Conv2D(4, 3, strides=2),
            layers.BatchNormalization(momentum=None),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(5, activation="softmax"),
        ],
        backend="cpu",
        **options,
    )


def compiled(optimizer="adam"):
    gc.set_seed(11)
    model = network(name="net")
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def data(count=20):
    generator = np.random.default_rng(3)
    x = generator.normal(size=(count, *SHAPE[1:])).astype("float32")
    return x, generator.integers(0, 5, count)


def everything(model):
    """All that a warm-up could change, as bytes."""
    parts = [a.tobytes() for a in model.get_weights()]
    parts += [None if p.grad is None else p.grad.tobytes() for p in model.parameters]
    state = model.optimizer.state_dict(model.parameters)
    parts += [(name, array.tobytes()) for name, array in sorted(state.items())]
    parts += [stream.state for stream in model.random_streams().values()]
    parts += [metric.result() for metric in model.metrics]
    return parts


# --- nothing changes --------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_has_learned_is_the_same_bits(optimizer, training):
    model = compiled(optimizer)
    x, y = data()
    model.fit(x, y, epochs=1, batch_size=6, verbose=0)
    model.parameters[0].grad = np.full(model.parameters[0].shape, 3.0, "float32")
    before, arrays = everything(model), [p.value for p in model.parameters]
    warmup(model, SHAPE, training, verbose=0)
    assert everything(model) == before
    assert all(p.value is a for p, a in zip(model.parameters, arrays, strict=True))


def test_training_goes_as_it_would_have_gone():
    """Random streams that did not exist yet, dropout's and shuffling's, begin where they would."""

    def trained(warm):
        model = compiled()
        if warm:
            warmup(model, (6, *SHAPE[1:]), verbose=0)
            warmup(model, (3, *SHAPE[1:]), verbose=0)
        x, y = data()
        history = model.fit(x, y, epochs=2, batch_size=6, verbose=0)
        return history.history, [a.tobytes() for a in model.get_weights()], seeds.next_seed()

    assert trained(warm=True) == trained(warm=False)


def test_global_seeds_are_as_before_also_after_an_error(monkeypatch):
    model = compiled()
    model.build((None, *SHAPE[1:]))
    gc.set_seed(5)
    expected = seeds.next_seed()
    gc.set_seed(5)
    warmup(model, SHAPE, verbose=0)
    assert seeds.next_seed() == expected
    gc.set_seed(5)

    def broken(self, *arguments):
        seeds.next_seed()
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(layers.Dropout, "run", broken)
    with pytest.raises(ZeroDivisionError):
        warmup(model, SHAPE, verbose=0)
    assert seeds.next_seed() == expected


# --- everything is prepared -------------------------------------------------------------------


def test_a_step_after_it_decides_nothing():
    model = compiled()
    report = warmup(model, SHAPE, verbose=0)
    assert isinstance(report, Warmup)
    assert report.seconds > 0
    assert report.measured == 0
    ops = [decision.op for decision in report.decisions]
    assert {
        "conv_forward",
        "conv_backward_input",
        "conv_backward_weight",
        "max_pool",
        "max_pool_backward",
        "avg_pool",
        "avg_pool_backward",
    } == set(ops)
    seen = []
    x, y = data(6)
    with dispatch.watching(seen.append):
        model.train_on_batch(x, y)
        model.test_on_batch(x, y)
        model.predict_on_batch(x)
    assert seen == []
    assert warmup(model, SHAPE, verbose=0).decisions == ()


def test_inference_alone():
    report = warmup(compiled(), SHAPE, training=False, verbose=0)
    assert {d.op for d in report.decisions} == {"conv_forward", "max_pool", "avg_pool"}


def test_a_model_without_a_loss():
    model = network()
    report = warmup(model, SHAPE, verbose=0)
    assert model.built
    assert "conv_backward_weight" in {d.op for d in report.decisions}
    assert all(p.grad is None for p in model.parameters)


def test_nothing_below_what_learns_is_prepared():
    model = compiled()
    model.build((None, *SHAPE[1:]))
    for layer in model.layers[:6]:
        layer.trainable = False
    report = warmup(model, SHAPE, verbose=0)
    assert "conv_backward_weight" not in {d.op for d in report.decisions}


@pytest.mark.parametrize(
    ("units", "loss", "metrics"),
    [
        (5, "categorical_crossentropy", ["accuracy"]),
        (5, "sparse_categorical_crossentropy", ["accuracy", "sparse_categorical_accuracy"]),
        (1, "binary_crossentropy", ["accuracy"]),
        (3, "mse", ["mae"]),
        (2, "huber", None),
        (1, "sparse_categorical_crossentropy", None),
    ],
)
def test_targets_are_made_for_every_loss(units, loss, metrics):
    model = gc.Sequential([layers.Dense(units, activation="sigmoid", input_shape=(4,))])
    model.compile("sgd", loss, metrics=metrics)
    called = []
    step = type(model).train_step

    def counted(self, *arguments):
        called.append(self)
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "train_step", counted)
        warmup(model, (3, 4), verbose=0)
    (twin,) = called
    assert twin is not model


class Fast(CpuNumpy):
    name = "cpu:fast"

    def plan(self, op, geometry, dtype, workspace_limit):
        return Plan("fast", 0, "made for it")


def test_it_measures_if_it_is_to(monkeypatch):
    here = {"cpu:numpy": "gpuconv.backends.cpu_numpy:CpuNumpy", "cpu:fast": f"{__name__}:Fast"}
    monkeypatch.setattr(registry, "_MODULES", here)
    monkeypatch.setattr(tuning, "tuner", Tuner(None, lambda run, repeats: run() is None or 1e-3))
    forget()
    config.autotune = True
    report = warmup(compiled(), SHAPE, verbose=0)
    assert report.measured == len(report.decisions) > 8
    model = compiled()
    timed = []
    tuning.tuner.timer = lambda run, repeats: timed.append(1) or 1e-3
    model.train_on_batch(*data(6))
    assert timed == []


def test_an_engine_that_was_named_computes():
    model = gc.Sequential([layers.Conv2D(2, 3)], backend="cpu:numpy")
    (decision, *_) = warmup(model, SHAPE, verbose=0).decisions
    assert decision.reason.startswith("cpu:numpy was asked for")
    with use_backend("cpu"):
        assert warmup(model, (2, *SHAPE[1:]), verbose=0).decisions[0].engine == "cpu:numpy"


# --- what it says -----------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_there_is_no_terminal(capsys):
    config.autotune = True
    with use_backend("cpu:numpy"):  # nothing to choose from, so nothing is timed and kept
        warmup(compiled(), SHAPE)
    first, compiles, tunes, last = capsys.readouterr().out.splitlines()
    assert first.startswith("preparing net for batches of (6, 12, 12, 3) on ")
    assert "the first run compiles its kernels" in compiles
    assert "timed once and remembered" in tunes
    assert last.startswith("net is ready after ")
    assert last.endswith("decisions, 0 by measurement")


def test_silence(capsys):
    warmup(compiled(), SHAPE, verbose=0)
    assert capsys.readouterr() == ("", "")


def test_a_line_on_a_terminal_says_what_is_being_done(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    with use_backend("cpu:numpy"):
        warmup(compiled(), SHAPE)
    assert "conv_backward_weight: cpu:numpy, im2col+gemm" in stream.getvalue()
    assert "is ready after" in stream.getvalue()


def test_a_device_that_compiles_says_so(monkeypatch, capsys):
    from gpuconv import warming

    model = compiled()
    model.build((None, *SHAPE[1:]))
    monkeypatch.setattr(warming, "_rehearse", lambda *arguments: None)
    monkeypatch.setattr(warming, "device_name", lambda device: f"a {device} device")
    model.backend = "cuda"
    warmup(model, SHAPE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("on a cuda device")
    assert "the first run compiles its kernels" in lines[1]


def test_the_report_reads_well():
    assert str(Warmup(83.2, (), 0)) == "ready after 1m 23s: 0 decisions, 0 by measurement"
    one = Warmup(0.04, warmup(network(), SHAPE, verbose=0).decisions[:1], 1)
    assert str(one) == "ready after 0.0s: 1 decision, 1 by measurement"
    cold = Warmup(17.3, (), 0, compiled=41, compiling=16.24)
    assert str(cold).startswith("ready after 17.3s: 41 kernels compiled in 16.2s, 0 decisions")


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [5, "ab", None, (), (0, 12, 12, 3), (6, -1, 12, 3), (1.5, 2)])
def test_impossible_shapes(shape):
    with pytest.raises(InvalidArgumentError, match=r"batch_shape .*Received: "):
        warmup(compiled(), shape)


def test_a_shape_that_does_not_fit():
    with pytest.raises(ShapeError, match="expected an input of 4 dimensions"):
        warmup(compiled(), (6, 12))
    with pytest.raises(InvalidArgumentError, match="one input"):
        warmup(compiled(), [SHAPE, SHAPE])


@pytest.mark.parametrize("model", [layers.Dense(3), None, "net"])
def test_only_models_can_be_warmed_up(model):
    with pytest.raises(InvalidArgumentError, match=r"warmup needs a model\. Received: "):
        warmup(model, SHAPE)


def test_the_public_name():
    assert gc.warmup is warmup
    assert "warmup" in gc.__all__
