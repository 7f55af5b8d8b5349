"""``gpuconv.explain``: who would compute an operation on these shapes, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gpuconv.backends.selection import resolve_device
from gpuconv.containers import FLOATS
from gpuconv.dispatch import Decision, select
from gpuconv.errors import UnknownArgumentError, one_of, suggestion
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.ops import conv, conv_transpose, layouts, pooling
from gpuconv.ops.arguments import shape_tuple

_CONV = ("stride", "padding", "dilation", "groups", "padding_mode")
_TRANSPOSE = ("stride", "padding", "output_padding", "groups", "dilation")
_MAX_POOL = ("stride", "padding", "dilation", "ceil_mode")
_AVG_POOL = ("stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_WORDS = {
    "conv": _CONV,
    "conv_transpose": _TRANSPOSE,
    "max_pool": _MAX_POOL,
    "avg_pool": _AVG_POOL,
}
_GRADIENTS = ("", "_backward_input", "_backward_weight")
_TRANSPOSED_GRADIENTS = {
    "": "conv_backward_input",
    "_backward_input": "conv_forward",
    "_backward_weight": "conv_backward_weight",
}
NAMES = tuple(
    [f"conv{r}d{g}" for r in (1, 2, 3) for g in _GRADIENTS]
    + [f"conv_transpose{r}d{g}" for r in (1, 2, 3) for g in _GRADIENTS]
    + [f"{k}_pool{r}d{g}" for k in ("max", "avg") for r in (1, 2, 3) for g in ("", "_backward")]
)
"""Every operation that can be explained: convolution and pooling in ``gpuconv.ops``."""


def explain(
    op: str,
    x_shape: Sequence[int],
    w_shape: Any,
    dtype: str = "float32",
    backend: str | None = None,
    layout: str | None = None,
    **options: Any,
) -> Decision:
    """Say which engine would carry out an operation, by which algorithm, and why.

    Nothing is computed, measured or allocated. ``print`` shows the decision with all candidates:
    their algorithms, predicted times (and measured ones, where ``config.autotune`` has some),
    workspaces, and the reasons.

    Args:
        op: a name in ``gpuconv.ops``, such as ``"conv2d"`` or ``"conv2d_backward_weight"``.
        x_shape: shape of the forward operation's input, the batch first.
        w_shape: shape of the weights; for pooling the window.
        dtype: ``"float32"`` (default) or ``"float64"``.
        backend: device or engine; None: what is in force.
        layout: as in the operation; channels-last by default.
        options: the operation's own arguments: stride, padding, dilation, groups, ...

    Raises:
        InvalidArgumentError, ShapeError: as the operation itself.
        UnknownArgumentError: an argument that it does not have.
        BackendUnavailableError: the backend that was named cannot run here.
    """
    one_of(op, NAMES, "op")
    one_of(dtype, FLOATS, "dtype")
    matched = re.match(r"(conv|conv_transpose|max_pool|avg_pool)(\d)d(.*)", op)
    assert matched is not None  # NAMES holds nothing else
    kind, rank, gradient = matched[1], int(matched[2]), matched[3]
    layout = layouts.LAYOUTS[rank][0] if layout is None else layout
    first = layouts.is_channels_first(layout, rank)
    known = _WORDS[kind]
    for word in options:
        if word not in known:
            raise UnknownArgumentError(
                f"{op} has no argument {word!r}.{suggestion(word, known)} "
                f"Received: {word}={options[word]!r}"
            )
    x = layouts.shape_last(shape_tuple(x_shape, rank, "x_shape", layout), first)
    geometry: ConvGeometry | PoolGeometry
    if kind.endswith("pool"):
        name, geometry = f"{kind}{gradient}", pooling.geometry_of(rank, x, w_shape, **options)
    else:
        names = layouts.kernel_layout(rank, first)
        w = layouts.kernel_shape_last(shape_tuple(w_shape, rank, "w_shape", names), first)
        if kind == "conv":
            name = f"conv{gradient or '_forward'}"
            geometry = conv.problem_of(rank, x, w, **options).geometry
        else:
            name = _TRANSPOSED_GRADIENTS[gradient]
            geometry = conv_transpose.problem_of(rank, x, w, **options).geometry
    if backend is None:
        return select(name, geometry, dtype, resolve_device()[0])
    from gpuconv.backends.selection import use_backend

    with use_backend(backend):
        return select(name, geometry, dtype, resolve_device()[0])
