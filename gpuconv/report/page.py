"""The pieces that the page is put together from; all of them escape what they are given."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpuconv.report.style import STYLE

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load for the page: nothing but what is in it."""


@dataclass(frozen=True)
class Html:
    """A piece of HTML, to be told from text, which is escaped."""

    code: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: for links to it.
        heading: its heading.
        content: the pieces in it.
    """

    name: str
    heading: str
    content: Sequence[Html]


Text = object
"""Anything that is shown by its ``str``; :class:`Html` is taken as it is."""


def escaped(value: Text) -> str:
    """Return a value as HTML, with what could be taken for a tag, quote or control escaped."""
    if isinstance(value, Html):
        return value.code
    return html.escape(_CONTROL.sub("\ufffd", str(value)), quote=True)


def paragraph(value: Text, kind: str = "") -> Html:
    """Return a paragraph; ``kind`` is a class of the style sheet."""
    return Html(f"<p{_kind(kind)}>{escaped(value)}</p>")


def heading(value: Text) -> Html:
    """Return a heading within a section."""
    return Html(f"<h3>{escaped(value)}</h3>")


def figures(pairs: Iterable[tuple[Text, Text]], kind: str = "facts") -> Html:
    """Return names and values as a description list."""
    entries = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in pairs
    )
    return Html(f'<dl class="{kind}">{entries}</dl>')


def table(
    caption: Text,
    header: Sequence[Text],
    rows: Iterable[Sequence[Text]],
    numbers: Iterable[int] = (),
    kind: str = "",
) -> Html:
    """Return a table in a box of its own that scrolls sideways.

    Args:
        caption: what it shows.
        header: names of the columns.
        rows: a row each; its first cell is the row's heading.
        numbers: the columns that are set to the right.
        kind: a class of the style sheet.
    """
    right = {*numbers}

    def cell(column: int, value: Text) -> str:
        tag, scope = ("td", "") if column else ("th", ' scope="row"')
        if isinstance(value, Html) and value.code.startswith("<td"):
            return value.code
        return f"<{tag}{scope}{_kind('number' * (column in right))}>{escaped(value)}</{tag}>"

    head = "".join(
        f'<th scope="col"{_kind("number" * (column in right))}>{escaped(name)}</th>'
        for column, name in enumerate(header)
    )
    body = "".join(
        f"<tr>{''.join(cell(column, value) for column, value in enumerate(row))}</tr>\n"
        for row in rows
    )
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(caption)}">'
        f"<table{_kind(kind)}><caption>{escaped(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def picture(
    png: bytes, alt: Text, size: tuple[int, int], caption: Text = "", kind: str = "sheet"
) -> Html:
    """Return a PNG picture, inside the page, with a caption.

    Args:
        png: the content of the file.
        alt: what it shows, in words.
        size: width and height in pixels of the page; narrower screens shrink it.
        caption: stands below; empty for none.
        kind: a class of the style sheet.
    """
    data = base64.b64encode(png).decode("ascii")
    below = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return Html(
        f'<figure{_kind(kind)}><img src="data:image/png;base64,{data}" alt="{escaped(alt)}" '
        f'width="{size[0]}" height="{size[1]}">{below}</figure>'
    )


def together(pieces: Iterable[Html], kind: str) -> Html:
    """Return pieces in one box; ``kind`` is a class of the style sheet."""
    return Html(f'<div class="{kind}">{"".join(piece.code for piece in pieces)}</div>')


def folded(summary: Text, content: Html) -> Html:
    """Return what is shown when its summary is touched."""
    return Html(f"<details><summary>{escaped(summary)}</summary>{content.code}</details>")


def page(title: str, head: Sequence[Html], sections: Sequence[Section], foot: Text) -> str:
    """Return the whole page.

    Args:
        title: of the page and its window.
        head: what stands above the sections.
        sections: in their order.
        foot: the last line.
    """
    links = "".join(
        f'<li><a href="#{escaped(s.name)}">{escaped(s.heading)}</a></li>' for s in sections
    )
    body = "\n".join(
        f'<section id="{escaped(s.name)}">\n<h2>{escaped(s.heading)}</h2>\n'
        + "\n".join(piece.code for piece in s.content)
        + "\n</section>"
        for s in sections
    )
    top = "\n".join(piece.code for piece in head)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>{escaped(title)}</h1>
{top}
</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{body}
</main>
<footer>{escaped(foot)}</footer>
</body>
</html>
"""


def _kind(name: str) -> str:
    return f' class="{name}"' if name else ""
