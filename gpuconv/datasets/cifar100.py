"""Keras's word for ``gpuconv.data.load_cifar100``."""

from gpuconv.data.datasets import load_cifar100 as load_data

__all__ = ["load_data"]
