"""The frames that the page can show of one film, and which of them belong to which figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from insideout.report import choice
from insideout.report.choice import Cast
from insideout.report.pictures import HEIGHT, Thumbnail
from insideout.report.tables import FilmTables, Key, Sighting
from insideout.stats.screen import Screen


class Frames:
    """A choice of rows of a film's table of characters, each once, in order of time.

    `faces` (one a character), `surest`, `least` and `strips` (one a shot for each character) are places in
    it; `order` are all places, the most telling first: so the beginning of it is what to show where there is
    room for a part only.
    """

    def __init__(self, tables: FilmTables, screen: Screen, usual: dict[str, str], most: int) -> None:
        cast = choice.cast_of(tables.characters, screen)
        index = {name: i for i, name in enumerate(screen.characters)}
        readings = {name: i for i, name in enumerate(screen.readings)}
        portraits = choice.faces(cast, {index[who]: readings[emotion] for who, emotion in usual.items()})
        surest, least = choice.extremes(cast)
        tracks = choice.per_track(cast)
        strips = {name: choice.per_shot(cast, i, tracks) for name, i in index.items()}
        ranked = chain(
            portraits.values(), surest, least, chain.from_iterable(strips.values()), _cells(cast), _fine(tracks)
        )
        rows = list(dict.fromkeys(ranked))[:most]
        self.rows = sorted(rows)
        self._place = {row: place for place, row in enumerate(self.rows)}
        self.order = [self._place[row] for row in rows]
        self.sightings: list[Sighting] = tables.sightings(self.rows)
        self.faces = {name: self._place[portraits[i]] for name, i in index.items() if portraits[i] in self._place}
        self.surest, self.least = self._places(surest), self._places(least)
        self.strips = {name: self._places(found) for name, found in strips.items()}
        self._cast, self._screen = cast, screen
        # Blank ones at first, so that it can be measured how long the page is but for their data.
        self.pictures: dict[Key, Thumbnail] = {one.key: Thumbnail("", HEIGHT, HEIGHT) for one in self.sightings}
        #: How often a frame is in the page's own pictures; those that are not are kept for the script.
        self.uses = Counter(chain(self.surest, self.least, *self.strips.values(), self.faces.values()))

    def _places(self, rows: Sequence[int]) -> list[int]:
        return [self._place[row] for row in rows if row in self._place]

    def of(self, chosen: np.ndarray) -> list[int]:
        """Places of at most `choice.SHOWN` frames, evenly over shots, for which bool [rows of the table] is true."""
        rows = np.array([row for row in self.rows if chosen[row]], np.int64)
        return self._places(choice.even(rows, self._cast.shot, self._cast.certainty))

    def where(
        self,
        character: str,
        emotion: str | None = None,
        *,
        tracks: Sequence[int] | None = None,
        ordinals: tuple[int, int] | None = None,
        among: np.ndarray | None = None,
    ) -> np.ndarray:
        """The rows of a character, bool [rows of the table]: of an emotion, of tracks, in frames from to, in frames."""
        cast, screen = self._cast, self._screen
        found: np.ndarray = cast.character == screen.characters.index(character)
        if emotion is not None:
            found = found & (cast.reading == screen.readings.index(emotion))
        if tracks is not None:
            found = found & np.isin(cast.track, np.array(tracks, np.int64))
        if ordinals is not None:
            found = found & (cast.ordinal >= ordinals[0]) & (cast.ordinal <= ordinals[1])
        if among is not None:
            found = found & np.isin(cast.ordinal, among)
        return found

    def data(self) -> list[list[Any]]:
        """The frames as the page's script reads them.

        A row is ordinal, seconds, shot, track, character, emotion (indices), certainty, probabilities, and the
        picture: its data, 1 where it is in the page already, 0 where there is none.
        """
        screen = self._screen
        readings = {name: i for i, name in enumerate(screen.readings)}
        found: list[list[Any]] = []
        for place, one in enumerate(self.sightings):
            picture = self.pictures.get(one.key)
            chances = [round(one.probabilities.get(name, 0.0), 3) for name in screen.emotions]
            held: str | int = 0
            if picture is not None:
                held = 1 if self.uses[place] else picture.data
            found.append(
                [
                    one.ordinal,
                    round(screen.time(one.pts), 3),
                    one.shot,
                    one.track,
                    screen.characters.index(one.character),
                    readings[one.emotion],
                    round(one.certainty, 3),
                    chances,
                    held,
                ]
            )
        return found

    def release(self) -> None:
        """Forget the arrays of the whole table; `of` and `where` cannot be asked any more."""
        del self._cast


def _cells(cast: Cast) -> list[int]:
    """Frames of every character and emotion by turns, in such an order that each beginning lies evenly over shots."""
    queues = []
    for who in np.unique(cast.character).tolist():
        for emotion in np.unique(cast.reading[cast.character == who]).tolist():
            rows = np.flatnonzero((cast.character == who) & (cast.reading == emotion))
            queues.append(_fine(choice.even(rows, cast.shot, cast.certainty)))
    return [row for turn in zip_longest(*queues) for row in turn if row is not None]


def _fine(rows: list[int]) -> list[int]:
    return [rows[place] for place in choice.coarse_to_fine(len(rows))] if rows else []
