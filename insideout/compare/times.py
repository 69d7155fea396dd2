"""How much longer or shorter each character shows each emotion in one run than in another, with intervals.

The two runs read the same shots, so shots are drawn for both at once (paired), with replacement. The
interval is the studentised bootstrap (Davison & Hinkley 1997, section 5.2.1) of the difference, with the
jackknife over shots as its standard error. Where fewer than `LEAST` shots differ there is none: too many
resamples would hold none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insideout.stats.clusters import LEAST, RESAMPLES, Interval, draws, generator, tails
from insideout.stats.screen import UNCERTAIN, Screen

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_TINY = 1e-9
_AT_ONCE = 2_000_000  # numbers in one array, so that a long film fits into memory


@dataclass(frozen=True)
class TimeChange:
    """The time of a character with an emotion in runs A and B.

    `seconds_a`, `seconds_b`, and their `difference` B - A with a 95 % interval; `share_a`, `share_b` of the
    character's time on screen in that run (None where it is never seen), and `points`, their difference
    B - A in percentage points, with a 95 % interval. `shots` show the character in A or B, in `differing` of
    them the seconds differ. Ends are None where fewer than five shots differ.
    """

    character: str
    emotion: str
    seconds_a: float
    seconds_b: float
    difference: float
    low: float | None
    high: float | None
    share_a: float | None
    share_b: float | None
    points: float | None
    points_low: float | None
    points_high: float | None
    shots: int
    differing: int


def common_shots(a: Screen, b: Screen, starts_a: dict[int, int], starts_b: dict[int, int]) -> tuple[Ints, Ints, int]:
    """The number of the shot of each row of A and of B, int64 [n] each, by the cuts that both runs have; how many.

    `starts_a` and `starts_b` say at which pts each shot of a run begins.
    """
    cuts = np.array(sorted(set(starts_a.values()) & set(starts_b.values())), np.int64)
    found = []
    for screen, starts in ((a, starts_a), (b, starts_b)):
        at = np.array([starts[number] for number in screen.shot.tolist()], np.int64)
        found.append(np.searchsorted(cuts, at, side="right"))
    return found[0], found[1], len(cuts) + 1


@dataclass(frozen=True)
class Sums:
    """Seconds of each character, emotion and shot in one run: float64 [characters, emotions, shots]."""

    characters: tuple[str, ...]
    emotions: tuple[str, ...]
    seconds: Floats


def sums_of(
    screen: Screen, shot: Ints, shots: int, characters: Sequence[str], emotions: Sequence[str], fused: bool
) -> Sums:
    """Add up a film's seconds; `shot` is the number of the shot of each row, below `shots`."""
    found = np.zeros((len(characters), len(emotions), shots))
    who = np.array([characters.index(name) for name in screen.characters], np.int64)
    what = np.array([emotions.index(name) for name in screen.readings], np.int64)
    reading = screen.fused if fused else screen.reading
    if len(shot):
        np.add.at(found, (who[screen.character], what[reading], shot), screen.seconds)
    return Sums(tuple(characters), tuple(emotions), found)


def time_changes(a: Sums, b: Sums, seed: int = 0, resamples: int = RESAMPLES) -> list[TimeChange]:
    """The changes of every character and emotion that either run has, characters by name, `uncertain` last."""
    found = []
    for i, character in enumerate(a.characters):
        bottom_a, bottom_b = a.seconds[i].sum(0), b.seconds[i].sum(0)
        seen = (bottom_a > _TINY) | (bottom_b > _TINY)
        if not seen.any():
            continue
        shots = int(seen.sum())
        counts = np.zeros((0, shots))
        if shots >= LEAST:
            counts = draws(shots, generator(seed, "difference", character), resamples)
        for j, emotion in enumerate(a.emotions):
            tops = a.seconds[i, j][seen], b.seconds[i, j][seen]
            if tops[0].sum() > _TINY or tops[1].sum() > _TINY:
                found.append(_change(character, emotion, *tops, bottom_a[seen], bottom_b[seen], counts))
    return found


def order_of(*emotions: Sequence[str]) -> tuple[str, ...]:
    """Emotions of several runs in order of their packs, `uncertain` last."""
    names = dict.fromkeys(name for part in emotions for name in part if name != UNCERTAIN)
    return (*names, UNCERTAIN)


