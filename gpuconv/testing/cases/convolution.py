# ruff: noqa: E501  (one case a line reads best)
"""Convolutions and transposed convolutions worth testing, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvCase:
    """One convolution, channels-last. ``options`` are keyword arguments of ``gc.ops.convNd``."""

    id: str
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    batch: int = 2
    channels: int = 3
    filters: int = 4
    stride: int | tuple[int, ...] = 1
    padding: Any = 0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    padding_mode: str = "zeros"

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
    def w_shape(self) -> tuple[int, ...]:
        """(*k, C/g, F)."""
        return (*self.kernel, self.channels // self.groups, self.filters)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the operation."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "padding_mode": self.padding_mode,
        }

    @property
    def reduction_length(self) -> int:
        """Products summed for one output element."""
        length = self.channels // self.groups
        for k in self.kernel:
            length *= k
        return length


# Channels and filters that do not matter to a case are those of others: where they differ, kernels
# may be compiled for each.
# fmt: off
CONV_CASES: Final = (
    # one dimension
    ConvCase(id="1d", input=(9,), kernel=(3,)),
    ConvCase(id="1d-odd-stride", input=(11,), kernel=(4,), stride=3, padding=1),
    ConvCase(id="1d-causal-dilated", input=(8,), kernel=(3,), padding="causal", dilation=2),
    ConvCase(id="1d-same-even-kernel", input=(5,), kernel=(2,), padding="same"),
    ConvCase(id="1d-groups", input=(7,), kernel=(3,), channels=6, filters=9, groups=3, padding=1),
    ConvCase(id="1d-reflect", input=(5,), kernel=(3,), padding=((2, 1),), padding_mode="reflect"),
    ConvCase(id="1d-extent-1", input=(1,), kernel=(1,), batch=1, channels=1, filters=1),
    ConvCase(id="1d-unused-tail", input=(10,), kernel=(2,), stride=4),
    # two dimensions
    ConvCase(id="2d", input=(6, 5), kernel=(3, 3)),
    ConvCase(id="2d-batch-1", input=(6, 5), kernel=(3, 3), batch=1),
    ConvCase(id="2d-batch-0", input=(6, 5), kernel=(3, 3), batch=0, padding=1),
    ConvCase(id="2d-one-channel-one-filter", input=(5, 5), kernel=(3, 3), channels=1, filters=1),
    ConvCase(id="2d-1x1", input=(5, 4), kernel=(1, 1), channels=5, filters=7),
    ConvCase(id="2d-1x1-stride-2", input=(5, 4), kernel=(1, 1), stride=2),
    ConvCase(id="2d-1x1-padded", input=(3, 4), kernel=(1, 1), padding=1),
    ConvCase(id="2d-kernel-is-input", input=(4, 3), kernel=(4, 3), filters=5),
    ConvCase(id="2d-kernel-larger-than-input", input=(2, 3), kernel=(5, 5), padding=2),
    ConvCase(id="2d-rectangular", input=(4, 9), kernel=(1, 5), padding=(0, 2)),
    ConvCase(id="2d-even-kernel", input=(6, 7), kernel=(2, 4), padding=1),
    ConvCase(id="2d-same", input=(7, 6), kernel=(3, 3), padding="same"),
    ConvCase(id="2d-same-stride-2", input=(8, 7), kernel=(3, 3), stride=2, padding="same"),
    ConvCase(id="2d-same-stride-3-dilated", input=(8, 7), kernel=(3, 2), stride=(3, 2), padding="same", dilation=2),
    ConvCase(id="2d-same-stride-over-kernel", input=(7, 8), kernel=(2, 1), stride=3, padding="same"),
    ConvCase(id="2d-stride-2-3", input=(9, 10), kernel=(3, 3), stride=(2, 3), padding=1),
    ConvCase(id="2d-stride-over-kernel", input=(11, 9), kernel=(2, 2), stride=(3, 4)),
    ConvCase(id="2d-stride-over-input", input=(4, 4), kernel=(2, 2), stride=7),
    ConvCase(id="2d-asymmetric-pads", input=(5, 6), kernel=(3, 3), padding=((0, 2), (3, 1))),
    ConvCase(id="2d-asymmetric-pads-stride", input=(6, 5), kernel=(3, 2), stride=2, padding=((1, 0), (0, 2))),
    ConvCase(id="2d-large-pads", input=(3, 2), kernel=(2, 2), padding=4),
    ConvCase(id="2d-large-pads-stride", input=(3, 2), kernel=(2, 2), stride=3, padding=5),
    ConvCase(id="2d-dilation", input=(9, 8), kernel=(3, 2), dilation=(2, 3), padding=2),
    ConvCase(id="2d-dilation-stride", input=(11, 10), kernel=(3, 3), stride=2, dilation=3, padding=3),
    ConvCase(id="2d-dilation-4-stride-6", input=(15, 9), kernel=(3, 2), stride=6, dilation=4, padding=3),
    ConvCase(id="2d-groups", input=(5, 6), kernel=(3, 3), channels=4, filters=6, groups=2, padding=1),
    ConvCase(id="2d-groups-stride", input=(7, 6), kernel=(3, 3), channels=6, filters=3, groups=3, stride=2, padding=1),
    ConvCase(id="2d-depthwise", input=(6, 6), kernel=(3, 3), channels=5, filters=5, groups=5, padding=1),
    ConvCase(id="2d-depthwise-multiplier", input=(6, 5), kernel=(3, 3), channels=4, filters=8, groups=4, stride=2, padding=1),
    ConvCase(id="2d-depthwise-dilation", input=(8, 8), kernel=(3, 3), channels=4, filters=4, groups=4, dilation=2, padding=2),
    ConvCase(id="2d-one-more-than-a-tile", input=(9, 17), kernel=(3, 3), batch=1, channels=17, filters=33, padding=1),
    ConvCase(id="2d-65-filters", input=(5, 5), kernel=(3, 3), batch=1, channels=2, filters=65),
    ConvCase(id="2d-7x7-stem", input=(15, 13), kernel=(7, 7), stride=2, padding=3),
    ConvCase(id="2d-reflect", input=(5, 6), kernel=(3, 3), padding=2, padding_mode="reflect"),
    ConvCase(id="2d-replicate", input=(3, 4), kernel=(3, 3), padding=((4, 1), (0, 5)), padding_mode="replicate"),
    ConvCase(id="2d-circular", input=(3, 4), kernel=(3, 2), padding=((3, 2), (1, 4)), padding_mode="circular"),
    ConvCase(id="2d-circular-stride-groups", input=(5, 6), kernel=(3, 3), stride=2, padding=1, channels=4, groups=2, padding_mode="circular"),
    # three dimensions
    ConvCase(id="3d", input=(4, 5, 3), kernel=(2, 3, 3), channels=2, filters=3),
    ConvCase(id="3d-same-stride", input=(5, 4, 6), kernel=(3, 3, 2), channels=2, filters=3, stride=2, padding="same"),
    ConvCase(id="3d-all-different", input=(6, 5, 7), kernel=(2, 3, 1), channels=2, filters=2, stride=(1, 2, 3), padding=((1, 0), (2, 1), (0, 3)), dilation=(3, 1, 2)),
    ConvCase(id="3d-depthwise", input=(3, 4, 4), kernel=(3, 3, 3), channels=3, filters=3, groups=3, padding=1),
    ConvCase(id="3d-replicate", input=(2, 3, 3), kernel=(2, 2, 2), channels=2, filters=2, padding=1, padding_mode="replicate"),
    ConvCase(id="3d-batch-0", input=(3, 3, 3), kernel=(2, 2, 2), batch=0),
)
# fmt: on


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvTransposeCase:
    """One transposed convolution, channels-last, its weights in Keras's order (*k, out, in).

    ``options`` are keyword arguments of ``gc.ops.conv_transposeNd``.
    """

    id: str
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    batch: int = 2
    channels: int = 3
    filters: int = 4
    stride: int | tuple[int, ...] = 1
    padding: Any = 0
    output_padding: int | tuple[int, ...] = 0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1

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
    def w_shape(self) -> tuple[int, ...]:
        """(*k, F/g, C)."""
        return (*self.kernel, self.filters // self.groups, self.channels)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the operation."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    @property
    def reduction_length(self) -> int:
        """At most this many products are summed for one output element."""
        length = self.channels // self.groups
        for k in self.kernel:
            length *= k
        return length


# fmt: off
CONV_TRANSPOSE_CASES: Final = (
    ConvTransposeCase(id="1d", input=(5,), kernel=(3,)),
    ConvTransposeCase(id="1d-stride-output-padding", input=(4,), kernel=(3,), stride=3, padding=1, output_padding=2),
    ConvTransposeCase(id="1d-stride-over-kernel", input=(4,), kernel=(2,), stride=5),
    ConvTransposeCase(id="2d", input=(4, 3), kernel=(3, 3)),
    ConvTransposeCase(id="2d-batch-1-one-pixel", input=(1, 1), kernel=(3, 2), batch=1),
    ConvTransposeCase(id="2d-batch-0", input=(3, 3), kernel=(3, 3), batch=0, stride=2),
    ConvTransposeCase(id="2d-1x1", input=(4, 3), kernel=(1, 1), channels=5, filters=2),
    ConvTransposeCase(id="2d-stride-2", input=(4, 5), kernel=(4, 4), stride=2, padding=1),
    ConvTransposeCase(id="2d-output-padding", input=(4, 3), kernel=(3, 3), stride=(2, 3), padding=1, output_padding=(1, 2)),
    ConvTransposeCase(id="2d-asymmetric-pads", input=(4, 4), kernel=(3, 4), stride=2, padding=((0, 1), (2, 1))),
    ConvTransposeCase(id="2d-dilation", input=(4, 3), kernel=(3, 2), dilation=(2, 3), padding=1),
    ConvTransposeCase(id="2d-dilation-output-padding", input=(3, 3), kernel=(2, 2), dilation=3, output_padding=2),
    ConvTransposeCase(id="2d-stride-over-kernel", input=(3, 4), kernel=(2, 1), stride=3),
    ConvTransposeCase(id="2d-pads-cut-whole-taps", input=(5, 5), kernel=(3, 3), padding=2),
    ConvTransposeCase(id="2d-groups", input=(4, 3), kernel=(3, 3), channels=4, filters=6, groups=2, stride=2, padding=1),
    ConvTransposeCase(id="2d-depthwise", input=(4, 3), kernel=(3, 3), channels=3, filters=6, groups=3, stride=2),
    ConvTransposeCase(id="3d-stride-output-padding", input=(2, 3, 2), kernel=(3, 2, 2), channels=2, filters=3, stride=2, padding=(1, 0, 0), output_padding=(1, 0, 1)),
    ConvTransposeCase(id="3d-groups-dilation", input=(2, 2, 3), kernel=(2, 2, 2), channels=2, filters=4, groups=2, dilation=(2, 1, 1)),
)
# fmt: on
