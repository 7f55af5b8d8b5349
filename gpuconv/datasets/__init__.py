"""The classic data sets in Keras's words: ``(x, y), (x_test, y_test) = mnist.load_data()``.

Each is a function of ``gpuconv.data``: the official files, fetched once and kept, or yours.
"""

from gpuconv.datasets import cifar10, cifar100, fashion_mnist, mnist

__all__ = ["cifar10", "cifar100", "fashion_mnist", "mnist"]
