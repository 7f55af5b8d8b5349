"""What gpuconv finds on this machine, what it does not, and why: ``gpuconv.doctor()``.

:func:`collect` looks, :func:`doctor` prints.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from gpuconv import __version__
from gpuconv.backends import cpu_probe, cuda_probe, registry, selection
from gpuconv.backends.base import Probe
from gpuconv.errors import GpuconvError
from gpuconv.settings import config


class Report(dict[str, Probe]):
    """Probes by name, in the order in which they are printed.

    Its ``repr`` is one short line, so that an interpreter does not print everything twice.
    """

    def __repr__(self) -> str:
        found = sum(probe.available for probe in self.values())
        return f"<gpuconv report: {found} of {len(self)} available>"


def doctor(file: TextIO | None = None) -> Report:
    """Print everything that decides where gpuconv computes, with the reason for what is missing.

    A table on a terminal, else one plain line a probe. It never fails: what cannot be looked
    at is reported as not available.

    Args:
        file: a text stream; standard output by default.

    Returns:
        A dict from names (``"cupy"``, ``"cpu:numpy"``, ``"backend"``, ...) to probes with
        ``available``, ``reason`` and ``hint``.
    """
    report = collect()
    stream = sys.stdout if file is None else file
    if stream.isatty():
        _print_table(report, stream)
    else:
        for name, probe in report.items():
            print(f"{name:<15} {_state(probe):<14} {_explanation(probe)}", file=stream)
    return report


def collect() -> Report:
    """Look at everything; nothing is printed and nothing is raised."""
    looks: dict[str, Callable[[], Probe]] = {
        "python": _probe_python,
        "gpuconv": _probe_gpuconv,
        "numpy": partial(Probe, True, np.__version__),
        "blas": cpu_probe.probe_blas,
        "numba": cpu_probe.probe_numba,
        "cpu": cpu_probe.probe_cpu,
        "memory": cpu_probe.probe_memory,
        "cuda driver": cuda_probe.probe_driver,
        "cuda devices": cuda_probe.probe_devices,
        "cupy": cuda_probe.probe_cupy,
        "numba-cuda": cuda_probe.probe_numba_cuda,
        "cuda simulator": cuda_probe.probe_simulator,
    }
    for name in registry.backend_names():
        if ":" in name:  # an engine, not a device
            looks[name] = partial(registry.probe, name)
    looks["backend"] = _probe_backend
    looks["workspace"] = _probe_workspace
    return Report({name: _look(look) for name, look in looks.items()})


def _look(look: Callable[[], Probe]) -> Probe:
    try:
        return look()
    except GpuconvError as error:
        return Probe(False, str(error))
    except Exception as error:  # a broken installation may fail in any way; this is its report
        return Probe(False, f"{type(error).__name__}: {error}")


def _probe_python() -> Probe:
    where = f"{platform.system()} {platform.machine()}"
    return Probe(True, f"{platform.python_version()} ({sys.implementation.name}, {where})")


def _probe_gpuconv() -> Probe:
    return Probe(True, f"{__version__} in {Path(__file__).parent}")


def _probe_backend() -> Probe:
    device, why = selection.resolve_device()
    return Probe(True, f"{device} ({why})")


def _probe_workspace() -> Probe:
    mib = config.workspace_limit / 1024**2
    return Probe(True, f"a convolution may use {mib:,.1f} MiB beyond its inputs and outputs")


def _state(probe: Probe) -> str:
    return "ok" if probe.available else "not available"


def _explanation(probe: Probe) -> str:
    return f"{probe.reason}. {probe.hint}" if probe.hint else probe.reason


def _print_table(report: Report, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for name, probe in report.items():
        style = "green" if probe.available else "yellow"
        table.add_row(Text(name, "bold"), Text(_state(probe), style), Text(_explanation(probe)))
    Console(file=stream).print(table)
