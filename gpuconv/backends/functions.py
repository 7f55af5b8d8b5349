"""Element-wise functions by name, as every engine understands them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FROM_OUTPUT: Final = frozenset(
    {"relu", "relu6", "leaky_relu", "elu", "selu", "sigmoid", "hard_sigmoid", "tanh", "exponential"}
)
"""Functions whose derivative follows from the output alone: the input need not be kept,
and the function may be fused into the store of a convolution."""

FROM_INPUT: Final = frozenset(
    {"gelu", "gelu_tanh", "silu", "hard_silu", "mish", "softplus", "softsign"}
)
"""Functions whose derivative needs the input."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An element-wise function with its one parameter.

    Attributes:
        kind: a name from ``FROM_OUTPUT`` or ``FROM_INPUT``.
        alpha: slope of ``leaky_relu`` (positive) or scale of ``elu``; unused by the others.
    """

    kind: str
    alpha: float = 0.0

    @property
    def from_output(self) -> bool:
        """Whether the gradient is computed from the output instead of the input."""
        return self.kind in FROM_OUTPUT
