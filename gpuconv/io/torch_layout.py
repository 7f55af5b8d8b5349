"""How the arrays of each layer are called and laid out in PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.backends.base import Array
from gpuconv.errors import InvalidArgumentError
from gpuconv.io.flattening import Order, feature_orders
from gpuconv.io.loading import leaves, own_state
from gpuconv.layers.base import Layer
from gpuconv.layers.batch_norm import BatchNormalization
from gpuconv.layers.convolution import ConvND
from gpuconv.layers.dense import Dense
from gpuconv.layers.depthwise import DepthwiseConvND
from gpuconv.layers.normalizing import Normalizing
from gpuconv.layers.preprocessing import Normalization
from gpuconv.layers.separable import SeparableConvND
from gpuconv.layers.transposed import ConvTransposeND

Floats = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class Layout:
    """An array that is the same in PyTorch, but for the order of features if one is given."""

    def __init__(self, order: Order | None = None) -> None:
        self.order = order

    def shape(self, ours: Shape) -> Shape:
        """PyTorch's shape for one of ours."""
        return ours

    def ours(self, theirs: Floats) -> Floats:
        """From PyTorch's layout."""
        return theirs if self.order is None else theirs[self.order]

    def theirs(self, ours: Floats) -> Floats:
        """To PyTorch's layout."""
        return ours if self.order is None else ours[np.argsort(self.order)]


class Rows(Layout):
    """A Dense kernel (in, out) <-> a Linear weight (out, in)."""

    def shape(self, ours: Shape) -> Shape:
        return ours[::-1]

    def ours(self, theirs: Floats) -> Floats:
        return super().ours(theirs.T)

    def theirs(self, ours: Floats) -> Floats:
        return super().theirs(ours).T


class Kernel(Layout):
    """(*k, I, O) <-> (O, I, *k), and for transposed convolutions (*k, O, I) <-> (I, O, *k)."""

    def shape(self, ours: Shape) -> Shape:
        return (ours[-1], ours[-2], *ours[:-2])

    def ours(self, theirs: Floats) -> Floats:
        return theirs.transpose(*range(2, theirs.ndim), 1, 0)

    def theirs(self, ours: Floats) -> Floats:
        return ours.transpose(ours.ndim - 1, ours.ndim - 2, *range(ours.ndim - 2))


class Depthwise(Layout):
    """(*k, C, m) <-> (C*m, 1, *k)."""

    def __init__(self, multiplier: int) -> None:
        super().__init__()
        self.multiplier = multiplier

    def shape(self, ours: Shape) -> Shape:
        return (ours[-1] * ours[-2], 1, *ours[:-2])

    def ours(self, theirs: Floats) -> Floats:
        split = theirs.reshape(-1, self.multiplier, *theirs.shape[2:])
        return split.transpose(*range(2, split.ndim), 0, 1)

    def theirs(self, ours: Floats) -> Floats:
        moved = ours.transpose(ours.ndim - 2, ours.ndim - 1, *range(ours.ndim - 2))
        return moved.reshape(-1, 1, *ours.shape[:-2])


@dataclass(frozen=True)
class Slot:
    """One array of the model, and its form in PyTorch.

    Attributes:
        path: where the model keeps it: ``"block/conv2d/kernel"``.
        target: the array.
        layout: between the two.
    """

    path: str
    target: Array
    layout: Layout

    @property
    def shape(self) -> Shape:
        """Its shape in PyTorch."""
        return self.layout.shape(tuple(self.target.shape))


@dataclass(frozen=True)
class TorchModule:
    """What is one module in PyTorch.

    Attributes:
        name: of the layer, with dots: ``"block.conv2d"``.
        slots: by PyTorch's last word: ``"weight"``.
        optional: PyTorch has no such module, so a file need not have it.
    """

    name: str
    slots: Mapping[str, Slot]
    optional: bool = False


def torch_modules(model: Layer) -> list[TorchModule]:
    """The modules that a model would be in PyTorch, in the order of its layers.

    Raises:
        NotBuiltError: a layer has no weights yet.
        InvalidArgumentError: two layers have one name in PyTorch.
    """
    found = []
    orders = feature_orders(model)
    for path, layer in leaves(model):
        state = own_state(layer)
        for suffix, entries in _entries(layer, state, orders.get(id(layer))).items():
            name = ".".join(part for part in (path.replace("/", "."), suffix) if part)
            slots = {
                key: Slot(f"{path}/{ours}" if path else ours, state[ours], layout)
                for key, (ours, layout) in entries.items()
                if ours in state
            }
            if slots:
                found.append(TorchModule(name, slots, isinstance(layer, Normalization)))
    twice = [name for name, count in Counter(m.name for m in found).items() if count > 1]
    if twice:
        raise InvalidArgumentError(
            f"in PyTorch's names '.' stands for '/', and no two layers may have one name. "
            f"Received: {', '.join(twice)} twice"
        )
    return found


_Entries = dict[str, tuple[str, Layout]]
"""PyTorch's word -> our name and the layout."""


def _entries(layer: Layer, state: Mapping[str, Array], order: Order | None) -> dict[str, _Entries]:
    """The entries of a layer, by what PyTorch adds to its name where it takes several modules."""
    same = Layout()
    bias: _Entries = {"bias": ("bias", same)}
    if isinstance(layer, (ConvND, ConvTransposeND)):
        return {"": {"weight": ("kernel", Kernel()), **bias}}
    if isinstance(layer, DepthwiseConvND):
        return {"": {"weight": ("kernel", Depthwise(layer.depth_multiplier)), **bias}}
    if isinstance(layer, SeparableConvND):
        return {
            "depthwise": {"weight": ("depthwise_kernel", Depthwise(layer.depth_multiplier))},
            "pointwise": {"weight": ("pointwise_kernel", Kernel()), **bias},
        }
    if isinstance(layer, Dense):
        return {"": {"weight": ("kernel", Rows(order)), **bias}}
    if isinstance(layer, Normalizing):
        ordered = Layout(order)
        entries: _Entries = {"weight": ("gamma", ordered), "bias": ("beta", ordered)}
        if isinstance(layer, BatchNormalization):
            entries["running_mean"] = ("moving_mean", ordered)
            entries["running_var"] = ("moving_variance", ordered)
            entries["num_batches_tracked"] = ("batches_seen", same)
        return {"": entries}
    return {"": {name: (name, same) for name in state}}
