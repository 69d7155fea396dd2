"""Link the characters of a shot into tracks, and fuse their names and emotions.

A track is the same character through one shot, never across a cut. Linking looks at one shot as a
whole, in presentation order, so it depends neither on spans nor on batches. Matching is the
assignment of least cost between the open tracks and the characters of a frame (Kuhn-Munkres, as in
SORT, Bewley et al., ICIP 2016, doi 10.1109/ICIP.2016.7533003), on box overlap and class; the
constant-velocity filter of SORT is left out, since frames are sampled some six times a second and
animated figures start and stop at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from insideout.masks import Box, box_iou

#: A track that is not seen for this long ends; a longer absence inside a shot starts a new one.
MAX_GAP_S = 2.0
_OTHER_CLASS = 0.6  # cost of linking across class names, so that only strong overlap does it
_NEVER = 1e6
_LIMIT = 1.0


@dataclass(frozen=True)
class Sighting:
    """A character in a frame as tracking sees it; `frame` counts the labelled frames of the shot."""

    frame: int
    time_s: float
    name: str
    score: float
    box: Box


def link(sightings: Sequence[Sighting]) -> list[int]:
    """Number the tracks of one shot.

    `sightings` are in frame order. Returns a track number for each of them, counted from 0 in the
    order in which tracks begin; within a frame in the order given.
    """
    numbers = [-1] * len(sightings)
    by_frame: dict[int, list[int]] = defaultdict(list)
    for i, sighting in enumerate(sightings):
        by_frame[sighting.frame].append(i)
    last_seen: list[int] = []  # index of the newest sighting of each track
    for frame in sorted(by_frame):
        rows = by_frame[frame]
        now = sightings[rows[0]].time_s
        open_tracks = [t for t, i in enumerate(last_seen) if now - sightings[i].time_s <= MAX_GAP_S]
        cost = np.array(
            [[_cost(sightings[last_seen[t]], sightings[r]) for r in rows] for t in open_tracks], np.float64
        ).reshape(len(open_tracks), len(rows))
        for a, b in zip(*linear_sum_assignment(cost), strict=True):
            if cost[a, b] <= _LIMIT:
                numbers[rows[b]] = open_tracks[a]
                last_seen[open_tracks[a]] = rows[b]
        for r in rows:
            if numbers[r] < 0:
                numbers[r] = len(last_seen)
                last_seen.append(r)
    return numbers


def _cost(before: Sighting, after: Sighting) -> float:
    """Cost of linking: 0 for the same box of the same class, `_NEVER` where it makes no sense."""
    overlap = box_iou(before.box, after.box)
    if before.name != after.name:
        return 1 - overlap + _OTHER_CLASS if overlap else _NEVER
    if overlap:
        return 1 - overlap
    # A figure that jumps: same class, no overlap, but no further than its own size.
    (x, y, w, h), (u, v, m, n) = before.box, after.box
    distance = np.hypot(x + w / 2 - u - m / 2, y + h / 2 - v - n / 2)
    return 0.999 if distance <= max(w, h, m, n) else _NEVER


def vote(names: Sequence[str], scores: Sequence[float]) -> str:
    """The name with the largest sum of scores over a track; ties go to the alphabet."""
    totals: dict[str, float] = defaultdict(float)
    for name, score in zip(names, scores, strict=True):
        totals[name] += score
    return min(totals, key=lambda name: (-totals[name], name))


def fuse(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Fuse the emotions of a track: the mean of the log probabilities, normalised.

    `probabilities` is [frames, emotions], each row summing to 1. Returns [emotions], summing to 1.
    Frames weigh the same.
    """
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-9)).mean(axis=0)
    powers = np.exp(logs - logs.max())
    fused: NDArray[np.float64] = powers / powers.sum()
    return fused


def decide(probabilities: NDArray[np.floating], emotions: Sequence[str], uncertain_below: float) -> tuple[str, float]:
    """The most probable emotion and its probability, or `uncertain` below the threshold."""
    best = int(np.argmax(probabilities))
    certainty = float(probabilities[best])
    return (emotions[best] if certainty >= uncertain_below else "uncertain"), certainty
