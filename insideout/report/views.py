"""What the page shows, as plain numbers, names and thumbnails: per film, and of the whole run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from insideout.report import words
from insideout.report.colours import Colours
from insideout.report.figures import Figures
from insideout.report.findings import Findings, Verdict, headline, verdicts
from insideout.report.frames import Frames
from insideout.report.ledger import ledger
from insideout.report.pictures import Thumbnail, find_pictures, within
from insideout.report.tables import FilmFacts, Run, Sighting, read_crops, read_film
from insideout.report.tracks import Stretch, stretches
from insideout.stats.arc import REACH, WIDTH, ArcPoint
from insideout.stats.confusion import Support
from insideout.stats.screen import UNCERTAIN, Screen, screen_of
from insideout.stats.shares import by_screen_time

#: Stretches of one character in the table behind the timeline of a run's only film; the longest ones where there are
#: more. Several films share the room.
LISTED, LISTED_LEAST = 300, 20


@dataclass(frozen=True)
class Item:
    """One picture of a gallery: its place among the frames, whom it shows, when (seconds), the likeliest emotions."""

    place: int
    sighting: Sighting
    time: float
    picture: Thumbnail | None
    ranking: tuple[tuple[str, float], ...]


class _Near:
    """When each character is read as each emotion, so that the rows around a point of an arc can be counted."""

    def __init__(self, screen: Screen, reach: float) -> None:
        self._reach = reach
        time = (screen.pts - screen.start) * float(screen.time_base)
        self._times = {
            (who, emotion): np.sort(time[(screen.character == i) & (screen.reading == j)])
            for i, who in enumerate(screen.characters)
            for j, emotion in enumerate(screen.readings)
        }

    def counts(self, points: Sequence[ArcPoint]) -> list[int]:
        """How many rows of the screen are read as the emotion of each point within reach of its time."""
        found = []
        for point in points:
            times = self._times[point.character, point.emotion]
            ends = (
                np.searchsorted(times, point.time_s - self._reach),
                np.searchsorted(times, point.time_s + self._reach, side="right"),
            )
            found.append(int(ends[1] - ends[0]))
        return found


class FilmView:
    """Everything the template and the script show of one film.

    It is one of `films` that share the page. `most` frames at most can be shown; the pictures come by
    `add_pictures`, when it is known how much room there is.
    """

    def __init__(
        self, run: Run, facts: FilmFacts, findings: Findings, attribution: str | None, films: int, most: int
    ) -> None:
        tables = read_film(run, facts)
        self.facts, self.attribution = facts, attribution
        pack = mapping(run.manifest.get("pack"))
        known = [str(name) for name in pack.get("emotions") or []]
        screen = screen_of(facts.film, tables.frames, tables.characters, tables.shots, facts.time_base, known)
        self.ledger = ledger(tables, screen)
        self.length = float(sum(screen.shot_units.values()) * screen.time_base)
        self.sigma = self.length * WIDTH
        self.sightings = tables.characters.num_rows
        self.unseen = sorted({str(name) for name in pack.get("classes") or []} - set(screen.characters))
        self.emotions = list(screen.readings if _doubtful(tables.characters, known) else screen.emotions)
        self.colours = Colours(screen.readings)
        self.shots = [
            (screen.time(start), screen.time(end))
            for start, end in zip(
                tables.shots["start_pts"].to_pylist(), tables.shots["end_pts"].to_pylist(), strict=True
            )
        ]
        pairs = zip(tables.characters["ordinal"].to_pylist(), tables.characters["character"].to_pylist(), strict=True)
        self.shared = sorted({name for (_, name), count in Counter(pairs).items() if count > 1})
        self.verdicts: list[Verdict] = []
        self.stretches: list[Stretch] = []
        self.frames: Frames | None = None
        self.figures: Figures | None = None
        self.why: str | None = None
        self.characters = by_screen_time(screen) if self.sightings else []
        self._listed = max(LISTED_LEAST, LISTED // films)
        self._near = _Near(screen, REACH * self.sigma)
        # Names and clock without rows: what is kept of a film must not grow with its length.
        self.screen = screen.take(np.zeros(0, np.int64))
        if not self.sightings:
            return
        analysis = findings.of(screen)
        self.analysis = replace(analysis, screen=self.screen)
        self.verdicts = verdicts(analysis)
        self.frames = Frames(tables, screen, {one.character: one.usual.emotion for one in self.verdicts}, most)
        self.stretches = stretches(screen, tables.characters)
        self.figures = Figures(analysis, self.verdicts, self.frames)
        self.frames.release()

    @property
    def headline(self) -> str:
        """The answer in one or two sentences."""
        return headline(self.verdicts)

    @property
    def untested(self) -> str | None:
        """Why 'always' is tested for nobody, where that is so for one reason."""
        reasons = {one.always.why if one.always.p is None else "" for one in self.verdicts}
        return reasons.pop() or None if len(reasons) == 1 else None

    def add_pictures(self, run: Run, room: int) -> int:
        """Take as many pictures as fit into `room` bytes of the page, and say how many bytes they take."""
        if self.frames is None:
            return 0
        frames = self.frames
        ranked = [frames.sightings[place] for place in frames.order]
        faces = {frames.sightings[place].key for place in frames.faces.values()}
        crops = read_crops(run, self.facts.film, [one.key for one in ranked])
        found, self.why = find_pictures(self.facts, ranked, crops, faces)
        times = {frames.sightings[place].key: max(1, frames.uses[place]) for place in frames.order}
        frames.pictures = within(found, times, room)
        return sum(len(picture.data) * times[key] for key, picture in frames.pictures.items())

    def items(self, places: Sequence[int]) -> list[Item]:
        """The pictures of a gallery."""
        assert self.frames is not None
        found = []
        for place in places:
            one = self.frames.sightings[place]
            ranking = sorted(one.probabilities.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
            picture = self.frames.pictures.get(one.key)
            found.append(Item(place, one, self.screen.time(one.pts), picture, tuple(ranking)))
        return found

    def face(self, character: str) -> Item | None:
        """The portrait of a character."""
        place = self.frames.faces.get(character) if self.frames else None
        return None if place is None else self.items([place])[0]

    def listed(self, character: str) -> tuple[list[Stretch], int]:
        """The stretches of a character in order of time, the longest of them, and how many there are."""
        own = [one for one in self.stretches if one.character == character]
        if len(own) <= self._listed:
            return own, len(own)
        longest = sorted(own, key=lambda one: -one.seconds)[: self._listed]
        return sorted(longest, key=lambda one: one.start), len(own)

    def has_arc(self, character: str) -> bool:
        """Whether a character is in enough shots somewhere for its arc to have a point."""
        return any(point.share is not None for point in self.analysis.arc if point.character == character)

    def arc_rows(self, character: str) -> list[tuple[float, list[ArcPoint]]]:
        """Every third time at which the arc of a character has points, with these, by emotion."""
        found: dict[float, list[ArcPoint]] = {}
        for point in self.analysis.arc:
            if point.character == character and point.share is not None:
                found.setdefault(point.time_s, []).append(point)
        return list(found.items())[1::3] or list(found.items())

    def data(self) -> dict[str, Any]:
        """What the script of the page needs of this film, as plain data."""
        screen = self.screen
        if self.frames is None or self.figures is None:
            return {"film": self.facts.film, "characters": []}
        readings = {name: i for i, name in enumerate(screen.readings)}
        names = {name: i for i, name in enumerate(screen.characters)}
        around = {text: i for i, text in enumerate(dict.fromkeys(point.condition for point in self.analysis.arc))}
        near = self._near.counts(self.analysis.arc)
        return {
            "film": self.facts.film,
            "length": round(self.length, 3),
            "characters": list(screen.characters),
            "order": [names[name] for name in self.characters],
            "readings": list(screen.readings),
            "colours": [self.colours.hex(name) for name in screen.readings],
            "styles": [self.colours.style(name) for name in screen.readings],
            "shots": [[round(start, 3), round(end, 3)] for start, end in self.shots],
            "tracks": [one.data(names, readings) for one in self.stretches],
            "frames": self.frames.data(),
            "figures": self.figures.data(),
            "shares": self.figures.shares(names, readings),
            "width": REACH * self.sigma,
            "arc": [
                [
                    names[point.character],
                    readings[point.emotion],
                    round(point.time_s, 2),
                    *(None if value is None else round(value, 3) for value in (point.share, point.low, point.high)),
                    round(point.shots, 1),
                    around[point.condition],
                    count,
                ]
                for point, count in zip(self.analysis.arc, near, strict=True)
            ],
            "around": list(around),
            "supported": [self.analysis.supports[name].supported for name in screen.characters],
        }


@dataclass(frozen=True)
class Answered:
    """Of labelled `crops` that the classifier had not seen so many `answered`, and so many of the answers `right`."""

    crops: int
    answered: int
    right: int


class RunView:
    """What the template shows of the whole run: how it was made and with what."""

    def __init__(self, run: Run, findings: Findings) -> None:
        manifest = run.manifest
        pack = mapping(manifest.get("pack"))
        self.created = manifest.get("created")
        self.pack_name = pack.get("name")
        self.crop_words = words.CROPS.get(str(pack.get("crop")), "what it showed of each")
        self.calibration = words.calibration(pack)
        self.findings = findings
        self.errors = _error_table(findings)
        self.answered = _answered(findings, None)
        #: By character; a name without crops has none.
        self.answers: defaultdict[str, Answered] = defaultdict(lambda: Answered(0, 0, 0))
        if findings.errors is not None:
            self.answers |= {name: _answered(findings, name) for name in findings.errors.characters}
        named = ("insideout", "created", "fingerprint")
        general = [(name, words.plain(manifest[name])) for name in named if name in manifest]
        self.groups = [
            {"name": name, "lines": lines}
            for name, lines in (
                ("Model pack", words.pairs(pack)),
                ("Settings", words.pairs(mapping(manifest.get("configuration")))),
                ("This run", general),
                ("Where the time went", words.pairs(mapping(manifest.get("timings")))),
                ("Versions", words.pairs(mapping(manifest.get("versions")))),
            )
        ]

    def supports(self, films: Sequence[FilmView]) -> list[tuple[str, Support]]:
        """Each character of the run with whether its emotions are told apart."""
        return list({one.character: one.support for film in films for one in film.verdicts}.items())


def _error_table(findings: Findings) -> list[tuple[str, list[int]]]:
    """Unseen crops by true emotion (rows) and reading (columns: the emotions, then uncertain), if the run has them."""
    if findings.errors is None:
        return []
    counts = findings.errors.by_shot().sum(0).astype(np.int64)
    return [(name, row.tolist()) for name, row in zip(findings.errors.emotions, counts, strict=True)]


def _answered(findings: Findings, character: str | None) -> Answered:
    """Of one character, or of all."""
    if findings.errors is None:
        return Answered(0, 0, 0)
    counts = findings.errors.by_shot(character).sum(0)
    answers = counts[:, :-1]
    return Answered(int(counts.sum()), int(answers.sum()), int(np.trace(answers)))


def _doubtful(characters: Any, known: Sequence[str]) -> bool:
    """Whether `uncertain` occurs, or is one of the pack's."""
    seen = {value or UNCERTAIN for name in ("emotion", "track_emotion") for value in characters[name].to_pylist()}
    return UNCERTAIN in seen or UNCERTAIN in known


def mapping(value: object) -> Mapping[str, Any]:
    """Return a part of the manifest, empty where it is missing or of another kind."""
    return value if isinstance(value, dict) else {}
