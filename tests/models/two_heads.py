"""A network of two outputs for the tests of several: its data, and how it is trained.

``h = x W``, ``tall = h v`` with squared errors, ``kind = softmax(h K)`` with cross-entropies, in
float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from model_makers import labels, set_uniform_weights, uniform

import gpuconv as gc
from gpuconv.layers import Dense

SPARSE = "sparse_categorical_crossentropy"
X, TALL, KIND = uniform((11, 4), 1), uniform((11, 1), 2), labels(11, 3, 3)
WEIGHTS = uniform((11,), 4, 0.1, 2.0)
OTHERS = uniform((11,), 5, 0.1, 2.0)
RATE = 0.1


def heads(key: int = 1, **options: Any) -> gc.Model:
    inputs = gc.Input((4,), name="facts", dtype="float64")
    h = Dense(5, use_bias=False, dtype="float64", name="body")(inputs)
    tall = Dense(1, use_bias=False, dtype="float64", name="tall")(h)
    kind = Dense(3, use_bias=False, dtype="float64", activation="softmax", name="kind")(h)
    model = gc.Model(inputs, [tall, kind], **options)
    set_uniform_weights(model, key)
    return model


def compiled(optimizer: Any = None, **options: Any) -> gc.Model:
    model = heads()
    options = {"loss": ["mse", SPARSE], "metrics": ["mae", "accuracy"], **options}
    model.compile(optimizer or gc.optimizers.SGD(RATE), **options)
    return model


class ByHand:
    """Losses and gradients of the network, sample by sample."""

    def __init__(self, model: gc.Model) -> None:
        self.w, self.v, self.k = model.get_weights()

    def losses(self, i: int) -> tuple[float, float]:
        h = X[i] @ self.w
        scores = np.exp(h @ self.k)
        return float((h @ self.v - TALL[i])[0] ** 2), float(-np.log(scores[KIND[i]] / scores.sum()))

    def means(self, rows: Any, weights: Any = None) -> np.ndarray[Any, Any]:
        several = [self.losses(i) for i in rows]
        scales = np.ones((11, 2)) if weights is None else np.stack(weights, axis=1)
        return np.array([scales[i] * loss for i, loss in zip(rows, several, strict=True)]).mean(0)

    def step(self, rows: Any, factors: Any, weights: Any) -> None:
        dw, dv, dk = (np.zeros_like(a) for a in (self.w, self.v, self.k))
        for i in rows:
            h = X[i] @ self.w
            scores = np.exp(h @ self.k)
            d_tall = 2 * (h @ self.v - TALL[i]) * weights[0][i] * factors[0] / len(rows)
            d_kind = (scores / scores.sum() - np.eye(3)[KIND[i]]) * weights[1][i] * factors[1]
            d_kind /= len(rows)
            dv += np.outer(h, d_tall)
            dk += np.outer(h, d_kind)
            dw += np.outer(X[i], self.v @ d_tall + self.k @ d_kind)
        for array, gradient in ((self.w, dw), (self.v, dv), (self.k, dk)):
            array -= RATE * gradient


def fitted(model: gc.Model, **given: Any) -> dict[str, list[float]]:
    options: dict[str, Any] = {"x": X, "y": [TALL, KIND], "batch_size": 4, "epochs": 2}
    options = {**options, "shuffle": False, "verbose": 0, **given}
    return model.fit(**options).history
