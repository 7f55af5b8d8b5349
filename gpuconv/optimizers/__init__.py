"""Optimizers: ``optimizer.step(model.parameters)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuconv.configurable import Registry
from gpuconv.optimizers import schedules, torch_forms
from gpuconv.optimizers.adaptive import Adadelta, Adamax, Lion, Nadam
from gpuconv.optimizers.base import Optimizer
from gpuconv.optimizers.keras_forms import SGD, Adagrad, Adam, AdamW, RMSprop

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "get",
    "register",
    "schedules",
    "serialize",
    "torch_forms",
]

_registry: Registry[Optimizer] = Registry("optimizer", Optimizer)
for _cls in (SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax, Nadam, Lion):
    _registry.register(_cls, _cls.__name__.lower())
for _form in (
    torch_forms.SGD,
    torch_forms.Adam,
    torch_forms.AdamW,
    torch_forms.RMSprop,
    torch_forms.Adagrad,
):
    _name = _form.__name__
    _registry.register(_form, f"torch_{_name.lower()}", class_name=f"torch.{_name}")

register = _registry.register


def get(identifier: Optimizer | str | Mapping[str, Any] | type[Optimizer]) -> Optimizer:
    """Return an optimizer.

    Args:
        identifier: a name such as ``"adam"``, a dict from :func:`serialize`, an
            :class:`Optimizer` or its class.

    Raises:
        InvalidArgumentError: none of these, or an unknown name.
    """
    return _registry.get(identifier)


def serialize(optimizer: Optimizer) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which :func:`get` accepts.

    The state is apart: :meth:`Optimizer.state_dict`.

    Raises:
        InvalidArgumentError: the class was not registered.
    """
    return _registry.serialize(optimizer)
