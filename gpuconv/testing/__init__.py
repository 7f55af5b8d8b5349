"""Tools for tests: a float64 reference, gradient checks, tolerances and tables of cases.

Tests and benchmarks import this package; nothing else does.
"""

from gpuconv.testing.differences import numerical_gradient
from gpuconv.testing.gradients import check_directional, check_inner_product, check_layer
from gpuconv.testing.tolerances import assert_close, assert_exact, tolerance

__all__ = [
    "assert_close",
    "assert_exact",
    "check_directional",
    "check_inner_product",
    "check_layer",
    "numerical_gradient",
    "tolerance",
]
