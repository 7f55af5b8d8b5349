"""Printing sentences: whole words in every line of a terminal, one line each in a pipe."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TextIO


def say(text: str, indent: int = 0, file: TextIO | None = None) -> None:
    """Print a sentence.

    Args:
        text: one line.
        indent: columns before the second and further lines, where a terminal needs them.
        file: default standard output.
    """
    stream = sys.stdout if file is None else file
    if stream.isatty():
        width = max(shutil.get_terminal_size().columns, indent + 20)
        # Paths and options stay whole, so that they can be copied.
        text = textwrap.fill(
            text,
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    print(text, file=stream)
