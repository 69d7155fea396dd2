"""What the page shows, as plain numbers, names and thumbnails: per film, and of the whole run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

from insideout.report import figures, words
from insideout.report.pictures import Thumbnail, find_pictures
from insideout.report.tables import Extra, FilmFacts, FilmTables, Key, Run, Sighting, read_extras, read_film

_EXTREMES = 12
_TICK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


@dataclass(frozen=True)
class Cell:
    """Screen time of one character with one emotion; `share` is of the character's own time."""

    emotion: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Row:
    """Screen time of one character; `of_film` is its share of all sampled film time."""

    name: str
    cells: tuple[Cell, ...]
    seconds: float
    of_film: float


@dataclass(frozen=True)
class Item:
    """One picture of a gallery: whom it shows, when (seconds), and the likeliest emotions."""

    sighting: Sighting
    time: float
    picture: Thumbnail | None
    ranking: tuple[tuple[str, float], ...]


class FilmView:
    """Everything the template shows of one film, as plain numbers, names and thumbnails."""

    def __init__(self, run: Run, facts: FilmFacts, attribution: str | None) -> None:
        tables = read_film(run, facts)
        self.facts = facts
        self.attribution = attribution
        self.clock = clock = figures.clock(tables)
        self.ledger = figures.ledger(tables, clock)
        self.sightings = len(tables.sightings)
        self.length = clock.seconds(clock.end - clock.start)
        self.covered = clock.seconds(sum(clock.spans.values()))
        self.shown = clock.seconds(sum(clock.shown.values()))
        self.unlabelled = clock.seconds(sum(clock.rest.values()))
        ranked = sorted(clock.rest.items(), key=lambda item: (-item[1], item[0]))
        self.rest = [(reason, clock.seconds(units)) for reason, units in ranked]
        classes = [str(name) for name in mapping(run.manifest.get("pack")).get("classes") or []]
        self.unseen = sorted(set(classes) - {sighting.character for sighting in tables.sightings})
        self.held = sum(line.frames for line in self.ledger.lines if line.reason == "duplicate")
        known = [str(name) for name in mapping(run.manifest.get("pack")).get("emotions") or []]
        self.emotions = figures.emotion_order(known, tables.sightings)
        together = Counter((sighting.ordinal, sighting.character) for sighting in tables.sightings)
        self.shared = sorted({name for (_, name), count in together.items() if count > 1})
        self.shots = [self._placed(shot.start_pts, shot.end_pts) for shot in tables.shots]
        self.ticks = _ticks(self.length)
        self._add_pictures(run, tables)

    def _add_pictures(self, run: Run, tables: FilmTables) -> None:
        fused = figures.screen_time(tables.sightings, self.clock, fused=True)
        single = figures.screen_time(tables.sightings, self.clock, fused=False)
        strips = {name: figures.shot_pictures(tables.sightings, name) for name in fused}
        most, least = figures.extremes(tables.sightings, _EXTREMES)
        wanted = list({item.key: item for item in chain(most, least, *strips.values())}.values())
        extras = read_extras(run, self.facts.film, [item.key for item in wanted])
        pictures, self.why = find_pictures(self.facts, wanted, extras)

        def items(sightings: Sequence[Sighting]) -> list[Item]:
            return [self._item(sighting, pictures, extras) for sighting in sightings]

        self.most, self.least = items(most), items(least)
        stretches = figures.stretches(tables, self.clock)
        self.characters: list[dict[str, Any]] = []
        for name, sums in fused.items():
            own = [stretch for stretch in stretches if stretch.character == name]
            row = self._row(name, sums)
            best = max(row.cells, key=lambda cell: cell.seconds, default=None)
            self.characters.append(
                {
                    "name": name,
                    "fused": row,
                    "single": self._row(name, single[name]),
                    "main": best if best is not None and best.seconds else None,
                    "pictures": items(strips[name]),
                    "shots": len({stretch.shot for stretch in own}),
                    "lanes": 1 + max(stretch.lane for stretch in own),
                    "stretches": [self._stretch(stretch) for stretch in own],
                }
            )

    def _row(self, name: str, sums: Mapping[str, Fraction]) -> Row:
        total = sum(sums.values(), Fraction(0))
        units = [(emotion, sums.get(emotion, Fraction(0))) for emotion in self.emotions]
        cells = tuple(Cell(e, self.clock.seconds(u), float(u / total) if total else 0.0) for e, u in units)
        seconds = self.clock.seconds(total)
        return Row(name, cells, seconds, seconds / self.covered if self.covered else 0.0)

    def _stretch(self, stretch: figures.Stretch) -> dict[str, Any]:
        placed = self._placed(stretch.start, stretch.end)
        return placed | {
            "emotion": stretch.emotion,
            "shot": stretch.shot,
            "track": stretch.track,
            "lane": stretch.lane,
            "frames": stretch.frames,
            "seconds": self.clock.seconds(stretch.shown),
            "from": self.clock.seconds(stretch.start - self.clock.start),
            "to": self.clock.seconds(stretch.end - self.clock.start),
            "wide": float(placed["width"]) > 4,  # per cent; narrower blocks have no room for a name
        }

    def _placed(self, start: int, end: int) -> dict[str, Any]:
        whole = max(1, self.clock.end - self.clock.start)
        return {
            "left": f"{100 * (start - self.clock.start) / whole:.3f}",
            "width": f"{100 * (end - start) / whole:.3f}",
        }

    def _item(self, sighting: Sighting, pictures: Mapping[Key, Thumbnail], extras: Mapping[Key, Extra]) -> Item:
        extra = extras.get(sighting.key)
        ranking = sorted(extra.probabilities.items(), key=lambda pair: (-pair[1], pair[0])) if extra else []
        time = self.clock.seconds(sighting.pts - self.clock.start)
        return Item(sighting, time, pictures.get(sighting.key), tuple(ranking[:3]))


class RunView:
    """What the template shows of the whole run: how it was made and with what."""

    def __init__(self, run: Run) -> None:
        manifest = run.manifest
        pack = mapping(manifest.get("pack"))
        self.created = manifest.get("created")
        self.pack_name = pack.get("name")
        self.crop_words = words.CROPS.get(str(pack.get("crop")), "what it showed of each")
        self.calibration = words.calibration(pack)
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


def _ticks(length: float) -> list[dict[str, float]]:
    # A file may claim to last for ages: never more marks than there is room for.
    step = next((step for step in _TICK_STEPS if length / step <= 7), max(7200, math.ceil(length / 25)))
    return [{"time": float(at), "left": 100 * at / length} for at in range(0, int(length) + 1, step)] if length else []


def mapping(value: object) -> dict[str, Any]:
    """Return a part of the manifest, empty where it is missing or of another kind."""
    return value if isinstance(value, dict) else {}
