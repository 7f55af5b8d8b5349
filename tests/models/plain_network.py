"""The seed network and Adam in NumPy, written a second time from their definitions.

Float64, channels-last, a loop over the taps of each kernel; nothing of gpuconv is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, Any]


class PlainSeedNetwork:
    """Three valid 3x3 convolutions, two 2x2 max poolings, two dense layers, softmax.

    Args:
        weights: kernels and biases in the order of the layers.
        rate: of Adam, whose other constants are Keras's.
    """

    def __init__(self, weights: list[Floats], rate: float) -> None:
        self.weights = [w.astype(np.float64) for w in weights]
        self.moments = [(np.zeros_like(w), np.zeros_like(w)) for w in self.weights]
        self.rate = rate
        self.steps = 0

    def step(self, x: Floats, labels: Floats) -> tuple[float, float]:
        """Learn from a batch; return loss and accuracy before the step."""
        w = self.weights
        images = x.astype(np.float64)
        a1 = np.maximum(convolve(images, w[0]) + w[1], 0)
        p1, places1 = pool(a1)
        a2 = np.maximum(convolve(p1, w[2]) + w[3], 0)
        p2, places2 = pool(a2)
        a3 = np.maximum(convolve(p2, w[4]) + w[5], 0)
        flat = a3.reshape(len(x), -1)
        a4 = np.maximum(flat @ w[6] + w[7], 0)
        scores = a4 @ w[8] + w[9]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        rows = np.arange(len(x))
        loss = float(-np.log(probabilities[rows, labels]).mean())
        accuracy = float((probabilities.argmax(axis=1) == labels).mean())

        d5 = probabilities.copy()
        d5[rows, labels] -= 1
        d5 /= len(x)
        d4 = (d5 @ w[8].T) * (a4 > 0)
        d3 = (d4 @ w[6].T).reshape(a3.shape) * (a3 > 0)
        d2 = unpool(transposed(d3, w[4], p2.shape), places2, a2.shape) * (a2 > 0)
        d1 = unpool(transposed(d2, w[2], p1.shape), places1, a1.shape) * (a1 > 0)
        self._adam(
            [
                kernel_gradient(images, d1),
                d1.sum(axis=(0, 1, 2)),
                kernel_gradient(p1, d2),
                d2.sum(axis=(0, 1, 2)),
                kernel_gradient(p2, d3),
                d3.sum(axis=(0, 1, 2)),
                flat.T @ d4,
                d4.sum(axis=0),
                a4.T @ d5,
                d5.sum(axis=0),
            ]
        )
        return loss, accuracy

    def _adam(self, gradients: list[Floats]) -> None:
        self.steps += 1
        t = self.steps
        for w, g, (m, v) in zip(self.weights, gradients, self.moments, strict=True):
            m[...] = 0.9 * m + 0.1 * g
            v[...] = 0.999 * v + 0.001 * g * g
            a = self.rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            w -= a * m / (np.sqrt(v) + 1e-7)


def convolve(x: Floats, kernel: Floats) -> Floats:
    """A valid 3x3 cross-correlation: (N, H, W, C), (3, 3, C, F) -> (N, H-2, W-2, F)."""
    height, width = x.shape[1] - 2, x.shape[2] - 2
    return sum(
        x[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )


def transposed(dy: Floats, kernel: Floats, shape: tuple[int, ...]) -> Floats:
    """The gradient of :func:`convolve` for its input."""
    dx = np.zeros(shape)
    for i in range(3):
        for j in range(3):
            dx[:, i : i + dy.shape[1], j : j + dy.shape[2]] += dy @ kernel[i, j].T
    return dx


def kernel_gradient(x: Floats, dy: Floats) -> Floats:
    """The gradient of :func:`convolve` for its kernel."""
    height, width = dy.shape[1:3]
    rows = dy.reshape(-1, dy.shape[3])
    taps = [
        [x[:, i : i + height, j : j + width].reshape(-1, x.shape[3]).T @ rows for j in range(3)]
        for i in range(3)
    ]
    return np.array(taps)


def pool(x: Floats) -> tuple[Floats, Floats]:
    """2x2 max pooling, an odd last row or column left out; and which of the four won."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    four = np.stack([x[:, i::2, j::2][:, :height, :width] for i in (0, 1) for j in (0, 1)])
    return four.max(axis=0), four.argmax(axis=0)  # the first of equals


def unpool(dy: Floats, places: Floats, shape: tuple[int, ...]) -> Floats:
    """The gradient of :func:`pool`."""
    dx = np.zeros(shape)
    height, width = dy.shape[1:3]
    for place in range(4):
        i, j = divmod(place, 2)
        dx[:, i::2, j::2][:, :height, :width] = dy * (places == place)
    return dx
