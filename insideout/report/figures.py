"""Every figure of the page that opens its frames: what it says, which frames it shows, which rows it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from insideout.report import words
from insideout.report.findings import Verdict
from insideout.report.frames import Frames
from insideout.stats.analysis import Analysis
from insideout.stats.answers import interval
from insideout.stats.screen import Ints, Screen
from insideout.stats.shares import Share
from insideout.stats.together import Together
from insideout.stats.transitions import Transition

#: Rows of the tables of transitions and of company, for each character.
_ROWS = 8


@dataclass(frozen=True)
class Figure:
    """A figure in words, the places of its frames, how many `rows` of the screen it is made of, and which.

    `character` and `emotion` choose its stretches, `tracks` where it is made of these only.
    """

    title: str
    said: str
    frames: list[int]
    rows: int
    condition: str
    character: str
    emotion: str | None = None
    tracks: list[int] | None = None


class Figures:
    """The figures of one film by number; a number names a figure in the page.

    `cells` has the number of each character and emotion; `transitions` and `together` are rows worth
    showing with their numbers, `gaps` the longest stretch without its usual emotion by character.
    """

    def __init__(self, analysis: Analysis, found: Sequence[Verdict], frames: Frames) -> None:
        self.all: list[Figure] = []
        self._analysis, self._frames, self._shares = analysis, frames, analysis.shares
        self.cells = {(row.character, row.emotion): self._add(_share(row, frames)) for row in analysis.shares}
        self.gaps: dict[str, int] = {}
        for one in found:
            if one.always.start_ordinal is not None and one.always.end_ordinal is not None:
                self.gaps[one.character] = self._add(_gap(one, frames, analysis.screen))
        names = [one.character for one in found]
        self.transitions = {name: self._transitions(name) for name in names}
        self.together = {name: self._together(name) for name in names}
        del self._analysis, self._frames

    def _add(self, figure: Figure) -> int:
        self.all.append(figure)
        return len(self.all) - 1

    def _transitions(self, name: str) -> list[tuple[Transition, int]]:
        own = [row for row in self._analysis.transitions if row.character == name and row.emotion != "*" and row.count]
        own.sort(key=lambda row: (not row.differs, -abs(row.count - row.expected)))
        return [(row, self._add(_transition(row, self._frames))) for row in own[:_ROWS]]

    def _together(self, name: str) -> list[tuple[list[Together], list[int]]]:
        """The rows of each companion, the longest met first, with their numbers."""
        groups: dict[str, list[Together]] = {}
        for row in self._analysis.together:
            if row.character == name:
                groups.setdefault(row.other, []).append(row)
        ranked = sorted(groups.values(), key=lambda rows: -rows[0].company)[:_ROWS]
        own = self._analysis.screen.of(name)
        found = []
        for rows in ranked:
            part = own.take(np.isin(own.ordinal, self._met(name, rows[0].other)))
            found.append((rows, [self._add(_company(row, self._frames, part)) for row in rows]))
        return found

    def _met(self, name: str, other: str) -> Ints:
        """The frames in which a character is with another, or alone."""
        screen = self._analysis.screen
        if other:
            return np.unique(screen.ordinal[screen.character == screen.characters.index(other)])
        mine = screen.character == screen.characters.index(name)
        return np.setdiff1d(screen.ordinal[mine], screen.ordinal[~mine])

    def data(self) -> list[list[Any]]:
        """As the page's script reads them: title, said, frames, rows, condition, character, emotion, tracks."""
        return [[f.title, f.said, f.frames, f.rows, f.condition, f.character, f.emotion, f.tracks] for f in self.all]

    def shares(self, characters: dict[str, int], readings: dict[str, int]) -> list[list[Any]]:
        """Rows of the chart of shares: character, emotion, share, low, high, seconds, number of the figure."""
        return [
            [
                characters[row.character],
                readings[row.emotion],
                *(None if value is None else round(value, 4) for value in (row.share, *row.widest)),
                round(row.seconds, 1),
                self.cells[row.character, row.emotion],
            ]
            for row in self._shares
        ]


def _share(row: Share, frames: Frames) -> Figure:
    low, high = row.widest
    said = f"{words.percent(row.share)} of the time on screen"
    if low is not None:
        said += f", {interval(low, high)} over {'scenes' if row.scenes else 'shots'}"
    said += f": {row.seconds:.1f} of {row.on_screen:.1f} seconds,"
    said += f" in {len(row.shot_list)} of {words.plural(row.shots, 'shot')}"
    return Figure(
        title=f"{row.character}, read as {row.emotion}",
        said=said + unsupported(row.supported),
        frames=frames.of(frames.where(row.character, row.emotion)),
        rows=row.rows,
        condition=row.condition,
        character=row.character,
        emotion=row.emotion,
    )


def _gap(one: Verdict, frames: Frames, screen: Screen) -> Figure:
    test = one.always
    span = (int(test.start_ordinal or 0), int(test.end_ordinal or 0))
    own = screen.of(one.character)
    inside = (own.ordinal >= span[0]) & (own.ordinal <= span[1])
    return Figure(
        title=f"{one.character}, longest without {test.emotion}",
        said=f"{words.timecode(test.start_s or 0)} to {words.timecode(test.end_s or 0)},"
        f" {test.seconds or 0:.1f} seconds on screen{unsupported(test.supported)}",
        frames=frames.of(frames.where(one.character, ordinals=(min(own.labelled[inside]), span[1]))),
        rows=int(inside.sum()),
        condition=test.condition,
        character=one.character,
        tracks=np.unique(own.track[inside]).tolist(),
    )


def _transition(row: Transition, frames: Frames) -> Figure:
    return Figure(
        title=f"{row.character}: {row.emotion}, then {row.following}",
        said=f"{words.plural(row.count, 'time')} in {words.plural(row.pairs, 'pair')} of tracks,"
        f" {row.expected:.1f} if they were shuffled"
        f" ({words.p_value(row.holm)}){unsupported(row.supported)}",
        frames=frames.of(frames.where(row.character, tracks=row.tracks)),
        rows=0,
        condition=row.condition,
        character=row.character,
        tracks=row.tracks,
    )


def _company(row: Together, frames: Frames, part: Screen) -> Figure:
    inside = part.reading == part.readings.index(row.emotion)
    said = f"{words.percent(row.share)} of {row.company:.1f} seconds"
    if row.low is not None:
        said += f", {interval(row.low, row.high)} over shots"
    return Figure(
        title=f"{row.character}, read as {row.emotion} {f'with {row.other}' if row.other else 'alone'}",
        said=said + unsupported(row.supported),
        frames=frames.of(frames.where(row.character, row.emotion, among=part.labelled[inside])),
        rows=int(inside.sum()),
        condition=row.condition,
        character=row.character,
        emotion=row.emotion,
        tracks=np.unique(part.track[inside]).tolist(),
    )


def unsupported(supported: bool | None) -> str:
    """What is added to a figure that the classifier does not support."""
    return ". Not supported: the classifier does not tell this character's emotions apart" if supported is False else ""
