"""Are gradients right? Two ways to find out that need no second implementation.

- The inner-product identity of a bilinear operation,
  ``<op(x, w), g> = <x, backward_input(g, w)> = <w, backward_weight(g, x)>``, exact up to
  rounding in any dtype, and with small integers exact.
- Central differences along random directions, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import device_of, to_device, to_numpy
from gpuconv.testing.differences import Floats, as_float64, compare_gradient, inner_product, normal
from gpuconv.testing.tolerances import tolerance as rounding_tolerance

if TYPE_CHECKING:
    from gpuconv.backends.base import Array


def check_inner_product(
    forward: Callable[[Array, Array], Array],
    backward_input: Callable[[Array, Array], Array],
    backward_weight: Callable[[Array, Array], Array],
    x: Array,
    w: Array,
    dy: Array,
    exact: bool = False,
) -> None:
    """Check both backwards of a bilinear operation against its forward.

    Args:
        forward: ``(x, w) -> y``, without bias.
        backward_input: ``(dy, w) -> dx``.
        backward_weight: ``(dy, x) -> dw``.
        x, w, dy: arrays of one floating dtype; ``dy`` has the shape of ``y``.
        exact: allow no difference, for small integers stored as floats.

    Raises:
        AssertionError: a gradient of the wrong shape, or products that differ; says which.
    """
    y = to_numpy(forward(x, w))
    assert y.shape == dy.shape, f"forward gives the shape {y.shape}; dy has {dy.shape}"
    expected = inner_product(y, dy)
    size = inner_product(np.abs(y), np.abs(to_numpy(dy)))
    allowed = 0.0 if exact else rounding_tolerance(y.dtype, max(y.size, x.size, w.size)) * size
    for name, value, gradient in (
        ("backward_input", x, backward_input(dy, w)),
        ("backward_weight", w, backward_weight(dy, x)),
    ):
        assert tuple(gradient.shape) == tuple(value.shape), (
            f"{name} gives the shape {tuple(gradient.shape)} for a value of {tuple(value.shape)}"
        )
        product = inner_product(value, gradient)
        assert abs(product - expected) <= allowed, (
            f"{name}: <value, gradient> = {product!r} where <y, dy> = {expected!r}; "
            f"difference {abs(product - expected):.3g}, allowed {allowed:.3g}"
        )


def check_directional(
    function: Callable[..., Array],
    backward: Callable[[Array], Any],
    inputs: Array | Sequence[Array],
    names: Sequence[str] | None = None,
    directions: int = 2,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Check a gradient against differences along random directions.

    Args:
        function: ``(*inputs) -> y``, deterministic, computing in float64.
        backward: ``dy -> gradient``, a list of them for a list of inputs, taken at ``inputs``.
        inputs: one float64 array or a list of them.
        names: what to call the inputs in errors; "input 0", ... if None.
        directions: random directions for each input.
        tolerance: relative error allowed.
        seed: of directions and ``dy``.

    Raises:
        AssertionError: lists every input whose gradient is wrong, and by how much.
    """
    several = isinstance(inputs, (list, tuple))
    arrays = list(inputs) if several else [inputs]
    device = device_of(arrays[0])
    values = [np.array(as_float64(v, "input")) for v in arrays]
    rng = np.random.default_rng(seed)

    def evaluate(host: Sequence[Floats]) -> Floats:
        return as_float64(function(*(to_device(v, device) for v in host)), "output")

    dy = normal(rng, evaluate(values).shape)
    found = backward(to_device(dy, device))
    gradients = list(found) if several else [found]
    assert len(gradients) == len(values), f"{len(gradients)} gradients for {len(values)} inputs"
    labels = names or [f"input {i}" for i in range(len(values))]
    problems = []
    for i, (label, gradient) in enumerate(zip(labels, gradients, strict=True)):

        def moved(value: Floats, i: int = i) -> Floats:
            return evaluate([*values[:i], value, *values[i + 1 :]])

        problems += compare_gradient(
            label, moved, values[i], gradient, dy, directions, tolerance, rng
        )
    _report(problems)


