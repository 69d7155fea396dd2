"""The pages on questions, films with labels and comparisons name the options that there are, all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from insideout.render import SHOWS, USUAL
from pipelines.cli import app

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("command", "page"), [("ask", "questions.md"), ("render", "render.md"), ("diff", "diff.md")])
def test_a_page_names_the_options_of_its_command(command: str, page: str) -> None:
    text = (DOCS / page).read_text()
    options = {name for parameter in get_command(app).commands[command].params for name in parameter.opts}  # type: ignore[attr-defined]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    others = {"--every"}  # of `insideout label`
    assert named - others <= options
    known = {name for name in options if name.startswith("--")} - {"--help", "--seed", "--resamples"}
    assert known <= named


def test_the_page_names_what_can_be_shown() -> None:
    text = (DOCS / "render.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| `--show"))
    assert re.findall(r"`(\w+)`", line) == list(SHOWS)
    assert "(these four are usual)" in line
    assert SHOWS[:4] == USUAL


def test_the_pictures_of_the_pages_are_there_and_small() -> None:
    for page in ("questions.md", "render.md", "diff.md"):
        for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (DOCS / page).read_text()):
            assert 10_000 < (DOCS / name).stat().st_size < 400_000
