"""What ``gpuconv train`` can be told to learn, and what is to learn it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv import data, zoo
from gpuconv.errors import InvalidArgumentError
from gpuconv.layers import Input, Rescaling
from gpuconv.models import Model, Sequential

Array = np.ndarray[Any, Any]
Split = tuple[Array, Array]


@dataclass(frozen=True)
class Images:
    """A data set: images (N, H, W, C) and labels (N,).

    Attributes:
        train, test: images and labels.
        largest: value of full ink or light.
        names: of the classes; None: their numbers.
    """

    train: Split
    test: Split
    largest: float
    names: Sequence[str] | None = None

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.train[1].max()) + 1

    def name(self, label: int) -> str:
        """What a label means."""
        return str(label) if self.names is None else self.names[label]


def _digits(path: str | None) -> Images:
    if path is not None:
        raise InvalidArgumentError(
            f"the digits come with the package, so --data-path has no meaning. Received: {path}"
        )
    return Images(*data.load_digits(), largest=16.0)


def _mnist(path: str | None) -> Images:
    return _official(data.load_mnist(path))


def _fashion_mnist(path: str | None) -> Images:
    return _official(data.load_fashion_mnist(path), data.FASHION_MNIST_NAMES)


def _cifar10(path: str | None) -> Images:
    return _official(data.load_cifar10(path), data.CIFAR10_NAMES)


def _cifar100(path: str | None) -> Images:
    return _official(data.load_cifar100(path))


def _official(splits: tuple[Split, Split], names: Sequence[str] | None = None) -> Images:
    train, test = ((x if x.ndim == 4 else x[..., np.newaxis], y.reshape(-1)) for x, y in splits)
    return Images(train, test, 255.0, names)


DATA: dict[str, Callable[[str | None], Images]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
}
"""By name: from a folder or archive, None for the package or a download, to the images."""

NETWORKS: tuple[str, ...] = (
    "digits",
    "seed",
    "lenet5",
    "resnet18",
    "mobilenet_v2",
    "vgg11",
    "alexnet",
)


def usual_network(data_name: str) -> str:
    """The network for a data set if none is named."""
    return "digits" if data_name == "digits" else "seed"


def network(name: str, images: Images) -> Model:
    """Build one of ``NETWORKS`` for a data set: values are scaled, probabilities come out.

    Raises:
        InvalidArgumentError: images that are too small for it.
    """
    shape = tuple(int(extent) for extent in images.train[0].shape[1:])
    scaling = Rescaling(1 / images.largest)
    if name == "digits":
        made = zoo.digits_network(shape, images.classes)  # type: ignore[arg-type]
        return Sequential([Input(shape), scaling, *made.layers[1:]], name=name)
    if name == "seed":
        made = zoo.seed_network(shape, images.classes)  # type: ignore[arg-type]
        return Sequential([Input(shape), scaling, *made.layers], name=name)
    maker: Any = getattr(zoo, name)
    inner = maker(input_shape=shape, classes=images.classes, classifier_activation="softmax")
    return Sequential([Input(shape), scaling, inner], name=f"{name}_images")
