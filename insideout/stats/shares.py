"""The share of a character's screen time by emotion, raw and corrected side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from insideout.stats.clusters import LEAST, RESAMPLES, Interval, Ints, draws, generator, share_interval, sums
from insideout.stats.confusion import ErrorCounts, Support
from insideout.stats.correction import Corrected, adjusted_count, prediction_powered
from insideout.stats.screen import Screen


@dataclass(frozen=True)
class Share:
    """How long one character shows one emotion, or is `uncertain`.

    `share` is `seconds` of `on_screen` seconds as read, with its 95 % intervals over `shots` and over
    `scenes` (None where scenes are not known). `corrected` is the adjusted count, `powered` the
    prediction-powered estimate; their intervals draw scenes where those are known, else shots. None
    where there is none: `why` says why. `supported` is that of the character. `condition` picks the
    `rows` rows of the table `screen` that `seconds` is the sum of; `shot_list` are their shots.
    """

    film: str
    character: str
    emotion: str
    seconds: float
    on_screen: float
    share: float
    shots: int
    low: float | None
    high: float | None
    scenes: int | None
    scene_low: float | None
    scene_high: float | None
    corrected: float | None
    corrected_low: float | None
    corrected_high: float | None
    powered: float | None
    powered_low: float | None
    powered_high: float | None
    supported: bool | None
    why: str
    rows: int
    shot_list: list[int]
    condition: str

    @property
    def widest(self) -> tuple[float | None, float | None]:
        """The interval of `share` over scenes, or over shots where scenes are not known."""
        return (self.low, self.high) if self.scenes is None else (self.scene_low, self.scene_high)


def shares(
    screen: Screen,
    supports: dict[str, Support],
    errors: ErrorCounts | None = None,
    labels: Ints | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Share]:
    """One row per character and reading, characters by screen time, emotions in the pack's order.

    `labels` int64 [rows of screen] is the true emotion where it is known, -1 elsewhere.
    """
    found = []
    for character in by_screen_time(screen):
        mine = screen.character == screen.characters.index(character)
        own = screen.take(mine)
        found += _of_character(
            own, character, supports[character], errors, None if labels is None else labels[mine], seed, resamples
        )
    return found


def by_screen_time(screen: Screen) -> list[str]:
    """The characters, the one longest on screen first."""
    totals = np.bincount(screen.character, screen.seconds, len(screen.characters))
    return [screen.characters[i] for i in np.argsort(-totals, kind="stable")]


def quoted(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


def _of_character(
    own: Screen,
    character: str,
    support: Support,
    errors: ErrorCounts | None,
    labels: Ints | None,
    seed: int,
    resamples: int,
) -> list[Share]:
    k, seconds = len(own.emotions), own.seconds
    units = {"shots": own.shot} | ({"scenes": own.scene} if own.has_scenes else {})
    intervals: dict[str, list[Interval]] = {}
    for name, cluster in units.items():
        tops, bottom = sums(cluster, seconds[:, None] * np.eye(k + 1)[own.reading]), sums(cluster, seconds)
        few = len(bottom) < LEAST
        counts = np.ones((1, len(bottom))) if few else draws(len(bottom), _rng(seed, name, own, character), resamples)
        intervals[name] = [share_interval(top, bottom, counts) for top in tops.T]
    widest = own.scene if own.has_scenes else own.shot
    # Solved for a classifier that cannot tell the emotions apart, the equations give any answer.
    adjusted = (
        Corrected(None, (), f"the classifier {support.why}" if support.supported is False else support.why)
        if errors is None or not support.supported
        else adjusted_count(
            widest,
            own.reading,
            seconds,
            errors,
            character,
            _rng(seed, "adjusted", own, character),
            min(resamples, 2000),
        )
    )
    powered = (
        Corrected(None, (), "no labels were given")
        if labels is None
        else prediction_powered(
            widest, own.reading, labels, seconds, k, _rng(seed, "powered", own, character), min(resamples, 2000)
        )
    )
    total = float(seconds.sum())
    found = []
    for i, emotion in enumerate(own.readings):
        shown = own.reading == i
        low, high = _ends(adjusted, i)
        powered_low, powered_high = _ends(powered, i)
        scenes = intervals["scenes"][i] if "scenes" in intervals else None
        found.append(
            Share(
                film=own.film,
                character=character,
                emotion=emotion,
                seconds=float(seconds[shown].sum()),
                on_screen=total,
                share=float(seconds[shown].sum()) / total,
                shots=intervals["shots"][i].clusters,
                low=intervals["shots"][i].low,
                high=intervals["shots"][i].high,
                scenes=scenes.clusters if scenes else None,
                scene_low=scenes.low if scenes else None,
                scene_high=scenes.high if scenes else None,
                corrected=float(adjusted.shares[i]) if adjusted.shares is not None and i < k else None,
                corrected_low=low,
                corrected_high=high,
                powered=float(powered.shares[i]) if powered.shares is not None and i < k else None,
                powered_low=powered_low,
                powered_high=powered_high,
                supported=support.supported,
                why="; ".join(filter(None, (adjusted.why, powered.why if labels is not None else ""))),
                rows=int(shown.sum()),
                shot_list=np.unique(own.shot[shown]).tolist(),
                condition=f"film = {quoted(own.film)} AND character = {quoted(character)}"
                f" AND emotion = {quoted(emotion)}",
            )
        )
    return found


def _rng(seed: int, use: str, own: Screen, character: str) -> np.random.Generator:
    return generator(seed, use, own.film, character)


def _ends(corrected: Corrected, index: int) -> tuple[float | None, float | None]:
    if index >= len(corrected.intervals):
        return None, None
    return corrected.intervals[index].low, corrected.intervals[index].high
