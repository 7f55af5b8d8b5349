"""``gpuconv train``: from real images to a trained network and the folder that it leaves."""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv import __version__, set_seed
from gpuconv.backends.selection import resolve_device, use_backend
from gpuconv.callbacks import History, StopOnInterrupt
from gpuconv.cli import run_folder
from gpuconv.cli.choices import DATA, NETWORKS, Images, network, usual_network
from gpuconv.cli.lines import say
from gpuconv.cli.run_folder import RunFolder
from gpuconv.errors import InvalidArgumentError, one_of
from gpuconv.io import read_model_file
from gpuconv.layers.convolution import ConvND
from gpuconv.models import Model
from gpuconv.optimizers import Adam
from gpuconv.optimizers.schedules import CosineDecay
from gpuconv.random import check_seed
from gpuconv.viz import draw_history, draw_images
from gpuconv.warming import warmup

DEFAULTS: dict[str, Any] = {
    "data": "digits",
    "data_path": None,
    "model": None,
    "epochs": 20,
    "batch_size": 32,
    "learning_rate": 0.002,
    "seed": 0,
}
MAY_CHANGE = ("epochs", "learning_rate", "data_path")
"""What may be different when a run goes on."""
VALIDATION = 0.1
"""Part of the training images that the network is watched on while it learns."""
SHOWN_MISTAKES = 24


def train(options: argparse.Namespace) -> int:
    """Carry out the command; returns the exit status.

    Raises:
        InvalidArgumentError: options that make no sense, or a folder that does not fit.
        BackendUnavailableError: the backend that was named cannot run here.
    """
    if options.backend is None:
        return _train(options)
    with use_backend(options.backend):
        return _train(options)


