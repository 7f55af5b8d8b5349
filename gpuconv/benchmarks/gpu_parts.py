"""Parts of the GPU check about whole networks, each a process of its own; prints facts as JSON.

python -m gpuconv.benchmarks.gpu_parts curve            # on cuda:numba and cuda:cupy
python -m gpuconv.benchmarks.gpu_parts curve --tiny     # one step of a tiny network, on cuda-sim
python -m gpuconv.benchmarks.gpu_parts timings -- --quick    # benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gpuconv as gc
from gpuconv.backends.transfers import count_transfers
from gpuconv.benchmarks import gpu_engines, gpu_environment, machine
from gpuconv.benchmarks.gpu_engines import ENGINES

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


def _backends(tiny: bool, facts: Facts) -> Sequence[str]:
    """The engines that can run; why the others cannot is written into the facts."""
    if tiny:
        return ("cuda-sim",)
    found, reasons = gpu_engines.available(ENGINES)
    facts |= {name: {"not run": reason} for name, reason in reasons.items()}
    if not found:
        facts["wrong"] = "no engine can run"
    return found


def about_machine(tiny: bool) -> Facts:
    """Device, driver, versions, where CUDA's libraries are, and what each engine says of itself."""
    found: Facts = machine.provenance(*PACKAGES)
    for name in ("cuda-sim",) if tiny else ENGINES:
        found[name] = gpu_engines.why_not(name) or "can run"
    found["name, driver, MiB of memory, compute capability"] = gpu_environment.nvidia_smi(
        "name", "driver_version", "memory.total", "compute_cap"
    )
    found["toolkit"] = gpu_environment.toolkit()
    found["compute-sanitizer"] = gpu_environment.sanitizer()
    found |= gpu_environment.libraries()
    if not tiny:
        _start_one_kernel(found)
    return found


PACKAGES = (
    *("numba", "numba-cuda", "llvmlite", "cupy-cuda13x", "cupy-cuda12x", "torch", "pytest"),
    *("cuda-bindings", "cuda-core", "cuda-pathfinder", "nvidia-nvvm", "nvidia-nvjitlink"),
    *("nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "hypothesis", "matplotlib"),
)
"""Whose versions are written down."""


def _start_one_kernel(found: Facts) -> None:
    """Import the kernels and start one: what fails here fails everywhere."""
    try:
        import cupy

        from gpuconv.backends.device_profile import device_name

        found["device"] = device_name("cuda")
        import numba.cuda

        found["numba.cuda"] = numba.cuda.__file__
        from gpuconv_kernels.device import updates

        value = cupy.asarray(np.zeros(3, "float32"))
        gradient = cupy.asarray(np.ones(3, "float32"))
        updates.sgd_update(value, gradient, None, 1.0, 0.0, False, False, False)
        if cupy.asnumpy(value).tolist() != [-1.0, -1.0, -1.0]:
            found["wrong"] = "a kernel of three threads gave other numbers"
    except Exception as error:
        found["wrong"] = f"no kernel runs: {type(error).__name__}: {error}"[:1500]


def curve(tiny: bool) -> Facts:
    """Train on the CPU and on each engine; the largest relative differences."""
    steps, facts = 1 if tiny else 20, dict[str, Any]()
    backends = _backends(tiny, facts)
    # NumPy's engine: the other one would compile for longer than it computes.
    expected, weights = trained("cpu:numpy", steps, tiny) if backends else ([], [])
    facts["cpu"] = expected
    for backend in backends:
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
    for backend in _backends(tiny, facts):
        first = trained(backend, steps, tiny)[1]
        facts[backend] = "the same bits"
        for _ in range(runs - 1):
            again = trained(backend, steps, tiny)[1]
            if any(a.tobytes() != b.tobytes() for a, b in zip(first, again, strict=True)):
                facts[backend] = "other bits"
                facts["wrong"] = f"{backend} gave other bits"
    return facts


def transfers(tiny: bool) -> Facts:
    """Copies in one step of training: the batch and its labels up, nothing down."""
    facts: Facts = {}
    for backend in _backends(tiny, facts):
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


def timings(arguments: Sequence[str]) -> int:
    """Run benchmarks/gpu.py in this process; returns its exit status."""
    program = str(machine.CHECKOUT / "benchmarks" / "gpu.py")
    sys.argv = [program, *arguments]
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


PARTS: dict[str, Callable[[bool], Facts]] = {
    "machine": about_machine,
    "curve": curve,
    "determinism": determinism,
    "transfers": transfers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one part; prints its facts, returns 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=(*sorted(PARTS), "timings"))
    parser.add_argument("--tiny", action="store_true", help="one step, in the simulator")
    parser.add_argument("words", nargs="*", help="for timings: arguments of benchmarks/gpu.py")
    options = parser.parse_args(arguments)
    mended = gpu_environment.mend()
    if options.part == "timings":
        return timings(options.words)
    facts = PARTS[options.part](options.tiny)
    if options.part == "machine":
        facts["mended"] = mended
    print(json.dumps(facts))
    return int("wrong" in facts)


if __name__ == "__main__":
    sys.exit(main())
