"""Turn the committed spans of one film into its tables: number the shots, link the tracks, write.

Works through the film shot by shot, so memory does not grow with its length.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from insideout import schema
from insideout.errors import IncompleteError
from insideout.packs import Pack
from insideout.parts import Part, read_changes, read_part
from insideout.plan import FilmPlan
from insideout.shots import change, cuts
from insideout.store import Store
from insideout.tracks import Sighting, decide, fuse, link, vote

#: A characters file is closed when it holds about this many bytes of rows.
_FILE_BYTES = 64 * 1024 * 1024
#: Readers of a stretch of the film read whole row groups: a minute or two of one, not an hour.
_GROUP_ROWS = 1024
#: So many ledgers are looked at side by side, since storage answers late rather than slowly.
_READERS = 16
_SUMMARY_KEY = b"insideout.summary"


@dataclass
class FilmSummary:
    """The ledger of one film in numbers; `dropped` and `failed` count by kind of reason."""

    film: str
    sampled: int = 0
    labelled: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    emotions: dict[str, Counter[str]] = field(default_factory=dict)
    shots: int = 0
    tracks: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether every sampled frame is labelled, dropped or failed."""
        return self.sampled == self.labelled + self.dropped.total() + self.failed.total()


def kind_of(reason: str) -> str:
    """The countable part of a reason: `duplicate_of:12` is `duplicate_of`, `decode: …` is `decode`."""
    return reason.split(":", 1)[0]


def characters_prefix(film: str) -> str:
    """Folder of a film's characters."""
    return f"characters/film={film}"


def frames_key(film: str) -> str:
    """The ledger of a film; it is written last, so that its presence means the film is complete."""
    return f"frames/film={film}/part-00000.parquet"


def shots_key(film: str) -> str:
    """The shots of a film."""
    return f"shots/film={film}/part-00000.parquet"


def is_assembled(store: Store, plan: FilmPlan) -> bool:
    """Whether the tables of this film are complete and made under the plan's fingerprint."""
    key = frames_key(plan.film.film)
    return store.exists(key) and schema.read_stamp(store.read_metadata(key), key) == plan.fingerprint


def assemble(store: Store, plan: FilmPlan, pack: Pack) -> FilmSummary:
    """Write `characters/`, `shots/` and `frames/` of one film from its spans.

    Raises IncompleteError when a span is missing or the ledger does not add up; nothing is
    published then.
    """
    missing = sorted(plan.missing(store))
    if missing:
        raise IncompleteError(
            f"{plan.film.path}: {len(missing)} of {len(plan.spans)} spans are missing (first: {missing[0]}); "
            "run the same command again"
        )
    starts = _shot_starts(store, plan)
    summary = FilmSummary(plan.film.film, shots=len(starts))
    writer = _CharacterFiles(store, plan)
    ledger: list[pa.Table] = []
    for shot, frames in _by_shot(store, plan, starts):
        rows = _shot_rows(plan, shot, frames, pack, summary.tracks)
        writer.add(rows)
        summary.tracks = max((row["track"] + 1 for row in rows), default=summary.tracks)
        ledger.append(pa.Table.from_pylist([_ledger_row(plan, shot, f) for f in frames], schema=schema.FRAMES))
        for frame in frames:
            _count(summary, frame)
        for row in rows:
            summary.emotions.setdefault(row["character"], Counter())[row["emotion"]] += 1
        summary.characters += len(rows)
    if summary.sampled != len(plan.samples) or not summary.adds_up:
        raise IncompleteError(
            f"{plan.film.path}: the ledger does not add up: {len(plan.samples)} frames planned, {summary.sampled} found"
        )
    writer.close()
    store.write_table(shots_key(plan.film.film), _shots_table(plan, starts))
    stamped = schema.stamp(schema.FRAMES, plan.fingerprint).metadata
    whole = pa.concat_tables(ledger or [schema.FRAMES.empty_table()]).combine_chunks().replace_schema_metadata(
        {**stamped, _SUMMARY_KEY: json.dumps(vars(summary)).encode()}
    )  # fmt: skip
    store.write_table(frames_key(plan.film.film), whole)
    return summary


