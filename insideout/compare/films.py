"""One film in two runs, frame by frame: rows that are new, gone or read differently, and the most changed frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import cohen_kappa_score

from insideout.compare.rows import Pair, emotion, match
from insideout.shown import FAILED, Figure, Shown

_TINY = 1e-6


@dataclass(frozen=True)
class FrameChange:
    """A frame that differs, and how much: the sum over its figures, see `Pair.change`; `time` in seconds."""

    film: str
    ordinal: int
    time: float
    shot: int
    change: float
    pairs: tuple[Pair, ...] = field(repr=False)


@dataclass(frozen=True)
class CharacterChange:
    """The rows of one character in the frames that were compared; `*` for all characters.

    `same` rows are in both runs under this name, `gone` in A only, `new` in B only, `renamed_from` it in A and
    `renamed_to` it in B; of the `same`, `emotion` have another one, `share` have the same and `kappa` is Cohen's
    (1960): 0 for what chance would give, None where both always read one emotion. `distance` is the mean total
    variation distance of their probabilities, `overlap` that of the masks.
    """

    character: str
    rows_a: int
    rows_b: int
    same: int
    gone: int
    new: int
    renamed_from: int
    renamed_to: int
    emotion: int
    share: float | None
    kappa: float | None
    distance: float | None
    overlap: float | None

    @property
    def changed(self) -> bool:
        """Whether any row of it is not the same."""
        others = self.gone + self.new + self.renamed_from + self.renamed_to + self.emotion
        return bool(others) or (self.distance or 0.0) > _TINY


@dataclass
class RowCounts:
    """What was counted over the frames of one or several films; `statuses` counts (A's, B's) of common frames."""

    frames_a: int = 0
    frames_b: int = 0
    common: int = 0
    unknown: int = 0
    compared: int = 0
    differing: int = 0
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    names: Counter[tuple[str, str]] = field(default_factory=Counter)
    emotions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    distances: Counter[str] = field(default_factory=Counter)
    overlaps: Counter[str] = field(default_factory=Counter)

    def add(self, pair: Pair, fused: bool) -> None:
        """Count one figure."""
        if pair.a is not None:
            self.rows["a", pair.a.character] += 1
        if pair.b is not None:
            self.rows["b", pair.b.character] += 1
        if pair.a is None or pair.b is None:
            one = pair.a or pair.b
            assert one is not None
            self.rows["gone" if pair.b is None else "new", one.character] += 1
        elif pair.renamed:
            self.names[pair.a.character, pair.b.character] += 1
        else:
            name = pair.a.character
            self.emotions[name, emotion(pair.a, fused), emotion(pair.b, fused)] += 1
            self.distances[name] += pair.distance  # type: ignore[assignment]
            self.overlaps[name] += pair.overlap  # type: ignore[assignment]

    def characters(self) -> list[CharacterChange]:
        """A line for each character by name, then one for all if there are several."""
        names = sorted({name for _, name in self.rows})
        found = [self._character(name, {name}) for name in names]
        return found + ([self._character("*", set(names))] if len(names) > 1 else [])

    def _character(self, name: str, among: set[str]) -> CharacterChange:
        def rows(kind: str) -> int:
            return sum(count for (what, who), count in self.rows.items() if what == kind and who in among)

        table = Counter[tuple[str, str]]()
        for (who, a, b), count in self.emotions.items():
            if who in among:
                table[a, b] += count
        same = sum(table.values())
        agreed = sum(count for (a, b), count in table.items() if a == b)
        return CharacterChange(
            character=name,
            rows_a=rows("a"),
            rows_b=rows("b"),
            same=same,
            gone=rows("gone"),
            new=rows("new"),
            renamed_from=sum(count for (a, _), count in self.names.items() if a in among),
            renamed_to=sum(count for (_, b), count in self.names.items() if b in among),
            emotion=same - agreed,
            share=agreed / same if same else None,
            kappa=kappa(table),
            distance=sum(float(self.distances[who]) for who in among) / same if same else None,
            overlap=sum(float(self.overlaps[who]) for who in among) / same if same else None,
        )


def kappa(table: Counter[tuple[str, str]]) -> float | None:
    """Cohen's kappa of a table of counts; None where it is not defined, since both always say the same one thing."""
    labels = sorted({name for pair in table for name in pair})
    if len(labels) < 2:
        return None
    a, b, weights = [], [], []
    for (one, other), count in table.items():
        a.append(one)
        b.append(other)
        weights.append(count)
    found = float(cohen_kappa_score(a, b, labels=labels, sample_weight=weights))
    return found if np.isfinite(found) else None


def compare_film(
    a: Shown,
    b: Shown,
    counts: RowCounts,
    fused: bool = False,
    tell: Callable[[int], None] | None = None,
) -> list[FrameChange]:
    """Compare the frames that both runs looked at; return the most changed one of each shot of A that changed.

    What a frame shows is what its labels are for it (`Shown`), so a duplicate shows what it repeats. Frames that
    failed in a run are counted and left out. `counts` is added to; `tell` is called with 1 for each frame.
    """
    worst: dict[int, FrameChange] = {}
    _, at_a, at_b = np.intersect1d(a.ordinals, b.ordinals, assume_unique=True, return_indices=True)
    counts.frames_a += len(a.ordinals)
    counts.frames_b += len(b.ordinals)
    counts.common += len(at_a)
    start = min(int(a.pts[0]), *(shot.start_pts for shot in a.shots))
    shown_a, shown_b = _Last(a), _Last(b)
    for i, j in zip(at_a.tolist(), at_b.tolist(), strict=True):
        counts.statuses[a.statuses[i], b.statuses[j]] += 1
        sources = int(a.labelled[i]), int(b.labelled[j])
        if FAILED in sources:
            counts.unknown += 1
        else:
            counts.compared += 1
            pairs = match(shown_a.figures(sources[0]), shown_b.figures(sources[1]))
            for pair in pairs:
                counts.add(pair, fused)
            change = sum(pair.change(fused) for pair in pairs)
            if change > _TINY:
                counts.differing += 1
                shot = int(a.shot[i])
                if shot not in worst or change > worst[shot].change + _TINY:
                    time = float((int(a.pts[i]) - start) * a.facts.time_base)
                    worst[shot] = FrameChange(a.facts.film, int(a.ordinals[i]), time, shot, change, tuple(pairs))
        if tell is not None:
            tell(1)
    return sorted(worst.values(), key=lambda frame: (-frame.change, frame.ordinal))


class _Last:
    """The figures of the labelled frame that was asked for last: a held drawing is asked for again and again."""

    def __init__(self, shown: Shown) -> None:
        self._shown, self._source = shown, -1
        self._figures: list[Figure] = []

    def figures(self, source: int) -> list[Figure]:
        """The figures of a labelled frame; none for NOBODY."""
        if source < 0:
            return []
        if source != self._source:
            self._source, self._figures = source, self._shown.rows(source, source)
        return self._figures
