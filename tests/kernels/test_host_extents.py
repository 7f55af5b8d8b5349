"""The extents that CPU kernels are given, written out by hand."""

from __future__ import annotations

from gpuconv.geometry import ConvGeometry
from gpuconv_kernels.host.extents import extents_of


def test_the_dimensions_that_are_missing_come_first() -> None:
    line = ConvGeometry(2, 3, 8, (9,), (3,), (2,), (1,), ((-1, 2),), 1)
    assert extents_of(line) == (
        (1, 1, 9),
        (1, 1, 4),
        (1, 1, 2),
        (1, 1, 1),
        (0, 0, -1),
        (1, 1, 3),
    )
    plane = ConvGeometry(1, 4, 4, (11, 20), (3, 5), (1, 2), (2, 1), ((4, 0), (1, 3)), 4)
    assert extents_of(plane)._asdict() == {
        "input": (1, 11, 20),
        "output": (1, 11, 10),
        "stride": (1, 1, 2),
        "dilation": (1, 2, 1),
        "before": (0, 4, 1),
        "kernel": (1, 3, 5),
    }
