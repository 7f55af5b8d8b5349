"""First values of parameters, as Keras 3.15 names and scales them.

An initializer is called with a shape and a dtype and returns a new NumPy array. With an
integer ``seed`` it returns the same values each time it is called with the same shape; with
``seed=None`` it draws a seed from ``gpuconv.random`` when it is first called and returns
fresh values at each call.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpuconv.configurable import Configurable, Registry
from gpuconv.errors import DTypeError, InvalidArgumentError, ShapeError, one_of
from gpuconv.random import SeedStream, check_seed, generator_for

NDArray = np.ndarray[Any, Any]

_TRUNCATED_STDDEV = 0.87962566103423978
"""Standard deviation of a unit normal distribution cut at two standard deviations."""


def compute_fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return ``(fan_in, fan_out)`` of a parameter's shape.

    ``(in, out)`` for matrices; for convolution kernels ``(*k, in/groups, out)`` each times the
    number of taps; the length for vectors; 1 for scalars.
    """
    if len(shape) == 0:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    taps = math.prod(shape[:-2])
    return shape[-2] * taps, shape[-1] * taps


class Initializer(Configurable, ABC):
    """Base class: subclasses define :meth:`values`."""

    def __call__(self, shape: Sequence[int], dtype: str = "float32") -> NDArray:
        """Return a new C-contiguous array.

        Args:
            shape: extents of the parameter.
            dtype: a floating dtype; the constant initializers take any.

        Raises:
            ShapeError: the shape is not a sequence of non-negative integers, or has a rank that
                this initializer cannot fill.
            DTypeError: random values were asked for in a dtype that is not floating.
        """
        try:
            extents = tuple(int(n) for n in shape)
        except (TypeError, ValueError):
            extents = (-1,)
        if any(n < 0 for n in extents):
            raise ShapeError(
                f"expected a shape of non-negative integers to initialize. Received: {shape!r}"
            )
        return np.ascontiguousarray(self.values(extents, np.dtype(dtype))).reshape(extents)

    @abstractmethod
    def values(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
        """Return an array of the given shape and dtype; the arguments have been checked."""


# --- constants -----------------------------------------------------------------------------


class Zeros(Initializer):
    """All zeros."""

    def values(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
        return np.zeros(shape, dtype)


class Ones(Initializer):
    """All ones."""

    def values(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
        return np.ones(shape, dtype)


class Constant(Initializer):
    """One value, or an array (given as such or as nested lists) that broadcasts to the shape.

    Raises:
        ShapeError: when called, the value does not broadcast to the shape.
    """

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

    def values(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
        value = np.asarray(self.value, dtype)
        try:
            return np.array(np.broadcast_to(value, shape))
        except ValueError:
            raise ShapeError(
                f"a constant of shape {value.shape} does not broadcast to the parameter. "
                f"Received: shape {shape}"
            ) from None


class Identity(Initializer):
    """The identity matrix times ``gain``, for matrices only."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = float(gain)

    def values(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
        if len(shape) != 2:
            raise ShapeError(f"identity fills matrices only. Received: shape {shape}")
        matrix: NDArray = np.eye(*shape, dtype=dtype)
        matrix *= self.gain
        return matrix


# --- random values -------------------------------------------------------------------------


class RandomInitializer(Initializer):
    """Base of those that draw random numbers: subclasses define :meth:`draw`.

    Args:
        seed: integer in [0, 2**63), or None.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = None if seed is None else check_seed(seed)
        self._stream: SeedStream | None = None

    def values(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
        if dtype.kind != "f":
            raise DTypeError(
                f"{type(self).__name__} draws floating-point numbers. Received: dtype {dtype.name}"
            )
        # Half precision is drawn in single precision and rounded.
        drawn = dtype if dtype.itemsize >= 4 else np.dtype("float32")
        return self.draw(self._generator(), shape, drawn).astype(dtype, copy=False)

    @abstractmethod
    def draw(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray:
        """Return random values in float32 or float64."""

    def _generator(self) -> np.random.Generator:
        if self.seed is not None:
            return generator_for((self.seed, 0))
        if self._stream is None:
            self._stream = SeedStream()
        return self._stream.generator()


class RandomNormal(RandomInitializer):
    """Normal distribution."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.mean = float(mean)
        self.stddev = _non_negative(stddev, "stddev")

    def draw(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray:
        return _normal(generator, shape, dtype, self.mean, self.stddev)


class TruncatedNormal(RandomInitializer):
    """Normal distribution in which values beyond two standard deviations are drawn again."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.mean = float(mean)
        self.stddev = _non_negative(stddev, "stddev")

    def draw(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray:
        return _truncated_normal(generator, shape, dtype, self.mean, self.stddev)


class RandomUniform(RandomInitializer):
    """Uniform distribution between ``minval`` and ``maxval``."""

    def __init__(
        self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None
    ) -> None:
        super().__init__(seed)
        self.minval = float(minval)
        self.maxval = float(maxval)
        if not self.minval <= self.maxval:
            raise InvalidArgumentError(
                f"minval must not exceed maxval. Received: minval={minval!r}, maxval={maxval!r}"
            )

    def draw(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray:
        return _uniform(generator, shape, dtype, self.minval, self.maxval)


class VarianceScaling(RandomInitializer):
    """Variance ``scale / n``, with ``n`` from the number of inputs and outputs.

    Args:
        scale: positive factor.
        mode: ``n`` is ``"fan_in"``, ``"fan_out"`` or their mean, ``"fan_avg"``.
        distribution: ``"truncated_normal"`` (its width corrected for the truncation; also
            ``"normal"``), ``"untruncated_normal"`` or ``"uniform"``.
        seed: integer in [0, 2**63), or None.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        if not (_is_number(scale) and scale > 0):
            raise InvalidArgumentError(f"scale must be a positive number. Received: {scale!r}")
        self.scale = float(scale)
        self.mode = one_of(mode, ("fan_in", "fan_out", "fan_avg"), "mode")
        self.distribution = one_of(
            "truncated_normal" if distribution == "normal" else distribution,
            ("truncated_normal", "untruncated_normal", "uniform"),
            "distribution",
        )

    def draw(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray:
        fan_in, fan_out = compute_fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, n)
        if self.distribution == "truncated_normal":
            stddev = math.sqrt(variance) / _TRUNCATED_STDDEV
            return _truncated_normal(generator, shape, dtype, 0.0, stddev)
        if self.distribution == "untruncated_normal":
            return _normal(generator, shape, dtype, 0.0, math.sqrt(variance))
        limit = math.sqrt(3.0 * variance)
        return _uniform(generator, shape, dtype, -limit, limit)


class GlorotUniform(VarianceScaling):
    """U(+-sqrt(6 / (fan_in + fan_out))): Glorot and Bengio 2010."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_avg", "uniform", seed)


class GlorotNormal(VarianceScaling):
    """Truncated normal of variance 2 / (fan_in + fan_out): Glorot and Bengio 2010."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_avg", "truncated_normal", seed)


class HeUniform(VarianceScaling):
    """U(+-sqrt(6 / fan_in)): He et al. 2015."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(2.0, "fan_in", "uniform", seed)


class HeNormal(VarianceScaling):
    """Truncated normal of variance 2 / fan_in: He et al. 2015."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(2.0, "fan_in", "truncated_normal", seed)


class LecunUniform(VarianceScaling):
    """U(+-sqrt(3 / fan_in)): LeCun et al. 1998."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_in", "uniform", seed)


class LecunNormal(VarianceScaling):
    """Truncated normal of variance 1 / fan_in: LeCun et al. 1998."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_in", "truncated_normal", seed)


class TorchUniform(RandomInitializer):
    """U(+-1 / sqrt(fan_in)): what PyTorch 2.13 gives convolutions and linear layers.

    Args:
        fan_in: number of inputs of one output. None takes it from the shape of a kernel
            ``(*k, in/groups, out)``; a bias does not show it and needs it given.
        seed: integer in [0, 2**63), or None.
    """

    def __init__(self, fan_in: int | None = None, seed: int | None = None) -> None:
        super().__init__(seed)
        if fan_in is not None and not (_is_number(fan_in) and fan_in > 0 and fan_in % 1 == 0):
            raise InvalidArgumentError(
                f"fan_in must be a positive integer or None. Received: {fan_in!r}"
            )
        self.fan_in = None if fan_in is None else int(fan_in)

    def draw(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray:
        if self.fan_in is None and len(shape) < 2:
            raise ShapeError(
                f"the number of inputs does not follow from the shape of a bias: give fan_in. "
                f"Received: shape {shape}"
            )
        fan_in = self.fan_in or compute_fans(shape)[0]
        limit = 1.0 / math.sqrt(max(1, fan_in))
        return _uniform(generator, shape, dtype, -limit, limit)


class Orthogonal(RandomInitializer):
    """A random orthogonal matrix times ``gain`` (Saxe et al. 2014).

    Shapes of more than two axes are filled as the matrix (product of all axes but the last,
    last axis); if that has fewer rows than columns its rows are orthonormal, else its columns.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        super().__init__(seed)
        self.gain = float(gain)

    def draw(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray:
        if len(shape) < 2:
            raise ShapeError(
                f"orthogonal fills arrays of at least two axes. Received: shape {shape}"
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        a = _normal(generator, (max(rows, columns), min(rows, columns)), dtype, 0.0, 1.0)
        q, r = np.linalg.qr(a)
        # Signs of r's diagonal make the distribution uniform over all orthogonal matrices.
        q *= np.where(np.diagonal(r) < 0, -1, 1).astype(dtype)
        q *= self.gain
        return (q.T if rows < columns else q).reshape(shape)


def _normal(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    mean: float,
    stddev: float,
) -> NDArray:
    values = generator.standard_normal(shape, dtype=dtype.type)
    return _scaled(values, stddev, mean)


def _truncated_normal(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    mean: float,
    stddev: float,
) -> NDArray:
    values = generator.standard_normal(math.prod(shape), dtype=dtype.type)
    outside = np.flatnonzero(np.abs(values) > 2)
    while outside.size:
        values[outside] = generator.standard_normal(outside.size, dtype=dtype.type)
        outside = outside[np.abs(values[outside]) > 2]
    return _scaled(values, stddev, mean).reshape(shape)


def _uniform(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    low: float,
    high: float,
) -> NDArray:
    return _scaled(generator.random(shape, dtype=dtype.type), high - low, low)


def _scaled(values: Any, factor: float, offset: float) -> NDArray:
    array = np.asarray(values)  # for a shape of () the generator returns a Python float
    array *= factor
    array += offset
    return array


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _non_negative(value: float, name: str) -> float:
    if not (_is_number(value) and value >= 0):
        raise InvalidArgumentError(f"{name} must be a non-negative number. Received: {value!r}")
    return float(value)


_registry: Registry[Initializer] = Registry("initializer", Initializer)
_registry.register(Zeros, "zeros", "zero")
_registry.register(Ones, "ones", "one")
_registry.register(RandomNormal, "random_normal", "normal")
_registry.register(RandomUniform, "random_uniform", "uniform")
for _cls in (
    Constant,
    Identity,
    TruncatedNormal,
    VarianceScaling,
    GlorotUniform,
    GlorotNormal,
    HeUniform,
    HeNormal,
    LecunUniform,
    LecunNormal,
    TorchUniform,
    Orthogonal,
):
    _registry.register(_cls)

register = _registry.register

# Keras's other names of the same classes.
zeros, ones, constant, identity = Zeros, Ones, Constant, Identity
random_normal, random_uniform, truncated_normal = RandomNormal, RandomUniform, TruncatedNormal
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal
variance_scaling, orthogonal = VarianceScaling, Orthogonal


def get(
    identifier: Initializer | str | Mapping[str, Any] | Callable[..., Any],
) -> Callable[..., Any]:
    """Return an initializer.

    Args:
        identifier: a name such as ``"glorot_uniform"`` or ``"GlorotUniform"``, a dict from
            :func:`serialize`, an :class:`Initializer` or its class, or any other callable that
            takes ``(shape, dtype)`` and returns an array; that one is returned as it is.

    Raises:
        InvalidArgumentError: none of these, or an unknown name.
    """
    if callable(identifier) and not isinstance(identifier, (Initializer, type)):
        return identifier
    return _registry.get(identifier)


def serialize(initializer: Callable[..., Any]) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which :func:`get` accepts.

    Raises:
        InvalidArgumentError: a plain function, or a class that was not registered.
    """
    return _registry.serialize(initializer)
