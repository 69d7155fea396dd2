"""Read a finished output folder: its manifest, its films, and the label table of one film at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from insideout import schema
from insideout.errors import OutputError
from insideout.objects import said, storage_errors
from insideout.packs import ERRORS
from insideout.stats.screen import UNCERTAIN
from insideout.store import Store

Key = tuple[int, int]  # ordinal and track: one character in one frame of a film
Rectangle = tuple[float, float, float, float]  # x, y, width, height in pixels of the stored picture

_COLUMNS = {
    "frames": ["ordinal", "pts", "shot", "status", "reason", "characters"],
    "characters": [
        "ordinal", "pts", "shot", "track", "character", "emotion", "certainty", "track_emotion", "probabilities",
        "box_x", "box_y", "box_w", "box_h", "head_x", "head_y", "head_w", "head_h",
    ],
    "shots": ["shot", "start_ordinal", "end_ordinal", "start_pts", "end_pts"],
}  # fmt: skip


@dataclass(frozen=True)
class FilmFacts:
    """One row of films.parquet; `path` may be a local path or a URL."""

    film: str
    path: str
    bytes: int
    sha256: str
    width: int
    height: int
    fps: Fraction
    time_base: Fraction
    frames: int
    duration_s: float
    codec: str
    sampling: str

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return self.path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or self.film


@dataclass(frozen=True)
class Sighting:
    """One character in one labelled frame; boxes in pixels of the stored picture."""

    ordinal: int
    pts: int
    shot: int
    track: int
    character: str
    emotion: str
    certainty: float
    track_emotion: str
    probabilities: dict[str, float]
    box: Rectangle
    head: Rectangle | None

    @property
    def key(self) -> Key:
        return (self.ordinal, self.track)


@dataclass(frozen=True)
class FilmTables:
    """What the label table says of one film, without masks and crops: `frames` (the ledger) and
    `characters` in order of `ordinal` and `track`, `shots` in order of `shot`."""

    facts: FilmFacts
    frames: pa.Table
    characters: pa.Table
    shots: pa.Table

    def sightings(self, rows: Sequence[int]) -> list[Sighting]:
        """The characters of these rows of `characters`, in the order given."""
        return [_sighting(row) for row in self.characters.take(pa.array(rows, pa.int64())).to_pylist()]


@dataclass(frozen=True)
class Run:
    """A finished output folder on any storage."""

    store: Store = field(repr=False)
    manifest: dict[str, Any] = field(repr=False)
    films: tuple[FilmFacts, ...]

    def state(self) -> dict[str, str | None]:
        """Digests of what figures of this run depend on: the manifest, new for every change, and the pack's errors."""
        found: dict[str, str | None] = {}
        for key in ("manifest.json", ERRORS):
            there = self.store.exists(key)
            found[key] = hashlib.sha256(self.store.read(key)).hexdigest() if there else None
        return found


def open_run(run: Path | str) -> Run:
    """Open a finished output folder: its manifest and its list of films.

    Raises OutputError when the folder is missing, unfinished, damaged or of a newer schema.
    """
    store = Store(run)
    for key in ("manifest.json", "_SUCCESS", "films.parquet"):
        if not store.exists(key):
            if not store.list(""):
                raise OutputError(f"{run}: nothing is there; give the folder that `insideout label --out` wrote")
            raise OutputError(f"{run}: not a finished run (no {key}); `insideout status {run}` says what is missing")
    manifest = store.read_json("manifest.json")
    version = manifest.get("schema", schema.VERSION) if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise OutputError(f"{run}/manifest.json: not a manifest of insideout; label again into a new folder")
    if version > schema.VERSION:
        raise OutputError(f"{run}/manifest.json: schema {version} is newer than {schema.VERSION}; update insideout")
    table, _ = _read(store, "films.parquet", None)
    return Run(store, manifest, tuple(_facts(row) for row in table.to_pylist()))


