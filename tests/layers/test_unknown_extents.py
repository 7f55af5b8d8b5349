"""Shapes whose extents are not known yet: every layer, every combination of axes, many extents."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpuconv import layers
from gpuconv.errors import GpuconvError, ShapeError
from gpuconv.geometry import where_known
from gpuconv.layers import Layer
from gpuconv.testing.cases.layers import LAYER_CASES, LayerCase

SPATIAL = [c for c in LAYER_CASES if len(c.shape[0] if isinstance(c.shape, list) else c.shape) > 2]


def subsets(axes: range) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(axes, n) for n in range(1, len(axes) + 1)))


def inputs_of(case: LayerCase) -> list[tuple[Any, ...]]:
    given: Any = case.shape if case.several else [case.shape]
    return [tuple(shape) for shape in given]


def changed(case: LayerCase, axes: tuple[int, ...], change: Any) -> Any:
    """The case's shape with other entries for these axes, and no batch size."""
    several = [
        (None, *(change(n) if axis in axes else n for axis, n in enumerate(shape) if axis))
        for shape in inputs_of(case)
    ]
    return several if case.several else several[0]


def channels_second(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    return (shape[0], shape[-1], *shape[1:-1])


def longer(extent: int, by: int) -> int:
    return extent if extent == 1 else extent + by  # where others are repeated


def weights_along(case: LayerCase) -> set[int]:
    """The axes of which each position has weights of its own."""
    found = {1} if str(case) == "Normalization-given-invert" else set()  # it has numbers, no arrays
    shapes = []
    for axes in [(), *((axis,) for axis in range(1, len(inputs_of(case)[0]) - 1))]:
        layer = case.make()
        layer.build(changed(case, axes, lambda n: 4 * n))
        shapes.append([array.shape for array in layer.state().values()])
    return found.union(axis for axis, shape in enumerate(shapes) if shape != shapes[0])


def compare(case: LayerCase, layer: Any, axes: tuple[int, ...], turn: Any) -> None:
    """Unknown extents give None where the output's extent depends on them, and nowhere else."""
    found = layer.compute_output_shape(turn(changed(case, axes, lambda n: None)))
    seen = []
    for by in range(9):
        shape = turn(changed(case, axes, lambda n, by=by: longer(n, by)))
        try:
            seen.append(layer.compute_output_shape(shape))
        except ShapeError:
            assert case.cls is layers.Reshape, "numbers of elements that do not fit"
    assert len(seen) > 1
    for extent, known in zip(found, zip(*seen, strict=True), strict=True):
        assert extent == (known[0] if len(set(known)) == 1 else None), (axes, found, seen)


@pytest.mark.parametrize("case", SPATIAL, ids=str)
def test_every_layer_says_of_unknown_extents_what_it_says_of_known_ones(case: LayerCase) -> None:
    along = weights_along(case)
    for axes in subsets(range(1, len(inputs_of(case)[0]) - 1)):
        layer, unknown = case.make(), changed(case, axes, lambda n: None)
        if along.intersection(axes):
            with pytest.raises(ShapeError, match=r"must be known\. Received: shape \(None, "):
                layer.build(unknown)
        else:
            compare(case, layer, axes, lambda shape: shape)


@pytest.mark.parametrize("case", [c for c in SPATIAL if c.has_data_format], ids=str)
def test_channels_first(case: LayerCase) -> None:
    for axes in subsets(range(1, len(inputs_of(case)[0]) - 1)):
        compare(case, case.make(data_format="channels_first"), axes, channels_second)


@pytest.mark.parametrize("case", [c for c in SPATIAL if not weights_along(c)], ids=str)
def test_weights_and_outputs_are_those_of_a_layer_for_one_size(case: LayerCase) -> None:
    open_one, known = case.make(name="same"), case.make(name="same")
    axes = tuple(range(1, len(inputs_of(case)[0]) - 1))
    open_one.build(changed(case, axes, lambda n: None))
    known.build(changed(case, axes, lambda n: n))
    shapes = [{name: a.shape for name, a in layer.state().items()} for layer in (open_one, known)]
    assert shapes[0] == shapes[1]
    known.set_weights(open_one.get_weights())
    for batch in (1, 3):
        x = case.input(seed=batch, batch=batch)
        np.testing.assert_array_equal(open_one(x), known(x))


WINDOWS = [
    (layers.Conv2D, {"filters": 2, "kernel_size": 7}),
    (layers.DepthwiseConv2D, {"kernel_size": 3, "dilation_rate": 3}),
    (layers.SeparableConv2D, {"filters": 2, "kernel_size": (7, 1)}),
    (layers.MaxPooling2D, {"pool_size": 7}),
    (layers.Conv2DTranspose, {"filters": 2, "kernel_size": 2, "padding": 6}),
]


@pytest.mark.parametrize(
    ("cls", "arguments"), WINDOWS, ids=lambda value: getattr(value, "__name__", "")
)
def test_extents_that_are_known_are_checked(cls: type[Any], arguments: dict[str, Any]) -> None:
    message = r"Received: input \(5, 1000000\).*, where 1000000 stands for an extent that is not "
    with pytest.raises(ShapeError, match=message):
        cls(**arguments).build((None, 5, None, 3))
    layer = cls(**arguments)
    layer.build((None, None, None, 3))
    with pytest.raises(ShapeError, match=r"Received: input \(5, 90\)"):
        layer(np.zeros((1, 5, 90, 3), np.float32))


ARGUMENTS = st.fixed_dictionaries(
    {
        "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "dilation": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "padding": st.sampled_from(["valid", "same", 0, 1, ((1, 0), (0, 1))]),
        "ceil_mode": st.booleans(),
        "kind": st.sampled_from(["conv", "reflect", "depthwise", "transposed", "max", "average"]),
    }
)


def windowed(
    kernel: Any, strides: Any, dilation: Any, padding: Any, ceil_mode: bool, kind: str
) -> Layer:
    if kind == "max":
        return layers.MaxPooling2D(kernel, strides, padding, dilation=dilation, ceil_mode=ceil_mode)
    if kind == "average":
        return layers.AveragePooling2D(kernel, strides, padding, ceil_mode=ceil_mode)
    words = {"strides": strides, "padding": padding, "dilation_rate": dilation}
    if kind == "depthwise":
        return layers.DepthwiseConv2D(kernel, **words)
    if kind == "transposed":
        return layers.Conv2DTranspose(2, kernel, **words)
    mode = "reflect" if kind == "reflect" else "zeros"
    return layers.Conv2D(2, kernel, padding_mode=mode, **words)


@settings(max_examples=250, deadline=None)
@given(arguments=ARGUMENTS, extents=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_windows_of_every_form(arguments: dict[str, Any], extents: tuple[int, int]) -> None:
    layer = windowed(**arguments)
    try:
        known = layer.compute_output_shape((None, *extents, 2))
    except GpuconvError:
        assume(False)
    for hidden in ((0,), (1,), (0, 1)):
        some = tuple(None if axis in hidden else n for axis, n in enumerate(extents))
        expected = tuple(None if axis in hidden else n for axis, n in enumerate(known[1:3]))
        assert layer.compute_output_shape((None, *some, 2)) == (None, *expected, known[3])


def test_errors_of_channels_do_not_speak_of_extents() -> None:
    with pytest.raises(ShapeError, match=r"multiple of groups \(2\)\. Received: 3$"):
        layers.Conv2D(4, 3, groups=2).build((None, None, None, 3))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("make", [lambda **f: layers.Conv2D(2, 3, **f), layers.MaxPooling2D])
def test_channels_must_be_known(make: Any, data_format: str) -> None:
    shape = (None, 8, 8, None) if data_format == "channels_last" else (None, None, 8, 8)
    with pytest.raises(ShapeError, match=r"number of channels must be known .*Received: shape"):
        make(data_format=data_format).build(shape)


def test_features_must_be_known() -> None:
    flat = layers.Flatten().compute_output_shape((None, None, 8, 3))
    assert flat == (None, None)
    with pytest.raises(ShapeError, match=r"Flatten; GlobalAveragePooling2D .*Received: shape \(N"):
        layers.Dense(2).build(flat)
    assert layers.Dense(2).compute_output_shape((None, None, None, 8)) == (None, None, None, 2)


def test_reshape_finds_out_when_data_come() -> None:
    layer = layers.Reshape((-1, 3))
    assert layer.compute_output_shape((None, None, None, 3)) == (None, None, 3)
    fixed = layers.Reshape((4, 3))
    assert fixed.compute_output_shape((None, None, None, 3)) == (None, 4, 3)
    fixed.build((None, None, None, 3))
    assert fixed(np.zeros((1, 2, 2, 3))).shape == (1, 4, 3)
    with pytest.raises(ShapeError, match=r"fits target_shape=\(4, 3\)"):
        fixed(np.zeros((1, 2, 3, 3)))


def test_who_computes_depends_on_the_extents() -> None:
    layer = layers.Conv2D(2, 3)
    for shape in ((None, 8, 8, 3), (1, None, 8, 3)):
        with pytest.raises(ShapeError, match=r"every extent, and on the batch\. Received: shape"):
            layer.explain(shape)
    assert layer.explain((1, 8, 8, 3)).engine


@pytest.mark.parametrize(
    ("shapes", "output"),
    [
        ([(None, None, 8, 2), (None, 6, None, 3)], (None, 6, 8, 5)),
        ([(None, None, 8, 2), (None, None, 8, 3)], (None, None, 8, 5)),
        ([(None, 6, 8, None), (None, None, 8, 3)], (None, 6, 8, None)),
    ],
)
def test_concatenated_inputs_tell_each_others_extents(shapes: Any, output: Any) -> None:
    assert layers.Concatenate().compute_output_shape(shapes) == output


def test_concatenated_extents_that_are_known_must_agree() -> None:
    layer = layers.Concatenate()
    with pytest.raises(ShapeError, match="agree but for axis -1"):
        layer.compute_output_shape([(None, None, 8, 2), (None, None, 7, 2)])
    with pytest.raises(ShapeError, match="agree but for axis -1"):
        layer.compute_output_shape([(None, None, 8, 2), (None, None, 8)])
    layer.build([(None, None, None, 2), (None, None, None, 2)])
    with pytest.raises(ShapeError, match="agree but for axis -1"):
        layer([np.zeros((1, 3, 4, 2)), np.zeros((1, 3, 5, 2))])


@pytest.mark.parametrize(
    ("shapes", "output"),
    [
        ([(None, None, 8, 2), (None, 6, 8, 2)], (None, 6, 8, 2)),
        ([(None, None, 1, 2), (None, 1, 8, 1)], (None, None, 8, 2)),
        ([(None, None, None, 2), (None, 1, 1, 2)], (None, None, None, 2)),
    ],
)
def test_added_inputs_tell_each_others_extents(shapes: Any, output: Any) -> None:
    assert layers.Add().compute_output_shape(shapes) == output


def test_known_extents_are_computed_with_as_they_are() -> None:
    assert where_known((3, 4), lambda known: tuple(2 * n for n in known)) == (6, 8)
    assert where_known((3, None), lambda known: tuple(2 * n for n in known)) == (6, None)
