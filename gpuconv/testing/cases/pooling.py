# ruff: noqa: E501  (one case a line reads best)
"""Poolings worth testing, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxPoolCase:
    """One max pooling, channels-last. ``options`` are keyword arguments of ``gc.ops.max_poolNd``.

    ``ties`` asks for inputs with many equal values.
    """

    id: str
    input: tuple[int, ...]
    kernel_size: int | tuple[int, ...]
    batch: int = 2
    channels: int = 3
    stride: int | tuple[int, ...] | None = None
    padding: Any = 0
    dilation: int | tuple[int, ...] = 1
    ceil_mode: bool = False
    ties: bool = False

    def __str__(self) -> str:
        return self.id

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.input)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """(N, *in, C)."""
        return (self.batch, *self.input, self.channels)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the operation."""
        return {
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "ceil_mode": self.ceil_mode,
        }


# fmt: off
MAX_POOL_CASES: Final = (
    MaxPoolCase(id="1d", input=(9,), kernel_size=2),
    MaxPoolCase(id="1d-overlap", input=(7,), kernel_size=3, stride=1, padding=1),
    MaxPoolCase(id="1d-stride-over-kernel", input=(11,), kernel_size=2, stride=4),
    MaxPoolCase(id="1d-ceil", input=(8,), kernel_size=3, stride=3, ceil_mode=True),
    MaxPoolCase(id="2d", input=(6, 4), kernel_size=2),
    MaxPoolCase(id="2d-odd", input=(7, 5), kernel_size=2),
    MaxPoolCase(id="2d-ties", input=(6, 6), kernel_size=2, ties=True),
    MaxPoolCase(id="2d-overlap-ties", input=(7, 6), kernel_size=3, stride=2, padding=1, ties=True),
    MaxPoolCase(id="2d-batch-0", input=(6, 4), kernel_size=2, batch=0),
    MaxPoolCase(id="2d-batch-1-one-channel", input=(5, 5), kernel_size=3, stride=2, batch=1, channels=1),
    MaxPoolCase(id="2d-many-channels", input=(4, 5), kernel_size=2, batch=1, channels=33),
    MaxPoolCase(id="2d-1x1", input=(3, 4), kernel_size=1),
    MaxPoolCase(id="2d-1x1-stride-2", input=(5, 4), kernel_size=1, stride=2),
    MaxPoolCase(id="2d-global", input=(4, 3), kernel_size=(4, 3)),
    MaxPoolCase(id="2d-rectangular", input=(6, 8), kernel_size=(3, 1), stride=(1, 3)),
    MaxPoolCase(id="2d-same", input=(7, 6), kernel_size=3, stride=2, padding="same"),
    MaxPoolCase(id="2d-same-even", input=(5, 7), kernel_size=2, stride=1, padding="same"),
    MaxPoolCase(id="2d-asymmetric-pads", input=(6, 5), kernel_size=3, stride=2, padding=((0, 1), (1, 0))),
    MaxPoolCase(id="2d-ceil", input=(8, 7), kernel_size=3, stride=2, ceil_mode=True),
    MaxPoolCase(id="2d-ceil-padded", input=(6, 7), kernel_size=3, stride=2, padding=1, ceil_mode=True),
    MaxPoolCase(id="2d-ceil-last-window-dropped", input=(3, 5), kernel_size=2, stride=2, padding=1, ceil_mode=True),
    MaxPoolCase(id="2d-ceil-window-over-input", input=(2, 3), kernel_size=3, stride=2, ceil_mode=True),
    MaxPoolCase(id="2d-dilation", input=(9, 8), kernel_size=3, stride=1, dilation=2),
    MaxPoolCase(id="2d-dilation-padded-ceil", input=(9, 8), kernel_size=(2, 3), stride=(3, 2), padding=(0, 1), dilation=(3, 2), ceil_mode=True),
    MaxPoolCase(id="3d", input=(4, 5, 6), kernel_size=2, channels=2),
    MaxPoolCase(id="3d-overlap-ties", input=(4, 3, 5), kernel_size=(2, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), channels=2, ties=True),
    MaxPoolCase(id="3d-dilation-ceil", input=(5, 4, 6), kernel_size=2, stride=2, dilation=(2, 1, 3), ceil_mode=True, channels=2),
)
# fmt: on


