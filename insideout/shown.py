"""What is shown over a frame of a film: the labels that stand for it, read from a finished run by stretch.

This is the one place that knows which labelled frame stands for which frame of a film, as
`insideout/stats/screen.py` defines it: a sampled frame stands until the next one of its shot, the first
one also for what precedes it in the shot, and a duplicate shows what its source shows. Masks are read
for a stretch of the film only, from those row groups of the label table that hold it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from insideout import schema
from insideout.errors import OutputError
from insideout.masks import decode_rle
from insideout.objects import said, storage_errors
from insideout.report.tables import FilmFacts, Run
from insideout.stats.screen import UNCERTAIN, sources, standing

Ints = npt.NDArray[np.int64]
Polygon = npt.NDArray[np.int32]
Rectangle = tuple[float, float, float, float]  # x, y, width, height in pixels of the stored picture

NOBODY = -1
"""Stands where a labelled frame would: the frame was looked at, and nobody is in it."""
FAILED = -2
"""Stands where a labelled frame would: the frame was to be looked at, and failed."""
UNSEEN = -3
"""Stands where a labelled frame would: no frame of its shot was looked at."""

_LEDGER = ["ordinal", "pts", "shot", "status", "reason"]
_SEEN = ["ordinal", "track", "shot", "character", "emotion", "certainty", "track_emotion"]
_FIGURE = [
    *_SEEN, "score", "probabilities", "box_x", "box_y", "box_w", "box_h", "head_x", "head_y", "head_w", "head_h",
    "mask_rle", "mask_h", "mask_w",
]  # fmt: skip
_GROUPS_KEPT = 8
_GROUP_BYTES_KEPT = 32 * 1024 * 1024


@dataclass(frozen=True)
class Shot:
    """One row of the shots table; ends are exclusive, `pts` in units of the time base."""

    shot: int
    start_ordinal: int
    end_ordinal: int
    start_pts: int
    end_pts: int


@dataclass(frozen=True)
class Figure:
    """One character in one labelled frame, with its mask; boxes in pixels of the stored picture.

    `probabilities` are calibrated, by emotion. `certainty` is that of the most probable emotion, also
    where `emotion` is `uncertain`.
    """

    ordinal: int
    shot: int
    track: int
    character: str
    score: float
    emotion: str
    certainty: float
    track_emotion: str
    probabilities: dict[str, float]
    box: Rectangle
    head: Rectangle | None
    mask_rle: str | None
    mask_h: int
    mask_w: int

    def mask(self) -> npt.NDArray[np.bool_]:
        """The mask over the whole stored picture, bool [mask_h, mask_w]; no pixel where there is none."""
        if not self.mask_rle:
            return np.zeros((self.mask_h, self.mask_w), np.bool_)
        return decode_rle(self.mask_rle, self.mask_h, self.mask_w)

    def polygons(self) -> list[Polygon]:
        """The outlines of the mask's parts and holes: int32 [points, 2], x and y of pixels on the border.

        Together, filled by the even-odd rule with their borders, they are the mask, pixel by pixel.
        """
        return polygons(self.mask())


def polygons(mask: npt.NDArray[np.bool_]) -> list[Polygon]:
    """The outlines of all parts and holes of a mask [h, w], as `Figure.polygons` says."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [contour.reshape(-1, 2).astype(np.int32) for contour in contours]


@dataclass(frozen=True)
class Seen:
    """All characters of a film without their masks, in order of ordinal and track; arrays of length n.

    `character` is an index into `characters`; `emotion` and `fused` (the track's) into `emotions`, the
    last of which is `uncertain`. `certainty` is float32.
    """

    characters: tuple[str, ...]
    emotions: tuple[str, ...]
    ordinal: npt.NDArray[np.int32]
    track: npt.NDArray[np.int64]
    shot: npt.NDArray[np.int32]
    character: npt.NDArray[np.int32]
    emotion: npt.NDArray[np.int32]
    fused: npt.NDArray[np.int32]
    certainty: npt.NDArray[np.float32]


