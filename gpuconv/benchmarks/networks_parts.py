"""A part of the benchmark of whole networks that needs a process of its own: peak memory.

python -m gpuconv.benchmarks.networks_parts gpuconv           # or "torch contiguous"; prints JSON
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpuconv.backends.cpu_probe import usable_cores
from gpuconv.backends.selection import use_backend
from gpuconv.benchmarks import pytorch
from gpuconv.benchmarks.networks_workload import OURS, RESNET18, Network, model_of, step_of

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells a process what memory it has, and takes the order to forget its peak."""
STEPS = 3
_REHEARSED = 32
"""Pixels of the images that all code is loaded on."""


def peak_memory(make: Callable[[Network], Callable[[], Any]], network: Network) -> dict[str, Any]:
    """Return the memory that steps take at their worst above what there was before.

    Before them the network is there, without gradients and without the optimizer's state; all that
    is only loaded once was loaded by a step of the same network on small images.

    Args:
        make: makes a step, as a function that returns the loss.
        network: of which steps are taken.

    Returns:
        ``before_mib``, ``peak_mib``, their difference ``above_mib``, and the first ``loss``.
    """
    make(dataclasses.replace(network, size=min(network.size, _REHEARSED)))()
    step = make(network)
    gc.collect()
    if sys.platform == "linux":
        # What the rehearsal freed would be taken again and not be seen; not every libc has this.
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    CLEAR.write_text("5")  # VmHWM begins again at what there is now
    before = _mebibytes("VmRSS")
    losses = [float(step()) for _ in range(STEPS)]
    peak = _mebibytes("VmHWM")
    facts = {"before_mib": before, "peak_mib": peak, "above_mib": peak - before}
    return {**facts, "loss": losses[0]}


def _mebibytes(name: str) -> float:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{STATUS} says nothing of {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one side; prints its facts."""
    parser = argparse.ArgumentParser(description=__doc__)
    sides = [OURS, *(f"torch {memory}" for memory in pytorch.FORMATS)]
    parser.add_argument("side", choices=sides)
    parser.add_argument("--engine", default="cpu", help="gpuconv's; default: the best there is")
    parser.add_argument("--batch", type=int, default=8, help="images; default 8")
    parser.add_argument("--size", type=int, default=RESNET18.size, help="their pixels; default 224")
    options = parser.parse_args(arguments)
    network = dataclasses.replace(RESNET18, size=options.size)

    def ours(network: Network) -> Callable[[], Any]:
        x, y = network.images(options.batch), network.labels(options.batch)
        model = model_of(network, True)
        return lambda: model.train_step(x, y)[0]

    if options.side == OURS:
        with use_backend(options.engine):
            facts = peak_memory(ours, network)
    else:
        torch, memory = pytorch.load(), options.side.split()[1]
        torch.set_num_threads(usable_cores())
        facts = peak_memory(lambda net: step_of(torch, net, options.batch, memory), network)
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
