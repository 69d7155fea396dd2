"""Write the rows of an answer as CSV, JSON or Parquet, batch by batch, or as lines for a terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from insideout.ask import Answer
from insideout.errors import UsageError
from insideout.messages import printable

FORMATS = ("table", "csv", "json", "parquet")
_WIDEST = 48  # characters of a value in a printed table
_BESIDE = 3  # between two columns


def write_rows(answer: Answer, path: Path, kind: str) -> int:
    """Write all rows to a local file as `csv`, `json`, `parquet` or `table`; return how many."""
    if kind == "parquet":
        return _write_parquet(answer, path)
    with path.open("w", encoding="utf-8", newline="" if kind == "csv" else None) as file:
        if kind == "table":
            return print_rows(answer, file, most=None)
        return sum(_text(answer, kind, file.write))


def write_text(answer: Answer, kind: str, file: IO[str]) -> int:
    """Write all rows as `csv` or `json` to an open text, such as a terminal's, which no name can steer."""
    return sum(_text(answer, kind, lambda text: file.write(printable(text))))


def print_rows(answer: Answer, file: IO[str], most: int | None, width: int | None = None) -> int:
    """Print the first `most` rows, all if None, as a table, or one below the other where they are too wide.

    width: of the terminal in characters; without one a table is as wide as it is. All rows are counted, in memory
    are those printed. Returns how many there are.
    """
    names = [printable(name, keep="") for name in answer.schema.names]
    first: list[list[str]] = []
    total = 0
    for batch in answer.batches:
        if most is None or len(first) < most:
            part = batch if most is None else batch.slice(0, most - len(first))
            first += [[_cell(value) for value in row] for row in _values(part)]
        total += batch.num_rows
    more = total - len(first)
    widths = [max(map(cell_len, column)) for column in zip(names, *first, strict=True)]
    console = Console(file=file, width=width or sum(widths) + (_BESIDE + 1) * len(widths) + 1, highlight=False)
    if width is not None and sum(widths) + _BESIDE * len(widths) > width:
        for number, row in enumerate(first, 1):
            console.rule(f"row {number}", align="left")
            for name, value in zip(names, row, strict=True):
                console.print(f"{name:{max(map(len, names))}}  {value}", markup=False, soft_wrap=True)
    else:
        table = Table(box=None, padding=(0, _BESIDE, 0, 0), header_style="bold")
        for name, kind in zip(names, answer.schema.types, strict=True):
            numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            table.add_column(Text(name), justify="right" if numeric else "left", no_wrap=True)
        for row in first:
            table.add_row(*map(Text, row))
        console.print(table)
    told = f"{total} row{'' if total == 1 else 's'}"
    print(f"({told})" if not more else f"({len(first)} of {told}; --rows {total} prints all)", file=file)
    return total


def _plain(answer: Answer) -> Iterator[list[Any]]:
    for batch in answer.batches:
        yield from _values(batch)


def _values(batch: pa.RecordBatch) -> Iterator[list[Any]]:
    yield from map(list, zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _text(answer: Answer, kind: str, write: Callable[[str], Any]) -> Iterator[int]:
    """Write row by row, and yield 1 for each."""
    if kind == "csv":
        yield from _csv(answer, write)
    elif kind == "json":
        yield from _json(answer, write)
    else:
        raise UsageError(f"--format {kind}: not one of {', '.join(FORMATS)}")


def _csv(answer: Answer, write: Callable[[str], Any]) -> Iterator[int]:
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")

    def put(values: list[Any]) -> None:
        writer.writerow(values)
        write(line.getvalue())
        line.seek(0)
        line.truncate()

    put(answer.schema.names)
    for row in _plain(answer):
        plain = map(as_json, row)
        put([json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict | bool) else v for v in plain])
        yield 1


def _json(answer: Answer, write: Callable[[str], Any]) -> Iterator[int]:
    names, before = unique(answer.schema.names), "[\n "
    for row in _plain(answer):
        # Escaped: then no character in it can steer a terminal.
        write(before + json.dumps(dict(zip(names, map(as_json, row), strict=True))))
        before = ",\n "
        yield 1
    write("[]\n" if before[0] == "[" else "\n]\n")


def _write_parquet(answer: Answer, path: Path) -> int:
    names = unique(answer.schema.names)
    kinds = [pa.string() if pa.types.is_null(kind) else kind for kind in answer.schema.types]
    rows = 0
    try:
        with pq.ParquetWriter(path, pa.schema(list(zip(names, kinds, strict=True))), compression="zstd") as writer:
            for batch in answer.batches:
                columns = [column.cast(kind) for column, kind in zip(batch.columns, kinds, strict=True)]
                writer.write_batch(pa.record_batch(columns, schema=writer.schema))
                rows += batch.num_rows
    except pa.ArrowNotImplementedError as error:
        raise UsageError(
            f"Parquet cannot hold a column of the answer ({error}); cast it to text with ::varchar"
        ) from error
    return rows


def unique(names: list[str]) -> list[str]:
    """Names of columns, of which DuckDB may have given two the same: the second gets a number."""
    seen: Counter[str] = Counter()
    found: list[str] = []
    for name in names:
        seen[name] += 1
        new = name if seen[name] == 1 else f"{name}_{seen[name]}"
        while new in found or (new != name and new in names):
            new += "_"
        found.append(new)
    return found


def as_json(value: Any) -> Any:
    """A value of an answer as JSON has it: bytes in hexadecimal, dates as text, no number (NaN) as null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):  # DuckDB's sums of integers
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        # Arrow gives a map back as pairs.
        is_map = bool(value) and all(isinstance(pair, tuple) for pair in value)
        return {str(key): as_json(inner) for key, inner in value} if is_map else [as_json(inner) for inner in value]
    return str(value)


def _cell(value: Any) -> str:
    """A value on one line of a terminal, cut where it is long."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    plain = as_json(value)
    if isinstance(plain, float):
        text = f"{plain:.6g}"
    elif isinstance(plain, dict):
        text = ", ".join(f"{key} {_cell(inner)}" for key, inner in plain.items())
    else:
        text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    text = printable(text, keep="") if not text.isprintable() else text
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