@dataclass(frozen=True, kw_only=True, slots=True)
class AvgPoolCase:
    """One average pooling, channels-last. ``options`` are keyword arguments of ``gc.ops.avg_poolNd``."""

    id: str
    input: tuple[int, ...]
    kernel_size: int | tuple[int, ...]
    batch: int = 2
    channels: int = 3
    stride: int | tuple[int, ...] | None = None
    padding: Any = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    def __str__(self) -> str:
        return self.id

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.input)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """(N, *in, C)."""
        return (self.batch, *self.input, self.channels)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the operation."""
        return {
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "ceil_mode": self.ceil_mode,
            "count_include_pad": self.count_include_pad,
            "divisor_override": self.divisor_override,
        }


# fmt: off
AVG_POOL_CASES: Final = (
    AvgPoolCase(id="1d", input=(9,), kernel_size=2),
    AvgPoolCase(id="1d-padded", input=(7,), kernel_size=3, stride=2, padding=1),
    AvgPoolCase(id="1d-ceil-without-pad", input=(8,), kernel_size=3, stride=3, padding=1, ceil_mode=True, count_include_pad=False),
    AvgPoolCase(id="2d", input=(6, 4), kernel_size=2),
    AvgPoolCase(id="2d-batch-0", input=(6, 4), kernel_size=2, batch=0),
    AvgPoolCase(id="2d-batch-1", input=(7, 5), kernel_size=3, stride=2, batch=1),
    AvgPoolCase(id="2d-many-channels", input=(4, 5), kernel_size=2, batch=1, channels=33),
    AvgPoolCase(id="2d-1x1-stride-2", input=(5, 4), kernel_size=1, stride=2),
    AvgPoolCase(id="2d-global", input=(4, 3), kernel_size=(4, 3)),
    AvgPoolCase(id="2d-stride-over-kernel", input=(9, 8), kernel_size=2, stride=(3, 5)),
    AvgPoolCase(id="2d-overlap", input=(6, 7), kernel_size=3, stride=1, padding=1),
    AvgPoolCase(id="2d-without-pad", input=(6, 7), kernel_size=3, stride=2, padding=1, count_include_pad=False),
    AvgPoolCase(id="2d-same-real-elements", input=(7, 6), kernel_size=3, stride=2, padding="same", count_include_pad=False),
    AvgPoolCase(id="2d-same-even", input=(5, 7), kernel_size=2, stride=1, padding="same", count_include_pad=False),
    AvgPoolCase(id="2d-asymmetric-pads", input=(6, 5), kernel_size=3, stride=2, padding=((0, 1), (1, 0))),
    AvgPoolCase(id="2d-ceil", input=(8, 7), kernel_size=3, stride=2, ceil_mode=True),
    AvgPoolCase(id="2d-ceil-padded", input=(6, 7), kernel_size=3, stride=2, padding=1, ceil_mode=True),
    AvgPoolCase(id="2d-ceil-padded-without-pad", input=(6, 7), kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    AvgPoolCase(id="2d-ceil-last-window-dropped", input=(3, 5), kernel_size=2, stride=2, padding=1, ceil_mode=True),
    AvgPoolCase(id="2d-ceil-window-over-input", input=(2, 3), kernel_size=3, stride=2, ceil_mode=True),
    AvgPoolCase(id="2d-divisor", input=(6, 5), kernel_size=(2, 3), divisor_override=5),
    AvgPoolCase(id="2d-divisor-padded-ceil", input=(6, 7), kernel_size=3, stride=2, padding=1, ceil_mode=True, divisor_override=2),
    AvgPoolCase(id="3d", input=(4, 5, 6), kernel_size=2, channels=2),
    AvgPoolCase(id="3d-padded-ceil", input=(4, 3, 5), kernel_size=(2, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), ceil_mode=True, channels=2),
    AvgPoolCase(id="3d-same", input=(4, 3, 5), kernel_size=(2, 3, 2), stride=2, padding="same", count_include_pad=False, channels=2),
)
# fmt: on
