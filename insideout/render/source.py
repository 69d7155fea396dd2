"""The film of a run where it lies now, the labels that stand for its frames, and whose work it is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources

import numpy as np
import numpy.typing as npt

from insideout.errors import FilmError, UsageError
from insideout.film import Film, open_film, open_video
from insideout.messages import LEFT_OUT
from insideout.report.tables import FilmFacts, Run
from insideout.shown import Shown

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FilmSource:
    """A film that was labelled, its labels, and how wide a pixel is by its height as the picture is shown upright.

    `attribution` is what its licence asks to be said, None where that is not known.
    """

    film: Film
    shown: Shown
    pixel: Fraction
    attribution: str | None

    def sides(self, height: int | None) -> tuple[int, int]:
        """Width and height of a picture with square pixels that is so high, both even."""
        wanted = height or self.film.height
        width = round(Fraction(self.film.width * wanted, self.film.height) * self.pixel / 2) * 2
        return max(2, width), max(2, round(wanted / 2) * 2)

    def within(self, clip: tuple[Fraction, Fraction | None] | None) -> Ints:
        """Ordinals of the frames whose time stamps are in [begin, end) seconds after the first, all without a clip.

        Raises UsageError where there is none.
        """
        ordinals = np.arange(self.film.frames, dtype=np.int64)
        if clip is None:
            return ordinals
        begin, end = clip
        base, first = self.film.time_base, int(self.film.pts[0])
        inside = self.film.pts >= math.ceil(first + begin / base)
        if end is not None:
            inside &= self.film.pts < math.ceil(first + end / base)
        if not inside.any():
            raise UsageError(
                f"--clip {float(begin):g}-{'' if end is None else f'{float(end):g}'}: no frame is in it; "
                f"the film lasts {self.film.duration_s:.3f} s"
            )
        chosen: Ints = ordinals[inside]
        return chosen


def choose_film(run: Run, name: str | None) -> FilmFacts:
    """The film of a run by id, the beginning of one, path or file name; the only one without a name.

    Raises UsageError where none or several fit.
    """
    found = [
        facts
        for facts in run.films
        if name is None or name in (facts.path, facts.name) or facts.film.startswith(name.lower())
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{facts.film} ({facts.name})" for facts in run.films[:10])
    asked = (
        f"--film {name}: {'no film' if not found else 'several films'} of the run" if name else "the run has several"
    )
    raise UsageError(f"{asked}; choose one by --film: {known}{' …' if len(run.films) > 10 else ''}")


def open_source(run: Run, facts: FilmFacts, path: str | None = None) -> FilmSource:
    """Open the film that was labelled, where it was then or at `path`.

    Raises FilmError where it is missing or is not the file that was labelled (another sha256).
    """
    where = path or facts.path
    if where.endswith(LEFT_OUT):
        raise FilmError(f"{where}: the query of a URL is never stored; give the whole URL by --source")
    try:
        film = open_film(where)
    except FilmError as error:
        hint = "" if path else "; if the film has moved, give --source PATH"
        raise FilmError(f"{error}{hint}") from error
    if film.sha256 != facts.sha256:
        raise FilmError(
            f"{where}: is not the film that was labelled (sha256 {film.sha256[:16]}…, labelled was"
            f" {facts.sha256[:16]}…, {facts.bytes:,} bytes); give that by --source PATH"
        )
    with open_video(where) as (_, stream):
        pixel = Fraction(stream.codec_context.sample_aspect_ratio or stream.sample_aspect_ratio or 1)
    if film.rotation % 180:
        pixel = 1 / pixel
    return FilmSource(film, Shown(run, facts), pixel, attribution(film.sha256))


def attribution(sha256: str) -> str | None:
    """What the licence of a known film asks to be said."""
    known = json.loads((resources.files("insideout.report") / "attributions.json").read_text("utf-8"))
    return str(known[sha256]) if sha256 in known else None
