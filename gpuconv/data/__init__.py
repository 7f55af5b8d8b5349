"""Data sets, and the batches that training loops iterate over.

What fetches and unpacks files is loaded when it is first used: training does without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpuconv.data.adapt import make_batches, split_validation
from gpuconv.data.batches import ArrayBatches, Batch, Batches
from gpuconv.data.checks import check_finite
from gpuconv.data.dataset import Dataset
from gpuconv.data.digits import digits_notice, load_digits
from gpuconv.data.iterables import IterableBatches
from gpuconv.data.mixup import mixup

_NAMES = {
    "CIFAR10_NAMES": "gpuconv.data.datasets",
    "DownloadError": "gpuconv.data.download",
    "FASHION_MNIST_NAMES": "gpuconv.data.datasets",
    "fetch_file": "gpuconv.data.download",
    "image_folder": "gpuconv.data.image_files",
    "load_cifar10": "gpuconv.data.datasets",
    "load_cifar100": "gpuconv.data.datasets",
    "load_fashion_mnist": "gpuconv.data.datasets",
    "load_mnist": "gpuconv.data.datasets",
}

__all__ = [
    "CIFAR10_NAMES",
    "FASHION_MNIST_NAMES",
    "ArrayBatches",
    "Batch",
    "Batches",
    "Dataset",
    "DownloadError",
    "IterableBatches",
    "check_finite",
    "digits_notice",
    "fetch_file",
    "image_folder",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "make_batches",
    "mixup",
    "split_validation",
]

if TYPE_CHECKING:
    from gpuconv.data.datasets import (
        CIFAR10_NAMES,
        FASHION_MNIST_NAMES,
        load_cifar10,
        load_cifar100,
        load_fashion_mnist,
        load_mnist,
    )
    from gpuconv.data.download import DownloadError, fetch_file
    from gpuconv.data.image_files import image_folder


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'gpuconv.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value  # later uses do not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
