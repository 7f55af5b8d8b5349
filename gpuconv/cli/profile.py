"""``gpuconv profile``: where the time of a training step goes, layer by layer."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gpuconv import zoo
from gpuconv.backends.selection import use_backend
from gpuconv.errors import InvalidArgumentError, suggestion
from gpuconv.models import Model, load_model
from gpuconv.profiling import profile as measure
from gpuconv.report.made_up import made_up_inputs

NETWORKS: dict[str, Callable[..., Model]] = {
    "digits": zoo.digits_network,
    "seed": zoo.seed_network,
    **{name: getattr(zoo, name) for name in zoo.__all__ if not name.endswith("_network")},
}
"""The networks that need no file."""


def profile(options: argparse.Namespace) -> int:
    """Carry out the command; returns the exit status.

    Raises:
        InvalidArgumentError: no such network or file, or a batch below 1.
        FileFormatError: a file that is not a whole model.
        BackendUnavailableError: the backend that was named cannot run here.
        ShapeError: the model's inputs have no fixed shape.
    """
    if options.batch < 1:
        raise InvalidArgumentError(f"--batch must be at least 1. Received: {options.batch}")
    if options.model not in NETWORKS and not Path(options.model).exists():
        raise InvalidArgumentError(
            f"--model must be {', '.join(NETWORKS)} or the path of a saved model."
            f"{suggestion(options.model, NETWORKS)} Received: {options.model}"
        )
    named: Any = nullcontext() if options.backend is None else use_backend(options.backend)
    with named:
        make = NETWORKS.get(options.model)
        model = load_model(options.model) if make is None else make()
        print(measure(model, made_up_inputs(model, options.batch)))
    return 0
