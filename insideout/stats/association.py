"""Do characters differ in the emotions they show? A permutation test, its effect size, and the cells behind it.

The chi-square test is for independent counts; frames are none. Here whole shots are dealt out anew:
the emotions shown in a shot go, as a block, to a shot with as many characters, and which of them shows
which is drawn too. So what characters share by being in one shot stays together. The effect size is
Cramér's V with Bergsma's correction (2013, doi 10.1016/j.jkss.2012.10.002), whose number of
observations is taken such that V is 0 on average over these permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import ncx2

from insideout.evaluation.intervals import TAIL
from insideout.stats.clusters import LEAST, Floats, Ints, generator
from insideout.stats.confusion import Support
from insideout.stats.screen import Screen
from insideout.stats.shares import by_screen_time, quoted

PERMUTATIONS = 9999


@dataclass(frozen=True)
class Association:
    """Character by emotion in one film, for `unit` shots or scenes.

    `v` is the bias-corrected Cramér's V, 0 to 1, with its 95 % interval (`v_interval`); `raw_v` the
    uncorrected one; `p` of the permutation test. `seconds` are in the table, `uncertain` seconds are left
    out of it. `supported` where that holds for every character in it.
    """

    film: str
    unit: str
    characters: list[str]
    clusters: int
    seconds: float
    uncertain: float
    v: float | None
    low: float | None
    high: float | None
    raw_v: float | None
    p: float | None
    supported: bool | None
    why: str
    condition: str


@dataclass(frozen=True)
class Residual:
    """One character and emotion: by how much it is shown more (or less) than if characters did not matter.

    The table is that of the characters `among`. `seconds` are as read, `expected` their mean over the
    permutations, `residual` their difference in standard deviations of the permutations (the adjusted
    residual of clustered data). `p` is two-sided, `holm` corrected for all cells of the table (Holm
    1979); `differs` where that is below .05.
    """

    film: str
    unit: str
    among: list[str]
    character: str
    emotion: str
    seconds: float
    expected: float
    residual: float
    p: float
    holm: float
    differs: bool
    supported: bool | None
    condition: str


def associations(
    screen: Screen,
    supports: dict[str, Support],
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> tuple[list[Association], list[Residual]]:
    """The table of all characters; where some are not supported and two or more are, that of these too.

    By shots, and by scenes where they are known.
    """
    groups = [tuple(by_screen_time(screen))]
    supported = tuple(name for name in groups[0] if supports[name].supported)
    if 2 <= len(supported) < len(groups[0]):
        groups.append(supported)
    found: list[Association] = []
    cells: list[Residual] = []
    for names in groups:
        for unit in ("shots", "scenes") if screen.has_scenes else ("shots",):
            one, residuals = _associate(screen, names, unit, supports, seed, permutations)
            found.append(one)
            cells += residuals
    return found, cells


def phi_squared(table: Floats) -> Floats:
    """Pearson's phi squared of tables of seconds: float64 [..., r, c] -> [...]; an empty row or column adds nothing."""
    share = table / table.sum((-2, -1), keepdims=True)
    expected = share.sum(-1, keepdims=True) * share.sum(-2, keepdims=True)
    found: Floats = ((share - expected) ** 2 / np.where(expected > 0, expected, 1)).sum((-2, -1))
    return found