class Shown:
    """Which labels stand for which frame of one film of a run.

    `ordinals` (ascending), `pts` and `shot` are those of the sampled frames, int64 [n]; `begin` and
    `units` start and length of the time each stands for, in units of the time base; `labelled` the
    ordinal whose labels it shows, NOBODY or FAILED. `shots` are in order. Many threads may read.
    """

    def __init__(self, run: Run, facts: FilmFacts) -> None:
        """Read ledger and shots; raises OutputError where they are missing, contradict each other or are damaged."""
        self.run, self.facts = run, facts
        self._stamp: str | None = None
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._seen: Seen | None = None
        self._lists: dict[str, list[str]] = {}
        self._spans: dict[str, list[tuple[int, int] | None]] = {}
        ledger = self._whole("frames", _LEDGER)
        shots = self._whole("shots", list(Shot.__dataclass_fields__))
        if ledger is None or shots is None or not ledger.num_rows:
            raise OutputError(
                f"{run.store.root}: no ledger or no shots of film {facts.film} ({facts.name}); "
                f"`insideout status {run.store.root}` says what is missing"
            )
        ledger = ledger.sort_by("ordinal")
        self.shots = [Shot(**row) for row in shots.sort_by("shot").to_pylist()]
        self.ordinals, self.pts, self.shot = (ledger[c].to_numpy().astype(np.int64) for c in _LEDGER[:3])
        bounds = {shot.shot: (shot.start_pts, shot.end_pts) for shot in self.shots}
        if lost := sorted(set(self.shot.tolist()) - set(bounds)):
            raise OutputError(f"film {facts.film}: shot {lost[0]} of the ledger is not in shots/; label again")
        self.begin, self.units = standing(self.pts, self.shot, bounds)
        self.statuses: list[str] = ledger["status"].to_pylist()
        self.reasons: list[str | None] = ledger["reason"].to_pylist()
        found = sources(self.ordinals.tolist(), self.statuses, self.reasons)
        self.labelled = np.array(
            [
                (FAILED if status == "failed" else NOBODY) if source is None else source
                for source, status in zip(found, self.statuses, strict=True)
            ],
            np.int64,
        )
        self._starts = np.array([shot.start_ordinal for shot in self.shots], np.int64)

    def source(self, ordinal: int) -> int | None:
        """The labelled frame whose labels a frame of the film shows; None where it shows nobody, or it is unknown."""
        found = int(self.source_of(np.array([ordinal], np.int64))[0])
        return found if found >= 0 else None

    def source_of(self, ordinals: Ints | None = None) -> Ints:
        """The labelled frame of each of these frames (by default of all), or NOBODY, FAILED, UNSEEN: int64 [n]."""
        if ordinals is None:
            ordinals = np.arange(self.facts.frames, dtype=np.int64)
        sampled = self.sampled_of(ordinals)
        return np.where(sampled < 0, UNSEEN, self.labelled[np.maximum(sampled, 0)])

    def sampled_of(self, ordinals: Ints) -> Ints:
        """Index into `ordinals` of the sampled frame that stands for each frame; -1 where none does, int64 [n]."""
        place = np.searchsorted(self._starts, ordinals, side="right") - 1
        ends = np.array([shot.end_ordinal for shot in self.shots], np.int64)
        numbers = np.array([shot.shot for shot in self.shots], np.int64)
        inside = (place >= 0) & (ordinals < ends[np.maximum(place, 0)])
        shot = numbers[np.maximum(place, 0)]
        before = np.searchsorted(self.ordinals, ordinals, side="right") - 1
        after = np.minimum(before + 1, len(self.ordinals) - 1)
        held = (before >= 0) & (self.shot[np.maximum(before, 0)] == shot)
        ahead = self.shot[after] == shot
        return np.where(inside & held, before, np.where(inside & ahead, after, -1))

    def at(self, ordinal: int) -> list[Figure]:
        """The characters that a frame of the film shows, with masks, in order of track."""
        source = self.source(ordinal)
        return [] if source is None else self.rows(source, source)

    def rows(self, first: int, last: int) -> list[Figure]:
        """The characters of the labelled frames from `first` to `last`, both included, in order of ordinal and track.

        Only the row groups of the label table that hold some of them are read.
        """
        found = []
        for key in self._parts("characters"):
            for group in self._groups(key, first, last):
                table = self._group(key, group)
                at = table["ordinal"].to_numpy()
                for row in table.filter(pa.array((at >= first) & (at <= last))).to_pylist():
                    found.append(_figure(row))
        return sorted(found, key=lambda figure: (figure.ordinal, figure.track))

    def seen(self) -> Seen:
        """All characters of the film without masks: emotions as the pack orders them, then others by name."""
        with self._lock:
            found = self._seen
        if found is None:
            found = self._read_seen()
            with self._lock:
                self._seen = found
        return found

    def _read_seen(self) -> Seen:
        table = self._whole("characters", _SEEN)
        if table is None:
            table = pa.schema([schema.CHARACTERS.field(name) for name in _SEEN]).empty_table()
        table = table.sort_by([("ordinal", "ascending"), ("track", "ascending")])
        characters = sorted(set(table["character"].unique().to_pylist()))
        columns = {name: pc.fill_null(table[name], UNCERTAIN) for name in ("emotion", "track_emotion")}
        pack = self.run.manifest.get("pack")
        known = [str(name) for name in (pack if isinstance(pack, dict) else {}).get("emotions") or ()]
        emotions = [name for name in dict.fromkeys(known) if name != UNCERTAIN]
        given = {name for column in columns.values() for name in column.unique().to_pylist()}
        emotions += [*sorted(given - set(emotions) - {UNCERTAIN}), UNCERTAIN]
        return Seen(
            characters=tuple(characters),
            emotions=tuple(emotions),
            ordinal=table["ordinal"].to_numpy().astype(np.int32),
            track=table["track"].to_numpy().astype(np.int64),
            shot=table["shot"].to_numpy().astype(np.int32),
            character=_index(table["character"], characters),
            emotion=_index(columns["emotion"], emotions),
            fused=_index(columns["track_emotion"], emotions),
            certainty=np.nan_to_num(table["certainty"].to_numpy().astype(np.float32)),
        )

    def _parts(self, kind: str) -> list[str]:
        with self._lock:
            if kind not in self._lists:
                self._lists[kind] = self.run.store.list(f"{kind}/film={self.facts.film}", ".parquet")
            return self._lists[kind]

    def _whole(self, kind: str, columns: list[str]) -> pa.Table | None:
        tables = []
        for key in self._parts(kind):
            with self._open(key) as parquet:
                tables.append(parquet.read(columns=columns).replace_schema_metadata(None))
        return pa.concat_tables(tables) if tables else None

    def _groups(self, key: str, first: int, last: int) -> list[int]:
        """The row groups of a file that may hold some of these ordinals."""
        with self._lock:
            spans = self._spans.get(key)
        if spans is None:
            with self._open(key) as parquet:
                spans = [_span(parquet.metadata.row_group(i)) for i in range(parquet.metadata.num_row_groups)]
            with self._lock:
                self._spans[key] = spans
        return [i for i, span in enumerate(spans) if span is None or (span[0] <= last and first <= span[1])]

    def _group(self, key: str, group: int) -> pa.Table:
        """One row group; the last few are kept, unless they are large."""
        with self._lock:
            kept = self._kept.get((key, group))
            if kept is not None:
                self._kept.move_to_end((key, group))
                return kept
        with self._open(key) as parquet:
            table: pa.Table = parquet.read_row_group(group, columns=_FIGURE)
        with self._lock:
            if table.nbytes <= _GROUP_BYTES_KEPT:
                self._kept[key, group] = table
            while len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
        return table

    @contextmanager
    def _open(self, key: str) -> Iterator[pq.ParquetFile]:
        where = self.run.store.path(key)
        try:
            with self.run.store.fs.open(where, "rb") as file:
                parquet = pq.ParquetFile(file)
                stamp = schema.read_stamp(parquet.schema_arrow.metadata, where)
                schema.check_plain(parquet.schema_arrow, where)
                if self._stamp not in (None, stamp):
                    raise OutputError(
                        f"{self.run.store.root}: rows of two different runs; label again into a new folder"
                    )
                self._stamp = stamp
                yield parquet
        except storage_errors(pa.ArrowException) as error:
            raise OutputError(f"{where}: cannot be read ({said(error)}); label again into a new folder") from error


