"""Analyse a finished run: read its tables, compute, and write `analysis/` beside them."""

from __future__ import annotations

import csv
import inspect
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from insideout import __version__, schema
from insideout.errors import DataError, OutputError, UsageError
from insideout.packs import ERRORS, load_pack
from insideout.report.tables import FilmFacts, Run, open_run
from insideout.report.words import plural
from insideout.stats.analysis import Analysis, analyse, to_plain, to_table
from insideout.stats.answers import overall
from insideout.stats.clusters import LEAST, RESAMPLES, Ints
from insideout.stats.confusion import ErrorCounts, read_errors
from insideout.stats.screen import Screen, screen_of
from insideout.store import Store

FOLDER = "analysis"
_COLUMNS = {
    "frames": ["ordinal", "pts", "shot", "status", "reason"],
    "characters": ["ordinal", "track", "character", "emotion", "track_emotion", "probabilities"],
    "shots": ["shot", "start_ordinal", "end_ordinal", "start_pts", "end_pts"],
}
_SCENES = ("scene", "start_ordinal", "end_ordinal")
#: What stands for a name where there is no character at all, as in the table that `insideout view` writes.
_NOBODY = "-"


@dataclass(frozen=True)
class Labels:
    """The true emotions of a screen, and what became of the rows of the table that they are from.

    `emotion` int64 [rows of the screen] is an index into `readings`, -1 where it is not known. Of `rows` rows
    `matched` are an emotion of a row of the run, `lost` one that matches none; `nobody` say that there is no
    character, `named` only give a name, `empty` say nothing.
    """

    emotion: Ints
    rows: int
    matched: int
    lost: int
    nobody: int
    named: int
    empty: int


@dataclass(frozen=True)
class RunAnalysis:
    """The analyses of a run, one per film on which somebody was seen, and `notes` on what was not done and why."""

    films: list[Analysis]
    notes: list[str]
    names: dict[str, str]

    def lines(self) -> list[str]:
        """The answers in plain words."""
        found = []
        for film in self.films:
            if len(self.films) > 1:
                found.append(f"== {self.names[film.film]}")
            for lines in film.answers.values():
                found += lines
            found += overall(film.association, film.residuals)
        return found + self.notes


