"""What ``gpuconv train`` can be told to learn, and what is to learn it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuconv import zoo
from gpuconv.data.named import OFFICIAL, Images, digits
from gpuconv.errors import InvalidArgumentError
from gpuconv.layers import Input, Rescaling
from gpuconv.models import Model, Sequential


def _digits(path: str | None) -> Images:
    if path is not None:
        raise InvalidArgumentError(
            f"the digits come with the package, so --data-path has no meaning. Received: {path}"
        )
    return digits()


DATA: dict[str, Callable[[str | None], Images]] = {
    "digits": _digits,
    **{name: official.images for name, official in OFFICIAL.items()},
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
