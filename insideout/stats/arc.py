"""How the emotions of a character rise and fall over a film: a moving average with a band.

At each time the share of an emotion is the mean of its calibrated probability over the character's
time on screen, weighted by a Gaussian around that time (Nadaraya-Watson) that is cut off at `REACH`
standard deviations on either side. The band is pointwise, 95 %, by bootstrap over shots. There is no value
before the character's first appearance, after its last, and in an absence longer than that reach. One film
is one arc: it describes, and tests nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from insideout.stats.clusters import Floats, draws, generator, kish, sums
from insideout.stats.confusion import Support
from insideout.stats.correction import widened
from insideout.stats.screen import Screen
from insideout.stats.shares import by_screen_time, quoted

POINTS = 60
#: Standard deviation of the Gaussian, as a share of the film's length.
WIDTH = 1 / 30
#: Standard deviations on either side at which it ends.
REACH = 2
#: Where the weights are worth fewer shots than this there is no value.
LEAST_SHOTS = 3.0
RESAMPLES = 2000


@dataclass(frozen=True)
class ArcPoint:
    """The share of one emotion around one time; None where the character is absent or in too few shots there.

    `shots` is how many shots of equal weight the average is worth, `seconds` the time of the character
    on screen in the window, two standard deviations on either side. `condition` picks the rows in it.
    """

    film: str
    character: str
    emotion: str
    time_s: float
    share: float | None
    low: float | None
    high: float | None
    shots: float
    seconds: float
    supported: bool | None
    condition: str


def arcs(
    screen: Screen, supports: dict[str, Support], seed: int = 0, points: int = POINTS, resamples: int = RESAMPLES
) -> list[ArcPoint]:
    """Points at equal distances over the film, by character, emotion and time."""
    base = float(screen.time_base)
    length = sum(screen.shot_units.values()) * base
    width = length * WIDTH
    times = (np.arange(points) + 0.5) * length / points
    found: list[ArcPoint] = []
    for character in by_screen_time(screen):
        own = screen.of(character)
        seconds = own.seconds
        middle = (own.begin - own.start + own.units / 2) * base
        present = around(own, times, REACH * width)
        rng = generator(seed, "arc", screen.film, character)
        rows: list[list[ArcPoint]] = [[] for _ in own.emotions]
        for time, here in zip(times.tolist(), present.tolist(), strict=True):
            near = np.abs(middle - time) <= REACH * width
            weights = np.where(near, np.exp(-(((middle - time) / width) ** 2) / 2), 0.0) * seconds
            inside = np.flatnonzero(weights > 0)
            bottom = sums(own.shot[inside], weights[inside])
            shots = kish(bottom)
            values = (
                _values(own, inside, weights, bottom, draws(len(bottom), rng, resamples))
                if here and shots >= LEAST_SHOTS
                else None
            )
            ends = (own.ordinal[inside].min(), own.ordinal[inside].max()) if len(inside) else (0, -1)
            for i, emotion in enumerate(own.emotions):
                share, low, high = values[i] if values is not None else (None, None, None)
                rows[i].append(
                    ArcPoint(
                        film=screen.film,
                        character=character,
                        emotion=emotion,
                        time_s=time,
                        share=share,
                        low=low,
                        high=high,
                        shots=shots,
                        seconds=float(seconds[inside].sum()),
                        supported=supports[character].supported,
                        condition=f"film = {quoted(screen.film)} AND character = {quoted(character)}"
                        f" AND ordinal BETWEEN {ends[0]} AND {ends[1]}",
                    )
                )
        found += [point for row in rows for point in row]
    return found


def around(own: Screen, times: Floats, longest: float) -> np.ndarray:
    """Whether one character is there at each time, in seconds, bool [n]: absences up to `longest` do not count.

    Before its first and after its last appearance it is not.
    """
    base = float(own.time_base)
    begin = (own.begin - own.start) * base
    end = np.maximum.accumulate(begin + own.units * base)
    before = np.searchsorted(begin, times, side="right") - 1  # the last row that begins by then
    there = (before >= 0) & (times <= end[-1])
    last, after = np.maximum(before, 0), np.minimum(before + 1, len(begin) - 1)
    found: np.ndarray = there & ((times <= end[last]) | (begin[after] - end[last] <= longest))
    return found


def _values(
    own: Screen, inside: np.ndarray, weights: Floats, bottom: Floats, counts: Floats
) -> list[tuple[float, float, float]]:
    top = sums(own.shot[inside], weights[inside, None] * own.probabilities[inside])
    spread = counts @ top / (counts @ bottom)[:, None]
    found = []
    for i, share in enumerate((top.sum(0) / bottom.sum()).tolist()):
        band = widened(spread[:, i], max(2, round(kish(bottom))))
        found.append((share, float(band.low or 0.0), float(band.high or 0.0)))
    return found
