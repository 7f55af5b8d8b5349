"""Keras's word for ``gpuconv.data.load_fashion_mnist``."""

from gpuconv.data.datasets import load_fashion_mnist as load_data

__all__ = ["load_data"]
