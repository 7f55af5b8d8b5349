"""Adadelta, Adamax, Nadam and Lion, with the formulas and defaults of Keras 3.15.

They are rarely used with convolutions, and so are written with array operations, which run on any
device, in place of kernels of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpuconv.backends.arrays import array_module
from gpuconv.optimizers.base import Optimizer, fraction, non_negative
from gpuconv.optimizers.keras_forms import Adam
from gpuconv.optimizers.schedules import Schedule

if TYPE_CHECKING:
    from gpuconv.backends.base import Array, Engine


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012).

    ``s`` and ``u`` are the running means of ``g^2`` and of ``d^2``, where
    ``d = g sqrt(u + epsilon) / sqrt(s + epsilon)``; ``w -= lr d``.

    Args:
        learning_rate: a number or a schedule; the paper's own is 1.
        rho: weight of the old value in the running means, in [0, 1).
        epsilon: added inside the roots.
        common: see :class:`~gpuconv.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, **common)
        self.rho = fraction(rho, "rho", below_one=True)
        self.epsilon = non_negative(epsilon, "epsilon")

    def slots(self) -> dict[str, float]:
        return {"mean_square": 0.0, "mean_square_step": 0.0}

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        xp = array_module(value)
        s, u = slots["mean_square"], slots["mean_square_step"]
        s *= self.rho
        s += (1 - self.rho) * gradient * gradient
        d = gradient * xp.sqrt((u + self.epsilon) / (s + self.epsilon))
        u *= self.rho
        u += (1 - self.rho) * d * d
        value -= learning_rate * d


class Adamax(Adam):
    """Adamax (Kingma and Ba 2015, section 7): Adam with the largest gradient in place of a mean.

    ``m`` is the running mean of ``g``, ``u = max(beta_2 u, |g|)``;
    ``w -= lr / (1 - beta_1^t) * m / (u + epsilon)``.

    Arguments as for :class:`~gpuconv.optimizers.Adam`.
    """

    def slots(self) -> dict[str, float]:
        return {"first_moment": 0.0, "largest": 0.0}

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        xp = array_module(value)
        m, u = slots["first_moment"], slots["largest"]
        m += (1 - self.beta_1) * (gradient - m)
        u *= self.beta_2
        xp.maximum(u, xp.abs(gradient), out=u)
        value -= (learning_rate / (1 - self.beta_1**step)) * m / (u + self.epsilon)


class Nadam(Adam):
    """Nadam (Dozat 2016): Adam with Nesterov's momentum, and a momentum that warms up.

    With ``u_t = beta_1 (1 - 0.96^t / 2)``, ``U_t`` the product of ``u_1`` to ``u_t``, and ``m``,
    ``v`` as in Adam: ``w -= lr a / (sqrt(v / (1 - beta_2^t)) + epsilon)``, where
    ``a = u_{t+1} m / (1 - U_{t+1}) + (1 - u_t) g / (1 - U_t)``.

    Arguments as for :class:`~gpuconv.optimizers.Adam`.
    """

    def __init__(self, *arguments: Any, **common: Any) -> None:
        super().__init__(*arguments, **common)
        self._product = (0, 1.0)  # a step, and U up to it

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        xp = array_module(value)
        m, v = slots["first_moment"], slots["second_moment"]
        now, following = self._momentum(step), self._momentum(step + 1)
        product = self._product_up_to(step)
        m += (1 - self.beta_1) * (gradient - m)
        v += (1 - self.beta_2) * (gradient * gradient - v)
        ahead = m * (following / (1 - product * following))
        ahead += gradient * ((1 - now) / (1 - product))
        value -= learning_rate * ahead / (xp.sqrt(v / (1 - self.beta_2**step)) + self.epsilon)

    def _momentum(self, step: int) -> float:
        return self.beta_1 * (1 - 0.5 * 0.96**step)

    def _product_up_to(self, step: int) -> float:
        known, product = self._product
        if known > step:  # the state of an earlier step was loaded
            known, product = 0, 1.0
        for number in range(known + 1, step + 1):
            product *= self._momentum(number)
        self._product = (step, product)
        return product


class Lion(Optimizer):
    """Lion (Chen et al. 2023): steps of one size, in the direction of a running mean's sign.

    ``w -= lr sign(beta_1 m + (1 - beta_1) g)``, then ``m = beta_2 m + (1 - beta_2) g``.

    Args:
        learning_rate: a number or a schedule; smaller than Adam's by 3 to 10 times.
        beta_1, beta_2: in [0, 1).
        common: see :class:`~gpuconv.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, **common)
        self.beta_1 = fraction(beta_1, "beta_1", below_one=True)
        self.beta_2 = fraction(beta_2, "beta_2", below_one=True)

    def slots(self) -> dict[str, float]:
        return {"momentum": 0.0}

    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        m = slots["momentum"]
        direction = array_module(value).sign(self.beta_1 * m + (1 - self.beta_1) * gradient)
        value -= learning_rate * direction
        m += (1 - self.beta_2) * (gradient - m)
