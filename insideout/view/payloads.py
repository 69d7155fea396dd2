"""What the page is told of a run and its films: plain values for JSON, and columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np

from insideout.film import Film
from insideout.report.tables import FilmFacts, Run
from insideout.shown import Figure, Polygon, Shown
from insideout.view.annotations import Annotation
from insideout.view.columns import pack

#: Outlines may leave the mask's border by so many pixels of the stored picture: no eye sees that.
_SLACK = 0.7


def film_entry(facts: FilmFacts) -> dict[str, Any]:
    """A film in the list of films."""
    return {
        "film": facts.film,
        "name": facts.name,
        "width": facts.width,
        "height": facts.height,
        "frames": facts.frames,
        "duration_s": facts.duration_s,
        "codec": facts.codec,
        "sampling": facts.sampling,
    }


def film_answer(shown: Shown, aspect: float | None, problem: str | None) -> dict[str, Any]:
    """A film: its time base, shots and names, and why it cannot be played, if so.

    `shots` are [start_ordinal, end_ordinal, start_pts, end_pts].
    """
    facts, seen = shown.facts, shown.seen()
    return film_entry(facts) | {
        "time_base": [facts.time_base.numerator, facts.time_base.denominator],
        "fps": float(facts.fps),
        "aspect": aspect or facts.width / facts.height,
        "problem": problem,
        "shots": [[s.start_ordinal, s.end_ordinal, s.start_pts, s.end_pts] for s in shown.shots],
        "characters": list(seen.characters),
        "emotions": list(seen.emotions),
    }


def table_columns(shown: Shown) -> bytes:
    """Which frame stands when, and who is seen in which labelled frame, as `columns.pack` writes it.

    `begin`, `end` (pts), `ordinal` and `labelled` are of the sampled frames (see `Shown`); `seen_…` of the
    characters in them, indices into the names of `film_answer`.
    """
    seen = shown.seen()
    return pack(
        {
            "begin": shown.begin.astype(np.float64),
            "end": (shown.begin + shown.units).astype(np.float64),
            "pts": shown.pts.astype(np.float64),
            "ordinal": shown.ordinals.astype(np.int32),
            "labelled": shown.labelled.astype(np.int32),
            "seen_ordinal": seen.ordinal,
            "seen_track": seen.track.astype(np.int32),
            "seen_character": seen.character,
            "seen_emotion": seen.emotion,
            "seen_fused": seen.fused,
            "seen_certainty": seen.certainty,
        }
    )


def index_columns(shown: Shown, film: Film) -> bytes:
    """The time stamp of every frame of the film, and the labelled frame it shows, by ordinal."""
    return pack({"pts": film.pts.astype(np.float64), "labelled": shown.source_of().astype(np.int32)})


def figures_answer(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Characters with their outlines: lists of x, y, x, y … at the middle of pixels on the border."""
    return [
        {
            "ordinal": figure.ordinal,
            "track": figure.track,
            "shot": figure.shot,
            "character": figure.character,
            "score": round(figure.score, 3),
            "emotion": figure.emotion,
            "certainty": round(figure.certainty, 3),
            "track_emotion": figure.track_emotion,
            "probabilities": {name: round(value, 3) for name, value in figure.probabilities.items()},
            "box": [round(value, 1) for value in figure.box],
            "head": figure.head and [round(value, 1) for value in figure.head],
            "outlines": [_thinned(outline).ravel().tolist() for outline in figure.polygons()],
        }
        for figure in figures
    ]


def annotation_answer(row: Annotation) -> dict[str, Any]:
    """A row of the annotations."""
    return asdict(row)


def run_answer(run: Run, emotions: Sequence[str], characters: Sequence[str]) -> dict[str, Any]:
    """The run: its films, the names of its pack, and whether crops were kept to train with."""
    configuration = run.manifest.get("configuration")
    kept = configuration.get("crop_size") if isinstance(configuration, dict) else None
    return {
        "films": [film_entry(facts) for facts in run.films],
        "emotions": list(emotions),
        "characters": list(characters),
        "crops": kept is not None,
    }


def pack_names(run: Run) -> tuple[list[str], list[str]]:
    """Emotions and character names of the pack that labelled a run, as its manifest has them."""
    told = run.manifest.get("pack")
    told = told if isinstance(told, dict) else {}
    return [str(name) for name in told.get("emotions") or ()], [str(name) for name in told.get("classes") or ()]


def _thinned(outline: Polygon) -> Polygon:
    if len(outline) < 8:
        return outline
    found: Polygon = cv2.approxPolyDP(outline.reshape(-1, 1, 2), _SLACK, True).reshape(-1, 2).astype(np.int32)
    return found
