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
from collections.abc import Callable, Collection, Iterable, Iterator
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
from insideout.objects import said, storage_errors
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
_DEFINITIONS = f"{ANALYSIS}/analysis.json"
_GUESS = re.compile(r' Did you mean "([^"]*)".*')
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
    """The tables of one run and the locked database over them; made by `asking`. Tables are opened when asked for."""

    def __init__(self, run: Run, connection: duckdb.DuckDBPyConnection) -> None:
        self._run, self._connection = run, connection
        self._thread = ThreadPoolExecutor(1)
        self._opened: dict[str, ds.Dataset] = {}
        self._stamps: dict[str, str] = {}
        keys = run.store.list(ANALYSIS, ".parquet")
        names = [key.removeprefix(f"{ANALYSIS}/").removesuffix(".parquet") for key in keys]
        self.names = (*LABEL_TABLES, *(n for n in names if _NAME.fullmatch(n) and n not in LABEL_TABLES))

    @property
    def tables(self) -> tuple[RunTable, ...]:
        """All tables, described. Raises OutputError as `asking`, for any of them."""
        self._open(self.names)
        meanings = {name: meaning for name, (_, meaning) in LABEL_TABLES.items()} | self._definitions()
        return tuple(self._described(name, meanings.get(name, "")) for name in self.names)

    def ask(self, query: str) -> Answer:
        """Run one statement that reads.

        Raises UsageError where it is not one, or DuckDB refuses it; so does reading the batches, for what
        shows only then (a number that cannot be read as one, not enough memory).
        """
        self._open(self._named(query) or self.names)
        with self._told(query):
            statements = self._connection.extract_statements(query)
            if not statements:
                raise UsageError("the query is empty; ask one that begins with SELECT, or give none to see the tables")
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
            text = said(error) if isinstance(error, OSError) else str(error)
            raise UsageError(_shortened(text, self.names) + self._advice(query, error)) from error

    def _advice(self, query: str, error: Exception) -> str:
        if isinstance(error, duckdb.PermissionException):
            return "; a query reads the tables of the run and nothing else"
        if isinstance(error, duckdb.BinderException):
            tables = [(name, self._opened[name].schema.names) for name in self._named(query)]
            return "".join(f"; {name} has {', '.join(columns)}" for name, columns in tables)
        if isinstance(error, duckdb.CatalogException) and "Table" in str(error):
            folder = self._run.store.root
            analysed = self._run.store.exists(_DEFINITIONS) or len(self.names) > len(LABEL_TABLES)
            more = "" if analysed else f"; `insideout analyse {folder}` adds screen, shares and others"
            return f"; the tables are {', '.join(self.names)}{more}"
        return ""

    def _named(self, query: str) -> tuple[str, ...]:
        words = set(re.findall(r"\w+", query.lower()))
        return tuple(name for name in self.names if name in words)

    def _open(self, names: Iterable[str]) -> None:
        store = self._run.store
        for name in names:
            if name in self._opened:
                continue
            kind = LABEL_TABLES[name][0] if name in LABEL_TABLES else None
            keys = [f"{ANALYSIS}/{name}.parquet"]
            if kind is not None:
                keys = ["films.parquet"] if name == "films" else store.list(name, ".parquet")
            for key in keys:
                found = _checked(store, key)
                if kind is None:
                    kind = found
                elif name in LABEL_TABLES:
                    self._stamps.setdefault(schema.read_stamp(found.metadata, store.path(key)), key)
            if len(self._stamps) > 1:
                first, second = list(self._stamps.values())[:2]
                raise OutputError(
                    f"{store.root}: rows of two different runs ({first} and {second}); label again into a new folder"
                )
            self._opened[name] = _dataset(store, keys, kind)
            self._connection.register(name, self._opened[name])

    def _definitions(self) -> dict[str, str]:
        """What a row of each table of the analysis is, as its file says."""
        store = self._run.store
        found = store.read_json(_DEFINITIONS) if store.exists(_DEFINITIONS) else None
        told = found.get("definitions") if isinstance(found, dict) else None
        first = {str(name): str(text).split("\n\n", 1)[0] for name, text in (told or {}).items()}
        first.setdefault("screen", "a character in a frame on screen, with the seconds it stands for")
        return {name: f"analysis: {' '.join(text.split())}" for name, text in first.items() if name not in LABEL_TABLES}

    def _described(self, name: str, meaning: str) -> RunTable:
        relation, dataset = self._connection.table(name), self._opened[name]
        told = [(field.metadata or {}).get(b"meaning", b"").decode() for field in dataset.schema]
        columns = zip(relation.columns, map(str, relation.types), told, strict=True)
        return RunTable(name, meaning, int(dataset.count_rows()), tuple(Column(*column) for column in columns))


@contextmanager
def asking(run: str | os.PathLike[str]) -> Iterator[Asker]:
    """Open a finished run for questions: `characters`, `frames`, `shots`, `films`, and tables of its `analysis/`.

    Raises OutputError for a folder that is no finished run; asking does for tables of a newer schema, of two runs,
    or with columns that are not plain.
    """
    opened = open_run(os.fspath(run))
    folder = tempfile.mkdtemp(prefix="insideout-ask-")
    try:
        connection = duckdb.connect(":memory:", config=_SETTINGS | {"memory_limit": MEMORY, "temp_directory": folder})
        try:
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield Asker(opened, connection)
        finally:
            connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checked(store: Store, key: str) -> pa.Schema:
    where = store.path(key)
    try:
        with store.fs.open(where, "rb") as file:
            found = pq.read_schema(file)
    except (pa.ArrowException, *storage_errors()) as error:
        raise OutputError(f"{where}: cannot be read as Parquet ({said(error)}); write it again") from error
    schema.check_plain(found, where)
    return found


def _dataset(store: Store, keys: list[str], kind: pa.Schema) -> ds.Dataset:
    if not keys:
        return ds.dataset(pa.Table.from_pylist([], schema=kind))
    return ds.dataset([store.path(key) for key in keys], schema=kind, format="parquet", filesystem=store.arrow())


def _shortened(message: str, tables: Collection[str]) -> str:
    """What DuckDB says, without its kind of error, the query again, more than a few lines, and tables of its own."""
    text = re.split(r"\n\s*LINE \d+:|\n\s*Candidate functions", message)[0]
    text = re.sub(r"^[\w ]* Error: ", "", text)
    text = " ".join(text.split())
    if text.startswith("Table ") and (guess := _GUESS.search(text)) and guess[1] not in tables:
        text = text[: guess.start()].rstrip(" !")
    return text if len(text) <= 400 else text[:400] + "…"
