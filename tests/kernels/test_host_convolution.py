"""Direct convolution on the CPU's micro-kernel and its gradients, against plain loops."""

from __future__ import annotations

import math
import threading
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest
from guards import words

from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry, resolve_padding
from gpuconv.testing import assert_close, assert_exact, reference
from gpuconv.testing.cases import CONV_CASES, ConvCase, generator, small_integers
from gpuconv_kernels.host import (
    direct,
    few_channels_forward,
    few_channels_gradient,
    few_channels_weights,
    weight_gradient,
    weight_gradient_cut,
)
from gpuconv_kernels.host.microkernel import most_vectors
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.threads import set_threads

CASES = [case for case in CONV_CASES if case.padding_mode == "zeros"]
NARROW = [Host(16, 16), Host(16, 32), Host(32, 16), Host(64, 32)]


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


def geometry_of(case: ConvCase) -> ConvGeometry:
    def each(value: Any) -> tuple[int, ...]:
        return (value,) * case.rank if isinstance(value, int) else tuple(value)

    stride, dilation = each(case.stride), each(case.dilation)
    return ConvGeometry(
        batch=case.batch,
        in_channels=case.channels,
        out_channels=case.filters,
        input=case.input,
        kernel=case.kernel,
        stride=stride,
        dilation=dilation,
        pads=resolve_padding(case.padding, case.input, case.kernel, stride, dilation),
        groups=case.groups,
    )


def square(batch, channels, extent, filters, kernel, stride=1, pad=0, groups=1) -> ConvGeometry:
    return ConvGeometry(
        batch=batch,
        in_channels=channels,
        out_channels=filters,
        input=(extent, extent),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        dilation=(1, 1),
        pads=((pad, pad), (pad, pad)),
        groups=groups,
    )


def guarded(values: Any) -> tuple[Any, Any]:
    """A copy of an array between canaries, and all of that memory."""
    room = 64
    memory = np.full(values.size + 2 * room, 12345.0, values.dtype)
    inside = memory[room : room + values.size].reshape(values.shape)
    inside[...] = values
    return inside, memory


def untouched(memory: Any, size: int) -> bool:
    return bool((memory[:64] == 12345).all() and (memory[64 + size :] == 12345).all())


def three(g, x, w, bias, dy, relu=False) -> tuple[Any, Any, Any]:
    """The three operations, between canaries."""
    results = []
    activation = Activation("relu") if relu else None
    inputs = [guarded(a) for a in (x, w, bias, dy)]
    (x, _), (w, _), (bias, _), (dy, _) = inputs
    for shape, call in (
        (g.y_shape, lambda out: direct.conv_forward(x, w, bias, out, g, activation)),
        (g.x_shape, lambda out: direct.conv_backward_input(dy, w, out, g)),
        (g.w_shape, lambda out: weight_gradient.conv_backward_weight(dy, x, out, g)),
    ):
        out, memory = guarded(np.full(shape, np.nan, x.dtype))
        call(out)
        assert untouched(memory, out.size)
        results.append(out)
    assert all(untouched(memory, a.size) for a, memory in inputs)
    return results[0], results[1], results[2]


def integers(g: ConvGeometry, dtype: str, name: str) -> tuple[Any, Any, Any, Any]:
    rng = generator(name)
    shapes = (g.x_shape, g.w_shape, (g.out_channels,), g.y_shape)
    x, w, bias, dy = (small_integers(rng, shape, dtype) for shape in shapes)
    return x, w, bias, dy


