"""The optimizers, with the formulas and defaults of Keras 3.15."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpuconv.errors import InvalidArgumentError
from gpuconv.optimizers.base import Optimizer, fraction, non_negative
from gpuconv.optimizers.schedules import Schedule

if TYPE_CHECKING:
    from gpuconv.backends.base import Array, Engine


class SGD(Optimizer):
    """Gradient descent, with momentum: ``v = momentum v - lr g``; ``w += v``.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1].
        nesterov: ``w += momentum v - lr g`` instead (Sutskever et al. 2013).
        common: ``weight_decay``, ``clipnorm``, ``clipvalue``, ``global_clipnorm``, ``name``:
            see :class:`Optimizer`.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, **common)
        self.momentum = fraction(momentum, "momentum")
        self.nesterov = bool(nesterov)

    def slots(self) -> dict[str, float]:
        return {"velocity": 0.0} if self.momentum else {}

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        engine.sgd_update(
            value,
            gradient,
            slots.get("velocity"),
            learning_rate,
            self.momentum,
            self.nesterov,
            self._torch_form,
            step == 1,
        )


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015).

    With ``m`` and ``v`` the running means of ``g`` and ``g^2``:
    ``w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)``.

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2: weight of the old value in the running means, in [0, 1).
        epsilon: added to the root before the correction of its bias.
        common: see :class:`SGD`.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, **common)
        self.beta_1 = fraction(beta_1, "beta_1", below_one=True)
        self.beta_2 = fraction(beta_2, "beta_2", below_one=True)
        self.epsilon = non_negative(epsilon, "epsilon")

    def slots(self) -> dict[str, float]:
        return {"first_moment": 0.0, "second_moment": 0.0}

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        engine.adam_update(
            value,
            gradient,
            slots["first_moment"],
            slots["second_moment"],
            learning_rate,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            step,
            self._torch_form,
        )


class AdamW(Adam):
    """:class:`Adam` with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        learning_rate: a number or a schedule.
        weight_decay: each step first takes ``w * weight_decay * learning_rate`` off.
        beta_1, beta_2, epsilon, common: see :class:`Adam`.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **common: Any,
    ) -> None:
        if weight_decay is None:
            raise InvalidArgumentError("AdamW needs a weight_decay; Adam has none. Received: None")
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay, **common
        )


class RMSprop(Optimizer):
    """RMSprop (Hinton 2012): ``d = lr g / sqrt(s + epsilon)``, ``s`` the running mean of ``g^2``.

    ``w -= d``, or with momentum ``v = momentum v + d``; ``w -= v``.

    Args:
        learning_rate: a number or a schedule.
        rho: weight of the old value in the running means, in [0, 1).
        momentum: in [0, 1].
        epsilon: added inside the root.
        centered: whether the square of the running mean of ``g`` is taken off ``s`` first.
        common: see :class:`SGD`.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, **common)
        self.rho = fraction(rho, "rho", below_one=True)
        self.momentum = fraction(momentum, "momentum")
        self.epsilon = non_negative(epsilon, "epsilon")
        self.centered = bool(centered)

    def slots(self) -> dict[str, float]:
        names = ["mean_square"]
        names += ["mean_gradient"] if self.centered else []
        names += ["velocity"] if self.momentum else []
        return dict.fromkeys(names, 0.0)

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        engine.rmsprop_update(
            value,
            gradient,
            slots["mean_square"],
            slots.get("mean_gradient"),
            slots.get("velocity"),
            learning_rate,
            self.rho,
            self.momentum,
            self.epsilon,
            not self._torch_form,
        )


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011): ``s += g^2``; ``w -= lr g / sqrt(s + epsilon)``.

    Args:
        learning_rate: a number or a schedule.
        initial_accumulator_value: first value of ``s``.
        epsilon: added inside the root.
        common: see :class:`SGD`.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, **common)
        self.initial_accumulator_value = non_negative(
            initial_accumulator_value, "initial_accumulator_value"
        )
        self.epsilon = non_negative(epsilon, "epsilon")

    def slots(self) -> dict[str, float]:
        return {"accumulator": self.initial_accumulator_value}

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        engine.adagrad_update(
            value,
            gradient,
            slots["accumulator"],
            learning_rate,
            self.epsilon,
            not self._torch_form,
        )
