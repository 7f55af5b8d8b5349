# ruff: noqa: E501  (one case a line reads best)
"""Calls of ``gpuconv.ops`` that must be refused, each with its error and what the message says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gpuconv.errors import DTypeError, GpuconvError, InvalidArgumentError, ShapeError


@dataclass(frozen=True, slots=True)
class Zeros:
    """An array argument, made when the case runs."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorCase:
    """``gc.ops.<function>(*arguments, **options)`` must raise ``error`` matching ``match``."""

    id: str
    function: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    error: type[Exception]
    match: str

    def __str__(self) -> str:
        return self.id

    def call(self, ops: Any) -> Any:
        """Make the call on a module that has the operations."""
        arguments = [
            np.zeros(a.shape, a.dtype) if isinstance(a, Zeros) else a for a in self.arguments
        ]
        return getattr(ops, self.function)(*arguments, **self.options)


X, W = Zeros((2, 6, 5, 3)), Zeros((3, 3, 3, 4))
X_1D, W_1D = Zeros((2, 6, 3)), Zeros((3, 3, 4))
X_3D, W_3D = Zeros((2, 4, 5, 6, 3)), Zeros((2, 2, 2, 3, 4))
DY = Zeros((2, 4, 3, 4))
TRANSPOSED = Zeros((3, 3, 4, 3))


def _conv(
    id: str, error: type[Exception], match: str, x: Any = X, w: Any = W, **options: Any
) -> ErrorCase:
    return ErrorCase(
        id=f"conv2d-{id}",
        function="conv2d",
        arguments=(x, w),
        options=options,
        error=error,
        match=match,
    )


def _case(
    id: str, function: str, error: type[Exception], match: str, *arguments: Any, **options: Any
) -> ErrorCase:
    return ErrorCase(
        id=f"{function}-{id}",
        function=function,
        arguments=arguments,
        options=options,
        error=error,
        match=match,
    )