def read_summary(store: Store, film: str) -> FilmSummary:
    """The summary of an assembled film, from the foot of its ledger."""
    found = store.read_metadata(frames_key(film)).get(_SUMMARY_KEY)
    if found is None:
        return _count_tables(store, film)
    facts = json.loads(found)
    counted = {name: Counter(facts[name]) for name in ("dropped", "failed")}
    emotions = {character: Counter(seen) for character, seen in facts["emotions"].items()}
    return FilmSummary(**facts | counted | {"emotions": emotions})


def read_summaries(store: Store, films: Sequence[str]) -> dict[str, FilmSummary]:
    """The summaries of those of the films that are assembled; one listing, then side by side."""
    assembled = set(store.list("frames", ".parquet"))
    wanted = [film for film in films if frames_key(film) in assembled]
    with ThreadPoolExecutor(_READERS) as readers:
        return dict(zip(wanted, readers.map(lambda film: read_summary(store, film), wanted), strict=True))


def _count_tables(store: Store, film: str) -> FilmSummary:
    """Count a film from its tables: ledgers of version 0.1.0 have no summary at their foot."""
    frames = store.read_table(frames_key(film))
    summary = FilmSummary(film)
    for status, reason, characters in zip(
        *(frames[name].to_pylist() for name in ("status", "reason", "characters")), strict=True
    ):
        _count(summary, {"status": status, "reason": reason})
        summary.characters += characters
    summary.shots = store.read_table(shots_key(film)).num_rows
    for key in store.list(characters_prefix(film), ".parquet"):
        table = store.read_table(key).select(["character", "emotion", "track"])
        for row in table.to_pylist():
            summary.emotions.setdefault(row["character"], Counter())[row["emotion"]] += 1
            summary.tracks = max(summary.tracks, row["track"] + 1)
    return summary


def _count(summary: FilmSummary, frame: dict[str, Any]) -> None:
    summary.sampled += 1
    if frame["status"] == "labelled":
        summary.labelled += 1
    else:
        counter = summary.dropped if frame["status"] == "dropped" else summary.failed
        counter[kind_of(frame["reason"])] += 1


def _parts(
    store: Store, plan: FilmPlan, read: Callable[[bytes, str], Part] = read_part
) -> Iterator[tuple[int, int, Part]]:
    for span in plan.spans:
        key = plan.span_key(span)
        yield span.start, span.end, read(store.read(key), key)


def _shot_starts(store: Store, plan: FilmPlan) -> NDArray[np.int32]:
    """Ordinals at which shots start, from the changes of all spans and across their borders."""
    changes = np.full(plan.film.frames, np.nan, np.float32)
    last: NDArray[np.uint8] | None = None
    for start, end, part in _parts(store, plan, read_changes):
        changes[start:end] = part.changes
        if last is not None and np.isnan(changes[start]):
            changes[start] = change(last, part.edges[0])
        if part.edges[1].any():  # nothing at all was seen of a span that failed as a whole
            last = part.edges[1]
    return cuts(np.nan_to_num(changes, nan=0.0))


