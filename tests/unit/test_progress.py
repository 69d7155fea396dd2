"""What is said of a run while it goes on."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

import pytest

from pipelines.progress import Tally

TWO_COUNTS = """
from pipelines.progress import Tally
with Tally("looking at films", "films") as films, Tally("labelling") as frames:
    films.start(2)
    films.advance(1)
    films.advance(1)
    frames.start(30)
    frames.advance(30)
"""


def test_without_a_terminal_the_end_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Tally("looking at films", "films") as films:
        films.start(3)
        films.advance(1)
        films.advance(2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("looking at films: 3/3 films, ")


def test_an_interrupted_count_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    frames = Tally("labelling")
    frames.start(100)
    frames.advance(40)
    frames.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.startswith("labelling: 40/100 frames, ")


def test_in_a_terminal_one_bar_follows_the_other() -> None:
    """Rich has room for one bar at a time; a second one is an error."""
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", TWO_COUNTS], stderr=theirs, timeout=60)
    os.close(theirs)
    read = b""
    with contextlib.suppress(OSError):  # Linux has no other end for a terminal that nobody writes to any more
        while part := os.read(ours, 65536):
            read += part
    os.close(ours)
    said = read.decode()
    assert done.returncode == 0, said
    assert "2/2" in said
    assert "30/30" in said
