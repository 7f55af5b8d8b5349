"""Sequential under PyTorch 2.13's signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuconv import models
from gpuconv.errors import InvalidArgumentError
from gpuconv.layers.base import Layer, check_layer_name


def Sequential(*args: Any) -> models.Sequential:
    """Layers one after another, as ``torch.nn.Sequential``.

    Args:
        args: the layers; or one dict (such as an OrderedDict) from names to layers.

    Returns:
        A ``gpuconv.models.Sequential`` on the device of its layers' parameters. Its inputs are
        channels-first where its layers' are. ``fit``, ``save`` and the rest work as ever.

    Raises:
        InvalidArgumentError: something that is not a layer, a layer or name twice, layers of two
            dtypes or devices.
    """
    if len(args) == 1 and isinstance(args[0], Mapping):
        named = dict(args[0])
        for name, layer in named.items():
            if isinstance(layer, Layer):
                layer.name, layer.named_by_user = check_layer_name(name), True
        args = tuple(named.values())
    built = [layer for layer in args if isinstance(layer, Layer) and layer.parameters]
    devices = sorted({layer.backend for layer in built if layer.backend is not None})
    if len(devices) > 1:
        raise InvalidArgumentError(
            f"all layers of a Sequential lie on one device. Received: {', '.join(devices)}"
        )
    return models.Sequential(args, backend=devices[0] if devices else None)
