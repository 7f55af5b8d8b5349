"""``gpuconv report``: a run as one HTML page."""

from __future__ import annotations

import argparse

from gpuconv.cli.lines import say
from gpuconv.report import write_report


def report(options: argparse.Namespace) -> int:
    """Carry out the command; returns the exit status.

    Raises:
        InvalidArgumentError: no folder, or one without a run.
        FileFormatError: a file of the run is damaged.
        FileNotFoundError: the folder of the page does not exist.
    """
    path = write_report(options.folder, options.out)
    size = path.stat().st_size
    say(f"{path}: one page of {size / 1024:,.0f} KiB, to be opened in any browser", indent=4)
    return 0
