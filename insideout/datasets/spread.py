"""Put annotators' labels on the crops of a run, and spread them between two equal ones of a track.

Annotators label every n-th frame, by boxes of their own. `insideout label` finds the same characters
with its own boxes, in more frames, and links them into tracks. Where two labels of a track that
follow each other closely are equal, the frames between show that emotion too, nearly always.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from insideout.datasets.bbb import SPLITS, UNCLEAR, Box, film_digest, read_labels
from insideout.errors import DataError
from insideout.masks import box_iou
from insideout.store import Store

#: A label is of the character whose head, or box where no head was found, overlaps its head at least so much.
_SAME = 0.3
_COLUMNS = ("film", "ordinal", "track", "emotion", "split", "scene", "as_shot")
_READ = ("ordinal", "track", *(f"{kind}_{side}" for kind in ("head", "box") for side in "xywh"))


@dataclass(frozen=True)
class HeadLabel:
    """The emotion that a character displays in one frame; `track` is the run's, None where it is not known."""

    film: str
    ordinal: int
    emotion: str
    split: str
    """train, valid or test."""
    scene: str
    shot: str
    head: Box
    track: int | None = None
    votes: tuple[tuple[str, float], ...] = ()


def bundled_labels(folder: Path) -> list[HeadLabel]:
    """The judged heads of the bundled film, in order of frame and name. Raises DataError."""
    film = film_digest(folder)[:16]
    return [
        HeadLabel(
            film, ordinal, figure.emotion, SPLITS[frame.split], str(frame.scene), str(frame.shot), figure.head,
            votes=tuple(sorted(figure.votes.items())),
        )
        for ordinal, frame in sorted(read_labels(folder).items())
        for figure in sorted(frame.figures, key=lambda figure: figure.name)
        if figure.emotion and figure.emotion != UNCLEAR and figure.head is not None
    ]  # fmt: skip


class RunTracks:
    """Where the characters of a film are, as a run found them."""

    def __init__(self, run: str | Path, film: str) -> None:
        """Raises DataError when the run has nothing of the film."""
        store = Store(run)
        keys = [key for key in store.list("characters", ".parquet") if f"film={film}/" in key]
        if not keys:
            raise DataError(f"{store.root}: no characters of film {film}; label that film into this folder first")
        self._at: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        self._of: defaultdict[int, list[int]] = defaultdict(list)
        for key in keys:
            for row in store.read_table(key).select(_READ).to_pylist():
                self._at[row["ordinal"]].append(row)
                self._of[row["track"]].append(row["ordinal"])

    def locate(self, label: HeadLabel) -> HeadLabel | None:
        """The label with the track of the character whose head it is; None where the run has not found it."""

        def overlap(row: dict[str, Any]) -> float:
            kind = "box" if row["head_x"] is None else "head"
            found: Sequence[float] = [row[f"{kind}_{side}"] for side in "xywh"]
            return box_iou(label.head, (found[0], found[1], found[2], found[3]))

        best = max(self._at.get(label.ordinal, ()), key=overlap, default=None)
        if best is None or overlap(best) < _SAME:
            return None
        return replace(label, track=best["track"])

    def between(self, before: HeadLabel, after: HeadLabel) -> list[int]:
        """Ordinals at which the track of two labels was seen between them."""
        seen = self._of[before.track] if before.track is not None else []
        return sorted(ordinal for ordinal in seen if before.ordinal < ordinal < after.ordinal)


def locate_all(labels: Iterable[HeadLabel], tracks: RunTracks) -> tuple[list[HeadLabel], list[HeadLabel]]:
    """The labels that are of a character of the run, with its track, and those that are of none.

    Two labels of one character in a frame would contradict each other: the first is kept.
    """
    found: dict[tuple[int, int | None], HeadLabel] = {}
    lost = []
    for label in labels:
        located = tracks.locate(label)
        if located is None or (located.ordinal, located.track) in found:
            lost.append(label)
        else:
            found[located.ordinal, located.track] = located
    return list(found.values()), lost


def spread(labels: Sequence[HeadLabel], tracks: RunTracks, longest: int) -> list[HeadLabel]:
    """The labels, and one wherever a track was seen between two equal ones at most `longest` ordinals apart.

    Only training labels are spread: what a model is scored on stays what annotators have seen. The
    votes of a frame between are those of the labels around it, by distance.
    """
    by_track: defaultdict[tuple[str, int | None], list[HeadLabel]] = defaultdict(list)
    for label in labels:
        by_track[label.film, label.track].append(label)
    added = []
    for of_track in by_track.values():
        of_track.sort(key=lambda label: label.ordinal)
        for before, after in pairwise(of_track):
            close = after.ordinal - before.ordinal <= longest
            if before.emotion == after.emotion and before.split == after.split == "train" and close:
                added += [_between(before, after, ordinal) for ordinal in tracks.between(before, after)]
    return sorted([*labels, *added], key=lambda label: (label.film, label.ordinal, label.track or 0))


def _between(before: HeadLabel, after: HeadLabel, ordinal: int) -> HeadLabel:
    share = (ordinal - before.ordinal) / (after.ordinal - before.ordinal)
    votes: defaultdict[str, float] = defaultdict(float)
    for label, weight in ((before, 1 - share), (after, share)):
        for name, vote in label.votes or ((label.emotion, 1.0),):
            votes[name] += weight * vote
    return replace(before, ordinal=ordinal, votes=tuple(sorted(votes.items())))


def write_labels(labels: Sequence[HeadLabel], path: Path) -> None:
    """Write a table of labels (CSV) that `insideout train emotion --labels` takes."""
    emotions = sorted({name for label in labels for name, _ in label.votes})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*_COLUMNS, *(f"p_{name}" for name in emotions)])
    for label in labels:
        votes = dict(label.votes)
        row = [label.film, label.ordinal, label.track, label.emotion, label.split, label.scene, label.shot]
        table.writerow([*row, *(f"{votes[name]:.4f}" if name in votes else "" for name in emotions)])
    Store(path.parent).write(path.name, text.getvalue().encode())
