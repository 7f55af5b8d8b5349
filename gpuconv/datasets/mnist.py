"""Keras's word for ``gpuconv.data.load_mnist``."""

from gpuconv.data.datasets import load_mnist as load_data

__all__ = ["load_data"]