def check_layer(
    layer: Any,
    x: Array | Sequence[Array],
    training: bool = True,
    reset: Callable[[], None] | None = None,
    directions: int = 2,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Check a layer's input and parameter gradients, and its manners.

    Besides the gradients: inputs and ``dy`` stay unmodified, gradients have the shapes of
    their values, a second backward ADDS into ``.grad``, parameters that are not trainable
    get none. Parameters get back the values they had after the first forward; gradients are
    forgotten.

    Args:
        layer: has ``forward(x, training) -> (y, backward)`` and ``parameters``; its values
            must be float64. Built by the first forward if it was not.
        x: one float64 array, or a list for a layer of several inputs.
        training: passed to ``forward``.
        reset: called before each forward, to rewind a random state (dropout).
        directions, tolerance, seed: as in :func:`check_directional`.

    Raises:
        AssertionError: lists every input and parameter whose gradient is wrong.
    """
    several = isinstance(x, (list, tuple))
    arrays = list(x) if several else [x]
    device = device_of(arrays[0])
    values = [np.array(as_float64(v, "input")) for v in arrays]
    rng = np.random.default_rng(seed)

    def forward(given: Sequence[Array]) -> tuple[Array, Callable[[Array], Any]]:
        if reset is not None:
            reset()
        y, backward = layer.forward(list(given) if several else given[0], training=training)
        return y, backward

    def evaluate(host: Sequence[Floats]) -> Floats:
        return as_float64(forward([to_device(v, device) for v in host])[0], "output")

    dy = normal(rng, evaluate(values).shape)  # this builds the layer
    parameters = list(layer.parameters)
    saved = [p.numpy() for p in parameters]
    try:
        gradients = _backward_twice(forward, parameters, values, dy, device)
        problems = []
        for i, gradient in enumerate(gradients):

            def move_input(value: Floats, i: int = i) -> Floats:
                return evaluate([*values[:i], value, *values[i + 1 :]])

            label = f"input {i}" if several else "input"
            problems += compare_gradient(
                label, move_input, values[i], gradient, dy, directions, tolerance, rng
            )
        for p, value in zip(parameters, saved, strict=True):
            if not p.trainable:
                continue

            def move_parameter(moved: Floats, p: Any = p) -> Floats:
                p.assign(moved)
                return evaluate(values)

            start = as_float64(value, f"parameter {p.path!r}")
            gradient = to_numpy(p.grad) / 2  # two backward passes
            problems += compare_gradient(
                f"parameter {p.path!r}",
                move_parameter,
                start,
                gradient,
                dy,
                directions,
                tolerance,
                rng,
            )
            p.assign(value)
    finally:
        for p, value in zip(parameters, saved, strict=True):
            p.assign(value)
            p.zero_grad()
    _report(problems)


def _backward_twice(
    forward: Callable[[Sequence[Array]], tuple[Array, Callable[[Array], Any]]],
    parameters: list[Any],
    values: list[Floats],
    dy: Floats,
    device: str,
) -> list[Any]:
    """Return the input gradients; ``.grad`` then holds twice each parameter's gradient."""
    for p in parameters:
        p.zero_grad()
    once: list[Any] = []
    for turn in range(2):
        given = [to_device(v.copy(), device) for v in values]
        upstream = to_device(dy.copy(), device)
        _, backward = forward(given)
        found = backward(upstream)
        assert np.array_equal(to_numpy(upstream), dy), "backward modified dy"
        for i, (before, after) in enumerate(zip(values, given, strict=True)):
            assert np.array_equal(before, to_numpy(after)), f"the layer modified its input {i}"
        for p in parameters:
            if not p.trainable:
                assert p.grad is None, f"{p.path!r} is not trainable but has a gradient"
                continue
            assert p.grad is not None, f"{p.path!r} is trainable but has no gradient"
            gradient = to_numpy(p.grad)
            assert gradient.shape == p.shape, (
                f"{p.path!r} of shape {p.shape} has a gradient of shape {gradient.shape}"
            )
            if turn == 0:
                once.append(gradient.copy())
            else:
                first = once.pop(0)
                assert np.allclose(gradient, 2 * first, rtol=1e-9, atol=1e-12), (
                    f"{p.path!r}: a second backward must add to the gradient"
                )
    gradients = list(found) if isinstance(found, (list, tuple)) else [found]
    assert len(gradients) == len(values), f"{len(gradients)} gradients for {len(values)} inputs"
    return gradients


def _report(problems: list[str]) -> None:
    if problems:
        raise AssertionError("wrong gradient\n" + "\n".join(f"  {p}" for p in problems))
