"""Putting the page of a run together and writing it."""

from __future__ import annotations

import datetime
import math
import os
from pathlib import Path
from typing import Any

from gpuconv import __version__
from gpuconv.callbacks.progress import seconds as in_words
from gpuconv.io.atomic import atomic_path
from gpuconv.report import costs, insides, results
from gpuconv.report.curves import curves_section
from gpuconv.report.page import Html, figures, page, paragraph
from gpuconv.report.run import Run, read_run

FILE = "report.html"
"""Name of the page in the run folder."""


def write_report(
    run_folder: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> Path:
    """Write a run of ``gpuconv train`` as one HTML page that needs no network and no other file.

    The page has the final metrics, the learning curves, the confusion matrix and the misclassified
    images of the test data, filters, feature maps, the layers, the dispatcher's decisions with
    their reasons, and the time of each layer. The network runs for that: the last two hold for
    the machine and the backend that write the page. What needs test images is left out, and said
    to be, where the data set does not come with gpuconv. The curves are drawn by matplotlib, or by
    Pillow where that is not installed.

    Args:
        run_folder: folder with ``model.safetensors``, and what else the run left.
        path: the file; None: ``report.html`` in the folder.

    Returns:
        The path of the file, which is written atomically.

    Raises:
        InvalidArgumentError: no folder, or one without a run.
        FileFormatError: a file of the run is damaged.
        FileNotFoundError: the folder of ``path`` does not exist.
        IsADirectoryError: ``path`` is a folder.
    """
    folder = Path(run_folder)
    target = folder / FILE if path is None else Path(path)
    if path is not None and not target.is_dir() and not target.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {str(target.parent)!r} does not exist. Received: {target}"
        )
    run = read_run(folder)
    content = _page(run).encode("utf-8", "replace")
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return target


def _page(run: Run) -> str:
    found = results.tested(run)
    profile = costs.measured(run, found)
    sections = [
        curves_section(run),
        results.confusion_section(found),
        results.mistakes_section(found),
        insides.filters_section(run.model),
        insides.maps_section(run.model, found),
        costs.layers_section(run),
        costs.decisions_section(profile),
        costs.timings_section(profile),
    ]
    now = datetime.datetime.now().astimezone()
    foot = f"Written by gpuconv {__version__} on {now:%Y-%m-%d %H:%M %Z}."
    return page(f"Training run {run.folder.resolve().name}", _head(run), sections, foot)


def _head(run: Run) -> list[Html]:
    model, record = run.model, run.record
    network = run.settings.get("model", model.name)
    words = f"The network {network} ({model.count_params():,} parameters)"
    words += f", trained on {run.data}." if run.data else "."
    head = [paragraph(words)]
    if not record:
        head.append(
            paragraph(
                "The run has not come to its end: these are the weights that it saved last.", "note"
            )
        )
    elif record.get("interrupted") is True:
        head.append(paragraph("The run was stopped before its last epoch.", "note"))
    test = _dictionary(record.get("test"))
    epochs, planned = len(run.epochs), run.settings.get("epochs")
    key: list[tuple[object, object]] = [
        (f"test {name}", _number(value)) for name, value in sorted(test.items())
    ]
    key += [
        (f"validation {name.removeprefix('val_')}", _number(values[-1]))
        for name, values in run.history.items()
        if name.startswith("val_") and values
    ]
    key.append(("epochs", f"{epochs} of {planned}" if type(planned) is int else epochs))
    duration = record.get("seconds")
    if isinstance(duration, (int, float)) and 0 <= duration < 1e12:  # false for NaN, too
        key.append(("training time", in_words(float(duration))))
    head.append(figures(key, "key"))
    facts: list[tuple[object, object]] = [
        (str(name).replace("_", " "), value)
        for name, value in run.settings.items()
        if name not in ("model", "data", "epochs") and value is not None
    ]
    backend = _dictionary(record.get("backend"))
    if backend:
        facts.append(("trained on", f"{backend.get('device')} ({backend.get('reason')})"))
    facts += [(f"{name} version", v) for name, v in _dictionary(record.get("versions")).items()]
    if facts:
        head.append(figures(facts))
    return head


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else "not finite"
    return "not finite" if value is None else str(value)