def _by_shot(store: Store, plan: FilmPlan, starts: NDArray[np.int32]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield each shot that has sampled frames, in order, with its frames."""
    shot, frames = 0, list[dict[str, Any]]()
    for _, _, part in _parts(store, plan):
        for frame in part.frames:
            now = int(np.searchsorted(starts, frame["ordinal"], side="right")) - 1
            if now != shot and frames:
                yield shot, frames
                frames = []
            shot = now
            frames.append(frame)
    if frames:
        yield shot, frames


def _place(plan: FilmPlan, shot: int, frame: dict[str, Any]) -> dict[str, Any]:
    return {
        "film": plan.film.film,
        "ordinal": frame["ordinal"],
        "pts": frame["pts"],
        "time_s": plan.film.time_s(frame["ordinal"]),
        "shot": shot,
    }


def _ledger_row(plan: FilmPlan, shot: int, frame: dict[str, Any]) -> dict[str, Any]:
    return _place(plan, shot, frame) | {
        "status": frame["status"],
        "reason": frame["reason"],
        "characters": len(frame["characters"]),
    }


def _shot_rows(
    plan: FilmPlan, shot: int, frames: list[dict[str, Any]], pack: Pack, first_track: int
) -> list[dict[str, Any]]:
    """The rows of one shot: tracks linked, names voted, emotions decided and fused."""
    emotions, threshold = pack.emotion.classes, pack.emotion.uncertain_below
    seen = [(i, frame, figure) for i, frame in enumerate(frames) for figure in frame["characters"]]
    tracks = link(
        [
            Sighting(
                i,
                plan.film.time_s(frame["ordinal"]),
                figure["character"],
                figure["score"],
                (figure["box_x"], figure["box_y"], figure["box_w"], figure["box_h"]),
            )
            for i, frame, figure in seen
        ]
    )
    members: dict[int, list[int]] = {}
    for i, track in enumerate(tracks):
        members.setdefault(track, []).append(i)
    names, fused = {}, {}
    for track, rows in members.items():
        names[track] = vote([seen[i][2]["character"] for i in rows], [seen[i][2]["score"] for i in rows])
        stacked = np.array([seen[i][2]["probabilities"] for i in rows], np.float32)
        fused[track] = decide(fuse(stacked), emotions, threshold)[0]
    table = []
    for (_, frame, figure), track in zip(seen, tracks, strict=True):
        emotion, certainty = decide(np.array(figure["probabilities"], np.float32), emotions, threshold)
        table.append(
            _place(plan, shot, frame)
            | figure
            | {
                "track": first_track + track,
                "character": names[track],
                "emotion": emotion,
                "certainty": certainty,
                "probabilities": list(zip(emotions, figure["probabilities"], strict=True)),
                "track_emotion": fused[track],
            }
        )
    return table


def _shots_table(plan: FilmPlan, starts: NDArray[np.int32]) -> pa.Table:
    pts = plan.film.pts
    # The last frame is shown for as long as a frame usually is: containers do not say.
    usual = int(np.median(np.diff(pts))) if len(pts) > 1 else 1
    ends = np.append(starts[1:], plan.film.frames)
    return pa.table(
        {
            "film": [plan.film.film] * len(starts),
            "shot": np.arange(len(starts), dtype=np.int32),
            "start_ordinal": starts,
            "end_ordinal": ends.astype(np.int32),
            "start_pts": pts[starts],
            "end_pts": np.append(pts[starts[1:]], pts[-1] + usual),
        },
        schema=schema.stamp(schema.SHOTS, plan.fingerprint),
    )


class _CharacterFiles:
    """Writes characters as a few Parquet files of bounded size, named in order."""

    def __init__(self, store: Store, plan: FilmPlan) -> None:
        self._store, self._prefix = store, characters_prefix(plan.film.film)
        self._schema = schema.stamp(schema.CHARACTERS, plan.fingerprint)
        self._tables: list[pa.Table] = []
        self._files = self._bytes = 0

    def add(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._tables.append(pa.Table.from_pylist(rows, schema=self._schema))
            self._bytes += self._tables[-1].nbytes
        if self._bytes >= _FILE_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left; a film without any character still gets one empty file."""
        if self._tables or not self._files:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._tables or [self._schema.empty_table()])
        self._store.write_table(f"{self._prefix}/part-{self._files:05d}.parquet", table, _GROUP_ROWS)
        self._tables, self._files, self._bytes = [], self._files + 1, 0
