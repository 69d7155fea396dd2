"""Render the report: one HTML file that holds its style and its pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path

import jinja2

from insideout import __version__
from insideout.report import words
from insideout.report.tables import UNCERTAIN, Run, open_run
from insideout.report.views import FilmView, RunView, mapping
from insideout.store import Store

_COLOURS = 8  # of page.css; further emotions take them again, striped


class _Colours:
    """The style classes of an emotion, by its place in the order of the page."""

    def __init__(self, films: Sequence[FilmView]) -> None:
        self._films = films

    @cached_property
    def _places(self) -> dict[str, int]:
        names = dict.fromkeys(name for film in self._films for name in film.emotions if name != UNCERTAIN)
        return {name: place for place, name in enumerate(names)}

    def __call__(self, emotion: str) -> str:
        if emotion not in self._places:
            return "eu"
        again, place = divmod(self._places[emotion], _COLOURS)
        return f"e{place}" + (f" p{min(again, 2)}" if again else "")


def write_report(run: Path | str, out: Path | None = None, *, attribution: str | None = None) -> str:
    """Write the HTML report over a finished output folder and return its path or URL.

    `run` is the folder; `out` defaults to its `report.html`. `attribution` is the line shown with the
    pictures of every film; without it, films known by their digest bring their own. Raises
    OutputError when the folder is not a finished run or newer than this version, StorageError when
    the page cannot be written. The page is replaced as a whole or not at all.
    """
    opened = open_run(run)
    known: dict[str, str] = json.loads((resources.files("insideout.report") / "attributions.json").read_text("utf-8"))
    films = [FilmView(opened, facts, attribution or known.get(facts.sha256)) for facts in opened.films]
    page = render(opened, films).encode("utf-8")
    if out is None:
        opened.store.write("report.html", page)
        return f"{opened.store.root.rstrip('/')}/report.html"
    target = Path(os.path.abspath(out))
    Store(target.parent).write(target.name, page)
    return str(out)


def render(run: Run, films: Sequence[FilmView]) -> str:
    """Render the page; every name from a table or a manifest is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("insideout.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    environment.filters["colour"] = _Colours(films)
    title = films[0].facts.name if len(films) == 1 else f"{len(films)} films"
    return environment.get_template("page.html.j2").render(
        title=title,
        version=__version__,
        run=RunView(run),
        characters=list(dict.fromkeys(who["name"] for film in films for who in film.characters)),
        films=films,
        problems=_missing_counts(run, films),
        attributions=list(dict.fromkeys(film.attribution for film in films if film.attribution)),
    )


def _missing_counts(run: Run, films: Sequence[FilmView]) -> list[str]:
    """Compare the manifest's counts with the tables, where both are about the same films."""
    counts = mapping(run.manifest.get("counts"))
    if counts.get("films") != len(films):
        return []
    table = {
        "frames": sum(film.ledger.sampled for film in films),
        "labelled": sum(film.ledger.totals["labelled"] for film in films),
        "characters": sum(film.sightings for film in films),
    }
    return [
        f"the manifest counts {counts[name]} {name}, the tables hold {found}"
        for name, found in table.items()
        if isinstance(counts.get(name), int) and counts[name] != found
    ]
