"""The tracks of a film as stretches of its timeline."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from insideout.stats.screen import Screen


@dataclass(frozen=True)
class Stretch:
    """One track of one character, from `start` to `end`, in seconds from the first frame.

    It is on screen for `seconds` of that, in `frames` frames; `read` are seconds by reading. `certainty` is
    the mean of its frames' own. Tracks of one character that overlap share the height: it has `lane` 0, 1, 2
    of `lanes`.
    """

    character: str
    track: int
    shot: int
    start: float
    end: float
    emotion: str
    certainty: float
    seconds: float
    frames: int
    lane: int
    lanes: int
    read: tuple[tuple[str, float], ...]

    def data(self, characters: dict[str, int], readings: dict[str, int]) -> list[Any]:
        """As the page's script reads it, with names as indices and its readings as pairs in one list."""
        read = [value for name, length in self.read for value in (readings[name], round(length, 2))]
        return [
            self.track,
            characters[self.character],
            self.shot,
            round(self.start, 3),
            round(self.end, 3),
            readings[self.emotion],
            round(self.certainty, 2),
            round(self.seconds, 2),
            self.frames,
            self.lane,
            self.lanes,
            read,
        ]


def stretches(screen: Screen, characters: pa.Table) -> list[Stretch]:
    """One stretch per track, by start; `characters` is the film's table, in order of ordinal and track."""
    track = characters["track"].to_numpy().astype(np.int64)
    sure = np.nan_to_num(np.array(characters["certainty"].to_pylist(), np.float64)).clip(0, 1)
    numbers, place = np.unique(track, return_inverse=True)
    frames = np.bincount(place)
    certainty = np.bincount(place, sure) / frames
    rows: dict[int, list[int]] = defaultdict(list)
    for row, number in enumerate(screen.track.tolist()):
        rows[number].append(row)
    seconds = screen.seconds
    found: list[Stretch] = []
    free: dict[int, list[int]] = defaultdict(list)  # when each lane of a character is free again
    groups: dict[int, list[list[int]]] = defaultdict(list)  # places of those that overlap, by character
    begins = {number: int(screen.begin[own[0]]) for number, own in rows.items()}
    for number in sorted(rows, key=lambda number: (begins[number], number)):
        own = np.array(rows[number], np.int64)
        who = int(screen.character[own[0]])
        start, end = begins[number], int((screen.begin[own] + screen.units[own]).max())
        lanes = free[who]
        if all(until <= start for until in lanes):
            lanes.clear()
            groups[who].append([])
        groups[who][-1].append(len(found))
        lane = next((index for index, until in enumerate(lanes) if until <= start), len(lanes))
        lanes[lane : lane + 1] = [end]
        lengths = np.bincount(screen.reading[own], seconds[own], len(screen.readings))
        fused = int(np.bincount(screen.fused[own]).argmax())
        at = int(np.searchsorted(numbers, number))
        found.append(
            Stretch(
                character=screen.characters[who],
                track=number,
                shot=int(screen.shot[own[0]]),
                start=screen.time(start),
                end=screen.time(end),
                emotion=screen.readings[fused],
                certainty=float(certainty[at]),
                seconds=float(seconds[own].sum()),
                frames=int(frames[at]),
                lane=lane,
                lanes=1,
                read=tuple((screen.readings[i], float(lengths[i])) for i in np.flatnonzero(lengths).tolist()),
            )
        )
    for group in chain.from_iterable(groups.values()):
        most = 1 + max(found[at].lane for at in group)
        for at in group:
            found[at] = replace(found[at], lanes=most)
    return found
