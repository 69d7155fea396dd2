"""Questions in SQL over a finished run: its tables, only to be read, and nothing else within reach.

DuckDB runs the query. The tables are handed to it as Arrow datasets over the run's Parquet files, on
local disk or storage, so that it needs no file of its own: it reads the columns and rows that a query
needs, and its access to files, to the network and to extensions is off and cannot be switched on again.
It may use `MEMORY` and then spills to a temporary folder, which is removed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from insideout import schema
from insideout.errors import InsideoutError, OutputError, UsageError
from insideout.objects import storage_errors
from insideout.report.tables import Run, open_run
from insideout.store import Store

MEMORY = "1GB"
ANALYSIS = "analysis"
LABEL_TABLES = {
    "characters": (schema.CHARACTERS, "a row per character in each labelled frame"),
    "frames": (schema.FRAMES, "the ledger: a row per sampled frame"),
    "shots": (schema.SHOTS, "a row per shot"),
    "films": (schema.FILMS, "a row per film"),
}

QUESTIONS = (
    ("Who is in how many frames?", "select character, count(distinct ordinal) from characters group by all"),
    ("What became of the frames?", "select status, reason, count(*) from frames group by all order by all"),
    (
        "How many seconds is each character read as what?",
        "select character, emotion, round(sum(seconds), 1) as seconds from screen group by all order by all",
    ),
)
"""Shown beside the tables; docs/questions.md has these and more."""

_BATCH_ROWS = 8192
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "max_temp_directory_size": "20GB",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    # Nothing in a query is a variable of this program.
    "python_enable_replacements": "false",
}
#: Statements that read. A pivot is several statements to DuckDB, which is why it has a kind of its own.
_READING = ("SELECT", "EXPLAIN", "MULTI")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Column:
    """A column as DuckDB has it; `meaning` with its unit, empty where the table says nothing of it."""

    name: str
    kind: str
    meaning: str


@dataclass(frozen=True)
class RunTable:
    """A table that can be asked: what a row of it is, and its columns."""

    name: str
    meaning: str
    rows: int
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Answer:
    """The rows of a query: their schema, and batches that are computed as they are read."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch] = field(repr=False)