def _span(group: Any) -> tuple[int, int] | None:
    """Least and largest ordinal of a row group, from its statistics; None where it has none."""
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema == "ordinal":
            found = column.statistics
            return (found.min, found.max) if found is not None and found.has_min_max else None
    return None


def _index(column: pa.ChunkedArray, names: list[str]) -> npt.NDArray[np.int32]:
    return np.asarray(pc.index_in(column, value_set=pa.array(names, pa.string())).to_numpy(), np.int32)


def _figure(row: dict[str, Any]) -> Figure:
    head = (row["head_x"], row["head_y"], row["head_w"], row["head_h"])
    return Figure(
        ordinal=row["ordinal"],
        shot=row["shot"],
        track=row["track"],
        character=row["character"],
        score=row["score"] or 0.0,
        emotion=row["emotion"] or UNCERTAIN,
        certainty=row["certainty"] or 0.0,
        track_emotion=row["track_emotion"] or UNCERTAIN,
        probabilities={name: float(value) for name, value in row["probabilities"] or ()},
        box=(row["box_x"], row["box_y"], row["box_w"], row["box_h"]),
        head=None if any(value is None for value in head) else head,
        mask_rle=row["mask_rle"],
        mask_h=row["mask_h"] or 0,
        mask_w=row["mask_w"] or 0,
    )
