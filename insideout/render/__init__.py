"""A film with its labels drawn: as a film with sound, or as a sheet with a picture of each shot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath

from insideout.errors import UsageError
from insideout.objects import is_url
from insideout.outfile import new_file
from insideout.render import movie, sheet
from insideout.render.clip import parse_clip
from insideout.render.drawing import SHOWS, USUAL, Drawing, parse_show
from insideout.render.movie import Rendered
from insideout.render.source import FilmSource, choose_film, open_source
from insideout.report.tables import open_run

__all__ = ["SHOWS", "USUAL", "RenderSettings", "Rendered", "parse_clip", "parse_show", "render_film", "render_sheet"]


@dataclass(frozen=True)
class RenderSettings:
    """What is drawn of which film: `film` of a run with several, `path` where it lies now, `clip` in seconds,
    `height` in lines, `show` some of `SHOWS` (None: what is usual), `fused` emotions of tracks instead of frames."""

    film: str | None = None
    path: str | None = None
    clip: tuple[Fraction, Fraction | None] | None = None
    height: int | None = None
    show: tuple[str, ...] | None = None
    fused: bool = False


def render_film(
    run: str,
    out: str,
    settings: RenderSettings,
    *,
    begin: Callable[[int], None] | None = None,
    tell: Callable[[int], None] | None = None,
) -> Rendered:
    """Write a film of a finished run with its labels drawn to a local path or URL, whole or not at all.

    See `movie.render_film`; raises also OutputError for a folder that is no finished run, and FilmError where the film
    is missing or another one.
    """
    _check_suffix(out, movie.SUFFIXES, "for a picture of each shot add --contact-sheet")
    source, drawing, _ = _open(run, out, settings, USUAL)
    with new_file(out) as path:
        return movie.render_film(
            source, drawing, path, clip=settings.clip, height=settings.height, begin=begin, tell=tell
        )


def render_sheet(
    run: str,
    out: str,
    settings: RenderSettings,
    *,
    begin: Callable[[int], None] | None = None,
    tell: Callable[[int], None] | None = None,
) -> list[str]:
    """Write the contact sheet of a film: one picture, or for many shots `out` with `-1`, `-2` … before its suffix.

    Returns what was written; raises as `render_film`.
    """
    _check_suffix(out, sheet.SUFFIXES, "a contact sheet is a picture")
    source, drawing, emotions = _open(run, out, settings, ("masks",))
    found = sheet.tiles(source, settings.clip)
    if begin is not None:
        begin(len(found))
    pages = sheet.sheets(
        source, drawing, found, title=source.shown.facts.name, emotions=emotions, height=settings.height, tell=tell
    )
    several, written = len(found) > sheet.COLUMNS * sheet.ROWS, []
    suffix = PurePosixPath(out).suffix
    for number, page in enumerate(pages, 1):
        name = f"{out.removesuffix(suffix)}-{number}{suffix}" if several else out
        with new_file(name) as path:
            path.write_bytes(sheet.encode(page, suffix.lower()))
        written.append(name)
    return written


def _check_suffix(out: str, suffixes: tuple[str, ...], hint: str) -> None:
    if PurePosixPath(out).suffix.lower() not in suffixes:
        raise UsageError(f"--out {out}: ends in none of {', '.join(suffixes)}; {hint}")


def _open(
    run: str, out: str, settings: RenderSettings, usual: tuple[str, ...]
) -> tuple[FilmSource, Drawing, tuple[str, ...]]:
    opened = open_run(run)
    source = open_source(opened, choose_film(opened, settings.film), settings.path)
    if not is_url(out) and not is_url(source.film.path) and Path(out).resolve() == Path(source.film.path).resolve():
        raise UsageError(f"--out {out}: is the film itself; name another file")
    emotions = source.shown.seen().emotions
    show = usual if settings.show is None else settings.show
    return source, Drawing(emotions, show, fused=settings.fused), emotions
