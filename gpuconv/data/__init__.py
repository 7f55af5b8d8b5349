"""Data sets, and the batches that training loops iterate over."""

from gpuconv.data.adapt import make_batches, split_validation
from gpuconv.data.batches import ArrayBatches, Batch, Batches
from gpuconv.data.checks import check_finite
from gpuconv.data.digits import digits_notice, load_digits
from gpuconv.data.iterables import IterableBatches

__all__ = [
    "ArrayBatches",
    "Batch",
    "Batches",
    "IterableBatches",
    "check_finite",
    "digits_notice",
    "load_digits",
    "make_batches",
    "split_validation",
]
