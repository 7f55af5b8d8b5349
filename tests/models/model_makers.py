"""What the tests of models share: numbers that no library version changes, and a plain reference.

The reference is a softmax regression in float64, written with sums and loops of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gpuconv import Sequential
from gpuconv.callbacks import Callback
from gpuconv.layers import Conv2D, Dense, Flatten, Layer, MaxPooling2D
from gpuconv.optimizers import SGD
from gpuconv.random import generator_for

Floats = np.ndarray[Any, Any]


def uniform(shape: Iterable[int], key: int, low: float = -1.0, high: float = 1.0) -> Floats:
    """Numbers in [low, high), from the raw words of the Philox generator with this key."""
    extents = tuple(shape)
    words = generator_for((key, 0)).bit_generator.random_raw(int(np.prod(extents)))
    return (low + (high - low) * ((words >> np.uint64(11)) * 2.0**-53)).reshape(extents)


def labels(count: int, classes: int, key: int) -> np.ndarray[Any, Any]:
    return (uniform((count,), key, 0, 1) * classes).astype(np.int64)


def set_uniform_weights(model: Layer, key: int) -> None:
    """Give every array of a model numbers of the size that its fan-in suggests."""
    arrays = []
    for number, (name, array) in enumerate(model.state().items()):
        limit = np.sqrt(3 / max(1, np.prod(array.shape[:-1]))) if array.ndim > 1 else 0.1
        middle = 1.0 if name.endswith(("gamma", "variance")) else 0.0
        arrays.append(uniform(array.shape, key + number, middle - limit, middle + limit))
    model.set_weights(arrays)


def linear_model(features: int = 4, classes: int = 3, key: int = 1) -> Sequential:
    """A softmax regression in float64, to be compared with :class:`Regression`."""
    model = Sequential(
        [Dense(classes, activation="softmax", dtype="float64", input_shape=(features,))]
    )
    set_uniform_weights(model, key)
    return model


def small_cnn(dtype: str = "float32", key: int = 7) -> Sequential:
    """A convolutional network for (6, 6, 2) images of 3 classes."""
    model = Sequential(
        [
            Conv2D(4, 3, activation="relu", dtype=dtype, input_shape=(6, 6, 2)),
            MaxPooling2D(2, dtype=dtype),
            Flatten(dtype=dtype),
            Dense(3, activation="softmax", dtype=dtype),
        ]
    )
    set_uniform_weights(model, key)
    return model


def images(count: int, key: int = 3) -> Floats:
    return uniform((count, 6, 6, 2), key).astype(np.float32)


def snapshot(model: Layer) -> list[Floats]:
    return model.get_weights()


def assert_same_weights(model: Layer, before: list[Floats]) -> None:
    """All arrays of the model are, bit for bit, what they were."""
    now = model.get_weights()
    assert len(now) == len(before)
    for array, old in zip(now, before, strict=True):
        np.testing.assert_array_equal(array, old)


class Regression:
    """Softmax regression with plain gradient descent, sample by sample."""

    def __init__(self, kernel: Floats, bias: Floats) -> None:
        self.kernel = kernel.astype(np.float64).copy()
        self.bias = bias.astype(np.float64).copy()

    def probabilities(self, sample: Floats) -> Floats:
        scores = [
            sum(sample[i] * self.kernel[i, k] for i in range(len(sample))) + self.bias[k]
            for k in range(len(self.bias))
        ]
        powers = [np.exp(score) for score in scores]
        return np.array([power / sum(powers) for power in powers])

    def loss(self, x: Floats, y: Any, weights: Any = None) -> float:
        """The sum of the weighted losses, divided by the number of samples."""
        each = [-np.log(self.probabilities(s)[label]) for s, label in zip(x, y, strict=True)]
        if weights is not None:
            each = [w * value for w, value in zip(weights, each, strict=True)]
        return float(sum(each)) / len(x)

    def hits(self, x: Floats, y: Any) -> int:
        return sum(
            int(np.argmax(self.probabilities(s)) == label) for s, label in zip(x, y, strict=True)
        )

    def step(self, x: Floats, y: Any, rate: float, weights: Any = None) -> None:
        """One step of gradient descent on the mean of the weighted losses."""
        kernel, bias = np.zeros_like(self.kernel), np.zeros_like(self.bias)
        for number, (sample, label) in enumerate(zip(x, y, strict=True)):
            error = self.probabilities(sample)
            error[label] -= 1
            error *= (1 if weights is None else weights[number]) / len(x)
            bias += error
            kernel += np.outer(sample, error)
        self.kernel -= rate * kernel
        self.bias -= rate * bias

    def epoch(
        self, x: Floats, y: Any, size: int, rate: float, weights: Any = None
    ) -> tuple[float, float]:
        """Train on batches in order; return loss and accuracy as ``fit`` logs them."""
        loss, hits = 0.0, 0
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            w = None if weights is None else weights[part]
            loss += self.loss(x[part], y[part], w) * len(x[part])
            hits += self.hits(x[part], y[part])
            self.step(x[part], y[part], rate, w)
        return loss / len(x), hits / len(x)


X = uniform((7, 4), 11)
Y = np.array([0, 2, 1, 1, 0, 2, 2])


def compiled(rate: float = 0.5, metrics: Any = ("accuracy",)) -> Sequential:
    model = linear_model()
    model.compile(SGD(rate), "sparse_categorical_crossentropy", list(metrics))
    return model


def reference(model: Sequential) -> Regression:
    return Regression(*model.get_weights())


def assert_weights(model: Sequential, regression: Regression) -> None:
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel, regression.kernel, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(bias, regression.bias, rtol=1e-12, atol=1e-14)


class Recorder(Callback):
    """Keeps what the batches of training looked like, by wrapping the model's step."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, Any, Any]] = []
        self.events: list[str] = []

    def on_train_begin(self, logs: Any) -> None:
        step = type(self.model).train_step

        def recorded(x: Any, y: Any, sample_weight: Any = None) -> Any:
            self.batches.append((x, y, sample_weight))
            return step(self.model, x, y, sample_weight)

        self.model.train_step = recorded  # type: ignore[method-assign]

    def on_train_end(self, logs: Any) -> None:
        del self.model.train_step  # the class's own again
