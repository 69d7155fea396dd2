"""Spread labels over the frames between two labels of the same kind.

Annotators label every n-th frame. Where a character has the same emotion in two labelled frames of a
shot that follow each other closely, the frames between show it too, nearly always; a run of
`insideout label` knows where the character is in them.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from insideout.datasets.bbb import SPLITS, UNCLEAR, film_digest, read_labels
from insideout.store import Store

#: Columns of a table of labels, without those of the votes.
COLUMNS = ("film", "ordinal", "character", "emotion", "split", "scene")


@dataclass(frozen=True)
class FrameLabel:
    """The emotion that a character displays in one frame."""

    film: str
    ordinal: int
    character: str
    emotion: str
    split: str
    """train, valid or test."""
    shot: int
    scene: str
    votes: tuple[tuple[str, float], ...] = ()


def bundled_labels(folder: Path) -> list[FrameLabel]:
    """The judged characters of the bundled film, in order of frame and character. Raises DataError."""
    film = film_digest(folder)[:16]
    return [
        FrameLabel(
            film,
            ordinal,
            figure.character,
            figure.emotion,
            SPLITS[frame.split],
            frame.shot,
            str(frame.scene),
            tuple(sorted(figure.votes.items())),
        )
        for ordinal, frame in sorted(read_labels(folder).items())
        for figure in sorted(frame.figures, key=lambda figure: figure.name)
        if figure.emotion and figure.emotion != UNCLEAR
    ]


def spread(labels: Iterable[FrameLabel], every: int, longest: int) -> list[FrameLabel]:
    """The labels, and one for every `every`-th frame between two equal ones at most `longest` ordinals apart.

    Only training labels are spread: what a model is scored on stays what annotators have seen. The
    votes of a frame between are those of the labels around it, by distance.
    """
    given = list(labels)
    by_figure: defaultdict[tuple[str, int, str], list[FrameLabel]] = defaultdict(list)
    for label in given:
        by_figure[label.film, label.shot, label.character].append(label)
    added = []
    for figures in by_figure.values():
        figures.sort(key=lambda label: label.ordinal)
        ordinals = [label.ordinal for label in figures]
        if len(set(ordinals)) < len(ordinals):
            continue  # two of one name in a frame: which is which in between is not known
        for before, after in pairwise(figures):
            if before.emotion != after.emotion or before.split != "train" or after.ordinal - before.ordinal > longest:
                continue
            first = -(-(before.ordinal + 1) // every) * every
            for ordinal in range(first, after.ordinal, every):
                added.append(_between(before, after, ordinal))
    return sorted(given + added, key=lambda label: (label.film, label.ordinal, label.character))


def _between(before: FrameLabel, after: FrameLabel, ordinal: int) -> FrameLabel:
    share = (ordinal - before.ordinal) / (after.ordinal - before.ordinal)
    votes: defaultdict[str, float] = defaultdict(float)
    for label, weight in ((before, 1 - share), (after, share)):
        for name, vote in label.votes or ((label.emotion, 1.0),):
            votes[name] += weight * vote
    return FrameLabel(
        before.film, ordinal, before.character, before.emotion, before.split, before.shot, before.scene,
        tuple(sorted(votes.items())),
    )  # fmt: skip


def write_labels(labels: Sequence[FrameLabel], path: Path) -> None:
    """Write a table of labels (CSV) that `train emotion --labels` takes."""
    emotions = sorted({name for label in labels for name, _ in label.votes})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *(f"p_{name}" for name in emotions)])
    for label in labels:
        votes = dict(label.votes)
        row = [label.film, label.ordinal, label.character, label.emotion, label.split, label.scene]
        table.writerow([*row, *(f"{votes[name]:.4f}" if name in votes else "" for name in emotions)])
    Store(path.parent).write(path.name, text.getvalue().encode())