def check(g: ConvGeometry, dtype: str, name: str) -> None:
    """Small integers: sums are exact, whatever their order."""
    x, w, bias, dy = integers(g, dtype, name)
    y, dx, dw = three(g, x, w, bias, dy)
    assert_exact(y, reference.conv(x, w, bias, **words(g)))
    assert_exact(dx, reference.conv_backward_input(dy, w, g.x_shape, **words(g)))
    assert_exact(dw, reference.conv_backward_weight(dy, x, g.w_shape, **words(g)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rank}d-{case.id}")
def test_all_cases(case):
    check(geometry_of(case), "float32", f"host-{case.rank}-{case.id}")


@pytest.mark.parametrize("case", CASES[::4], ids=lambda case: f"{case.rank}d-{case.id}")
def test_float64(case):
    check(geometry_of(case), "float64", f"host64-{case.rank}-{case.id}")


@pytest.mark.parametrize("host", NARROW, ids=lambda h: f"{8 * h.vector_bytes}x{h.registers}")
def test_every_width_of_vectors(monkeypatch, host):
    """LLVM cuts vectors that this CPU does not have into ones that it has."""
    monkeypatch.setattr(direct, "host", lambda: host)
    monkeypatch.setattr(weight_gradient, "host", lambda: host)
    lanes = host.lanes("float32")
    check(square(2, 9, 6, 2 * lanes + lanes // 2 + 1, 3, pad=1), "float32", "widths")


@pytest.mark.parametrize(
    "g",
    [
        square(1, 16, 9, 64, 3, pad=1),
        square(2, 70, 20, 40, 1),
        square(1, 300, 5, 20, 1),  # several chunks of channels
        square(1, 40, 23, 16, 3, stride=2, pad=1),  # several blocks of pixels
        square(1, 3, 19, 24, 5, stride=2, pad=2),  # taps as channels
        square(2, 3, 12, 20, 4, stride=4),  # patches beside each other
        square(1, 5, 9, 17, 3, stride=3),
        square(2, 3, 7, 5, 1),  # a line after the other, both ways
        square(1, 17, 6, 2, 3, stride=2, pad=1),
        square(3, 24, 8, 36, 3, pad=1, groups=2),
        square(1, 20, 7, 77, 1),  # the last filters in narrower vectors
        square(1, 3, 7, 230, 3, pad=1, groups=1),
        square(2, 14, 5, 160, 1, groups=2),
        ConvGeometry(1, 6, 7, (3, 250), (2, 3), (1, 1), (1, 1), ((0, 1), (2, 0)), 1),  # long lines
        ConvGeometry(1, 4, 5, (6, 6), (3, 3), (1, 1), (1, 1), ((-1, 2), (2, -1)), 1),
        ConvGeometry(3, 1, 1, (1,), (2,), (1,), (1,), ((0, 1),), 1),  # one pixel an image
        ConvGeometry(2, 2, 3, (1, 2), (1, 3), (1, 1), (1, 1), ((0, 0), (1, 0)), 1),
    ],
    ids=lambda g: f"{g.in_channels}-{g.out_channels}-{g.input}",
)
def test_around_the_blocks(lines_of_any_size, g):
    check(g, "float32", f"blocks-{g.in_channels}")


@pytest.mark.parametrize(
    "g",
    [
        square(2, 20, 9, 40, 5, pad=2),
        square(3, 17, 9, 24, 3, stride=2, pad=1),
        square(2, 19, 9, 8, 5, stride=3, pad=2),  # taps of the next line that nobody has packed
        ConvGeometry(2, 18, 20, (12, 12), (3, 3), (1, 1), (4, 4), ((4, 4),) * 2, 1),
        square(2, 24, 7, 36, 3, pad=1, groups=2),
        square(9, 33, 3, 20, 3),  # one output pixel an image: lines of images
        ConvGeometry(6, 16, 20, (4, 4), (3, 3), (1, 1), (2, 2), ((1, 1),) * 2, 1),
        square(2, 21, 13, 30, 1, stride=2),  # every second pixel
        ConvGeometry(2, 16, 9, (3, 600), (3, 2), (1, 2), (1, 3), ((1, 1), (3, 0)), 1),  # cut lines
        ConvGeometry(2, 15, 7, (4, 3, 5), (3, 2, 3), (1, 1, 2), (1, 1, 1), ((1, 1),) * 3, 1),
        ConvGeometry(1, 18, 9, (5, 4, 6), (3, 3, 2), (2, 1, 1), (1, 2, 1), ((2, 1),) * 3, 1),
        ConvGeometry(2, 17, 5, (8, 8), (3, 3), (1, 1), (1, 1), ((-1, 2), (2, -1)), 1),
        ConvGeometry(7, 18, 20, (5,), (3,), (2,), (1,), ((1, 1),), 1),
    ],
    ids=lambda g: f"{g.in_channels}-{g.out_channels}-{g.input}-{g.kernel}",
)
@pytest.mark.parametrize("way", ["dy packed", "both packed", "in place", "one block"])
def test_gradient_of_weights_packed_and_in_place(monkeypatch, g, way):
    """Lines of x that several taps or lines see are packed once; where memory is short, dy is read
    where it lies, and short sums need no memory."""
    monkeypatch.setattr(weight_gradient_cut, "_SHORT_BYTES", 0 if way == "both packed" else 1 << 20)
    monkeypatch.setattr(weight_gradient_cut, "_BLOCK_PIXELS", 40)
    if way in ("in place", "one block"):
        monkeypatch.setattr(weight_gradient_cut, "_ROOM_SHARE", 1 << 20)
    monkeypatch.setattr(weight_gradient_cut, "_LONG_BLOCK", 1 << 20 if way == "one block" else 0)
    weight_gradient_cut.cut.cache_clear()
    x, _, _, dy = integers(g, "float32", f"packed-{g.in_channels}")
    (x, x_memory), (dy, dy_memory) = guarded(x), guarded(dy)
    out, memory = guarded(np.full(g.w_shape, np.nan, "float32"))
    weight_gradient.conv_backward_weight(dy, x, out, g)
    weight_gradient_cut.cut.cache_clear()
    assert all(untouched(m, a.size) for m, a in ((memory, out), (x_memory, x), (dy_memory, dy)))
    assert_exact(out, reference.conv_backward_weight(dy, x, g.w_shape, **words(g)))


@pytest.mark.parametrize(
    ("g", "in_place"),
    [
        (square(2, 256, 6, 256, 3, pad=1, groups=16), True),
        (square(2, 512, 6, 16, 3, pad=1), True),
        (square(2, 256, 6, 256, 3, stride=2, pad=1, groups=16), False),
        (square(2, 256, 6, 80, 3, pad=1), False),  # packed once for two tiles of filters
        (square(2, 528, 6, 16, 3, pad=1), False),
    ],
    ids=lambda v: f"{v.in_channels}-{v.out_channels}-{v.stride[0]}" if hasattr(v, "stride") else "",
)
def test_x_that_serves_one_tile_of_filters_is_not_packed(monkeypatch, g, in_place):
    wide = Host(64, 32)
    monkeypatch.setattr(weight_gradient, "host", lambda: wide)
    assert weight_gradient_cut.cut(g, "float32", wide, 2).x_in_place == in_place
    x, _, _, dy = integers(g, "float32", "one tile")
    out, memory = guarded(np.full(g.w_shape, np.nan, "float32"))
    weight_gradient.conv_backward_weight(dy, x, out, g)
    assert untouched(memory, out.size)
    assert_exact(out, reference.conv_backward_weight(dy, x, g.w_shape, **words(g)))


def test_a_little_memory_is_no_reason_for_a_single_task():
    """Where even the least memory is more than there should be, threads share the work."""
    g = square(4, 19, 20, 19, 7, pad=3)
    one, two = (weight_gradient_cut.cut(g, "float32", Host(64, 32), n) for n in (1, 2))
    assert two.row_parts * two.filter_parts == 2
    assert two.memory <= 1.1 * 2 * one.memory


@pytest.mark.parametrize(
    ("g", "together"),
    [
        (square(2, 3, 8, 5, 1), 4),
        (square(1, 8, 6, 8, 1), 2),
        (square(3, 4, 2, 1, 1), 4),
        (square(1, 3, 7, 5, 1), 1),  # an odd number of pixels
        (square(1, 9, 8, 5, 1), 1),
        (square(1, 4, 8, 4, 1, groups=2), 1),
        (ConvGeometry(2, 2, 3, (2, 4, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), ((0, 0),) * 3, 1), 4),
    ],
    ids=lambda v: str(v) if isinstance(v, int) else f"{v.in_channels}-{v.out_channels}-{v.input}",
)
def test_pixels_of_1x1_layers_are_taken_together(monkeypatch, g, together):
    monkeypatch.setattr(weight_gradient, "_MANY", 0)
    monkeypatch.setattr(weight_gradient, "host", lambda: Host(64, 32))
    weight_gradient._together.cache_clear()
    assert weight_gradient._together(g, "float32", weight_gradient.host()) == together
    x, _, _, dy = integers(g, "float32", "together")
    (x, x_memory), (dy, dy_memory) = guarded(x), guarded(dy)
    out, memory = guarded(np.full(g.w_shape, np.nan, "float32"))
    weight_gradient.conv_backward_weight(dy, x, out, g)
    needed = weight_gradient.workspace_bytes(g, "float32")
    weight_gradient._together.cache_clear()
    assert all(untouched(m, a.size) for m, a in ((memory, out), (x_memory, x), (dy_memory, dy)))
    assert_exact(out, reference.conv_backward_weight(dy, x, g.w_shape, **words(g)))
    assert needed >= (4 * together**2 * math.prod(g.w_shape) if together > 1 else 0)


def test_taps_of_few_channels_are_taken_for_channels():
    """But not where a micro-kernel would be compiled for next to nothing."""

    def forward(g: ConvGeometry) -> bool:
        return few_channels_forward.pays(g, "float32")

    for pays in (forward, few_channels_weights.pays):
        assert pays(square(1, 3, 40, 8, 3, pad=1))
        assert not pays(square(1, 64, 9, 4, 3, pad=1))
    assert not forward(square(1, 3, 9, 4, 3, pad=1))
    assert forward(square(1, 3, 60, 8, 1))
    assert not few_channels_weights.pays(square(1, 3, 60, 8, 1))


def test_more_channels_are_too_where_there_is_more_to_do_and_memory():
    def forward(g: ConvGeometry) -> bool:
        return few_channels_forward.pays(g, "float32")

    assert forward(square(8, 16, 40, 16, 3, pad=1))
    assert forward(square(8, 32, 28, 32, 5, pad=2))
    assert not forward(square(8, 16, 40, 16, 1))  # no taps
    assert not forward(square(8, 16, 9, 16, 3, pad=1))  # little to do
    assert not forward(square(1, 16, 20, 16, 7, pad=3))  # all weights are half of the arrays
    assert not forward(square(8, 48, 40, 16, 3, pad=1))


def test_products_are_scattered_where_that_is_less_work():
    pays = few_channels_gradient.pays
    assert pays(square(1, 3, 112, 64, 7, stride=2, pad=3), "float32")
    assert pays(square(1, 3, 32, 32, 3, pad=1), "float32")
    assert not pays(square(1, 64, 56, 64, 3, pad=1), "float32")
    assert not pays(square(1, 16, 40, 16, 7, pad=3), "float32")
    assert not pays(square(1, 3, 32, 32, 1), "float32")
    assert not pays(square(1, 6, 32, 32, 3, pad=1, groups=2), "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "g",
    [
        square(2, 20, 7, 50, 5),  # a border as wide as the image
        square(1, 13, 9, 9, 3, stride=2, pad=1),
        square(1, 40, 5, 3, 3, pad=2),
        ConvGeometry(2, 21, 8, (4, 9), (3, 4), (2, 1), (2, 1), ((1, 3), (2, 0)), 1),
    ],
    ids=lambda g: f"{g.in_channels}-{g.out_channels}-{g.input}",
)
def test_scattered_products_of_any_number_of_channels(g, dtype):
    _, w, _, dy = integers(g, dtype, f"scattered-{g.in_channels}")
    (dy, of_dy), (w, of_w) = guarded(dy), guarded(w)
    dx, memory = guarded(np.full(g.x_shape, np.nan, dtype))
    few_channels_gradient.conv_backward_input(dy, w, dx, g)
    assert_exact(dx, reference.conv_backward_input(dy, w, g.x_shape, **words(g)))
    for guard, inside in ((memory, dx), (of_dy, dy), (of_w, w)):
        assert untouched(guard, inside.size)


def test_relu_where_results_are_stored():
    g = square(1, 5, 6, 9, 3, pad=1)
    x, w, bias, dy = integers(g, "float32", "relu")
    x[0, 3, 3, 2] = np.nan
    y, *_ = three(g, x, w, bias, dy, relu=True)
    want = reference.conv(x, w, bias, **words(g))
    assert np.isnan(y).any()
    np.testing.assert_array_equal(y, np.where(want < 0, 0, want))


def test_the_bits_do_not_depend_on_the_number_of_threads():
    g = square(4, 20, 25, 40, 3, pad=1)
    rng = generator("threads")
    x, w, bias, dy = (
        rng.standard_normal(s, dtype="float32")
        for s in (g.x_shape, g.w_shape, (g.out_channels,), g.y_shape)
    )
    results = []
    for count in (1, 2, 3, 8):
        set_threads(count)
        results.append(three(g, x, w, bias, dy))
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert one.tobytes() == other.tobytes()
    y, dx, dw = results[0]
    assert_close(y, reference.conv(x.astype("f8"), w.astype("f8"), bias, **words(g)), 180)
    want = reference.conv_backward_weight(dy.astype("f8"), x.astype("f8"), g.w_shape, **words(g))
    assert_close(dw, want, 2500)
    want = reference.conv_backward_input(dy.astype("f8"), w.astype("f8"), g.x_shape, **words(g))
    assert_close(dx, want, 360)


@pytest.mark.parametrize(
    "g", [square(8, 20, 12, 50, 5), square(1, 17, 31, 35, 3, pad=1)], ids=lambda g: str(g.x_shape)
)
def test_nor_do_those_of_small_gradients_of_weights(g):
    """Where memory is short, it must not decide by the number of threads what is summed when."""
    rng = generator("few")
    x, dy = (rng.standard_normal(s, dtype="float32") for s in (g.x_shape, g.y_shape))
    results = []
    for count in (1, 2, 7):
        set_threads(count)
        results.append(np.full(g.w_shape, np.nan, "float32"))
        weight_gradient.conv_backward_weight(dy, x, results[-1], g)
    assert len({dw.tobytes() for dw in results}) == 1
    exact = reference.conv_backward_weight(dy.astype("f8"), x.astype("f8"), g.w_shape, **words(g))
    assert_close(results[0], exact, g.batch * math.prod(g.output))


def test_two_python_threads_at_once():
    set_threads(2)
    g = square(2, 16, 12, 16, 3, pad=1)
    x, w, bias, dy = integers(g, "float32", "python threads")
    want = three(g, x, w, bias, dy)
    wrong: list[int] = []

    def work():
        for turn in range(20):
            for one, other in zip(want, three(g, x, w, bias, dy), strict=True):
                if one.tobytes() != other.tobytes():
                    wrong.append(turn)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_views_in_and_out():
    """Any strides but those of the channels; what lies between the results is left alone."""
    g = square(2, 6, 7, 10, 3, pad=1)
    x, w, bias, _ = integers(g, "float32", "views")
    wide = np.full((2, 7, 14, 9), 99, "float32")
    wide[:, :, ::2, :6] = x
    into = np.full((2, 7, 21, 12), -7, "float32")
    y = into[:, :, 1::3, 1:11]
    direct.conv_forward(wide[:, :, ::2, :6], w, bias, y, g)
    assert_exact(y, reference.conv(x, w, bias, **words(g)))
    y[...] = -7
    assert (into == -7).all()


@pytest.mark.parametrize("g", [square(0, 3, 5, 4, 3), square(0, 16, 5, 4, 1)], ids=["3x3", "1x1"])
def test_an_empty_batch(g):
    dw = np.full(g.w_shape, np.nan, "float32")
    x, dy = np.empty(g.x_shape, "float32"), np.empty(g.y_shape, "float32")
    weight_gradient.conv_backward_weight(dy, x, dw, g)
    assert (dw == 0).all()
    direct.conv_forward(x, dw, None, dy, g)
    direct.conv_backward_input(dy, dw, x, g)


SMALL = [square(1, 32, 15, 64, 3), square(8, 64, 6, 64, 3), square(1, 3, 32, 32, 3)]
MANY = [square(1, 8, 64, 16, 3, pad=1), square(1, 200, 14, 256, 1)]


def memory_of(call):
    """The most that a call allocates, beyond what its first call keeps."""
    call()
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("g", [*SMALL, *MANY], ids=lambda g: f"{g.x_shape}-{g.out_channels}")
def test_the_workspace_is_what_is_stated(g):
    set_threads(1)  # of several, some may come too late to need memory
    x, w, _, dy = integers(g, "float32", "workspace")
    y, dx = np.empty_like(dy), np.empty_like(x)
    for stated, call in (
        (direct.workspace_bytes, partial(direct.conv_forward, x, w, None, y, g)),
        (direct.backward_input_workspace_bytes, partial(direct.conv_backward_input, dy, w, dx, g)),
    ):
        needed, peak = stated(g, "float32"), memory_of(call)
        assert needed <= peak + 1024
        assert peak <= needed + 8 * 1024


@pytest.mark.parametrize("g", [*SMALL, square(1, 64, 6, 64, 3)], ids=lambda g: str(g.x_shape))
def test_small_arrays_need_little_more(g):
    set_threads(2)
    arrays = 4 * sum(math.prod(shape) for shape in (g.x_shape, g.w_shape, g.y_shape))
    assert direct.workspace_bytes(g, "float32") <= arrays / 4
    assert direct.backward_input_workspace_bytes(g, "float32") <= arrays / 3


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_weights_read_where_they_are(shift):
    """Rows as long as the micro-kernel's, whatever address they begin at; others are packed."""
    of = direct.host()
    g = square(2, 20, 9, most_vectors(of) * of.lanes("float32"), 3)
    assert direct.reads_in_place(g, "float32", of)
    assert not direct.reads_in_place(square(2, 20, 9, 7, 3), "float32", of)
    x, w, bias, _ = integers(g, "float32", "in place")
    moved = np.full(w.size + shift + 1, np.nan, "float32")[shift : shift + w.size].reshape(w.shape)
    moved[...] = w
    moved.flags.writeable = False
    y = np.empty(g.y_shape, "float32")
    direct.conv_forward(x, moved, bias, y, g)
    assert_exact(y, reference.conv(x, w, bias, **words(g)))


@pytest.mark.parametrize("g", [*SMALL, *MANY], ids=lambda g: f"{g.x_shape}-{g.out_channels}")
def test_the_workspace_of_the_weights_gradient(g):
    set_threads(1)
    x, w, _, dy = integers(g, "float32", "workspace")
    call = partial(weight_gradient.conv_backward_weight, dy, x, np.empty_like(w), g)
    needed, peak = weight_gradient.workspace_bytes(g, "float32"), memory_of(call)
    assert needed <= peak + 1024
    assert peak <= needed + 8 * 1024


@pytest.mark.parametrize(
    "g",
    [
        *SMALL[:2],
        square(32, 3, 32, 32, 3),
        square(8, 20, 12, 50, 5),
        square(1, 20, 12, 50, 5),
        square(1, 17, 31, 35, 3, pad=1),
        square(1, 13, 57, 29, 3, stride=2, pad=1),
        square(1, 16, 40, 16, 7, pad=3),
        square(1, 100, 28, 77, 1),
    ],
    ids=lambda g: f"{g.x_shape}-{g.out_channels}",
)
def test_the_weights_gradient_of_small_arrays(g):
    set_threads(2)
    arrays = 4 * sum(math.prod(shape) for shape in (g.x_shape, g.w_shape, g.y_shape))
    assert weight_gradient.workspace_bytes(g, "float32") <= arrays / 4
