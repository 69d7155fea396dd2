"""What follows what: emotions of consecutive tracks of a character against a shuffled null, and dwell times.

A track is the character through one shot, or a part of it, with its fused emotion; `uncertain` is a
state like the others. The null shuffles the tracks of the character, so it has the same emotions as
often, in no order. Dwell times are of the single frames' readings inside a track.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import CensoredData, ecdf

from insideout.stats.association import PERMUTATIONS, holm
from insideout.stats.clusters import Floats, Ints, generator
from insideout.stats.confusion import Support
from insideout.stats.screen import Screen
from insideout.stats.shares import by_screen_time, quoted

_PRIOR = 0.5
_AT_ONCE = 2_000_000  # states in one array, so that a long film fits into memory


@dataclass(frozen=True)
class Transition:
    """How often a track read as `emotion` is followed by one read as `following`.

    `count` of the character's `pairs` pairs of consecutive tracks, `expected` on average when tracks
    are shuffled; `probability` that `following` comes after `emotion` is the posterior mean with Jeffreys'
    prior (half a pair on each emotion). `p` is two-sided, `holm` corrected for all pairs of the
    character. `emotion` and `following` are '*' in the row that counts pairs of equal emotions.
    `tracks` are the first tracks of the counted pairs.
    """

    film: str
    character: str
    emotion: str
    following: str
    count: int
    expected: float
    probability: float | None
    pairs: int
    p: float
    holm: float
    differs: bool
    supported: bool | None
    tracks: list[int]
    condition: str


@dataclass(frozen=True)
class Dwell:
    """How long a reading holds inside a track, in seconds.

    A run is a row of frames with one reading and nothing between them. `cut_off` of the `runs` touch
    an end of their track, so that they may have lasted longer: the `median` is that of Kaplan and
    Meier (1958), None where more than half of the time was never seen to end; `longest` is as seen.
    A single misread frame ends a run, so dwell times are rather too short.
    """

    film: str
    character: str
    emotion: str
    runs: int
    cut_off: int
    median: float | None
    longest: float
    longest_from_ordinal: int
    seconds: float
    supported: bool | None
    condition: str


def transitions(
    screen: Screen, supports: dict[str, Support], seed: int = 0, permutations: int = PERMUTATIONS
) -> list[Transition]:
    """One row per ordered pair of emotions that occurs or could, and one for equal pairs, by character."""
    found: list[Transition] = []
    for character in by_screen_time(screen):
        own = screen.of(character)
        tracks, first = np.unique(own.track, return_index=True)
        order = np.argsort(first, kind="stable")
        states, tracks = own.fused[first[order]], tracks[order]
        if len(states) >= 2:
            found += _of_character(screen, character, states, tracks, supports[character], seed, permutations)
    return found


def pair_counts(states: Ints, size: int) -> Ints:
    """Ordered pairs of neighbours in each row of `states` int64 [..., n]: int64 [..., size, size]."""
    pairs = states[..., :-1] * size + states[..., 1:]
    flat = pairs.reshape(-1, pairs.shape[-1])
    offset = np.arange(len(flat))[:, None] * size * size
    counts = np.bincount((flat + offset).ravel(), minlength=len(flat) * size * size)
    found: Ints = counts.reshape(*states.shape[:-1], size, size).astype(np.int64)
    return found


def dwell(screen: Screen, supports: dict[str, Support]) -> list[Dwell]:
    """One row per character and reading that occurs."""
    found = []
    base = float(screen.time_base)
    for character in by_screen_time(screen):
        own = screen.of(character)
        runs = _runs(own)
        for state, name in enumerate(own.readings):
            mine = [run for run in runs if run[0] == state]
            if not mine:
                continue
            lengths = np.array([run[1] for run in mine]) * base
            open_ended = np.array([run[2] for run in mine])
            longest = int(lengths.argmax())
            found.append(
                Dwell(
                    film=screen.film,
                    character=character,
                    emotion=name,
                    runs=len(mine),
                    cut_off=int(open_ended.sum()),
                    median=kaplan_meier_median(lengths, open_ended),
                    longest=float(lengths[longest]),
                    longest_from_ordinal=mine[longest][3],
                    seconds=float(lengths.sum()),
                    supported=supports[character].supported,
                    condition=f"film = {quoted(screen.film)} AND character = {quoted(character)}"
                    f" AND emotion = {quoted(name)}",
                )
            )
    return found


def kaplan_meier_median(lengths: Floats, censored: np.ndarray) -> float | None:
    """The length that half of the runs outlast, where some were cut off; None where that is never seen."""
    if censored.all():
        return None
    survival = ecdf(CensoredData(uncensored=lengths[~censored], right=lengths[censored])).sf
    reached = np.flatnonzero(survival.probabilities <= 0.5)
    return float(survival.quantiles[reached[0]]) if len(reached) else None


def _of_character(
    screen: Screen, character: str, states: Ints, tracks: Ints, support: Support, seed: int, permutations: int
) -> list[Transition]:
    size = len(screen.readings)
    counts = pair_counts(states, size)
    rng = generator(seed, "transitions", screen.film, character)
    parts = np.array_split(np.arange(permutations), 1 + permutations * len(states) // _AT_ONCE)
    shuffled = np.concatenate(
        [pair_counts(rng.permuted(np.tile(states, (len(part), 1)), axis=1), size) for part in parts]
    )
    occurs = np.isin(np.arange(size), states)
    cells = [(i, j) for i in range(size) for j in range(size) if occurs[i] and occurs[j] and (i != j or counts[i, i])]
    observed = np.array([counts[cell] for cell in cells] + [np.trace(counts)], np.float64)
    null = np.column_stack([*(shuffled[:, i, j] for i, j in cells), np.trace(shuffled, axis1=1, axis2=2)])
    mean = null.mean(0)
    p = (1 + (np.abs(null - mean) >= np.abs(observed - mean) - 1e-9).sum(0)) / (permutations + 1)
    # The sum of the equal pairs is one question of its own; the pairs are many.
    corrected = np.append(holm(p[:-1]), p[-1])
    found = []
    for n, cell in enumerate([*cells, None]):
        i, j = cell if cell is not None else (-1, -1)
        counted = (states[:-1] == i) & (states[1:] == j) if cell is not None else states[:-1] == states[1:]
        found.append(
            Transition(
                film=screen.film,
                character=character,
                emotion="*" if cell is None else screen.readings[i],
                following="*" if cell is None else screen.readings[j],
                count=int(observed[n]),
                expected=float(mean[n]),
                probability=None
                if cell is None
                else float((counts[i, j] + _PRIOR) / (counts[i].sum() + _PRIOR * occurs.sum())),
                pairs=len(states) - 1,
                p=float(p[n]),
                holm=float(corrected[n]),
                differs=bool(corrected[n] < 0.05),
                supported=support.supported,
                tracks=tracks[:-1][counted].tolist(),
                condition=f"film = {quoted(screen.film)} AND character = {quoted(character)}"
                f" AND track IN ({', '.join(map(str, tracks[:-1][counted].tolist())) or 'NULL'})",
            )
        )
    return found


def _runs(own: Screen) -> list[tuple[int, int, bool, int]]:
    """Reading, length in time base units, whether cut off, and first ordinal of each run of one character."""
    found: list[tuple[int, int, bool, int]] = []
    order = np.lexsort((own.ordinal, own.track))
    own = own.take(order)
    for track in np.unique(own.track):
        inside = np.flatnonzero(own.track == track)
        begin, end, reading = own.begin[inside], own.begin[inside] + own.units[inside], own.reading[inside]
        gap = np.append(begin[1:] != end[:-1], True)
        changes = np.flatnonzero(gap | np.append(reading[1:] != reading[:-1], True))
        start = 0
        for last in changes.tolist():
            # Seen whole: it began with a change of reading and ended with one.
            whole = start > 0 and not gap[start - 1] and not gap[last]
            found.append(
                (int(reading[start]), int(end[last] - begin[start]), not whole, int(own.ordinal[inside[start]]))
            )
            start = last + 1
    return found
