"""Labelled crops of our own label table: the stored crops of a run, with a table of emotions.

    RUN/characters/film=…/*.parquet  +  labels.csv  ->  train, valid, test

RUN is written by `insideout label … --crops`, on local disk or any fsspec storage. The labels are a
CSV or Parquet file with a row per crop or per track: `emotion`, `split` (train, valid or val, test),
and what the row is about: `track`, or `ordinal` and `character`. Where a row gives more of `shot`,
`track`, `ordinal` and `character`, all of it must fit. `film` may be left out where RUN has one;
`scene`, `as_shot` (the annotators' name of the shot, where they number shots otherwise than the run),
`as_character` (the true name, where the run is wrong; `-` where there is no character at all: such a
crop is left out) and `p_CLASS` (shares of annotators' votes) are optional. The annotations that
`insideout view` writes are such a table.
"""

from __future__ import annotations

import csv
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from insideout import schema
from insideout.datasets.labelled import SPLITS, LabelledCrop
from insideout.errors import DataError
from insideout.objects import said
from insideout.store import Store

_log = logging.getLogger(__name__)

#: More label rows than this share that match nothing mean that labels and run do not belong together.
_MOST_LOST = 0.01
NOT_A_CHARACTER = "-"
"""Stands as `as_character` where there is no character; no name can begin so."""
_SPLITS = {alias: split for split, aliases in SPLITS.items() for alias in aliases}


@dataclass(frozen=True)
class _Label:
    """One row of the labels; None or empty where the row does not say."""

    row: str
    """What the row is called in messages."""
    emotion: str
    split: str
    film: str
    scene: str
    ordinal: int | None
    shot: int | None
    track: int | None
    character: str
    votes: Mapping[str, float] | None
    as_shot: str = ""
    as_character: str = ""

    def says(self) -> tuple[object, ...]:
        """What must agree where two rows are about the same crop."""
        return self.emotion, self.split, self.scene, self.votes, self.as_character

    def fits(self, seen: _Seen) -> bool:
        return (
            self.ordinal in (None, seen.ordinal)
            and self.shot in (None, seen.shot)
            and self.track in (None, seen.track)
            and self.character in ("", seen.character)
        )


@dataclass(frozen=True)
class _Seen:
    """One character in one frame, as the run tells it; ordinal and track name it in its film."""

    ordinal: int
    pts: int
    shot: int
    track: int
    character: str


def read_crop_table(run: str | Path, labels: Path) -> dict[str, list[LabelledCrop]]:
    """Read the labelled crops of a run by split, in order of film, ordinal and track.

    A crop is called FILM/ORDINAL/CHARACTER, and FILM/ORDINAL/CHARACTER/TRACK where its frame shows
    several of that name; CHARACTER is the run's name there, also where the table has a better one. Only the
    labelled crops are read into memory. Rows with an empty emotion, and those that say that there is no
    character, are left out; up to 1 % of the rows may match nothing; the log tells how many there were of each.

    Raises DataError: no run there, a run without crops, labels that are not readable or lack
    columns, a value that cannot be used, too many rows that match nothing, a row that fits several
    characters of a frame, one crop with two different labels. Raises OutputError for a run of a
    newer schema, StorageError where storage cannot be read.
    """
    store = Store(run)
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for key in store.list("characters", ".parquet"):
        folder = key.split("/")[1]
        parts[folder.removeprefix("film=")].append(key)
    if not parts:
        raise DataError(f"{store.root}: no label table there; give the folder that `insideout label --out` wrote")
    rows = _read_labels(labels)
    times = _time_bases(store)
    films = sorted({*parts, *times})
    found: defaultdict[str, list[LabelledCrop]] = defaultdict(list)
    lost: list[_Label] = []
    for film, of_film in sorted(_by_film(rows, films, labels).items()):
        seen = [_Seen(**row) for key in parts.get(film, ()) for row in _rows(store, key, list(_Seen.__annotations__))]
        chosen, unmatched = _match(seen, of_film, labels)
        lost += unmatched
        if len(lost) > _MOST_LOST * len(rows):
            continue  # it will be an error: no need to read pictures
        names = _names(film, seen)
        pictures = _pictures(store, parts.get(film, ()), set(chosen))
        for crop in sorted(chosen, key=lambda c: (c.ordinal, c.track)):
            label = chosen[crop]
            found[label.split].append(
                LabelledCrop(
                    name=names[crop],
                    picture=pictures[crop],
                    emotion=label.emotion,
                    film=film,
                    scene=label.scene,
                    shot=label.as_shot or str(crop.shot),
                    track=str(crop.track),
                    character=label.as_character or crop.character,
                    ordinal=crop.ordinal,
                    pts=crop.pts,
                    time_base=times.get(film),
                    votes=label.votes,
                )
            )
    _tell_lost(lost, len(rows), labels, store.root)
    return {split: found[split] for split in SPLITS if found[split]}