def analyse_run(
    run: str | Path,
    *,
    scenes: Path | None = None,
    labels: Path | None = None,
    pack: Path | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> RunAnalysis:
    """Analyse every film of a finished run and write `analysis/` into it, replacing an older one.

    `scenes` is a CSV with a row per scene or shot: `scene`, `start_ordinal`, `end_ordinal` (exclusive),
    and `film` where the run has several; a shot of the run belongs to the scene it shares most frames
    with. `labels` is a CSV of true emotions: `ordinal`, `emotion`, and `track` or `character`, and
    `film` where the run has several. `pack` gives the classifier's errors where the run does not hold them.

    Raises OutputError for a folder that is no finished run, UsageError for another pack than the run's,
    DataError for scenes or labels that cannot be used.
    """
    opened = open_run(run)
    emotions = tuple(str(name) for name in (opened.manifest.get("pack") or {}).get("emotions") or ())
    errors, notes = _errors(opened, pack, emotions), []
    if errors is None:
        notes.append(
            "not corrected for errors of the classifier: the run holds no confusion.parquet, since its pack had none;"
            " --pack PACK takes it from a pack"
        )
    if scenes is None:
        notes.append(
            "scenes are not known (--scenes CSV gives them): intervals are over shots, which may be too narrow"
        )
    films, names = [], {}
    for facts in opened.films:
        tables = {kind: film_table(opened, kind, facts.film) for kind in _COLUMNS}
        if not tables["characters"].num_rows:
            notes.append(f"{facts.name}: no character was found in it")
            continue
        grouped = None if scenes is None else read_scenes(scenes, facts.film, tables["shots"], len(opened.films))
        screen = screen_of(
            facts.film, tables["frames"], tables["characters"], tables["shots"], facts.time_base, emotions, grouped
        )
        known = None if labels is None else read_labels(labels, screen, len(opened.films))
        notes += _film_notes(facts, screen, known, labels)
        given = known.emotion if known and known.matched else None
        films.append(analyse(screen, errors, given, seed, resamples))
        names[facts.film] = facts.name
    found = RunAnalysis(films, notes, names)
    _write(opened, found, seed, resamples, scenes, labels)
    return found


def read_scenes(path: Path, film: str, shots: pa.Table, films: int) -> dict[int, int]:
    """The scene of each shot of a film: the one it shares most frames with, the first of equals.

    Raises DataError: a file that cannot be read or lacks columns, no film where the run has several, a
    shot of the film in no scene.
    """
    rows = [row for row in _csv(path, _SCENES) if row.get("film") in (None, "", film)]
    if films > 1 and any(not row.get("film") for row in rows):
        raise DataError(f"{path}: no film, and the run has {films}; add a column 'film' with the ids in films.parquet")
    spans = [tuple(_whole(path, n, row, column) for column in _SCENES) for n, row in enumerate(rows, 2)]
    found = {}
    for shot, start, end in zip(*(shots[c].to_pylist() for c in ("shot", *_SCENES[1:])), strict=True):
        common: dict[int, int] = {}
        for scene, first, last in spans:
            common[scene] = common.get(scene, 0) + max(0, min(end, last) - max(start, first))
        best = max(common, key=lambda scene: (common[scene], -scene), default=None)
        if best is None or not common[best]:
            raise DataError(f"{path}: shot {shot} of film {film} (frames {start} to {end - 1}) is in no scene; add it")
        found[shot] = best
    return found


def read_labels(path: Path, screen: Screen, films: int) -> Labels:
    """The true emotions of the rows of a screen, from a table of labels.

    An emotion that the pack does not know has the number of `uncertain`, which is never true. Rows of
    duplicates have no label of their own. Raises DataError: a file that cannot be read or lacks columns,
    no film where the run has several, labels of which more than half match no row, one row with two labels.
    """
    rows = [row for row in _csv(path, ("ordinal", "emotion")) if row.get("film") in (None, "", screen.film)]
    if films > 1 and any(not row.get("film") for row in rows):
        raise DataError(f"{path}: no film, and the run has {films}; add a column 'film' with the ids in films.parquet")
    places: dict[tuple[int, int | str], list[int]] = {}
    for i, (shown, labelled) in enumerate(zip(screen.ordinal.tolist(), screen.labelled.tolist(), strict=True)):
        if shown == labelled:
            places.setdefault((shown, int(screen.track[i])), []).append(i)
            places.setdefault((shown, screen.characters[screen.character[i]]), []).append(i)
    index = {name: i for i, name in enumerate(screen.emotions)}
    found = np.full(len(screen.ordinal), -1, np.int64)
    counts = Counter[str]()
    for n, row in enumerate(rows, 2):
        if row.get("as_character") == _NOBODY:
            counts["nobody"] += 1
            continue
        if not row["emotion"]:
            counts["named" if row.get("as_character") else "empty"] += 1
            continue
        if not row.get("track") and not row.get("character"):
            raise DataError(f"{path}: line {n} names no character; fill in track, or character")
        key = _whole(path, n, row, "track") if row.get("track") else row["character"]
        fitting = places.get((_whole(path, n, row, "ordinal"), key), [])
        if len(fitting) > 1:
            raise DataError(f"{path}: line {n}: the frame shows several of {row['character']}; add a column 'track'")
        counts["matched" if fitting else "lost"] += 1
        for i in fitting:
            emotion = index.get(row["emotion"], len(index))
            if found[i] not in (-1, emotion):
                raise DataError(f"{path}: line {n}: the same character in the same frame has another label; remove one")
            found[i] = emotion
    lost, given = counts["lost"], counts["lost"] + counts["matched"]
    if 2 * lost > given:
        raise DataError(f"{path}: {lost} of {given} labels match no character of the run; are they of another run?")
    return Labels(found, len(rows), *(counts[name] for name in ("matched", "lost", "nobody", "named", "empty")))


def _film_notes(facts: FilmFacts, screen: Screen, known: Labels | None, labels: Path | None) -> list[str]:
    notes = []
    if screen.unknown:
        seconds = float(screen.unknown * screen.time_base)
        notes.append(f"{facts.name}: {seconds:.1f} s of failed frames are in no share: who is seen there is not known")
    if known is not None:
        notes += [f"{facts.name}: {labels} {said}" for said in _label_notes(screen, known)]
    return notes


def _label_notes(screen: Screen, known: Labels) -> list[str]:
    """What was done with a table of labels, and for which characters no estimate comes of it."""
    if not known.rows:
        return ["has no row of this film, so nothing is estimated by labels"]
    parts = [
        f"{count} {what}"
        for count, what in (
            (known.matched, "with an emotion of a row of the run"),
            (known.lost, "with an emotion, but of no row of the run (left out)"),
            (known.nobody, f"'{_NOBODY}' (not a character, left out)"),
            (known.named, "with only a name (not used here)"),
            (known.empty, "without emotion and name (left out)"),
        )
        if count or what.startswith("with an emotion of")
    ]
    notes = [f"has {plural(known.rows, 'row')}: " + ", ".join(parts)]
    unit, cluster = ("scene", screen.scene) if screen.has_scenes else ("shot", screen.shot)
    few = []
    for who, name in enumerate(screen.characters):
        count = len(np.unique(cluster[(screen.character == who) & (known.emotion >= 0)]))
        if count < LEAST:
            few.append(f"{name} (labels in {plural(count, unit)})")
    if len(few) < len(screen.characters):
        notes.append("estimates by labels hold if these rows are a random sample of each character's screen time")
    if few:
        notes.append(f"gives no estimate for {', '.join(few)}: labels in {LEAST} {unit}s are needed for each")
    return notes


def _errors(run: Run, pack: Path | None, emotions: tuple[str, ...]) -> ErrorCounts | None:
    if pack is not None:
        loaded = load_pack(pack)
        ours = (run.manifest.get("pack") or {}).get("digest")
        if loaded.digest != ours:
            raise UsageError(
                f"{pack}: has digest {loaded.digest[:16]}, the run was labelled by {str(ours)[:16]}; errors of another"
                " pack say nothing of it"
            )
        if loaded.confusion is None:
            return None
        table = pq.read_table(loaded.confusion)
        schema.check_plain(table.schema, str(loaded.confusion))
        return read_errors(table, emotions)
    if not run.store.exists(ERRORS):
        return None
    return read_errors(run.store.read_table(ERRORS), emotions)


def film_table(run: Run, kind: str, film: str) -> pa.Table:
    """The rows of a film in `frames`, `characters` or `shots`, with the columns that `screen_of` takes.

    Raises OutputError where there are none (a film without characters has none of those), or rows of two runs.
    """
    tables, fingerprints = [], set()
    for key in run.store.list(f"{kind}/film={film}", ".parquet"):
        with run.store.fs.open(run.store.path(key), "rb") as file:
            parquet = pq.ParquetFile(file)
            fingerprints.add(schema.read_stamp(parquet.schema_arrow.metadata, key))
            schema.check_plain(parquet.schema_arrow, key)
            tables.append(parquet.read(columns=_COLUMNS[kind]).replace_schema_metadata(None))
    if len(fingerprints) > 1:
        raise OutputError(f"{run.store.root}: rows of two different runs in {kind}/; label again into a new folder")
    if not tables and kind != "characters":
        raise OutputError(f"{run.store.root}: no {kind} of film {film}; `insideout status` says what is missing")
    kept = pa.schema([pa.field(n, schema.CHARACTERS.field(n).type) for n in _COLUMNS["characters"]])
    return pa.concat_tables(tables) if tables else kept.empty_table()


def _csv(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; give the path of a CSV table") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not readable as CSV ({error}); give a table with a header") from error
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise DataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ['none'])}")
    return rows