# fmt: off
_CONV_ERRORS = (
    # arrays
    _conv("input-without-batch", ShapeError, r"Received: .*\(6, 5, 3\)", x=Zeros((6, 5, 3))),
    _conv("input-rank-5", ShapeError, r"Received: .*\(1, 2, 6, 5, 3\)", x=Zeros((1, 2, 6, 5, 3))),
    _conv("input-none", GpuconvError, r"Received: .*None", x=None),
    _conv("kernel-rank-3", ShapeError, r"Received: .*\(3, 3, 4\)", w=Zeros((3, 3, 4))),
    _conv("channels-differ", ShapeError, r"(?i)channel", w=Zeros((3, 3, 2, 4))),
    _conv("channels-differ-in-groups", ShapeError, r"(?i)channel", w=Zeros((3, 3, 3, 4)), x=Zeros((2, 6, 5, 4)), groups=2),
    _conv("channels-last-for-channels-first", ShapeError, r"(?i)channel", layout="NCHW"),
    _conv("no-channels", ShapeError, r"(?i)channel", x=Zeros((2, 6, 5, 0)), w=Zeros((3, 3, 0, 4))),
    _conv("no-filters", ShapeError, r"(?i)filter|output channel", w=Zeros((3, 3, 3, 0))),
    _conv("kernel-of-extent-0", InvalidArgumentError, r"(?i)kernel", w=Zeros((0, 3, 3, 4))),
    _conv("kernel-does-not-fit", ShapeError, r"(?s)(?=.*input)(?=.*kernel)(?=.*padding)", w=Zeros((7, 3, 3, 4))),
    _conv("dilated-kernel-does-not-fit", ShapeError, r"(?s)(?=.*input)(?=.*kernel)(?=.*padding)", dilation=3),
    _conv("empty-image", ShapeError, r"(?s)(?=.*input)(?=.*kernel)(?=.*padding)", x=Zeros((2, 0, 5, 3))),
    _conv("bias-of-other-length", ShapeError, r"(?i)bias", bias=np.zeros(5, np.float32)),
    _conv("bias-of-rank-2", ShapeError, r"(?i)bias", bias=np.zeros((1, 4), np.float32)),
    _conv("integers", DTypeError, r"int32", x=Zeros(X.shape, "int32"), w=Zeros(W.shape, "int32")),
    _conv("complex", DTypeError, r"complex64", x=Zeros(X.shape, "complex64")),
    _conv("bool", DTypeError, r"bool", x=Zeros(X.shape, "bool")),
    _conv("mixed-dtypes", DTypeError, r"float64", w=Zeros(W.shape, "float64")),
    _conv("bias-of-other-dtype", DTypeError, r"float64", bias=np.zeros(4, np.float64)),
    # numbers
    _conv("stride-0", InvalidArgumentError, r"stride.*Received: .*0", stride=0),
    _conv("stride-negative", InvalidArgumentError, r"stride.*Received: .*-1", stride=(1, -1)),
    _conv("stride-fraction", InvalidArgumentError, r"stride.*Received: 1\.5", stride=1.5),
    _conv("stride-word", InvalidArgumentError, r"stride.*Received: '2'", stride="2"),
    _conv("stride-bool", InvalidArgumentError, r"stride.*Received: True", stride=True),
    _conv("stride-too-many", InvalidArgumentError, r"stride.*Received: \(1, 1, 1\)", stride=(1, 1, 1)),
    _conv("dilation-0", InvalidArgumentError, r"dilation.*Received: .*0", dilation=0),
    _conv("groups-0", InvalidArgumentError, r"groups.*Received: 0", groups=0),
    _conv("groups-negative", InvalidArgumentError, r"groups.*Received: -1", groups=-1),
    _conv("groups-fraction", InvalidArgumentError, r"groups.*Received: 1\.5", groups=1.5),
    _conv("groups-do-not-divide-channels", InvalidArgumentError, r"group", w=Zeros((3, 3, 1, 4)), groups=2),
    _conv("groups-do-not-divide-filters", InvalidArgumentError, r"group", w=Zeros((3, 3, 1, 4)), groups=3),
    # padding
    _conv("padding-negative", InvalidArgumentError, r"padding.*Received: .*-1", padding=-1),
    _conv("padding-pair-negative", InvalidArgumentError, r"padding.*Received: .*-2", padding=((0, -2), (0, 0))),
    _conv("padding-too-many", InvalidArgumentError, r"padding.*Received: .*\(1, 1, 1\)", padding=(1, 1, 1)),
    _conv("padding-triples", InvalidArgumentError, r"padding", padding=((1, 1, 1), (1, 1, 1))),
    _conv("padding-fraction", InvalidArgumentError, r"padding.*Received: 0\.5", padding=0.5),
    _conv("padding-dict", InvalidArgumentError, r"padding.*Received: \{", padding={"lo": 1}),
    _conv("padding-none", InvalidArgumentError, r"padding.*Received: None", padding=None),
    _conv("padding-misspelt", InvalidArgumentError, r"Did you mean 'same'\?.*Received: 'sane'", padding="sane"),
    _conv("padding-causal-in-2d", InvalidArgumentError, r"causal", padding="causal"),
    _conv("padding-mode-misspelt", InvalidArgumentError, r"padding_mode.*Received: 'reflct'", padding=1, padding_mode="reflct"),
    _conv("padding-mode-list", InvalidArgumentError, r"padding_mode.*Received: \['zeros'\]", padding=1, padding_mode=["zeros"]),
    _conv("reflect-reaches-too-far", InvalidArgumentError, r"(?i)reflect", padding=((0, 0), (5, 0)), padding_mode="reflect"),
    _conv("circular-reaches-too-far", InvalidArgumentError, r"(?i)circular", padding=((0, 0), (0, 6)), padding_mode="circular"),
    # words
    _conv("layout-misspelt", InvalidArgumentError, r"layout.*Received: 'NWHC'", layout="NWHC"),
    _conv("layout-of-1d", InvalidArgumentError, r"layout.*Received: 'NWC'", layout="NWC"),
    _conv("keras-word", TypeError, r"strides", strides=2),
    # the others of the family
    _case("input-of-2d", "conv1d", ShapeError, r"Received", X, W_1D),
    _case("layout-of-2d", "conv1d", InvalidArgumentError, r"layout.*Received: 'NHWC'", X_1D, W_1D, layout="NHWC"),
    _case("input-of-2d", "conv3d", ShapeError, r"Received", X, W_3D),
    _case("stride-pair", "conv3d", InvalidArgumentError, r"stride.*Received: \(1, 2\)", X_3D, W_3D, stride=(1, 2)),
    _case("other-output", "conv2d_backward_input", ShapeError, r"Received", Zeros((2, 5, 3, 4)), W, X.shape),
    _case("other-batch", "conv2d_backward_input", ShapeError, r"Received", Zeros((1, 4, 3, 4)), W, X.shape),
    _case("other-filters", "conv2d_backward_input", ShapeError, r"Received", Zeros((2, 4, 3, 5)), W, X.shape),
    _case("other-channels", "conv2d_backward_input", ShapeError, r"(?i)channel", DY, W, (2, 6, 5, 2)),
    _case("shape-of-rank-3", "conv2d_backward_input", ShapeError, r"Received", DY, W, (2, 6, 5)),
    _case("mixed-dtypes", "conv2d_backward_input", DTypeError, r"float64", Zeros(DY.shape, "float64"), W, X.shape),
    _case("other-output", "conv2d_backward_weight", ShapeError, r"Received", Zeros((2, 4, 4, 4)), X, W.shape),
    _case("other-batch", "conv2d_backward_weight", ShapeError, r"Received", Zeros((3, 4, 3, 4)), X, W.shape),
    _case("other-channels", "conv2d_backward_weight", ShapeError, r"(?i)channel", DY, X, (3, 3, 2, 4)),
    _case("shape-of-rank-3", "conv2d_backward_weight", ShapeError, r"Received", DY, X, (3, 3, 4)),
)

