"""The same optimizers under PyTorch 2.13's signatures, defaults and update rules.

``params`` may be given, as in PyTorch, and then ``step()`` and ``zero_grad()`` need no
arguments; or left out, for ``step(parameters)`` and ``model.compile``. Unlike PyTorch's,
``step`` forgets the gradients unless it is told ``zero_grad=False``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from gpuconv.errors import InvalidArgumentError
from gpuconv.optimizers import keras_forms
from gpuconv.optimizers.base import Optimizer, non_negative
from gpuconv.optimizers.schedules import Schedule
from gpuconv.parameter import Parameter

if TYPE_CHECKING:
    from gpuconv.backends.base import Array, Engine

Parameters = Iterable[Parameter] | None
Rate = float | Schedule


class _TorchForm(Optimizer):
    _torch_form: ClassVar[bool] = True
    _decoupled_decay: ClassVar[bool] = False
    _rate_argument: ClassVar[str] = "lr"

    def _bind(self, params: Parameters) -> None:
        self._parameters = None if params is None else list(params)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.learning_rate


class SGD(_TorchForm, keras_forms.SGD):
    """Gradient descent: ``b = momentum b + (1 - dampening) g`` (``b = g`` at first); ``w -= lr b``.

    Args:
        params: parameters to update, or None.
        lr: a number or a schedule.
        momentum: in [0, 1].
        dampening: taken off the weight of the gradient in ``b``.
        weight_decay: added to the gradient as ``weight_decay * w``.
        nesterov: ``w -= lr (g + momentum b)`` instead; needs momentum and no dampening.
    """

    def __init__(
        self,
        params: Parameters = None,
        lr: Rate = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        keras_forms.SGD.__init__(self, lr, momentum, nesterov, weight_decay=weight_decay)
        self._bind(params)
        self.dampening = non_negative(dampening, "dampening")
        if nesterov and (not momentum or dampening):
            raise InvalidArgumentError(
                f"nesterov needs a momentum and no dampening. "
                f"Received: momentum={momentum!r}, dampening={dampening!r}"
            )

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        if self.momentum and self.dampening and step > 1:
            gradient = gradient * (1 - self.dampening)
        super().update(engine, value, gradient, slots, learning_rate, step)


class Adam(_TorchForm, keras_forms.Adam):
    """Adam with epsilon added after the correction of the bias.

    Args:
        params: parameters to update, or None.
        lr: a number or a schedule.
        betas: weights of the old values in the running means of ``g`` and ``g^2``.
        eps: added to the corrected root.
        weight_decay: added to the gradient as ``weight_decay * w``.
    """

    def __init__(
        self,
        params: Parameters = None,
        lr: Rate = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if len(betas) != 2:
            raise InvalidArgumentError(f"betas must be two numbers. Received: {betas!r}")
        keras_forms.Adam.__init__(self, lr, betas[0], betas[1], eps, weight_decay=weight_decay)
        self._bind(params)
        self.betas = [self.beta_1, self.beta_2]
        self.eps = self.epsilon


class AdamW(Adam):
    """:class:`Adam` with decoupled weight decay: ``w -= lr * weight_decay * w`` before the step."""

    _decoupled_decay: ClassVar[bool] = True

    def __init__(
        self,
        params: Parameters = None,
        lr: Rate = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(_TorchForm, keras_forms.RMSprop):
    """RMSprop with epsilon added to the root: ``d = g / (sqrt(s) + eps)``.

    ``w -= lr d``, or with momentum ``b = momentum b + d``; ``w -= lr b``.

    Args:
        params: parameters to update, or None.
        lr: a number or a schedule.
        alpha: weight of the old value in the running means.
        eps: added to the root.
        weight_decay: added to the gradient as ``weight_decay * w``.
        momentum: in [0, 1].
        centered: whether the square of the running mean of ``g`` is taken off ``s`` first.
    """

    def __init__(
        self,
        params: Parameters = None,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        keras_forms.RMSprop.__init__(
            self, lr, alpha, momentum, eps, centered, weight_decay=weight_decay
        )
        self._bind(params)
        self.alpha = self.rho
        self.eps = self.epsilon


class Adagrad(_TorchForm, keras_forms.Adagrad):
    """Adagrad with epsilon added to the root: ``w -= lr g / (sqrt(s) + eps)``.

    Args:
        params: parameters to update, or None.
        lr: a number or a schedule.
        lr_decay: step ``t`` uses ``lr / (1 + (t - 1) lr_decay)``.
        weight_decay: added to the gradient as ``weight_decay * w``.
        initial_accumulator_value: first value of ``s``.
        eps: added to the root.
    """

    def __init__(
        self,
        params: Parameters = None,
        lr: Rate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        keras_forms.Adagrad.__init__(
            self, lr, initial_accumulator_value, eps, weight_decay=weight_decay
        )
        self._bind(params)
        self.lr_decay = non_negative(lr_decay, "lr_decay")
        self.eps = self.epsilon

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        learning_rate /= 1 + (step - 1) * self.lr_decay
        super().update(engine, value, gradient, slots, learning_rate, step)