def _whole(path: Path, line: int, row: Mapping[str, str], column: str) -> int:
    try:
        return int(row[column].removesuffix(".0"))
    except ValueError as error:
        raise DataError(f"{path}: line {line}: {column} '{row[column]}' is not a whole number; correct it") from error


def _write(run: Run, found: RunAnalysis, seed: int, resamples: int, scenes: Path | None, labels: Path | None) -> None:
    store = run.store
    rows: dict[str, list[Any]] = {}
    for film in found.films:
        for name, part in film.tables().items():
            rows.setdefault(name, []).extend(part)
    for name, part in rows.items():
        if part:
            _write_table(store, name, to_table(part, type(part[0])))
    if found.films:
        store.write_table(f"{FOLDER}/screen.parquet", pa.concat_tables([film.screen.table() for film in found.films]))
    store.write_json(
        f"{FOLDER}/analysis.json",
        {
            "insideout": __version__,
            "run": run.state(),
            "seed": seed,
            "resamples": resamples,
            "scenes": scenes.name if scenes else None,
            "labels": labels.name if labels else None,
            "notes": found.notes,
            "definitions": {name: inspect.cleandoc(type(part[0]).__doc__ or "") for name, part in rows.items() if part},
            "answers": {film.film: film.answers for film in found.films},
            "overall": {film.film: overall(film.association, film.residuals) for film in found.films},
        }
        | {name: to_plain(part) for name, part in rows.items()},
    )


def _write_table(store: Store, name: str, table: pa.Table) -> None:
    """As Parquet, and as CSV with lists as text for spreadsheets."""
    store.write_table(f"{FOLDER}/{name}.parquet", table)
    flat = table
    for i, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            texts = [" ".join(map(str, value)) for value in table[field.name].to_pylist()]
            flat = flat.set_column(i, field.name, pa.array(texts, pa.string()))
    sink = io.BytesIO()
    pa.csv.write_csv(flat, sink)
    store.write(f"{FOLDER}/{name}.csv", sink.getvalue())