def read_film(run: Run, facts: FilmFacts) -> FilmTables:
    """Read ledger, characters and shots of one film, without masks and crops.

    Raises OutputError when the film has no ledger or no shots, or when its files come from two different runs.
    """
    fingerprints: dict[str, str] = {}

    def table(kind: str, order: list[str]) -> pa.Table:
        parts = []
        for key in _parts(run.store, kind, facts.film):
            part, fingerprint = _read(run.store, key, _COLUMNS[kind])
            fingerprints.setdefault(fingerprint, key)
            parts.append(part.replace_schema_metadata(None))
        if not parts and kind != "characters":
            what = {"frames": "ledger", "shots": "shots"}[kind]
            raise OutputError(
                f"{run.store.root}: no {what} for film {facts.film} ({facts.name}); "
                f"`insideout status {run.store.root}` says what is missing"
            )
        if not parts:
            parts = [pa.schema([schema.CHARACTERS.field(name) for name in _COLUMNS[kind]]).empty_table()]
        return pa.concat_tables(parts).sort_by([(name, "ascending") for name in order])

    frames = table("frames", ["ordinal"])
    characters = table("characters", ["ordinal", "track"])
    shots = table("shots", ["shot"])
    if len(fingerprints) > 1:
        first, second = list(fingerprints.values())[:2]
        raise OutputError(
            f"{run.store.root}: rows of two different runs ({first} and {second}); label again into a new folder"
        )
    return FilmTables(facts, frames, characters, shots)


def read_crops(run: Run, film: str, wanted: Collection[Key]) -> dict[Key, bytes]:
    """Read the stored crops of the wanted sightings only, one file at a time; those without one are left out.

    Raises OutputError for a file that cannot be read.
    """
    keys = set(wanted)
    ordinals = pa.array(sorted({ordinal for ordinal, _ in keys}), pa.int32())
    found: dict[Key, bytes] = {}
    for part in _parts(run.store, "characters", film):
        with _opened(run.store, part) as parquet:
            for batch in parquet.iter_batches(512, columns=["ordinal", "track", "crop"]):
                chosen = batch.filter(pc.is_in(batch.column("ordinal"), value_set=ordinals))
                for row in chosen.to_pylist():
                    key = (row["ordinal"], row["track"])
                    if key in keys and row["crop"]:
                        found[key] = row["crop"]
    return found


def _read(store: Store, key: str, columns: list[str] | None) -> tuple[pa.Table, str]:
    with _opened(store, key) as parquet:
        fingerprint = schema.read_stamp(parquet.schema_arrow.metadata, store.path(key))
        return parquet.read(columns=columns), fingerprint


@contextmanager
def _opened(store: Store, key: str) -> Iterator[pq.ParquetFile]:
    """A file of the run, of plain columns; whatever cannot be read of it inside is an OutputError."""
    where = store.path(key)
    try:
        with store.fs.open(where, "rb") as file:
            parquet = pq.ParquetFile(file)
            schema.check_plain(parquet.schema_arrow, where)
            yield parquet
    except storage_errors(pa.ArrowException) as error:
        raise OutputError(
            f"{where}: cannot be read as Parquet ({said(error)}); label again into a new folder"
        ) from error


def _parts(store: Store, kind: str, film: str) -> list[str]:
    return store.list(f"{kind}/film={film}", ".parquet")


def _facts(row: dict[str, Any]) -> FilmFacts:
    kept = {name: row[name] for name in FilmFacts.__dataclass_fields__ if name in row}
    return FilmFacts(
        fps=Fraction(row["fps_num"], row["fps_den"] or 1),
        time_base=Fraction(row["time_base_num"], row["time_base_den"]),
        **kept,
    )


def _sighting(row: dict[str, Any]) -> Sighting:
    head = (row["head_x"], row["head_y"], row["head_w"], row["head_h"])
    return Sighting(
        ordinal=row["ordinal"],
        pts=row["pts"],
        shot=row["shot"],
        track=row["track"],
        character=row["character"],
        emotion=row["emotion"] or UNCERTAIN,
        certainty=_chance(row["certainty"]),
        track_emotion=row["track_emotion"] or UNCERTAIN,
        probabilities={name: _chance(value) for name, value in row["probabilities"] or ()},
        box=(row["box_x"], row["box_y"], row["box_w"], row["box_h"]),
        head=None if any(value is None for value in head) else head,
    )


def _chance(value: float | None) -> float:
    """A probability of the table; 0 where it holds none, or no number between 0 and 1."""
    return value if value is not None and 0 <= value <= 1 else 0.0
