"""Films whose shares are known, to see what the statistics make of them.

A film is drawn from a population of films: `shares` are the true shares of screen time in it. A scene
leans to some emotions, a shot more so, and inside a shot an emotion holds for a while:

    scene   Dirichlet(shares * scene_spread)
    shot    Dirichlet(scene * shot_spread), lengths log-normal
    frame   keeps the emotion of the one before with probability `stay`, else draws from the shot
    reading drawn anew from the error rates of the emotion whenever the emotion does, else kept

So errors come in clusters as well. Large spreads make scenes, or shots, alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from insideout.stats.clusters import Floats, Ints
from insideout.stats.confusion import ErrorCounts
from insideout.stats.screen import NO_SCENE, Screen


@dataclass(frozen=True)
class Population:
    """What films are drawn from: `shares` float64 [k], sum 1; `rates` [k, k + 1] or None for no errors.

    `frames` is the median number of sampled frames of a shot, `unequal` the standard deviation of the
    logarithm of its length; `scene_shots` the mean number of shots of a scene, None for no scenes.
    """

    shares: tuple[float, ...]
    shot_spread: float = 0.8
    scene_spread: float = 1.0
    scene_shots: float | None = None
    frames: float = 8.0
    unequal: float = 0.8
    stay: float = 0.8
    rates: tuple[tuple[float, ...], ...] | None = None


def symmetric_rates(emotions: int, right: float, uncertain: float = 0.0) -> tuple[tuple[float, ...], ...]:
    """Error rates [k, k + 1] with `right` on the diagonal, `uncertain` last, the rest spread evenly."""
    wrong = (1 - right - uncertain) / (emotions - 1)
    return tuple((*(right if i == j else wrong for j in range(emotions)), uncertain) for i in range(emotions))


def simulated_film(
    population: Population, shots: int, rng: np.random.Generator, character: str = "Joy"
) -> tuple[Screen, Ints]:
    """A film of one character in so many shots: its screen, and the true emotion of each row, int64 [n]."""
    return simulated_cast({character: population}, shots, rng)


def simulated_cast(
    populations: dict[str, Population], shots: int, rng: np.random.Generator, present: float = 0.5, mood: bool = False
) -> tuple[Screen, Ints]:
    """A film of several characters, each with shares of its own: its screen and the truth, as `simulated_film`.

    A character is in a shot with the probability `present`, somebody always. With `mood` all that are in
    a shot lean to the same emotions there, those of the first character; lengths and scenes are its too.
    """
    names = tuple(sorted(populations))
    first = populations[names[0]]
    k = len(first.shares)
    scene = _scenes(first, shots, rng)
    length = np.maximum(1, rng.lognormal(np.log(first.frames), first.unequal, shots).round()).astype(int)
    cast = rng.random((shots, len(names))) < present
    cast[np.arange(shots), rng.integers(0, len(names), shots)] = True
    common = _leanings(first, scene, rng)
    inside = np.repeat(np.arange(shots), length)
    parts = []
    for i, name in enumerate(names):
        population = populations[name]
        leaning = common if mood or len(names) == 1 else _leanings(population, scene, rng)
        frame = np.flatnonzero(cast[inside, i])
        shot = inside[frame]
        renewed = np.append(True, shot[1:] != shot[:-1]) | (rng.random(len(shot)) >= population.stay)
        truth = _held(_drawn(leaning[shot], rng), renewed)
        rates = np.eye(k, k + 1) if population.rates is None else np.array(population.rates)
        reading = _held(_drawn(rates[truth], rng), renewed)
        parts.append(np.stack([frame, np.full(len(shot), i), shot, truth, reading]))
    rows = np.concatenate(parts, axis=1).astype(np.int64)
    at, character, shot, truth, reading = rows[:, np.lexsort((rows[1], rows[0]))]
    probabilities = np.full((len(at), k), 0.1 / max(1, k - 1))
    answered = np.flatnonzero(reading < k)
    probabilities[answered, reading[answered]] = 0.9
    screen = Screen(
        film="simulated",
        time_base=Fraction(1, 6),
        start=0,
        characters=names,
        emotions=tuple(f"emotion{i}" for i in range(k)),
        ordinal=at * 4,
        labelled=at * 4,
        pts=at,
        begin=at,
        units=np.ones(len(at), np.int64),
        sharing=np.ones(len(at), np.int64),
        shot=shot,
        scene=np.full(len(at), NO_SCENE) if first.scene_shots is None else scene[shot],
        track=shot * len(names) + character,
        character=character,
        reading=reading,
        fused=reading,
        probabilities=probabilities,
        shot_units=dict(enumerate(length.tolist())),
        unknown=0,
    )
    return screen, truth


def simulated_errors(
    population: Population, shots: int, crops: int, rng: np.random.Generator, character: str = "Joy"
) -> ErrorCounts:
    """Labelled crops of so many other shots, at most `crops` of each, as evenly by emotion as shots allow.

    An annotated data set is balanced where it can be, so the true shares of its crops are not the film's.
    """
    k = len(population.shares)
    even = replace(population, shares=(1 / k,) * k, scene_shots=None, frames=crops, unequal=0.3)
    film, truth = simulated_film(even, shots, rng, character)
    cells, counts = np.unique(np.column_stack([film.shot, truth, film.reading]), axis=0, return_counts=True)
    return ErrorCounts(
        emotions=film.emotions,
        characters=(character,),
        shot=cells[:, 0],
        character=np.zeros(len(cells), np.int64),
        emotion=cells[:, 1],
        guess=np.where(cells[:, 2] < k, cells[:, 2], 0),
        reading=cells[:, 2],
        crops=counts.astype(np.int64),
    )


def _scenes(population: Population, shots: int, rng: np.random.Generator) -> Ints:
    if population.scene_shots is None:
        return np.arange(shots, dtype=np.int64)
    begins = rng.random(shots) < 1 / population.scene_shots
    begins[0] = False
    return np.cumsum(begins).astype(np.int64)


def _leanings(population: Population, scene: Ints, rng: np.random.Generator) -> Floats:
    """What each shot leans to, float64 [shots, k]."""
    shares = np.array(population.shares)
    if population.scene_shots is None:
        return _dirichlet(np.tile(shares, (len(scene), 1)) * population.shot_spread, rng)
    scenes = _dirichlet(np.tile(shares, (int(scene.max()) + 1, 1)) * population.scene_spread, rng)
    return _dirichlet(scenes[scene] * population.shot_spread, rng)


def _dirichlet(weights: Floats, rng: np.random.Generator) -> Floats:
    drawn = rng.standard_gamma(np.maximum(weights, 1e-3))
    total = drawn.sum(1, keepdims=True)
    # Gammas of tiny shape can all be 0: then the largest weight has it all.
    sure = np.eye(weights.shape[1])[weights.argmax(1)]
    found: Floats = np.where(total > 0, drawn / np.where(total > 0, total, 1), sure)
    return found


def _drawn(shares: Floats, rng: np.random.Generator) -> Ints:
    """An index drawn from each row of shares."""
    found: Ints = np.minimum((rng.random((len(shares), 1)) > shares.cumsum(1)).sum(1), shares.shape[1] - 1)
    return found.astype(np.int64)


def _held(values: Ints, renewed: np.ndarray) -> Ints:
    """Each value, or that of the last row that was renewed."""
    last = np.maximum.accumulate(np.where(renewed, np.arange(len(values)), 0))
    found: Ints = values[last]
    return found
