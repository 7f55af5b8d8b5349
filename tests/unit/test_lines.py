"""Sentences on a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest

from gpuconv.cli.lines import say

SENTENCE = "Backend: cpu (automatic: CUDA is not available: no driver was found in /usr/lib/x86-64)"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [30, 45, 60])
def test_a_terminal_gets_whole_words(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    file = Terminal()
    say(SENTENCE, 9, file)
    lines = file.getvalue().removesuffix("\n").split("\n")
    assert max(map(len, lines)) <= width
    assert all(line.startswith(" " * 9) for line in lines[1:])
    assert [word for line in lines for word in line.split()] == SENTENCE.split()


def test_a_pipe_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    say(SENTENCE, 9)
    assert capsys.readouterr().out == f"{SENTENCE}\n"


def test_long_words_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    file = Terminal()
    path = "/a/very/long/path/to/a/folder-of-runs/digits-20250101-120000"
    say(f"In {path}: model", file=file)
    assert f"{path}:" in file.getvalue().split("\n")
