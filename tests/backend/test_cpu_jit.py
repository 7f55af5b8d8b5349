"""The engine ``cpu:jit``: which kernel it takes, and that its results are the definition's."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops
from gpuconv.backends import cpu_jit_plans, cpu_probe, registry
from gpuconv.backends.cpu_jit_plans import choose_way
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.settings import config
from gpuconv.testing import reference
from gpuconv_kernels.host import activations as elementwise
from gpuconv_kernels.host import winograd, winograd_cut, winograd_gradient
from gpuconv_kernels.host.target import Host

PLENTY = 2**28


@pytest.fixture(autouse=True)
def _settings_as_they_were():
    yield
    config.winograd, config.threads = "auto", None


def layer(batch, channels, extent, filters, kernel=3, stride=1, groups=1) -> ConvGeometry:
    return ConvGeometry(
        batch=batch,
        in_channels=channels,
        out_channels=filters,
        input=(extent, extent),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        dilation=(1, 1),
        pads=((kernel // 2, kernel // 2),) * 2,
        groups=groups,
    )


def algorithm(g: ConvGeometry, op: str = "conv_forward", limit: int = PLENTY) -> str:
    return choose_way(op, g, "float32", limit).plan.algorithm


@pytest.mark.parametrize("op", ["conv_forward", "conv_backward_input", "conv_backward_weight"])
def test_winograd_where_it_saves_products(op):
    assert algorithm(layer(8, 64, 56, 64), op) == "winograd-4x4"
    for other in (
        layer(8, 64, 56, 64, stride=2),
        layer(8, 64, 56, 64, kernel=5),
        layer(8, 64, 56, 64, groups=2),
        layer(8, 3, 56, 64),  # few channels: the transforms are all that counts
        layer(1, 512, 4, 512),  # few pixels: transforming the filters costs more than it saves
    ):
        assert algorithm(other, op) == "direct"
    assert algorithm(layer(8, 32, 56, 32, groups=32), op) == "depthwise"
    assert algorithm(layer(8, 32, 56, 32, groups=8), op) == "small-groups"
    assert algorithm(layer(8, 32, 56, 32, groups=2), op) == "direct"


def test_the_setting_says_how_large_tiles_may_be():
    g = layer(8, 64, 48, 64)
    found = {}
    for setting in ("off", 2, 4, 6, "auto"):
        config.winograd = setting
        found[setting] = algorithm(g)
    assert (found["off"], found[2], found[4]) == ("direct", "winograd-2x2", "winograd-4x4")
    assert found["auto"] == found[4]
    assert found[6] in ("winograd-4x4", "winograd-6x6")


def test_the_dispatcher_follows_the_setting():
    shapes = (4, 24, 24, 32), (3, 3, 32, 32)
    automatic = gc.explain("conv2d", *shapes, padding="same", backend="cpu")
    assert automatic.algorithm.startswith("winograd")
    assert "of the multiply-adds" in automatic.reason
    config.winograd = "off"
    assert gc.explain("conv2d", *shapes, padding="same", backend="cpu").algorithm == "direct"


def test_too_little_memory_for_winograd():
    g = layer(8, 64, 56, 64)
    way = choose_way("conv_forward", g, "float32", 2**16)
    assert way.plan.algorithm == "direct"
    assert choose_way("conv_forward", g, "float32", PLENTY).plan.workspace_bytes <= PLENTY


@pytest.fixture
def usual_cpu(monkeypatch):
    """Vectors and caches of a server's core, whatever this CPU has."""

    def clear():
        cpu_jit_plans._choose.cache_clear()
        winograd_cut.best.cache_clear()
        winograd_gradient._plan.cache_clear()

    for module in (winograd, winograd_gradient, cpu_jit_plans):
        monkeypatch.setattr(module, "host", lambda: Host(64, 32))
    for module in (winograd_cut, winograd_gradient):
        monkeypatch.setattr(module, "second_level_cache", lambda: 2**20)
    clear()
    yield
    clear()


@pytest.mark.parametrize("op", ["conv_forward", "conv_backward_input", "conv_backward_weight"])
@pytest.mark.parametrize(
    "g",
    [
        layer(8, 64, 56, 64),
        layer(8, 128, 28, 128),
        layer(8, 256, 14, 256),
        layer(8, 512, 7, 512),
        layer(4, 256, 28, 512),
        layer(4, 512, 14, 512),
        layer(1, 256, 56, 256),
        layer(1, 64, 56, 64),
        layer(1, 128, 28, 128),
        layer(1, 256, 14, 256),
        layer(1, 128, 27, 128),
        layer(4, 65, 19, 130),
        layer(4, 128, 14, 256),
        layer(8, 64, 13, 256),
        layer(8, 99, 15, 101),
    ],
    ids=lambda g: f"{g.batch}x{g.input[0]}-{g.in_channels}-{g.out_channels}",
)
def test_winograd_takes_a_quarter_of_the_arrays_at_most(usual_cpu, op, g):
    config.threads = 2
    plan = choose_way(op, g, "float32", PLENTY).plan
    assert plan.algorithm.startswith("winograd")
    numbers = sum(math.prod(shape) for shape in (g.x_shape, g.w_shape, g.y_shape))
    assert plan.workspace_bytes <= numbers  # a quarter, in bytes


