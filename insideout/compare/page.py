"""The page of a comparison: one HTML file with its style and pictures, no scripts, nothing loaded."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import jinja2
import numpy as np

from insideout import __version__
from insideout.compare import words as said
from insideout.compare.films import FrameChange
from insideout.compare.rows import Pair
from insideout.compare.runs import Comparison
from insideout.decode import read_frames
from insideout.errors import InsideoutError
from insideout.render.drawing import Drawing
from insideout.render.source import open_source
from insideout.report import words
from insideout.report.colours import Colours
from insideout.shown import Figure

_Pair = tuple[str, str, tuple[int, int]]  # data URIs with A's and with B's labels, width and height
_HEIGHT = 360
_QUALITY = 78


@dataclass(frozen=True)
class Shown:
    """A frame as the page shows it: A's and B's picture as data URIs, None where the film is not to be had, and their
    width and height in pixels."""

    where: str
    changes: list[dict[str, Any]]
    a: str | None
    b: str | None
    size: tuple[int, int]


def render_page(found: Comparison, tell: Callable[[int], None] | None = None) -> str:
    """The page of a comparison; every name in it is escaped.

    Pictures are cut from the films if those are where they were labelled and the same; else the page says why not.
    `tell` is called with 1 for each picture.
    """
    emotions = list(dict.fromkeys(time.emotion for time in found.times)) or ["uncertain"]
    pack = found.a.manifest.get("pack")
    known = [str(name) for name in (pack if isinstance(pack, dict) else {}).get("emotions") or ()]
    order = list(dict.fromkeys([*known, *emotions]))
    pictures, why = _pictures(found, order, tell)
    colours = Colours(order)
    return (
        _environment()
        .get_template("diff.html.j2")
        .render(
            version=__version__,
            found=found,
            a=said.run_line(found.a),
            b=said.run_line(found.b),
            only=said.only_lines(found),
            settings=[(setting.name, words.plain(setting.a), words.plain(setting.b)) for setting in found.settings],
            frames_line=said.frames_line(found),
            unchanged=said.UNCHANGED,
            times_note=said.times_note(found),
            changes=[(who, a, b, n) for (who, a, b), n in found.counts.emotions.most_common() if a != b],
            frames=[_frame(frame, found, pictures.get((frame.film, frame.ordinal))) for frame in found.frames],
            why=why,
            colour=colours.hex,
            interval=said.interval,
            clear=said.clear,
        )
    )


def _frame(frame: FrameChange, found: Comparison, pictures: _Pair | None) -> Shown:
    changes = [
        {"words": said.pair_words(pair), "a": _reading(pair[0].a, found.fused), "b": _reading(pair[0].b, found.fused)}
        for pair in said.frame_pairs(frame, found)
    ]
    return Shown(said.where(frame, found), changes, *(pictures or (None, None, (0, 0))))


def _reading(figure: Figure | None, fused: bool) -> dict[str, Any] | None:
    if figure is None:
        return None
    ranking = sorted(figure.probabilities.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    return {
        "character": figure.character,
        "emotion": figure.track_emotion if fused else figure.emotion,
        "ranking": [f"{name} {words.percent(value)}" for name, value in ranking],
    }


def _pictures(
    found: Comparison, emotions: Sequence[str], tell: Callable[[int], None] | None
) -> tuple[dict[tuple[str, int], _Pair], list[str]]:
    """Pictures with A's and with B's labels by film and ordinal, and why some are missing."""
    wanted: dict[str, list[FrameChange]] = defaultdict(list)
    for frame in found.frames:
        wanted[frame.film].append(frame)
    drawing = Drawing(emotions, fused=found.fused)
    pictures: dict[tuple[str, int], _Pair] = {}
    why = []
    for facts in found.films:
        if facts.film not in wanted:
            continue
        by_ordinal = {frame.ordinal: frame.pairs for frame in wanted[facts.film]}
        try:
            source = open_source(found.a, facts)
            sides = source.sides(min(_HEIGHT, source.film.height))
            for ordinal, picture in read_frames(source.film.path, sorted(by_ordinal), film=source.film):
                small = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), sides, interpolation=cv2.INTER_AREA)
                one, other = (
                    _uri(drawing.draw(small.astype(np.uint8), figures)) for figures in _sides(by_ordinal[ordinal])
                )
                pictures[facts.film, ordinal] = one, other, sides
                if tell is not None:
                    tell(1)
        except (InsideoutError, OSError) as error:
            why.append(f"No pictures of {facts.name}: {error}")
    return pictures, why


def _sides(pairs: Sequence[Pair]) -> tuple[list[Figure], list[Figure]]:
    return [pair.a for pair in pairs if pair.a is not None], [pair.b for pair in pairs if pair.b is not None]


def _uri(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    done, data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"cannot encode a picture of shape {picture.shape} as WebP")
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("insideout.compare", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    return environment