class Asker:
    """The tables of one run and the locked database over them; made by `asking`."""

    def __init__(self, name: str, tables: tuple[RunTable, ...], connection: duckdb.DuckDBPyConnection) -> None:
        self.tables = tables
        self._name, self._connection = name, connection
        self._thread = ThreadPoolExecutor(1)

    def ask(self, query: str) -> Answer:
        """Run one statement that reads.

        Raises UsageError where it is not one, or DuckDB refuses it; so does reading the batches, for what
        shows only then (a number that cannot be read as one, not enough memory).
        """
        with self._told(query):
            statements = self._connection.extract_statements(query)
            if len(statements) != 1:
                raise UsageError(f"{len(statements)} statements in the query; ask one question at a time")
            if (kind := statements[0].type.name) not in _READING:
                raise UsageError(f"the query is of the kind {kind}; only questions, which begin with SELECT, are run")
            relation = self._connection.sql(query)
            if relation is None:
                raise UsageError("the query returns no rows; ask one that begins with SELECT")
            reader = self._beside(lambda: relation.to_arrow_reader(_BATCH_ROWS))
            return Answer(reader.schema, self._read(query, reader))

    def _read(self, query: str, reader: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with self._told(query):
            while (batch := self._beside(lambda: next(reader, None))) is not None:
                yield batch

    def _beside(self, work: Callable[[], Any]) -> Any:
        """Run in another thread: DuckDB does not look for Ctrl-C, so this one waits for it."""
        running = self._thread.submit(work)
        try:
            return running.result()
        except KeyboardInterrupt:
            self._connection.interrupt()
            wait([running])
            raise

    @contextmanager
    def _told(self, query: str) -> Iterator[None]:
        """Errors of the database as errors of ours, with the columns or tables that there are."""
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise UsageError(f"the query needs more than {MEMORY} of memory; ask for fewer rows or columns") from error
        except (duckdb.Error, pa.ArrowException, *storage_errors()) as error:
            if isinstance(error, InsideoutError):
                raise
            raise UsageError(_shortened(str(error)) + self._advice(query, error)) from error

    def _advice(self, query: str, error: Exception) -> str:
        if isinstance(error, duckdb.PermissionException):
            return "; a query reads the tables of the run and nothing else"
        if isinstance(error, duckdb.BinderException):
            used = set(re.findall(r"\w+", query.lower()))
            return "".join(
                f"; {table.name} has {', '.join(column.name for column in table.columns)}"
                for table in self.tables
                if table.name in used
            )
        if isinstance(error, duckdb.CatalogException) and "Table" in str(error):
            known = [table.name for table in self.tables]
            more = "" if "screen" in known else f"; `insideout analyse {self._name}` adds screen, shares and others"
            return f"; the tables are {', '.join(known)}{more}"
        return ""


@contextmanager
def asking(run: str | os.PathLike[str]) -> Iterator[Asker]:
    """Open a finished run for questions: `characters`, `frames`, `shots`, `films`, and tables of its `analysis/`.

    Raises OutputError for a folder that is no finished run, or whose tables are of a newer schema, of two
    runs, or have columns that are not plain.
    """
    opened = open_run(os.fspath(run))
    sources = dict(_label_tables(opened)) | dict(_analysis_tables(opened.store))
    folder = tempfile.mkdtemp(prefix="insideout-ask-")
    try:
        connection = duckdb.connect(":memory:", config=_SETTINGS | {"memory_limit": MEMORY, "temp_directory": folder})
        try:
            for name, (dataset, _) in sources.items():
                connection.register(name, dataset)
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            tables = tuple(_described(connection, name, *source) for name, source in sources.items())
            yield Asker(opened.store.root, tables, connection)
        finally:
            connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _label_tables(run: Run) -> Iterator[tuple[str, tuple[ds.Dataset, str]]]:
    fingerprints: dict[str, str] = {}
    for name, (kind, meaning) in LABEL_TABLES.items():
        keys = ["films.parquet"] if name == "films" else run.store.list(name, ".parquet")
        for key in keys:
            found = _checked(run.store, key)
            if name != "films":  # a folder may hold films of older runs
                fingerprints.setdefault(schema.read_stamp(found.metadata, run.store.path(key)), key)
        yield name, (_dataset(run.store, keys, kind), meaning)
    if len(fingerprints) > 1:
        first, second = list(fingerprints.values())[:2]
        raise OutputError(
            f"{run.store.root}: rows of two different runs ({first} and {second}); label again into a new folder"
        )


def _analysis_tables(store: Store) -> Iterator[tuple[str, tuple[ds.Dataset, str]]]:
    keys = store.list(ANALYSIS, ".parquet")
    told: dict[str, Any] = {}
    if store.exists(f"{ANALYSIS}/analysis.json"):
        found = store.read_json(f"{ANALYSIS}/analysis.json")
        told = found.get("definitions") or {} if isinstance(found, dict) else {}
    for key in keys:
        name = key.removeprefix(f"{ANALYSIS}/").removesuffix(".parquet")
        if _NAME.fullmatch(name) and name not in LABEL_TABLES:
            meaning = "a character in a frame on screen, with the seconds it stands for" if name == "screen" else ""
            first = str(told.get(name) or meaning).split("\n\n", 1)[0]
            yield name, (_dataset(store, [key], _checked(store, key)), f"analysis: {' '.join(first.split())}")


def _checked(store: Store, key: str) -> pa.Schema:
    where = store.path(key)
    try:
        with store.fs.open(where, "rb") as file:
            found = pq.read_schema(file)
    except (pa.ArrowException, *storage_errors()) as error:
        raise OutputError(f"{where}: cannot be read as Parquet ({error}); write it again") from error
    schema.check_plain(found, where)
    return found


def _dataset(store: Store, keys: list[str], kind: pa.Schema) -> ds.Dataset:
    if not keys:
        return ds.dataset(pa.Table.from_pylist([], schema=kind))
    return ds.dataset([store.path(key) for key in keys], schema=kind, format="parquet", filesystem=store.arrow())


def _described(connection: duckdb.DuckDBPyConnection, name: str, dataset: ds.Dataset, meaning: str) -> RunTable:
    relation = connection.table(name)
    told = [(field.metadata or {}).get(b"meaning", b"").decode() for field in dataset.schema]
    columns = zip(relation.columns, map(str, relation.types), told, strict=True)
    return RunTable(name, meaning, int(dataset.count_rows()), tuple(Column(*column) for column in columns))


def _shortened(message: str) -> str:
    """What DuckDB says, without its kind of error, the query again, and more than a few lines."""
    text = re.split(r"\n\s*LINE \d+:|\n\s*Candidate functions", message)[0]
    text = re.sub(r"^[\w ]* Error: ", "", text)
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:400] + "…"
