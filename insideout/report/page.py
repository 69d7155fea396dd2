"""Render the report: one HTML file that holds its style, its scripts, its charts and its pictures."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from insideout import __version__
from insideout.report import charts, colours, words
from insideout.report.findings import Findings
from insideout.report.tables import Run, open_run
from insideout.report.views import FilmView, RunView, mapping
from insideout.store import Store

#: Bytes of a page: pictures are chosen such that it stays below.
LIMIT = 9_500_000
#: Frames with a picture, of all films together.
_FRAMES = 6000
_LEAST = 60


def write(run: Path | str, out: Path | None, *, attribution: str | None, say: Callable[[str], None]) -> str:
    """Write the page; `insideout.report.write_report` says what of."""
    opened = open_run(run)
    known: dict[str, str] = json.loads((resources.files("insideout.report") / "attributions.json").read_text("utf-8"))
    findings = Findings(opened, say)
    films = []
    for number, facts in enumerate(opened.films, 1):
        say(f"reading {facts.name} ({number} of {len(opened.films)})")
        most = max(_LEAST, _FRAMES // len(opened.films))
        films.append(FilmView(opened, facts, findings, attribution or known.get(facts.sha256), len(opened.films), most))
    room = LIMIT - len(render(opened, films, findings).encode("utf-8"))
    for left, film in zip(range(len(films), 0, -1), films, strict=True):
        say(f"pictures of {film.facts.name}")
        room -= film.add_pictures(opened, max(0, room) // left)
    say("writing the page")
    page = render(opened, films, findings).encode("utf-8")
    if out is None:
        opened.store.write("report.html", page)
        return f"{opened.store.root.rstrip('/')}/report.html"
    target = Path(os.path.abspath(out))
    Store(target.parent).write(target.name, page)
    return str(out)


def render(run: Run, films: Sequence[FilmView], findings: Findings) -> str:
    """Render the page; every name from a table or a manifest is escaped, and none is part of a script that runs."""
    scripts = [_library(), Markup((resources.files("insideout.report") / "page.js").read_text("utf-8"))]
    content = {"charts": charts.specifications(), "films": [film.data() for film in films]}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=films[0].facts.name if len(films) == 1 else f"{len(films)} films",
            version=__version__,
            run=RunView(run, findings),
            characters=list(dict.fromkeys(name for film in films for name in film.characters)),
            films=films,
            problems=_missing_counts(run, films),
            attributions=list(dict.fromkeys(film.attribution for film in films if film.attribution)),
            palette=list(zip(colours.PALETTE, colours.ON, strict=True)),
            doubt=colours.DOUBT,
            scripts=scripts,
            data=_data(content),
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("insideout.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    environment.filters["digest"] = _digest
    return environment


@cache
def _library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script; to bundle them takes a second."""
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub asks for a snippet
    return Markup(bundle.replace("</script", "<\\/script"))


def _data(content: Any) -> Markup:
    """Plain data for a script element that does not run; nothing in it can end the element."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026").replace("\u2028", " ").replace("\u2029", " "))


def _digest(script: str) -> Markup:
    """What a Content-Security-Policy calls a script by: no other runs on the page."""
    return Markup("'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'")


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