def _read_labels(labels: Path) -> list[_Label]:
    columns, records = _read_table(labels)
    wanted = [c for c in ("emotion", "split") if c not in columns]
    if "track" not in columns and not {"ordinal", "character"} <= set(columns):
        wanted.append("track (or ordinal and character)")
    if wanted:
        raise DataError(f"{labels}: no column {', '.join(wanted)}; it has {', '.join(columns) or 'none'}")
    numbered = [(n, r) for n, r in enumerate(records, 1) if r.get("as_character", "") != NOT_A_CHARACTER]
    if nobody := len(records) - len(numbered):
        _log.warning("%s: %d of %d rows show no character and are left out", labels, nobody, len(records))
    rows = [_label(labels, f"row {n}", record) for n, record in numbered if record.get("emotion")]
    if not rows:
        raise DataError(f"{labels}: none of its {len(records)} rows has an emotion; fill in the column 'emotion'")
    if empty := len(numbered) - len(rows):
        _log.warning("%s: %d of %d rows have no emotion and are left out", labels, empty, len(records))
    return rows


def _read_table(labels: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names, and the rows with every value as text, empty for null."""
    try:
        if labels.suffix.lower() == ".parquet":
            table = pq.read_table(labels, partitioning=None)
            schema.check_plain(table.schema, str(labels))
            rows = [{k: "" if v is None else str(v) for k, v in row.items()} for row in table.to_pylist()]
            return list(table.column_names), rows
        with labels.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows = []
            for n, row in enumerate(reader, 1):
                if None in row:
                    raise DataError(
                        f"{labels}: row {n} has more values than there are columns; put quotes around commas"
                    )
                rows.append({key: value.strip() for key, value in row.items()})
            return list(reader.fieldnames or ()), rows
    except FileNotFoundError as error:
        raise DataError(f"{labels}: no such file; give a CSV or Parquet file of labels") from error
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{labels}: not readable as {labels.suffix or 'CSV'} ({said(error)}); save it again") from error


def _label(labels: Path, row: str, record: Mapping[str, str]) -> _Label:
    split = record.get("split", "")
    if split not in _SPLITS:
        raise DataError(f"{labels}: {row}: split is '{split}'; choose from {', '.join(_SPLITS)}")
    label = _Label(
        row=row,
        emotion=record["emotion"],
        split=_SPLITS[split],
        film=record.get("film", ""),
        scene=record.get("scene", ""),
        ordinal=_whole(labels, row, record, "ordinal"),
        shot=_whole(labels, row, record, "shot"),
        track=_whole(labels, row, record, "track"),
        character=record.get("character", ""),
        votes=_votes(labels, row, record),
        as_shot=record.get("as_shot", ""),
        as_character=record.get("as_character", ""),
    )
    if label.track is None and (label.ordinal is None or not label.character):
        raise DataError(f"{labels}: {row}: names no crop; fill in track, or ordinal and character")
    return label


def _whole(labels: Path, row: str, record: Mapping[str, str], column: str) -> int | None:
    text = record.get(column, "")
    if not text:
        return None
    try:
        return int(text.removesuffix(".0"))  # so pandas writes a column of integers with gaps
    except ValueError as error:
        raise DataError(f"{labels}: {row}: {column} '{text}' is not a whole number; correct it") from error


def _votes(labels: Path, row: str, record: Mapping[str, str]) -> dict[str, float] | None:
    votes = {}
    for column, text in record.items():
        if column.startswith("p_") and text:
            try:
                votes[column[2:]] = float(text)
            except ValueError:
                votes[column[2:]] = -1.0
            if not 0 <= votes[column[2:]] <= 1:
                raise DataError(f"{labels}: {row}: {column} is '{text}', expected a share between 0 and 1")
    return votes or None


def _time_bases(store: Store) -> dict[str, Fraction]:
    """The time base of each film of a run, also of those in which nobody was seen."""
    listed = store.read_table("films.parquet").to_pylist() if store.exists("films.parquet") else []
    return {str(row["film"]): Fraction(row["time_base_num"], row["time_base_den"]) for row in listed}


def _by_film(rows: Iterable[_Label], films: Sequence[str], labels: Path) -> dict[str, list[_Label]]:
    found: defaultdict[str, list[_Label]] = defaultdict(list)
    for row in rows:
        if not row.film and len(films) > 1:
            raise DataError(
                f"{labels}: {row.row}: no film, and the run has {len(films)} ({films[0]}, …); "
                "add a column 'film' with the ids in the run's films.parquet"
            )
        found[row.film or films[0]].append(row)
    return found


def _rows(store: Store, key: str, columns: list[str], ordinals: list[int] | None = None) -> list[dict[str, Any]]:
    """Rows of one characters file; only what holds the wanted ordinals is read."""
    where = store.path(key)
    filters = None if ordinals is None else [("ordinal", "in", ordinals)]
    try:
        table = pq.read_table(where, columns=columns, filters=filters, filesystem=store.fs, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{where}: cannot be read as Parquet ({said(error)}); label again into a new folder") from error
    schema.read_stamp(table.schema.metadata, where)
    schema.check_plain(table.schema, where)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _match(seen: Iterable[_Seen], rows: Iterable[_Label], labels: Path) -> tuple[dict[_Seen, _Label], list[_Label]]:
    """The label of each crop that has one, and the labels that fit no crop."""
    at: defaultdict[int, list[_Seen]] = defaultdict(list)
    tracks: defaultdict[int, list[_Seen]] = defaultdict(list)
    for crop in seen:
        at[crop.ordinal].append(crop)
        tracks[crop.track].append(crop)
    chosen: dict[_Seen, _Label] = {}
    lost: list[_Label] = []
    for label in rows:
        near = at.get(label.ordinal, ()) if label.ordinal is not None else tracks.get(label.track or 0, ())
        fitting = [crop for crop in near if label.fits(crop)]
        if not fitting:
            lost.append(label)
        if label.track is None and len(fitting) > 1:
            raise DataError(
                f"{labels}: {label.row}: frame {label.ordinal} shows {len(fitting)} characters '{label.character}' "
                f"(tracks {', '.join(str(crop.track) for crop in fitting)}); add a column 'track'"
            )
        for crop in fitting:
            other = chosen.setdefault(crop, label)
            if other.says() != label.says():
                raise DataError(
                    f"{labels}: {other.row} and {label.row}: both are about {crop.character} (track {crop.track}) in "
                    f"frame {crop.ordinal}, as {_said(other)} and {_said(label)}; remove one"
                )
    return chosen, lost


def _said(label: _Label) -> str:
    return f"{label.emotion}{label.as_character and ' ' + label.as_character} of {label.split}"


def _names(film: str, seen: Iterable[_Seen]) -> dict[_Seen, str]:
    names = {crop: f"{film}/{crop.ordinal}/{crop.character}" for crop in seen}
    shared = Counter(names.values())
    return {crop: name if shared[name] == 1 else f"{name}/{crop.track}" for crop, name in names.items()}


def _pictures(store: Store, keys: Iterable[str], wanted: set[_Seen]) -> dict[_Seen, bytes]:
    """The stored crop of each wanted character."""
    by_key = {(crop.ordinal, crop.track): crop for crop in wanted}
    ordinals = sorted({crop.ordinal for crop in wanted})
    found: dict[_Seen, bytes] = {}
    for key in keys if wanted else ():
        for row in _rows(store, key, ["ordinal", "track", "crop"], ordinals):
            crop = by_key.get((row["ordinal"], row["track"]))
            if crop is not None and row["crop"]:
                found[crop] = row["crop"]
    if missing := len(wanted) - len(found):
        raise DataError(
            f"{store.root}: {missing} of {len(wanted)} labelled crops have no picture; "
            "label again with --crops into a new folder"
        )
    return found


def _tell_lost(lost: Sequence[_Label], rows: int, labels: Path, run: str) -> None:
    if not lost:
        return
    named = "; ".join(_describe(label) for label in lost[:3])
    said = f"{labels}: {len(lost)} of {rows} labelled rows match no character of {run}: {named}"
    if len(lost) > _MOST_LOST * rows:
        raise DataError(f"{said}; are they labels of another run, or of another sampling?")
    _log.warning("%s", said)


def _describe(label: _Label) -> str:
    keys = ("film", "ordinal", "shot", "track", "character")
    return f"{label.row} ({', '.join(f'{k} {v}' for k in keys if (v := getattr(label, k)) not in (None, ''))})"