@pytest.mark.parametrize("op", ["conv_forward", "conv_backward_input", "conv_backward_weight"])
def test_threads_do_not_decide_how_it_is_computed(usual_cpu, op):
    """Else the bits would depend on them."""
    for g in (
        layer(1, 256, 14, 256),
        layer(8, 32, 15, 64),
        layer(2, 64, 20, 48),
        layer(4, 37, 23, 51),
    ):
        found = set()
        for threads in (1, 2, 3, 8, 64):
            config.threads = threads
            found.add(choose_way(op, g, "float32", PLENTY).tile)
        assert len(found) == 1


@pytest.mark.parametrize(("setting", "bound"), [("off", 5e-7), (2, 2e-6), ("auto", 1e-5)])
def test_the_error_of_a_whole_layer(setting, bound):
    """Norm of the difference by the norm of the result, which is what the setting is about."""
    config.winograd = setting
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 18, 22, 32), dtype="float32")
    w = rng.standard_normal((3, 3, 32, 48), dtype="float32")
    dy = rng.standard_normal((2, 18, 22, 48), dtype="float32")
    words = {"padding": ((1, 1), (1, 1))}
    wide = [a.astype("float64") for a in (x, w, dy)]
    pairs = (
        (ops.conv2d(x, w, padding=1), reference.conv(wide[0], wide[1], None, **words)),
        (
            ops.conv2d_backward_input(dy, w, x.shape, padding=1),
            reference.conv_backward_input(wide[2], wide[1], x.shape, **words),
        ),
        (
            ops.conv2d_backward_weight(dy, x, w.shape, padding=1),
            reference.conv_backward_weight(wide[2], wide[0], w.shape, **words),
        ),
    )
    for got, want in pairs:
        assert np.linalg.norm(got - want) <= bound * np.linalg.norm(want)


def test_the_same_bits_with_any_number_of_threads():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 20, 20, 32), dtype="float32")
    model = gc.Sequential(
        [
            gc.layers.Conv2D(32, 3, activation="relu", padding="same"),
            gc.layers.BatchNormalization(),
            gc.layers.MaxPooling2D(2),
            gc.layers.DepthwiseConv2D(3),
            gc.layers.GlobalAveragePooling2D(),
            gc.layers.Dense(5),
        ]
    )
    model.compile("adam", gc.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.build((None, *x.shape[1:]))
    first = [np.array(weight) for weight in model.get_weights()]
    results = []
    for count in (1, 2, 3):
        config.threads = count
        model.set_weights(first)
        # Dense layers go through BLAS, which may round otherwise with other threads.
        features = gc.Sequential(model.layers[:-1])
        results.append(np.asarray(features.predict(x, verbose=0)).tobytes())
    assert results[1:] == results[:-1]


def test_what_runs_where_nothing_can_be_compiled(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    found = cpu_probe.probe_compiler()
    assert not found.available
    assert "NUMBA_DISABLE_JIT" in found.reason
    assert registry.probe("cpu:jit") == found
    assert registry.probe_device("cpu").reason.startswith("cpu:numpy: ")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    assert cpu_probe.probe_compiler().available
    monkeypatch.setattr(cpu_probe, "installed_version", lambda name: None)
    assert "numba is not installed" in cpu_probe.probe_compiler().reason


@pytest.mark.parametrize("kind", sorted(elementwise.FORWARD))
def test_activations_take_no_pass_of_their_own(kind, monkeypatch):
    engine, function = registry.engine("cpu:jit"), Activation(kind, 0.3)
    rng = np.random.default_rng(2)
    config.winograd = 4

    def values(*shape):
        return 3 * rng.standard_normal(shape).astype("float32")

    def none(y, *others):
        raise AssertionError("a pass over y")

    x, w, bias = values(70, 64), values(64, 80), values(80)
    calls = [partial(engine.dense, x, w, bias)]
    for g in (layer(1, 16, 9, 24, 1), layer(2, 32, 12, 40), layer(2, 5, 9, 5, groups=5)):
        x, w, bias, residual = (
            values(*s) for s in (g.x_shape, g.w_shape, g.y_shape[-1:], g.y_shape)
        )
        calls.append(partial(engine.conv_forward, x, w, bias, g, PLENTY))
        calls.append(partial(engine.conv_add_forward, x, w, bias, residual, g, PLENTY))
    for call in calls:
        expected = engine.activation(call(), function)
        with monkeypatch.context() as patch:
            patch.setattr(elementwise, "forward", none)
            patch.setattr(elementwise, "add_bias", none)
            np.testing.assert_array_equal(call(activation=function), expected)
