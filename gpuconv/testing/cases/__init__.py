"""What to test with: tables of operations with good and bad arguments, and arrays to feed them.

A case is data with a readable id, made for ``pytest.mark.parametrize(..., ids=str)``. The table of
layers is not re-exported here, so that tests of kernels need no layer: see :mod:`.layers`.
"""

from gpuconv.testing.cases.arrays import distinct_values, generator, small_integers, views_of
from gpuconv.testing.cases.convolution import (
    CONV_CASES,
    CONV_TRANSPOSE_CASES,
    ConvCase,
    ConvTransposeCase,
)
from gpuconv.testing.cases.errors import ERROR_CASES, ErrorCase, Zeros
from gpuconv.testing.cases.pooling import (
    AVG_POOL_CASES,
    MAX_POOL_CASES,
    AvgPoolCase,
    MaxPoolCase,
)

__all__ = [
    "AVG_POOL_CASES",
    "CONV_CASES",
    "CONV_TRANSPOSE_CASES",
    "ERROR_CASES",
    "MAX_POOL_CASES",
    "AvgPoolCase",
    "ConvCase",
    "ConvTransposeCase",
    "ErrorCase",
    "MaxPoolCase",
    "Zeros",
    "distinct_values",
    "generator",
    "small_integers",
    "views_of",
]
