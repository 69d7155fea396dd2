"""What is labelled and what is detected in the frames a segmenter is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from insideout.masks import Box

Rle = dict[str, Any]


@dataclass(frozen=True)
class Instance:
    """A labelled or detected figure or part; `rle` is COCO's compressed encoding over the whole picture."""

    name: str
    box: Box
    rle: Rle
    score: float = 1.0


@dataclass(frozen=True)
class ScoredFrame:
    """One frame: what is labelled, every detection down to tiny scores, and what labelling a film finds."""

    path: Path
    truth: tuple[Instance, ...]
    detections: tuple[Instance, ...]
    characters: tuple[Instance, ...]


class Share(TypedDict):
    """`value` of `count` cases, with its 95 % interval over shots.

    None: no case to measure on, or for the interval fewer than two shots that have any.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int
