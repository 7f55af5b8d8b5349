"""A model once more, with weights of its own."""

from __future__ import annotations

from typing import Any

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, shown
from gpuconv.models.model import Model


def clone_model(model: Model) -> Any:
    """Return a model of equal layers with new first weights, as ``keras.models.clone_model``.

    It is not compiled, and built if ``model`` is. ``clone.set_weights(model.get_weights())`` makes
    it predict the same.

    Raises:
        InvalidArgumentError: not a model, or one with layers that were not registered.
    """
    if not isinstance(model, Model):
        raise InvalidArgumentError(f"expected a model. Received: {shown(model)}")
    twin: Any = layers.deserialize(layers.serialize(model))
    if model.built and not twin.built:
        twin.build(model.built_shape)
    return twin
