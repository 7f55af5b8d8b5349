"""Two small networks: the one that most tutorials begin with, and one for 8x8 digits."""

from __future__ import annotations

from gpuconv.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPooling2D,
    Rescaling,
)
from gpuconv.models import Sequential


def seed_network(
    input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, backend: str | None = None
) -> Sequential:
    """Return three convolutions, two poolings and two dense layers: 122,570 parameters.

    Args:
        input_shape: (height, width, channels), at least 18 high and wide.
        classes: number of outputs, which are probabilities.
        backend: device; None: what is in force.
    """
    return Sequential(
        [
            Conv2D(32, (3, 3), activation="relu", input_shape=input_shape),
            MaxPooling2D((2, 2)),
            Conv2D(64, (3, 3), activation="relu"),
            MaxPooling2D((2, 2)),
            Conv2D(64, (3, 3), activation="relu"),
            Flatten(),
            Dense(64, activation="relu"),
            Dense(classes, activation="softmax"),
        ],
        backend=backend,
        name="seed",
    )


def digits_network(
    input_shape: tuple[int, int, int] = (8, 8, 1), classes: int = 10, backend: str | None = None
) -> Sequential:
    """Return a network for images of about 8x8 pixels with values from 0 to 16.

    Args:
        input_shape: (height, width, channels), at least 4 high and wide.
        classes: number of outputs, which are probabilities.
        backend: device; None: what is in force.
    """
    return Sequential(
        [
            Rescaling(1 / 16, input_shape=input_shape),
            Conv2D(32, 3, padding="same", use_bias=False),
            BatchNormalization(momentum=0.9),
            Conv2D(32, 3, padding="same", activation="relu"),
            MaxPooling2D(2),
            Conv2D(64, 3, padding="same", activation="relu"),
            MaxPooling2D(2),
            Flatten(),
            Dropout(0.3),
            Dense(64, activation="relu"),
            Dropout(0.3),
            Dense(classes, activation="softmax"),
        ],
        backend=backend,
        name="digits",
    )
