"""Which layer was the first to give numbers that are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuconv.backends.arrays import array_module
from gpuconv.layers.base import Layer
from gpuconv.tapping import paths_of, recorded


def first_not_finite(network: Layer, inputs: Any, losses: Mapping[str, Any] | None = None) -> str:
    """Run a batch as training does; return the path of the first layer with NaN or infinity.

    Args:
        network: what was run.
        inputs: of the batch.
        losses: by name, the total first.

    Returns:
        ``"conv2d"``, ``"block/conv2d"`` in a model inside; ``"the inputs"`` if they hold such
        numbers; if no layer gave any, ``"the loss"``, or of several ``"side_loss"``. Random
        layers draw anew, and moving statistics move once more.
    """
    if not _finite(inputs):
        return "the inputs"
    paths = {id(layer): path for path, layer in paths_of(network).items()}
    inside = [layer for layer in network.walk() if layer is not network and not layer.sublayers]
    with recorded(inside) as calls:
        network.run(inputs, training=True)
    for call in calls:
        if not _finite(call.y):
            return paths.get(id(call.layer), call.layer.name)
    guilty = [name for name, loss in (losses or {}).items() if not _finite(loss)]
    return guilty[1] if len(guilty) > 1 else "the loss"


def _finite(arrays: Any) -> bool:
    several = arrays if isinstance(arrays, (list, tuple)) else [arrays]
    return all(bool(array_module(array).isfinite(array).all()) for array in several)
