"""Who is on screen with whom, and what emotions they show then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from insideout.stats.clusters import LEAST, RESAMPLES, draws, generator, share_interval, sums
from insideout.stats.confusion import Support
from insideout.stats.screen import Screen
from insideout.stats.shares import by_screen_time, quoted


@dataclass(frozen=True)
class Together:
    """What a character shows while another is in the same frame.

    `other` is empty for the frames in which it is the only one. `company` seconds are those frames',
    `of_screen` their share of the character's time on screen; `seconds` of them it is read as
    `emotion`: a `share` of `company`, with the 95 % interval over `shots`. `condition` picks the rows of
    the character; those with `other` in the same frame are meant.
    """

    film: str
    character: str
    other: str
    emotion: str
    company: float
    of_screen: float
    seconds: float
    share: float
    shots: int
    low: float | None
    high: float | None
    supported: bool | None
    shot_list: list[int]
    condition: str


def together(screen: Screen, supports: dict[str, Support], seed: int = 0, resamples: int = RESAMPLES) -> list[Together]:
    """One row per character, companion and reading that occurs; pairs that never meet have none."""
    names = by_screen_time(screen)
    frames = {name: np.unique(screen.of(name).ordinal) for name in names}
    found: list[Together] = []
    for character in names:
        own = screen.of(character)
        total = float(own.seconds.sum())
        others = [name for name in names if name != character]
        anybody = np.unique(np.concatenate([frames[name] for name in others])) if others else np.zeros(0, np.int64)
        for other in [*others, ""]:
            with_other = np.isin(own.ordinal, frames[other]) if other else ~np.isin(own.ordinal, anybody)
            if not with_other.any():
                continue
            part = own.take(with_other)
            seconds = part.seconds
            bottom = sums(part.shot, seconds)
            rng = generator(seed, "together", screen.film, character, other)
            counts = draws(len(bottom), rng, resamples) if len(bottom) >= LEAST else np.ones((1, len(bottom)))
            for state, emotion in enumerate(part.readings):
                shown = part.reading == state
                if not shown.any():
                    continue
                interval = share_interval(sums(part.shot, seconds * shown), bottom, counts)
                found.append(
                    Together(
                        film=screen.film,
                        character=character,
                        other=other,
                        emotion=emotion,
                        company=float(seconds.sum()),
                        of_screen=float(seconds.sum()) / total,
                        seconds=float(seconds[shown].sum()),
                        share=float(seconds[shown].sum() / seconds.sum()),
                        shots=interval.clusters,
                        low=interval.low,
                        high=interval.high,
                        supported=supports[character].supported,
                        shot_list=np.unique(part.shot[shown]).tolist(),
                        condition=_condition(screen.film, character, other, emotion),
                    )
                )
    return found


def _condition(film: str, character: str, other: str, emotion: str) -> str:
    same = f"SELECT ordinal FROM screen WHERE film = {quoted(film)} AND character"
    company = f"ordinal IN ({same} = {quoted(other)})" if other else f"ordinal NOT IN ({same} <> {quoted(character)})"
    return f"film = {quoted(film)} AND character = {quoted(character)} AND emotion = {quoted(emotion)} AND {company}"
