"""Layers by class name: what a model's configuration holds, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from gpuconv.configurable import Registry, snake_case
from gpuconv.errors import InvalidArgumentError
from gpuconv.layers.base import Layer

L = TypeVar("L", bound=Layer)

_registry: Registry[Layer] = Registry("layer", Layer)


def register(cls: type[L]) -> type[L]:
    """Make a layer class known by its name, so that models with it can be saved and loaded.

    May be used as a decorator.

    Raises:
        InvalidArgumentError: not a subclass of :class:`Layer`.
    """
    _registry.register(cls, snake_case(getattr(cls, "__name__", "")))
    return cls


def serialize(layer: Layer) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, from which :func:`deserialize` builds a layer.

    Raises:
        InvalidArgumentError: the layer's class was not registered.
    """
    return _registry.serialize(layer)


def deserialize(config: Mapping[str, Any]) -> Layer:
    """Build a layer, without weights, from :func:`serialize`'s dict.

    Raises:
        InvalidArgumentError: not such a dict, or an unknown class name.
        UnknownArgumentError: the configuration holds an argument that the layer does not have.
    """
    if not isinstance(config, Mapping) or "class_name" not in config:
        raise InvalidArgumentError(
            f"expected a dict with 'class_name' and 'config'. Received: {config!r}"
        )
    return _registry.get(config)
