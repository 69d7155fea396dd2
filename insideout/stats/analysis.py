"""Everything that is computed of one film, as rows of tables and an answer in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from insideout.stats.always import Always, always, usual_emotion
from insideout.stats.answers import answer
from insideout.stats.arc import ArcPoint, arcs
from insideout.stats.association import Association, Residual, associations
from insideout.stats.clusters import RESAMPLES, Ints
from insideout.stats.confusion import ErrorCounts, Support, support
from insideout.stats.screen import Screen
from insideout.stats.shares import Share, by_screen_time, shares
from insideout.stats.together import Together, together
from insideout.stats.transitions import Dwell, Transition, dwell, transitions


@dataclass(frozen=True)
class Analysis:
    """The figures of one film; `answers` has the lines of each character, longest on screen first."""

    film: str
    seed: int
    resamples: int
    screen: Screen
    supports: dict[str, Support]
    shares: list[Share]
    always: list[Always]
    association: list[Association]
    residuals: list[Residual]
    transitions: list[Transition]
    dwell: list[Dwell]
    arc: list[ArcPoint]
    together: list[Together]
    answers: dict[str, list[str]]

    def tables(self) -> dict[str, list[Any]]:
        """The rows of each table by its name, without `screen`."""
        names = ("shares", "always", "association", "residuals", "transitions", "dwell", "arc", "together")
        return {name: getattr(self, name) for name in names} | {"support": list(self.supports.values())}


def analyse(
    screen: Screen,
    errors: ErrorCounts | None = None,
    labels: Ints | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Analysis:
    """Compute everything for one film.

    `errors` are the pack's, None where it has none; `labels` int64 [rows of screen] the true emotions
    that are known, -1 elsewhere. Permutations are one fewer than `resamples`. The same arguments give the same figures.
    """
    names = by_screen_time(screen)
    supports = {name: support(errors, name, seed, resamples) for name in names}
    found = shares(screen, supports, errors, labels, seed, resamples)
    tests, answers = [], {}
    for name in names:
        own = [row for row in found if row.character == name]
        usual = usual_emotion(own)
        tested = [always(screen, name, e, supports[name], errors, seed, resamples) for e in screen.emotions]
        tests += tested
        answers[name] = answer(own, next(test for test in tested if test.emotion == usual), supports[name])
    tables, residuals = associations(screen, supports, seed, resamples - 1)
    return Analysis(
        film=screen.film,
        seed=seed,
        resamples=resamples,
        screen=screen,
        supports=supports,
        shares=found,
        always=tests,
        association=tables,
        residuals=residuals,
        transitions=transitions(screen, supports, seed, resamples - 1),
        dwell=dwell(screen, supports),
        arc=arcs(screen, supports, seed, resamples=min(resamples, 2000)),
        together=together(screen, supports, seed, resamples),
        answers=answers,
    )


def to_table(rows: list[Any], kind: type) -> pa.Table:
    """Rows of one dataclass as a table with a column per field, also where there are none."""
    columns: Mapping[str, list[Any]] = {f.name: [getattr(row, f.name) for row in rows] for f in fields(kind)}
    return pa.table(dict(columns))


def to_plain(rows: list[Any]) -> list[dict[str, Any]]:
    """Rows of dataclasses as plain data."""
    return [asdict(row) for row in rows]