def bergsma(phi2: Floats, rows: int, columns: int, n: float) -> Floats:
    """Bias-corrected Cramér's V of phi squared from `n` independent observations."""
    r, c = (size - (size - 1) ** 2 / (n - 1) for size in (rows, columns))
    left = np.maximum(0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    found: Floats = np.sqrt(np.minimum(1, left / max(min(r, c) - 1, 1e-9)))
    return found


def holm(p: Floats) -> Floats:
    """Holm's step-down correction of p values float64 [n], in the order given (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    found = np.empty(len(p))
    found[order] = np.minimum(1, stepped)
    return found


def deal(cluster: Ints, row: Ints, profile: Floats, rows: int, rng: np.random.Generator, permutations: int) -> Floats:
    """Tables of the permutations, float64 [permutations, rows, columns].

    `cluster` and `row` (the character) int64 [n], each pair once, with its `profile` float64 [n, columns].
    Blocks are exchanged between clusters with as many rows.
    """
    found = np.zeros((permutations, rows, profile.shape[1]))
    _, place, size = np.unique(cluster, return_inverse=True, return_counts=True)
    for m in np.unique(size):
        inside = np.flatnonzero(size[place] == m)
        inside = inside[np.argsort(place[inside], kind="stable")]
        blocks = len(inside) // m
        seats = np.eye(rows)[row[inside]].T
        hands = profile[inside].reshape(blocks, m, -1)
        for i in range(permutations):
            dealt = hands[rng.permutation(blocks)]
            if m > 1:
                turn = rng.permuted(np.tile(np.arange(m), (blocks, 1)), axis=1)
                dealt = np.take_along_axis(dealt, turn[:, :, None], 1)
            found[i] += seats @ dealt.reshape(len(inside), -1)
    return found


def _associate(
    screen: Screen,
    names: tuple[str, ...],
    unit: str,
    supports: dict[str, Support],
    seed: int,
    permutations: int,
) -> tuple[Association, list[Residual]]:
    k = len(screen.emotions)
    index = {screen.characters.index(name): i for i, name in enumerate(names)}
    mine = np.isin(screen.character, list(index))
    named = mine & (screen.reading < k)
    part = screen.take(named)
    states = [supports[name].supported for name in names]
    supported = False if False in states else (None if None in states else True)
    left_out = float(screen.seconds[mine & (screen.reading == k)].sum())
    people = ", ".join(quoted(name) for name in names)
    condition = f"film = {quoted(screen.film)} AND character IN ({people}) AND emotion <> 'uncertain'"

    def told(clusters: int, why: str = "", **figures: float) -> Association:
        values = {name: figures.get(name) for name in ("v", "low", "high", "raw_v", "p")}
        seconds = float(part.seconds.sum())
        return Association(
            screen.film, unit, list(names), clusters, seconds, left_out, **values, supported=supported, why=why,
            condition=condition,
        )  # fmt: skip

    cluster = part.scene if unit == "scenes" else part.shot
    character = np.array([index[value] for value in part.character.tolist()], np.int64)
    pair, place = np.unique(cluster * len(names) + character, return_inverse=True)
    profile = np.zeros((len(pair), k))
    np.add.at(profile, (place, part.reading), part.seconds)
    profile = profile[:, profile.sum(0) > 0]
    clusters = len(np.unique(cluster))
    rows, columns = len(np.unique(character)), profile.shape[1]
    if rows < 2 or columns < 2:
        return told(clusters, "fewer than two characters or two emotions"), []
    if clusters < LEAST:
        return told(clusters, f"{clusters} {unit} are too few"), []
    shot, row = pair // len(names), pair % len(names)
    table = np.zeros((len(names), columns))
    np.add.at(table, row, profile)
    rng = generator(seed, "association", screen.film, unit, *names)
    dealt = deal(shot, row, profile, len(names), rng, permutations)
    phi2, null = phi_squared(table), phi_squared(dealt)
    p = float((1 + (null >= phi2 - 1e-12).sum()) / (permutations + 1))
    n = 1 + (rows - 1) * (columns - 1) / float(null.mean())
    v, raw = float(bergsma(phi2, rows, columns, n)), float(np.sqrt(phi2 / (min(rows, columns) - 1)))
    low, high = v_interval(float(phi2), null, rows, columns)
    shown = [name for i, name in enumerate(screen.emotions) if (part.reading == i).any()]
    cells = _residuals(screen, names, shown, unit, table, dealt, supports)
    return told(clusters, v=v, low=low, high=high, raw_v=raw, p=p), cells


def v_interval(phi2: float, null: Floats, rows: int, columns: int) -> tuple[float, float]:
    """The 95 % interval of Cramér's V of phi squared whose permutations are `null` float64 [n].

    The values of V for which phi squared would not be in the 2.5 % at either end, as chi square with
    noncentrality (Smithson 2003, Confidence Intervals, chapter 4), whose scale and degrees of freedom are
    those that give `null` its mean and variance (Satterthwaite 1946). For intervals by bootstrap the
    truth is below the lower end too often where V is small.
    """
    freedom = 2 * float(null.mean()) ** 2 / float(null.var())
    scale = freedom / float(null.mean())
    ends = []
    for level in (1 - TAIL, TAIL):

        def excess(noncentrality: float, level: float = level) -> float:
            return float(ncx2.cdf(scale * phi2, freedom, max(noncentrality, 1e-12)) - level)

        found = brentq(excess, 0, 4 * scale * phi2 + 100) if excess(0) > 0 else 0.0
        ends.append(min(1.0, float(np.sqrt(found / scale / (min(rows, columns) - 1)))))
    return ends[0], ends[1]


def _residuals(
    screen: Screen,
    names: tuple[str, ...],
    emotions: list[str],
    unit: str,
    table: Floats,
    dealt: Floats,
    supports: dict[str, Support],
) -> list[Residual]:
    mean, spread = dealt.mean(0), dealt.std(0)
    away = np.abs(table - mean)
    p = (1 + (np.abs(dealt - mean) >= away - 1e-9).sum(0)) / (len(dealt) + 1)
    corrected = holm(p.ravel()).reshape(p.shape)
    return [
        Residual(
            film=screen.film,
            unit=unit,
            among=list(names),
            character=name,
            emotion=emotion,
            seconds=float(table[i, j]),
            expected=float(mean[i, j]),
            residual=float((table[i, j] - mean[i, j]) / spread[i, j]) if spread[i, j] > 0 else 0.0,
            p=float(p[i, j]),
            holm=float(corrected[i, j]),
            differs=bool(corrected[i, j] < 0.05),
            supported=supports[name].supported,
            condition=f"film = {quoted(screen.film)} AND character = {quoted(name)} AND emotion = {quoted(emotion)}",
        )
        for i, name in enumerate(names)
        for j, emotion in enumerate(emotions)
    ]
