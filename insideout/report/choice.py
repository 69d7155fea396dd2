"""Which characters in which frames are worth a picture, so that every figure of the page can show its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from insideout.stats.screen import UNCERTAIN, Screen

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: A figure shows at most so many frames.
SHOWN = 24
EXTREMES = 12
#: A head of more pixels makes no better portrait, and a track of fewer frames none that can be relied on.
LARGE, STEADY = 160, 5


@dataclass(frozen=True)
class Cast:
    """The table of characters of one film as arrays of length n, in its order.

    `character`, `reading` and `fused` are indices into those of the Screen; `head` is the side of the
    head in pixels, 0 where none was seen.
    """

    ordinal: Ints
    shot: Ints
    track: Ints
    character: Ints
    reading: Ints
    fused: Ints
    certainty: Floats
    head: Floats


def cast_of(characters: pa.Table, screen: Screen) -> Cast:
    """Read the table of characters into arrays."""
    readings = {name: i for i, name in enumerate(screen.readings)}
    names = {name: i for i, name in enumerate(screen.characters)}

    def whole(column: str) -> Ints:
        found: Ints = characters[column].to_numpy().astype(np.int64)
        return found

    def emotion(column: str) -> Ints:
        return np.array([readings[value or UNCERTAIN] for value in characters[column].to_pylist()], np.int64)

    def real(column: str) -> Floats:
        found: Floats = np.nan_to_num(np.array(characters[column].to_pylist(), np.float64), posinf=0.0, neginf=0.0)
        return found

    return Cast(
        ordinal=whole("ordinal"),
        shot=whole("shot"),
        track=whole("track"),
        character=np.array([names[value] for value in characters["character"].to_pylist()], np.int64),
        reading=emotion("emotion"),
        fused=emotion("track_emotion"),
        certainty=np.clip(real("certainty"), 0, 1),
        head=np.maximum(real("head_w"), real("head_h")),
    )


def even(rows: Ints, shot: Ints, certainty: Floats, count: int = SHOWN) -> list[int]:
    """At most `count` of some rows, evenly over their shots and in order; the surest where a shot gives one only.

    `shot` and `certainty` are those of all rows. The first and the last shot are among them.
    """
    if len(rows) <= count:
        return [int(row) for row in rows]
    by_shot: dict[int, list[int]] = {}
    for row in rows.tolist():
        by_shot.setdefault(int(shot[row]), []).append(row)
    groups = list(by_shot.values())
    if len(groups) >= count:
        groups = [groups[i] for i in spread(len(groups), count)]
    quota = [0] * len(groups)
    left = count
    while left:
        for i, group in enumerate(groups):
            if left and quota[i] < len(group):
                quota[i] += 1
                left -= 1
    chosen: list[int] = []
    for group, share in zip(groups, quota, strict=True):
        if share == 1:
            chosen.append(max(group, key=lambda row: (certainty[row], -row)))
        else:
            chosen += [group[i] for i in spread(len(group), share)]
    return chosen


def spread(size: int, count: int) -> list[int]:
    """`count` places evenly over `size`, the ends included; all of them where there are not more."""
    if size <= count:
        return list(range(size))
    if count < 2:
        return [size // 2] * count
    return [round(i * (size - 1) / (count - 1)) for i in range(count)]


def coarse_to_fine(count: int) -> list[int]:
    """The places 0 to count - 1 in such an order that every beginning of it lies evenly over all of them."""
    bits = max(1, (count - 1).bit_length())
    turned = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(1 << bits))
    return [place for place in turned if place < count]


def faces(cast: Cast, usual: dict[int, int]) -> dict[int, int]:
    """The row of the best portrait of each character: of its usual emotion, sure, as its track is, with a large head.

    That the track agrees, over many frames, keeps out the back of a head that is taken for a face once.
    """
    _, track = np.unique(cast.track, return_inverse=True)
    steady = np.bincount(track, cast.certainty * (cast.reading == cast.fused)) / np.bincount(track)
    merit = cast.certainty * steady[track] * np.minimum(cast.head, LARGE) * (np.bincount(track)[track] >= STEADY)
    found = {}
    for who in np.unique(cast.character).tolist():
        own = np.flatnonzero(cast.character == who)
        fitting = own[cast.reading[own] == usual.get(who)]
        rows = fitting if len(fitting) else own
        found[who] = int(rows[np.lexsort((-cast.certainty[rows], -merit[rows]))[0]])
    return found


def per_track(cast: Cast) -> list[int]:
    """One row of each track in order of time, the surest that agrees with the track's emotion."""
    best: dict[int, tuple[tuple[bool, float], int]] = {}
    agrees = (cast.reading == cast.fused).tolist()
    for row, track in enumerate(cast.track.tolist()):
        rank = (agrees[row], float(cast.certainty[row]))
        if track not in best or rank > best[track][0]:
            best[track] = (rank, row)
    return [row for _, row in best.values()]


def per_shot(cast: Cast, character: int, rows: Sequence[int], count: int = SHOWN) -> list[int]:
    """One of the rows for each shot of a character, evenly chosen where it is in more than `count` shots."""
    first: dict[int, int] = {}
    for row in rows:
        if cast.character[row] == character:
            held = first.setdefault(int(cast.shot[row]), row)
            if cast.certainty[row] > cast.certainty[held]:
                first[int(cast.shot[row])] = row
    chosen = sorted(first.values())
    return [chosen[i] for i in spread(len(chosen), count)]


def extremes(cast: Cast, count: int = EXTREMES) -> tuple[list[int], list[int]]:
    """The most and the least certain rows: one per track, and per character and frame, in each; none in both."""
    order = np.lexsort((cast.track, cast.ordinal, -cast.certainty)).tolist()
    surest = _one_per_track(order, cast, count)
    taken = set(surest)
    order = np.lexsort((cast.track, cast.ordinal, cast.certainty)).tolist()
    return surest, _one_per_track([row for row in order if row not in taken], cast, count)


def _one_per_track(order: list[int], cast: Cast, count: int) -> list[int]:
    chosen: dict[int, int] = {}
    seen: set[tuple[int, int]] = set()  # a figure found twice has two tracks and one picture
    for row in order:
        if len(chosen) == count:
            break
        picture = (int(cast.ordinal[row]), int(cast.character[row]))
        if int(cast.track[row]) not in chosen and picture not in seen:
            chosen[int(cast.track[row])] = row
            seen.add(picture)
    return list(chosen.values())
