"""The whole engine ``cuda:numba``: every method of the contract against the CPU engine, and layers.

In the simulator the arrays are those of ``cuda-sim``, which refuse to be mixed with NumPy's.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends import registry
from gpuconv.backends.arrays import is_array, to_device, to_numpy
from gpuconv.backends.cpu_numpy import CpuNumpy
from gpuconv.backends.functions import FROM_OUTPUT, Activation
from gpuconv.backends.transfers import count_transfers
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.testing import assert_close, assert_exact

DEVICE = "cuda-sim" if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else "cuda"
LIMIT = 1 << 24


@pytest.fixture(scope="module")
def engine():
    return registry.engine(f"{DEVICE}:numba")


@pytest.fixture(scope="module")
def cpu():
    return CpuNumpy()


def there(value):
    """The argument on the device: a copy of an array, anything else as it is."""
    return to_device(value, DEVICE) if is_array(value) else value


def compare(engine, cpu, method, *arguments, exact=False, length=1):
    with count_transfers() as counted:
        moved = [there(a) for a in arguments]
        expected_copies = counted.to_device
        got = getattr(engine, method)(*moved)
        assert (counted.to_device, counted.to_host) == (expected_copies, 0)
    expected = getattr(cpu, method)(*arguments)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for a, b in pairs:
        assert (a is None) == (b is None)
        if b is not None:
            assert a.dtype == b.dtype
            assert a.flags.c_contiguous
            if exact:
                assert_exact(to_numpy(a), b)
            else:
                assert_close(to_numpy(a), b, length)
    for before, after in zip(arguments, moved, strict=True):
        if is_array(before):
            np.testing.assert_array_equal(to_numpy(after), before)


def integers(rng, shape, dtype="float32"):
    return rng.integers(-3, 4, shape).astype(dtype)


CONVOLUTIONS = {
    "few channels": ConvGeometry(2, 3, 5, (5, 6), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    "many channels": ConvGeometry(1, 12, 20, (5, 4), (3, 2), (2, 1), (1, 2), ((1, 0), (2, 1))),
    "depthwise": ConvGeometry(1, 6, 12, (6, 5), (3, 3), (2, 2), (1, 1), ((0, 1), (1, 1)), 6),
    "groups": ConvGeometry(1, 20, 24, (4, 3), (2, 2), (1, 1), (1, 1), ((0, 0), (0, 0)), 2),
    "3d": ConvGeometry(1, 9, 4, (3, 4, 3), (2, 1, 3), (1, 2, 1), (1, 1, 1), ((1, 0),) * 3),
    "1d": ConvGeometry(2, 9, 8, (9,), (3,), (2,), (1,), ((1, 1),)),
    "1x1": ConvGeometry(2, 16, 12, (3, 3), (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))),
    "empty": ConvGeometry(0, 12, 8, (4, 4), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolution(engine, cpu, rng, name, dtype):
    g = CONVOLUTIONS[name]
    x, w = integers(rng, g.x_shape, dtype), integers(rng, g.w_shape, dtype)
    dy, bias = integers(rng, g.y_shape, dtype), integers(rng, (g.out_channels,), dtype)
    relu = Activation("relu")
    compare(engine, cpu, "conv_forward", x, w, bias, g, LIMIT, relu, exact=True)
    compare(engine, cpu, "conv_forward", x, w, None, g, LIMIT, exact=True)
    compare(engine, cpu, "conv_backward_input", dy, w, g, LIMIT, exact=True)
    compare(engine, cpu, "conv_backward_weight", dy, x, g, LIMIT, exact=True)
    compare(engine, cpu, "sum_channels", dy, exact=True)
    for op in ("conv_forward", "conv_backward_input", "conv_backward_weight"):
        plan = engine.plan(op, g, dtype, LIMIT)
        assert plan.algorithm in ("direct", "implicit_gemm")
        assert plan.workspace_bytes <= LIMIT
        assert plan.seconds > 0


def test_views_are_taken_as_they_are(engine, cpu, rng):
    g = CONVOLUTIONS["many channels"]
    x = integers(rng, (1, 12, 5, 4)).transpose(0, 2, 3, 1)
    w = integers(rng, (20, 12, 3, 2)).transpose(2, 3, 1, 0)
    x.flags.writeable = False
    compare(engine, cpu, "conv_forward", x, w, None, g, LIMIT, exact=True)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding(engine, cpu, rng, mode):
    pads = ((1, 2), (2, 0))
    compare(engine, cpu, "pad", integers(rng, (2, 3, 4, 5)), pads, mode, exact=True)
    compare(engine, cpu, "pad_backward", integers(rng, (2, 6, 6, 5)), pads, mode, exact=True)


@pytest.mark.parametrize("window", [((2, 2), (2, 2)), ((3, 2), (1, 2)), ((5, 6), (1, 1))])
def test_pooling(engine, cpu, rng, window):
    pads = ((0, 0), (0, 0)) if window[0] == (5, 6) else ((1, 0), (0, 1))
    g = PoolGeometry(2, 7, (5, 6), *window, (1, 1), pads)
    x, dy = integers(rng, g.x_shape), integers(rng, g.y_shape)
    compare(engine, cpu, "max_pool", x, g, True, exact=True)
    compare(engine, cpu, "max_pool", x, g, False, exact=True)
    indices = cpu.max_pool(x, g, True)[1]
    compare(engine, cpu, "max_pool_backward", dy, indices, g, exact=True)
    compare(engine, cpu, "avg_pool", x, g, length=g.taps)
    compare(engine, cpu, "avg_pool_backward", dy, g, length=g.taps)
    assert engine.plan("max_pool", g, "float32", LIMIT).seconds > 0


def test_matrix_products(engine, cpu, rng):
    a, b, bias = integers(rng, (9, 13)), integers(rng, (13, 7)), integers(rng, (7,))
    compare(engine, cpu, "dense", a, b, bias, Activation("relu"), exact=True)
    compare(engine, cpu, "dense", a, b, None, exact=True)
    compare(engine, cpu, "gemm", a, b, exact=True)
    compare(engine, cpu, "gemm", a[:0], b, exact=True)
    # Transposed views, which the gradients of a dense layer use.
    device_a, device_b = there(a), there(b)
    assert_exact(to_numpy(engine.gemm(device_a.T, device_a)), a.T @ a)
    assert_exact(to_numpy(engine.gemm(device_b, device_b.T)), b @ b.T)
    assert_exact(to_numpy(engine.gemm(device_a[:0].T, device_a[:0])), np.zeros((13, 13)))


@pytest.mark.parametrize("kind", ["relu", "tanh", "gelu", "leaky_relu"])
def test_activation(engine, cpu, rng, kind):
    function = Activation(kind, 0.3)
    x, dy = rng.normal(size=(3, 11)).astype("float32"), rng.normal(size=(3, 11)).astype("float32")
    compare(engine, cpu, "activation", x, function, length=16)
    y = cpu.activation(x, function)
    z = (None, y) if kind in FROM_OUTPUT else (x, None)
    compare(engine, cpu, "activation_backward", dy, *z, function, length=16)


def test_softmax(engine, cpu, rng):
    x, dy = rng.normal(size=(5, 11)), rng.normal(size=(5, 11))
    compare(engine, cpu, "softmax", x, length=16)
    compare(engine, cpu, "softmax_backward", dy, cpu.softmax(x), length=16)
    for targets in (rng.integers(0, 11, 5).astype("int32"), cpu.softmax(dy)):
        compare(engine, cpu, "softmax_cross_entropy", x, targets, length=16)
        p, scale = cpu.softmax(x), rng.normal(size=5)
        compare(engine, cpu, "softmax_cross_entropy_backward", p, targets, scale, length=16)


NORMALISATIONS = {
    "batch": ((4, 3, 3, 5), (0, 1, 2), (1, 1, 1, 5), (0, 1, 2)),
    "batch of features": ((7, 5), (0,), (1, 5), (0,)),
    "layer": ((4, 3, 6), (2,), (1, 1, 6), (0, 1)),
    "instance": ((3, 2, 4, 5), (1, 2), (1, 1, 1, 5), (0, 1, 2)),
    "group": ((2, 3, 2, 2, 3), (1, 2, 4), (1, 1, 1, 2, 3), (0, 1, 2)),
    "channels first": ((3, 5, 2, 4), (0, 2, 3), (1, 5, 1, 1), (0, 2, 3)),
}


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisation(engine, cpu, rng, name):
    shape, axes, parameters, parameter_axes = NORMALISATIONS[name]
    x, dy = rng.normal(size=shape), rng.normal(size=shape)
    scale, offset = rng.normal(size=parameters), rng.normal(size=parameters)
    compare(engine, cpu, "moments", x, axes, length=64)
    mean, variance = cpu.moments(x, axes)
    compare(engine, cpu, "normalize", x, mean, variance, scale, offset, 1e-3, length=64)
    compare(engine, cpu, "normalize", x, mean, variance, None, None, 1e-3, length=64)
    for batch, gradient in ((True, True), (False, True), (True, False)):
        compare(
            engine,
            cpu,
            "normalize_backward",
            *(dy, x, mean, variance, scale, 1e-3, axes, parameter_axes, batch, gradient),
            length=256,
        )


def test_dropout_has_the_bits_of_the_cpu(engine, cpu):
    for shape in ((3, 7), (5,), (0, 3)):
        got = to_numpy(engine.dropout_mask(shape, 0.4, (12, 3), "float32"))
        assert_exact(got, cpu.dropout_mask(shape, 0.4, (12, 3), "float32"))


UPDATES = [
    ("sgd_update", 1, (0.1, 0.9, True, False, False)),
    ("adam_update", 2, (0.1, 0.9, 0.99, 1e-7, 3, False)),
    ("rmsprop_update", 3, (0.1, 0.9, 0.5, 1e-7, True)),
    ("adagrad_update", 1, (0.1, 1e-7, True)),
]


@pytest.mark.parametrize(("method", "slots", "numbers"), UPDATES, ids=lambda v: str(v)[:8])
def test_updates(engine, cpu, rng, method, slots, numbers):
    arrays = [rng.normal(size=(4, 9)) for _ in range(2)] + [
        rng.uniform(0.5, 1, (4, 9)) for _ in range(slots)
    ]
    moved = [there(a) for a in arrays]
    getattr(engine, method)(*moved, *numbers)
    getattr(cpu, method)(*arrays, *numbers)
    for a, b in zip(moved, arrays, strict=True):
        assert_close(to_numpy(a), b, 16)


def test_training_follows_the_cpu():
    weights = []
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5, 5, 2)).astype("float32"), rng.integers(0, 3, 7)
    for backend in ("cpu", DEVICE + ":numba"):
        gc.set_seed(3)
        model = gc.Sequential(
            [
                gc.layers.Conv2D(4, 3, activation="relu"),
                gc.layers.BatchNormalization(),
                gc.layers.MaxPooling2D(2, strides=1),
                gc.layers.Dropout(0.2),
                gc.layers.Flatten(),
                gc.layers.Dense(3, activation="softmax"),
            ],
            backend=backend,
        )
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(x, y, batch_size=4, epochs=2, verbose=0)
        assert history.history["loss"][1] < history.history["loss"][0] + 1
        weights.append([*model.get_weights(), model.predict(x, verbose=0)])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
