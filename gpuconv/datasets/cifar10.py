"""Keras's word for ``gpuconv.data.load_cifar10``."""

from gpuconv.data.datasets import load_cifar10 as load_data

__all__ = ["load_data"]
