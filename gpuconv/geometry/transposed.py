"""The extent and pads of a transposed convolution, from user words.

A transposed convolution is the gradient of a convolution with respect to its input, so it is
described by that convolution: the small side is its output, the large side its input. The pads
returned here belong to it; ``hi`` is negative where output padding reaches beyond the last window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuconv.errors import InvalidArgumentError, ShapeError, suggestion
from gpuconv.geometry.padding import Pads, explicit_pads
from gpuconv.geometry.words import as_tuple


def transposed_extents(
    small: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Any,
    output_padding: Any,
    dilation: Sequence[int],
) -> tuple[tuple[int, ...], Pads]:
    """Return the large extents and the pads of the convolution that leads back.

    Args:
        small: spatial extents of the transposed convolution's input, ``i``.
        kernel, stride, dilation: one int a dimension; ``e = d*(k - 1) + 1`` below.
        padding: numbers as PyTorch's (``out = (i-1)*s - lo - hi + e + output_padding``),
            ``"valid"`` (``out = (i-1)*s + max(e, s)``) or ``"same"`` (``out = i*s``), both as
            Keras's; with an explicit ``output_padding`` (Keras) ``(i-1)*s + e + output_padding``
            and ``(i-1)*s + e % 2 + output_padding``.
        output_padding: None, an int, or one a dimension; below stride or dilation.

    Raises:
        InvalidArgumentError: an unknown word, negative numbers, or too large an output padding.
        ShapeError: nothing is left of the output.
    """
    rank = len(kernel)
    extra = check_output_padding(output_padding, stride, dilation) or (None,) * rank
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    checked = check_transposed_padding(padding, rank)
    if isinstance(checked, str):
        sides = [_keras(checked, *each) for each in zip(small, reach, stride, extra, strict=True)]
    else:
        sides = [
            ((i - 1) * s - lo - hi + e + (op or 0), lo)
            for i, e, s, op, (lo, hi) in zip(small, reach, stride, extra, checked, strict=True)
        ]
    large = tuple(out for out, _ in sides)
    if min(large) < 1:
        raise ShapeError(
            f"padding must leave something of the output. Received: input {tuple(small)}, kernel "
            f"{tuple(kernel)}, stride {tuple(stride)}, padding {padding!r}, which would give the "
            f"output {large}"
        )
    return large, tuple(
        (lo, (i - 1) * s + e - out - lo)
        for i, e, s, (out, lo) in zip(small, reach, stride, sides, strict=True)
    )


def check_transposed_padding(padding: Any, rank: int) -> str | Pads:
    """Return ``"valid"`` or ``"same"`` in lower case, or numbers as pads.

    Raises:
        InvalidArgumentError: an unknown word, negative numbers, or the wrong number of them.
    """
    if not isinstance(padding, str):
        return explicit_pads(padding, rank)
    word = padding.lower()
    if word not in ("valid", "same"):
        raise InvalidArgumentError(
            f"padding of a transposed convolution must be 'valid', 'same' or numbers."
            f"{suggestion(word, ['valid', 'same'])} Received: {padding!r}"
        )
    return word


def check_output_padding(
    output_padding: Any, stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...] | None:
    """Return one output padding a dimension, or None as it came.

    Raises:
        InvalidArgumentError: negative, or as large as both stride and dilation.
    """
    if output_padding is None:
        return None
    given = as_tuple(output_padding, len(stride), "output_padding", 0)
    for value, s, d in zip(given, stride, dilation, strict=True):
        if value >= max(s, d):
            raise InvalidArgumentError(
                f"output_padding must be smaller than stride or dilation. Received: "
                f"output_padding {output_padding!r}, stride {tuple(stride)}, dilation "
                f"{tuple(dilation)}"
            )
    return given


def _keras(word: str, i: int, e: int, s: int, extra: int | None) -> tuple[int, int]:
    """Return (output extent, lo) for one dimension by Keras's rule.

    Keras counts the zeros ``total`` around the stride-dilated input; ``e - 1`` of them on the left
    correspond to no cropping of the output.
    """
    if word == "valid":
        return (i - 1) * s + e + (max(s - e, 0) if extra is None else extra), 0
    total = s + e - 2 if extra is None else e + e % 2 - 2 + extra
    left = min(total - total // 2, e - 1)
    return (i - 1) * s + total - e + 2, e - 1 - left
