"""Parts of the GPU check that are run in processes of their own; each prints facts as JSON.

python -m gpuconv.benchmarks.gpu_parts curve            # on cuda:numba and cuda:cupy
python -m gpuconv.benchmarks.gpu_parts curve --tiny     # one step of a tiny network, on cuda-sim
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gpuconv as gc
from gpuconv.backends import registry
from gpuconv.backends.transfers import count_transfers
from gpuconv.benchmarks import machine

ENGINES = ("cuda:numba", "cuda:cupy")
_TOLERANCE = 2e-3
"""Relative, for losses and weights after 20 steps of float32 in another order."""

Facts = dict[str, Any]


def network(backend: str, tiny: bool) -> gc.Sequential:
    """Return a network with every kind of layer that training meets."""
    layers = gc.layers
    filters = 2 if tiny else 16
    size = 4 if tiny else 16
    model = gc.Sequential(
        [
            gc.Input((size, size, 3)),
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.Conv2D(2 * filters, 3, strides=1 if tiny else 2, padding=1, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(4, activation="softmax"),
        ],
        backend=backend,
    )
    model.compile(gc.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return model


def trained(backend: str, steps: int, tiny: bool) -> tuple[list[float], list[np.ndarray[Any, Any]]]:
    """Return the losses of some steps from the same beginning, and the weights at the end."""
    gc.set_seed(3)
    model = network(backend, tiny)
    rng = np.random.default_rng(5)
    batch, size = (2, 4) if tiny else (32, 16)
    x = rng.standard_normal((batch, size, size, 3)).astype("float32")
    y = rng.integers(0, 4, batch)
    losses = [float(model.train_step(x, y)[0]) for _ in range(steps)]
    return losses, model.get_weights()


def _backends(tiny: bool) -> Sequence[str]:
    return ("cuda-sim",) if tiny else ENGINES


def about_machine(tiny: bool) -> Facts:
    """Device, driver, versions, and what each engine says of itself."""
    found: Facts = machine.provenance("numba", "numba-cuda", "cupy-cuda13x", "torch", "pytest")
    for name in _backends(tiny):
        probe = registry.probe(name) if ":" in name else registry.probe_device(name)
        found[name] = "can run" if probe.available else str(probe.reason)
    if not tiny:
        from gpuconv.backends.device_profile import device_name

        found["device"] = device_name("cuda")
    return found


def curve(tiny: bool) -> Facts:
    """Train on the CPU and on each engine; the largest relative differences."""
    steps = 1 if tiny else 20
    expected, weights = trained("cpu", steps, tiny)
    facts: Facts = {"cpu": expected}
    for backend in _backends(tiny):
        losses, ours = trained(backend, steps, tiny)
        of_losses = max(abs(a - b) / abs(a) for a, b in zip(expected, losses, strict=True))
        of_weights = max(
            float(np.abs(a - b).max() / (np.abs(a).max() + 1e-6))
            for a, b in zip(weights, ours, strict=True)
        )
        facts[backend] = {"losses": losses, "of losses": of_losses, "of weights": of_weights}
        if not max(of_losses, of_weights) <= _TOLERANCE:
            facts["wrong"] = f"{backend} differs from the CPU by more than {_TOLERANCE}"
    return facts


def determinism(tiny: bool) -> Facts:
    """Train several times on each engine: the same bits?"""
    runs, steps = (2, 1) if tiny else (10, 3)
    facts: Facts = {"runs": runs}
    for backend in _backends(tiny):
        first = trained(backend, steps, tiny)[1]
        for _ in range(runs - 1):
            again = trained(backend, steps, tiny)[1]
            if any((a != b).any() for a, b in zip(first, again, strict=True)):
                facts["wrong"] = f"{backend} gave other bits"
        facts[backend] = "the same bits" if "wrong" not in facts else "other bits"
    return facts


def transfers(tiny: bool) -> Facts:
    """Copies in one step of training: the batch and its labels up, nothing down."""
    facts: Facts = {}
    for backend in _backends(tiny):
        gc.set_seed(3)
        model = network(backend, tiny)
        batch, size = (2, 4) if tiny else (32, 16)
        x, y = np.ones((batch, size, size, 3), "float32"), np.zeros(batch, "int64")
        model.train_step(x, y)
        with count_transfers() as counted:
            model.train_step(x, y)
        facts[backend] = {"to device": counted.to_device, "to host": counted.to_host}
        if counted.to_host:
            facts["wrong"] = f"a step on {backend} waits for the device"
    return facts


def once(tiny: bool) -> Facts:
    """One step on each engine, for tools that watch memory."""
    for backend in _backends(tiny):
        trained(backend, 1, tiny)
    return {"engines": list(_backends(tiny))}


PARTS: dict[str, Callable[[bool], Facts]] = {
    "machine": about_machine,
    "curve": curve,
    "determinism": determinism,
    "transfers": transfers,
    "once": once,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one part; prints its facts, returns 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--tiny", action="store_true", help="one step, in the simulator")
    options = parser.parse_args(arguments)
    facts = PARTS[options.part](options.tiny)
    print(json.dumps(facts))
    return int("wrong" in facts)


if __name__ == "__main__":
    sys.exit(main())