def _change(
    character: str, emotion: str, top_a: Floats, top_b: Floats, bottom_a: Floats, bottom_b: Floats, counts: Floats
) -> TimeChange:
    ones = np.ones(len(top_a))
    shares = [float(t.sum() / b.sum()) if b.sum() > _TINY else None for t, b in ((top_a, bottom_a), (top_b, bottom_b))]
    differing = int((np.abs(top_b - top_a) > _TINY).sum())
    # A share changes too where only the time on screen does.
    differing_share = int(((np.abs(top_b - top_a) > _TINY) | (np.abs(bottom_b - bottom_a) > _TINY)).sum())
    total = difference_interval(top_a, ones, top_b, ones, counts, differing)
    share_a, share_b = shares
    both = share_a is not None and share_b is not None
    none = Interval(None, None, len(ones))
    points = difference_interval(top_a, bottom_a, top_b, bottom_b, counts, differing_share) if both else none
    scale = len(ones)
    return TimeChange(
        character=character,
        emotion=emotion,
        seconds_a=float(top_a.sum()),
        seconds_b=float(top_b.sum()),
        difference=float((top_b - top_a).sum()),
        low=None if total.low is None else total.low * scale,
        high=None if total.high is None else total.high * scale,
        share_a=share_a,
        share_b=share_b,
        points=None if share_a is None or share_b is None else 100 * (share_b - share_a),
        points_low=None if points.low is None else 100 * max(-1.0, points.low),
        points_high=None if points.high is None else 100 * min(1.0, points.high),
        shots=len(ones),
        differing=differing,
    )


def difference_interval(
    top_a: Floats, bottom_a: Floats, top_b: Floats, bottom_b: Floats, counts: Floats, differing: int
) -> Interval:
    """The interval of sum(top_b) / sum(bottom_b) - sum(top_a) / sum(bottom_a), the same shots drawn for both.

    All float64 [shots]; `counts` of `draws`, float64 [resamples, shots]; `differing` shots differ. Resamples in
    which a run has no time at all are left out. No interval with fewer than `LEAST` differing shots, but where
    none differs: then no resample would, and it is 0 to 0.
    """
    shots = len(top_a)
    if differing == 0:
        return Interval(0.0, 0.0, shots)
    if differing < LEAST:
        return Interval(None, None, shots)
    whole = np.ones((1, shots))
    value, error = (float(part[0]) for part in _difference(top_a, bottom_a, top_b, bottom_b, whole))
    parts = np.array_split(counts, 1 + counts.size // _AT_ONCE)
    found = [_difference(top_a, bottom_a, top_b, bottom_b, part) for part in parts]
    values, errors = (np.concatenate(part) for part in zip(*found, strict=True))
    values, errors = values[np.isfinite(values)], errors[np.isfinite(values)]
    apart = values - value
    # Where a resample has no error it is infinitely far off on this scale, unless it is the film itself.
    away = np.where(np.abs(apart) > _TINY, np.copysign(np.inf, apart), 0.0)
    studentised = np.sort(np.where(errors > _TINY, apart / np.where(errors > _TINY, errors, 1), away))
    low, high = tails(studentised)
    if not np.isfinite([low, high]).all():
        return Interval(None, None, shots)
    step = np.sqrt(shots / (shots - 1)) * error
    return Interval(value - high * step, value - low * step, shots)


def _difference(
    top_a: Floats, bottom_a: Floats, top_b: Floats, bottom_b: Floats, counts: Floats
) -> tuple[Floats, Floats]:
    """The difference on each resample, and its standard error by leaving out one shot at a time: [resamples] each."""
    n = counts.sum(1)
    value: Floats = np.zeros(len(counts))
    left: Floats = np.zeros(counts.shape)
    for sign, top, bottom in ((-1, top_a, bottom_a), (1, top_b, bottom_b)):
        tops, bottoms = counts @ top, counts @ bottom
        whole = tops / np.where(bottoms > _TINY, bottoms, np.nan)
        rest = bottoms[:, None] - bottom
        part = (tops[:, None] - top) / np.where(rest > _TINY, rest, np.nan)
        value = value + sign * whole
        left = left + sign * np.where(np.isnan(part), whole[:, None], part)
    mean = (counts * left).sum(1) / n
    error: Floats = np.sqrt((n - 1) / n * (counts * (left - mean[:, None]) ** 2).sum(1))
    return value, error
