"""Random inputs that fit a model, for measuring."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.errors import ShapeError
from gpuconv.models import Model


def made_up_inputs(model: Model, batch: int) -> Any:
    """Return inputs between 0 and 1 of a built model, float32; several as a list.

    Args:
        model: a model with known extents of its inputs.
        batch: number of samples.

    Raises:
        ShapeError: an extent is not known.
    """
    built: Any = model.built_shape
    shapes = list(built or [None]) if model.several_inputs else [built]
    if any(shape is None or None in tuple(shape)[1:] for shape in shapes):
        raise ShapeError(
            f"expected a model with a fixed shape of its inputs. Received: {model.name}, {built}"
        )
    numbers = np.random.default_rng(0)
    inputs = [numbers.random((batch, *shape[1:]), dtype=np.float32) for shape in shapes]
    return inputs if model.several_inputs else inputs[0]
