"""Every kind of padding that a user may name, as ``(lo, hi)`` a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gpuconv.errors import InvalidArgumentError, shown, suggestion
from gpuconv.geometry.words import as_int, as_tuple

Pads = tuple[tuple[int, int], ...]

PADDING_MODES: Final = ("zeros", "reflect", "replicate", "circular")


def same_pads(input: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Keras's and TensorFlow's "same" for one dimension: ``out = ceil(in / stride)``.

    The extra element goes to the end: in 224, kernel 7, stride 2 -> (2, 3).
    """
    out = -(-input // stride)
    total = max((out - 1) * stride + dilation * (kernel - 1) + 1 - input, 0)
    return total // 2, total - total // 2


def torch_same_pads(kernel: int, dilation: int = 1) -> tuple[int, int]:
    """PyTorch's "same" for one dimension and stride 1, the extra element at the end."""
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2


def resolve_padding(
    padding: Any,
    input: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    allow_causal: bool = True,
) -> Pads:
    """Turn a user's padding into ``((lo, hi), ...)``.

    Args:
        padding: an int, one int a dimension, ``(lo, hi)`` a dimension, ``"valid"``,
            ``"same"`` (Keras's rule, any stride) or, in one dimension, ``"causal"``.
        input: spatial extents.
        kernel, stride, dilation: one int a dimension.
        allow_causal: pooling has no causal form.

    Raises:
        InvalidArgumentError: an unknown word, a negative pad, or the wrong number of entries.
    """
    rank = len(kernel)
    if isinstance(padding, str):
        return _resolve_word(padding.lower(), input, kernel, stride, dilation, allow_causal)
    return explicit_pads(padding, rank)


def explicit_pads(padding: Any, rank: int, name: str = "padding") -> Pads:
    """Turn an int, one int a dimension, or ``(lo, hi)`` a dimension into pads.

    Raises:
        InvalidArgumentError: none of these, or negative.
    """
    entries = list(padding) if isinstance(padding, Sequence) else None
    if entries and any(isinstance(e, Sequence) for e in entries):
        pairs = all(isinstance(e, Sequence) and len(e) == 2 for e in entries)
        if len(entries) != rank or not pairs:
            raise InvalidArgumentError(
                f"{name} must hold one (lo, hi) pair for each of {rank} dimension(s). "
                f"Received: {shown(padding)}"
            )
        return tuple((as_int(lo, name, 0), as_int(hi, name, 0)) for lo, hi in entries)
    return tuple((p, p) for p in as_tuple(padding, rank, name, minimum=0))


def _resolve_word(
    word: str,
    input: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    allow_causal: bool,
) -> Pads:
    rank = len(kernel)
    if word == "valid":
        return ((0, 0),) * rank
    if word == "same":
        return tuple(
            same_pads(i, k, s, d)
            for i, k, s, d in zip(input, kernel, stride, dilation, strict=True)
        )
    if word == "causal" and allow_causal:
        if rank != 1:
            raise InvalidArgumentError(
                f"padding='causal' exists for one spatial dimension only. Received: {rank}"
            )
        return ((dilation[0] * (kernel[0] - 1), 0),)
    words = ["valid", "same"] + (["causal"] if allow_causal and rank == 1 else [])
    raise InvalidArgumentError(
        f"padding must be an int, a tuple of ints or of (lo, hi) pairs, or one of {words}."
        f"{suggestion(word, words)} Received: {word!r}"
    )
