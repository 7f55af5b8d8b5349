"""What all optimizers share: clipping, weight decay, the learning rate, and their state."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from gpuconv.backends.arrays import array_module, device_of, to_device, to_numpy, writable
from gpuconv.configurable import Configurable, arguments_of
from gpuconv.dispatch import engine_for
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import as_int
from gpuconv.optimizers import schedules
from gpuconv.optimizers.clipping import clip_by_global_norm, clip_by_norm, clip_by_value
from gpuconv.parameter import Parameter

if TYPE_CHECKING:
    from gpuconv.backends.base import Array, Engine

O = TypeVar("O", bound="Optimizer")  # noqa: E741

_ITERATIONS, _SUMMED, _SUM = "iterations", "summed", "sum"


class Optimizer(Configurable, ABC):
    """Base class; a subclass defines :meth:`slots` and :meth:`update`.

    Args:
        learning_rate: a number or a :class:`~gpuconv.optimizers.schedules.Schedule`.
        weight_decay: if given, each step first takes ``w * weight_decay * learning_rate`` off
            each value (decoupled, as Loshchilov and Hutter 2019 and Keras 3.15 do it).
        clipnorm: if given, each gradient is scaled down to at most this L2 norm.
        clipvalue: if given, gradients are clipped to [-clipvalue, clipvalue].
        global_clipnorm: if given, all gradients are scaled down together to this norm.
        gradient_accumulation_steps: if given, at least 2: the gradients of so many steps are
            averaged, and the values change with the last of them: batches as large as memory
            allows act as larger ones (as in Keras; ``iterations`` counts the changes).
        name: by default the class name in lower case.

    Raises:
        InvalidArgumentError: an impossible value, or more than one kind of clipping.

    State belongs to the parameters themselves and moves with them to another device.
    """

    _torch_form: ClassVar[bool] = False
    """Whether steps are counted and constants placed as PyTorch does it."""
    _decoupled_decay: ClassVar[bool] = True
    """Whether weight decay acts on the values, or else is added to the gradients."""
    _rate_argument: ClassVar[str] = "learning_rate"
    """The constructor's word for the learning rate."""

    def __init__(
        self,
        learning_rate: float | schedules.Schedule,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
    ) -> None:
        self._learning_rate = _checked_rate(learning_rate)
        self.weight_decay = (
            None if weight_decay is None else non_negative(weight_decay, "weight_decay")
        )
        self.clipnorm = _positive_or_none(clipnorm, "clipnorm")
        self.clipvalue = _positive_or_none(clipvalue, "clipvalue")
        self.global_clipnorm = _positive_or_none(global_clipnorm, "global_clipnorm")
        given = [c for c in (clipnorm, clipvalue, global_clipnorm) if c is not None]
        if len(given) > 1:
            raise InvalidArgumentError(
                f"only one of clipnorm, clipvalue and global_clipnorm can be given. "
                f"Received: {clipnorm!r}, {clipvalue!r}, {global_clipnorm!r}"
            )
        self.gradient_accumulation_steps = (
            None
            if gradient_accumulation_steps is None
            else as_int(gradient_accumulation_steps, "gradient_accumulation_steps", 2)
        )
        self.name = name or type(self).__name__.lower()
        self.iterations = 0
        """Number of steps taken."""
        self._parameters: list[Parameter] | None = None
        self._slots: WeakKeyDictionary[Parameter, dict[str, Array]] = WeakKeyDictionary()
        self._steps: WeakKeyDictionary[Parameter, int] = WeakKeyDictionary()
        self._sums: WeakKeyDictionary[Parameter, Array] = WeakKeyDictionary()
        self._summed = 0  # steps whose gradients are in the sums

    # --- what a subclass defines -----------------------------------------------------------

    @abstractmethod
    def slots(self) -> dict[str, float]:
        """Return the names of a parameter's state arrays and their first values."""

    @abstractmethod
    def update(
        self,
        engine: Engine,
        value: Array,
        gradient: Array,
        slots: Mapping[str, Array],
        learning_rate: float,
        step: int,
    ) -> None:
        """Modify ``value`` and ``slots`` in place.

        Args:
            engine: where the update is computed.
            value: the parameter's array.
            gradient: its clipped gradient, not to be modified.
            slots: its state arrays by name.
            learning_rate: of this step.
            step: number of this step, from 1.
        """

    # --- the step --------------------------------------------------------------------------

    def step(self, parameters: Iterable[Parameter] | None = None, zero_grad: bool = True) -> None:
        """Update every trainable parameter that has a gradient, in place.

        Args:
            parameters: those of the model. None takes those that the optimizer was made for.
            zero_grad: whether all gradients are forgotten afterwards.

        Raises:
            InvalidArgumentError: None, and the optimizer was not made for parameters.
        """
        everything = self._chosen(parameters)
        active = [p for p in everything if p.trainable and p.grad is not None]
        gradients = [p.grad for p in active]
        if self.gradient_accumulation_steps is not None:
            self._add_up(active)
            if self._summed < self.gradient_accumulation_steps:
                if zero_grad:
                    self.zero_grad(everything)
                return
            active = [p for p in everything if p.trainable and p in self._sums]
            gradients = [self._sums.pop(p) * (1.0 / self._summed) for p in active]
            self._summed = 0
        learning_rate = self.learning_rate
        clipped = self._clipped(gradients)
        values = [self._writable(parameter) for parameter in active]
        places = [device_of(value) for value in values]
        somebody = dict(zip(places, values, strict=True))  # one value in each place
        engine_in = {place: engine_for(value) for place, value in somebody.items()}
        engines = [engine_in[place] for place in places]
        with contextlib.ExitStack() as stack:
            for engine in set(engines):
                stack.enter_context(engine.updating())
            for parameter, value, gradient, engine in zip(
                active, values, clipped, engines, strict=True
            ):
                self._update_one(parameter, value, gradient, engine, learning_rate)
        self.iterations += 1
        if zero_grad:
            self.zero_grad(everything)

    def _update_one(
        self, parameter: Parameter, value: Array, gradient: Array, engine: Engine, rate: float
    ) -> None:
        if self.weight_decay:
            if self._decoupled_decay:
                # Not value *= 1 - decay: in float32 that factor rounds to one side for all.
                value -= value * (self.weight_decay * rate)
            else:
                gradient = gradient + value * self.weight_decay
        taken = self._steps.get(parameter, 0)
        count = taken if self._torch_form else self.iterations
        self.update(engine, value, gradient, self._slots_of(parameter), rate, count + 1)
        self._steps[parameter] = taken + 1

    def _add_up(self, active: Iterable[Parameter]) -> None:
        """Add the gradients of this step to those of the steps before."""
        for parameter in active:
            gradient: Any = parameter.grad
            there = self._sums.get(parameter)
            if there is None:
                self._sums[parameter] = gradient.copy()
            elif device_of(there) == device_of(gradient):
                there += gradient
            else:
                self._sums[parameter] = to_device(there, device_of(gradient)) + gradient
        self._summed += 1

    def zero_grad(self, parameters: Iterable[Parameter] | None = None) -> None:
        """Forget all gradients.

        Raises:
            InvalidArgumentError: None, and the optimizer was not made for parameters.
        """
        for parameter in self._chosen(parameters):
            parameter.zero_grad()

    def _chosen(self, parameters: Iterable[Parameter] | None) -> list[Parameter]:
        if parameters is not None:
            return list(parameters)
        if self._parameters is None:
            raise InvalidArgumentError(
                f"{self.name} needs the parameters: step(model.parameters). Received: None"
            )
        return self._parameters

    def _clipped(self, gradients: list[Array]) -> list[Array]:
        if self.clipnorm is not None:
            return [clip_by_norm(g, self.clipnorm) for g in gradients]
        if self.global_clipnorm is not None:
            return clip_by_global_norm(gradients, self.global_clipnorm)
        if self.clipvalue is not None:
            return [clip_by_value(g, self.clipvalue) for g in gradients]
        return gradients

    @staticmethod
    def _writable(parameter: Parameter) -> Array:
        """Return the parameter's array, made C-contiguous if a user gave it another order."""
        if not parameter.value.flags.c_contiguous:
            parameter.value = array_module(parameter.value).ascontiguousarray(parameter.value)
        return writable(parameter.value)

    def _slots_of(self, parameter: Parameter) -> dict[str, Array]:
        """Return the parameter's state on its device, created on first use."""
        value = parameter.value
        stored, device = self._slots.get(parameter), device_of(value)
        if stored is None:
            xp = array_module(value)
            stored = {
                name: xp.full(value.shape, first, value.dtype)
                for name, first in self.slots().items()
            }
        elif {device_of(array) for array in stored.values()} <= {device}:
            return stored
        else:
            stored = {name: to_device(array, device) for name, array in stored.items()}
        self._slots[parameter] = stored
        return stored

    # --- the learning rate -----------------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        """The rate of the next step. Settable to a number or a schedule.

        Raises:
            InvalidArgumentError: setting a number where a schedule decides, or something else.
        """
        if isinstance(self._learning_rate, schedules.Schedule):
            return float(self._learning_rate(self.iterations))
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | schedules.Schedule) -> None:
        checked = _checked_rate(value)
        scheduled = isinstance(self._learning_rate, schedules.Schedule)
        if scheduled and not isinstance(checked, schedules.Schedule):
            raise InvalidArgumentError(
                f"a schedule decides the learning rate of {self.name}: set another schedule, or "
                f"create the optimizer with a number. Received: {value!r}"
            )
        self._learning_rate = checked

    # --- configuration and state -----------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle is made of: the state with the parameters it belongs to.

        Copied with its model, the optimizer so goes on with the copies of the parameters.
        """
        state = dict(self.__dict__)
        for name in ("_slots", "_steps", "_sums"):
            state[name] = list(getattr(self, name).items())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._slots = WeakKeyDictionary(dict(state["_slots"]))
        self._steps = WeakKeyDictionary(dict(state["_steps"]))
        self._sums = WeakKeyDictionary(dict(state["_sums"]))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; a schedule as a dict, the rate as it is now."""
        names = [name for name in arguments_of(type(self)) if name != "params"]
        config: dict[str, Any] = {name: getattr(self, name) for name in names}
        if isinstance(self._learning_rate, schedules.Schedule):
            config[self._rate_argument] = schedules.serialize(self._learning_rate)
        return config

    @classmethod
    def from_config(cls: type[O], config: Mapping[str, Any]) -> O:
        """Build an equal optimizer, without state, from :meth:`get_config`'s dict.

        Raises:
            UnknownArgumentError: the dict holds an argument that does not exist.
        """
        arguments = dict(config)
        rate = arguments.get(cls._rate_argument)
        if isinstance(rate, Mapping):
            arguments[cls._rate_argument] = schedules.get(rate)
        return cls(**arguments)

    def state_dict(self, parameters: Iterable[Parameter]) -> dict[str, np.ndarray[Any, Any]]:
        """Return copies of the state on the host.

        Returns:
            ``"iterations"``, and ``"path/slot"`` for each parameter that was updated; between
            steps that are added up also ``"summed"`` and ``"path/sum"``.

        Raises:
            InvalidArgumentError: two parameters have the same path.
        """
        state: dict[str, np.ndarray[Any, Any]] = {_ITERATIONS: np.array(self.iterations)}
        for path, parameter in _by_path(parameters).items():
            for name, array in self._slots.get(parameter, {}).items():
                state[f"{path}/{name}"] = np.array(to_numpy(array))
            if parameter in self._sums:
                state[f"{path}/{_SUM}"] = np.array(to_numpy(self._sums[parameter]))
            if self._torch_form and parameter in self._steps:
                state[f"{path}/step"] = np.array(self._steps[parameter])
        if self._summed:
            state[_SUMMED] = np.array(self._summed)
        return state

    def load_state_dict(self, state: Mapping[str, Any], parameters: Iterable[Parameter]) -> None:
        """Replace the state by one from :meth:`state_dict`; nothing changes if it does not fit.

        Raises:
            InvalidArgumentError: a key belongs to no parameter or slot, or is missing.
            ShapeError: an array has another shape than its parameter.
        """
        rest = dict(state)
        if _ITERATIONS not in rest:
            raise InvalidArgumentError(
                f"expected an optimizer's state with 'iterations'. Received: {sorted(rest)[:5]}"
            )
        iterations = int(rest.pop(_ITERATIONS))
        summed = int(rest.pop(_SUMMED, 0)) if self.gradient_accumulation_steps else 0
        sums: dict[Parameter, Array] = {}
        loaded: dict[Parameter, dict[str, Array]] = {}
        steps: dict[Parameter, int] = {}
        for path, parameter in _by_path(parameters).items():
            names = [name for name in self.slots() if f"{path}/{name}" in rest]
            if names and len(names) != len(self.slots()):
                raise InvalidArgumentError(
                    f"{self.name} keeps {', '.join(self.slots())} for each parameter. "
                    f"Received: only {', '.join(names)} for {path}"
                )
            if summed and f"{path}/{_SUM}" in rest:
                names.append(_SUM)
            arrays = {name: np.asarray(rest.pop(f"{path}/{name}")) for name in names}
            for name, array in arrays.items():
                if array.shape != parameter.shape:
                    raise ShapeError(
                        f"{path}/{name}: expected the shape {parameter.shape} of the parameter. "
                        f"Received: {array.shape}"
                    )
            if arrays:
                loaded[parameter] = {
                    name: to_device(
                        np.array(array, parameter.dtype, order="C"), device_of(parameter.value)
                    )
                    for name, array in arrays.items()
                }
            if _SUM in arrays:
                sums[parameter] = loaded[parameter].pop(_SUM)
            if not loaded.get(parameter, True):
                del loaded[parameter]
            if self._torch_form and f"{path}/step" in rest:
                steps[parameter] = int(rest.pop(f"{path}/step"))
        if rest:
            raise InvalidArgumentError(
                f"this state of {self.name} belongs to other parameters or to another optimizer. "
                f"Received: {', '.join(sorted(rest)[:5])}"
            )
        self.iterations = iterations
        self._slots = WeakKeyDictionary(loaded)
        self._steps = WeakKeyDictionary(steps)
        self._sums, self._summed = WeakKeyDictionary(sums), summed


def _by_path(parameters: Iterable[Parameter]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for parameter in parameters:
        if found.setdefault(parameter.path, parameter) is not parameter:
            raise InvalidArgumentError(
                f"every parameter needs a path of its own. Received: {parameter.path!r} twice"
            )
    return found


def non_negative(value: float, name: str) -> float:
    """Return ``value`` as a float.

    Raises:
        InvalidArgumentError: not a finite number of at least 0.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= 0):
        raise InvalidArgumentError(
            f"{name} must be a finite number of at least 0. Received: {value!r}"
        )
    return float(value)


def fraction(value: float, name: str, below_one: bool = False) -> float:
    """Return ``value`` as a float.

    Raises:
        InvalidArgumentError: not a number in [0, 1], or [0, 1) with ``below_one``.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (number and 0 <= value <= 1) or (below_one and value == 1):
        where = "[0, 1)" if below_one else "[0, 1]"
        raise InvalidArgumentError(f"{name} must be a number in {where}. Received: {value!r}")
    return float(value)


def _positive_or_none(value: float | None, name: str) -> float | None:
    if value is None:
        return None
    if non_negative(value, name) == 0:
        raise InvalidArgumentError(f"{name} must be positive or None. Received: {value!r}")
    return float(value)


def _checked_rate(value: float | schedules.Schedule) -> float | schedules.Schedule:
    return value if isinstance(value, schedules.Schedule) else non_negative(value, "learning_rate")