def _train(options: argparse.Namespace) -> int:
    device, reason = resolve_device()
    folder, settings, epochs_done = _open_run(options)
    set_seed(settings["seed"])
    images = DATA[settings["data"]](settings["data_path"])
    (x, y), test = images.train, images.test
    model = _compiled(settings, images)

    say(f"Backend: {device} ({reason})", indent=9)
    say(f"Data:    {settings['data']}, {len(x)} images to learn from, {len(test[0])} to test", 9)
    _print_decisions(model, settings["batch_size"])
    model.summary()
    if epochs_done >= settings["epochs"]:
        say(f"All {epochs_done} epochs are done; a larger --epochs goes on")
    elif options.resume:
        say(f"Going on with {folder} after {epochs_done} epoch{'s' * (epochs_done != 1)}")
    if epochs_done < settings["epochs"]:
        warmup(model, (settings["batch_size"], *x.shape[1:]))  # says that it compiles
    interrupt = StopOnInterrupt()
    started = time.perf_counter()
    history = model.fit(
        x,
        y,
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        validation_split=VALIDATION,
        callbacks=[RunFolder(folder, settings), interrupt],
    )
    seconds = time.perf_counter() - started
    loss, accuracy = model.evaluate(test[0], test[1], verbose=0)
    pictures = _leave_pictures(folder, model, history, images, settings["data"])
    run_folder.write_settings(
        folder,
        {
            "settings": settings,
            "backend": {"device": device, "reason": reason},
            "versions": {
                "gpuconv": __version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "epochs_done": len(history.epoch),
            "interrupted": interrupt.interrupted,
            "seconds": round(seconds, 2),
            # JSON has no NaN, which is the loss of a training that diverged.
            "test": {"loss": loss if math.isfinite(loss) else None, "accuracy": accuracy},
        },
    )
    say(f"Test accuracy {accuracy:.4f}, loss {loss:.4f}, on {len(test[0])} images not seen before")
    files = [file for file in (run_folder.MODEL, run_folder.HISTORY) if (folder / file).exists()]
    say(f"In {folder}: {', '.join([*files, *pictures, run_folder.SETTINGS])}", indent=4)
    if interrupt.interrupted:
        done = len(history.epoch)
        say(
            f"Stopped after {done} whole epoch{'s' * (done != 1)}. To go on: "
            f"gpuconv train --resume --out {folder}"
        )
        return 130
    return 0


def _compiled(settings: dict[str, Any], images: Images) -> Model:
    """Return the network, ready to learn; a run that goes on takes its weights in ``fit``."""
    count = len(images.train[0])
    steps = math.ceil(int(count * (1 - VALIDATION)) / settings["batch_size"])
    schedule = CosineDecay(settings["learning_rate"], decay_steps=steps * settings["epochs"])
    model = network(settings["model"], images)
    model.compile(Adam(schedule), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def _open_run(options: argparse.Namespace) -> tuple[Path, dict[str, Any], int]:
    """Return folder, settings and the epochs done, of a new run or one to go on with."""
    given = {name: getattr(options, name) for name in DEFAULTS}
    if not options.resume:
        settings = {name: DEFAULTS[name] if v is None else v for name, v in given.items()}
        settings["model"] = settings["model"] or usual_network(settings["data"])
        _check(settings)
        return run_folder.new_folder(options.out, settings["data"]), settings, 0
    folder = run_folder.existing_folder(options.out)
    configuration, _ = read_model_file(folder / run_folder.MODEL)
    progress: Any = configuration.get("progress")
    whole = isinstance(progress, dict) and "epoch" in progress
    saved: Any = progress.get("settings") if whole else None
    if not isinstance(saved, dict) or not {*DEFAULTS} - {"data_path"} <= {*saved}:
        raise InvalidArgumentError(
            f"the model there was not saved by 'gpuconv train', so there is no run to go on with. "
            f"Received: {folder}"
        )
    settings, done = {"data_path": None, **saved}, int(progress["epoch"])
    for name, value in given.items():
        if value is None:
            continue
        if name not in MAY_CHANGE and value != settings[name]:
            raise InvalidArgumentError(
                f"the run was started with {_option(name)} {settings[name]}, and going on keeps "
                f"it. Received: {_option(name)} {value}"
            )
        settings[name] = value
    _check(settings)
    if given["epochs"] is not None and given["epochs"] < done:
        raise InvalidArgumentError(
            f"{done} epochs of the run are done; going on needs --epochs above that. "
            f"Received: --epochs {given['epochs']}"
        )
    return folder, settings, done


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check(settings: dict[str, Any]) -> None:
    one_of(settings["data"], DATA, "--data")
    one_of(settings["model"], NETWORKS, "--model")
    for name in ("epochs", "batch_size"):
        if settings[name] < 1:
            raise InvalidArgumentError(
                f"{_option(name)} must be at least 1. Received: {settings[name]}"
            )
    if not 0 < settings["learning_rate"] < math.inf:
        raise InvalidArgumentError(
            f"--learning-rate must be positive. Received: {settings['learning_rate']}"
        )
    check_seed(settings["seed"])


def _print_decisions(model: Model, batch_size: int) -> None:
    """Say how the convolutions are computed, and why."""
    layers: dict[tuple[str, str, str], list[str]] = {}
    for layer, shape in _convolutions(model, model.built_shape):
        chosen = layer.explain((batch_size, *shape[1:]))
        key = (chosen.engine, chosen.algorithm, chosen.reason)
        layers.setdefault(key, []).append(layer.name)
    for (engine, algorithm, reason), names in layers.items():
        say(f"Engine:  {engine}, {algorithm} for {', '.join(names)}: {reason}", indent=9)


def _convolutions(model: Model, shape: Any) -> Iterator[tuple[ConvND, Any]]:
    """The convolutions of a model and of models inside, with the shapes of their inputs."""
    shapes = model.plan.shapes(shape)
    for step in model.plan.steps:
        if isinstance(step.layer, ConvND):
            yield step.layer, shapes[step.inputs[0]]
        elif isinstance(step.layer, Model):
            yield from _convolutions(step.layer, shapes[step.inputs[0]])


def _leave_pictures(
    folder: Path, model: Model, history: History, images: Images, data: str
) -> list[str]:
    """Draw curves and mistakes; return the names of the files."""
    x, y = images.test
    probabilities = model.predict(x, verbose=0)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != y)
    captions = [
        f"{images.name(y[i])} seen as {images.name(predicted[i])} ({probabilities[i].max():.2f})"
        for i in wrong
    ]
    if history.epoch:
        draw_history(history.history, folder / run_folder.CURVES, title=f"Training on {data}")
    draw_images(
        x[wrong[:SHOWN_MISTAKES]],
        captions[:SHOWN_MISTAKES],
        folder / run_folder.MISTAKES,
        title=f"{len(wrong)} of {len(y)} test images misclassified",
    )
    return [run_folder.CURVES] * bool(history.epoch) + [run_folder.MISTAKES]