_CONV_TRANSPOSE_ERRORS = (
    _case("input-rank-3", "conv_transpose2d", ShapeError, r"Received", Zeros((6, 5, 3)), TRANSPOSED),
    _case("channels-differ", "conv_transpose2d", ShapeError, r"(?i)channel", X, Zeros((3, 3, 4, 2))),
    _case("stride-0", "conv_transpose2d", InvalidArgumentError, r"stride", X, TRANSPOSED, stride=0),
    _case("output-padding-too-large", "conv_transpose2d", InvalidArgumentError, r"output_padding", X, TRANSPOSED, stride=2, output_padding=2),
    _case("output-padding-negative", "conv_transpose2d", InvalidArgumentError, r"output_padding", X, TRANSPOSED, stride=2, output_padding=-1),
    _case("padding-leaves-nothing", "conv_transpose2d", ShapeError, r"padding", Zeros((2, 1, 1, 3)), TRANSPOSED, padding=2),
    _case("groups-do-not-divide", "conv_transpose2d", InvalidArgumentError, r"group", X, TRANSPOSED, groups=2),
    _case("integers", "conv_transpose2d", DTypeError, r"int64", Zeros(X.shape, "int64"), Zeros(TRANSPOSED.shape, "int64")),
)

_EITHER_POOL_ERRORS = tuple(
    case
    for f in ("max_pool2d", "avg_pool2d")
    for case in (
        _case("input-rank-3", f, ShapeError, r"Received", Zeros((6, 5, 3)), 2),
        _case("kernel-0", f, InvalidArgumentError, r"(?i)kernel|window", X, 0),
        _case("kernel-of-three", f, InvalidArgumentError, r"(?i)kernel|window", X, (2, 2, 2)),
        _case("kernel-does-not-fit", f, ShapeError, r"(?s)(?=.*input)(?=.*(kernel|window))(?=.*padding)", X, 7),
        _case("stride-0", f, InvalidArgumentError, r"stride", X, 2, stride=0),
        _case("padding-over-half", f, InvalidArgumentError, r"padding", X, 2, padding=2),
        _case("padding-negative", f, InvalidArgumentError, r"padding", X, 2, padding=-1),
        _case("padding-misspelt", f, InvalidArgumentError, r"Did you mean 'valid'\?", X, 2, padding="vald"),
        _case("padding-causal", f, InvalidArgumentError, r"padding.*Received: 'causal'", X, 2, padding="causal"),
        _case("layout-misspelt", f, InvalidArgumentError, r"layout", X, 2, layout="NHCW"),
        _case("integers", f, DTypeError, r"int32", Zeros(X.shape, "int32"), 2),
    )
)

_ONE_POOL_ERRORS = (
    _case("dilation-0", "max_pool2d", InvalidArgumentError, r"dilation", X, 2, dilation=0),
    _case("divisor-0", "avg_pool2d", InvalidArgumentError, r"divisor_override", X, 2, divisor_override=0),
)
# fmt: on

ERROR_CASES: Final = (
    *_CONV_ERRORS,
    *_CONV_TRANSPOSE_ERRORS,
    *_EITHER_POOL_ERRORS,
    *_ONE_POOL_ERRORS,
)
