"""The commands that answer from a finished run: `ask`, `render`, `diff`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from insideout.errors import UsageError
from insideout.messages import printable

Output = Annotated[str, typer.Argument(metavar="DIR", help="The output folder of `insideout label`.")]


def ask(
    run: Output,
    query: Annotated[
        str | None, typer.Argument(metavar="SQL", help="One question; without it, the tables and their columns.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="File or fsspec URL to write all rows to.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="table, csv, json or parquet; by the suffix of --out, else table.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a table to print.")] = 40,
) -> None:
    """Ask a run in SQL (DuckDB's), reading its tables and nothing else; docs/questions.md has questions."""
    from insideout.ask import asking
    from insideout.outfile import new_file
    from insideout.rows import print_rows, write_rows, write_text

    kind = _format(form, out)
    with asking(run) as asker:
        if query is None:
            if out or form:
                raise UsageError("--out and --format are for the answer to a question; add one")
            _print_tables(asker, run)
            return
        answer = asker.ask(query)
        if out:
            with new_file(out) as path:
                found = write_rows(answer, path, kind)
            typer.echo(f"{found} rows: {printable(out)}")
        elif kind == "table":
            terminal = sys.stdout.isatty()
            print_rows(answer, sys.stdout, rows, shutil.get_terminal_size().columns if terminal else None)
        else:
            write_text(answer, kind, sys.stdout)


def _format(form: str | None, out: str | None) -> str:
    from insideout.rows import FORMATS

    suffix = Path(out).suffix.removeprefix(".").lower() if out else ""
    kind = form or (suffix if suffix in FORMATS else "table" if suffix in ("", "txt") else None)
    if kind not in FORMATS:
        asked = f"--format {form}" if form else f"{out}: a file of this suffix"
        raise UsageError(f"{asked} is not known; choose --format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if kind == "parquet" and not out:
        raise UsageError("--format parquet needs --out FILE")
    return kind


def _print_tables(asker: object, run: str) -> None:
    from insideout.ask import QUESTIONS, Asker

    assert isinstance(asker, Asker)
    for table in asker.tables:
        typer.echo(f"{table.name}: {printable(table.meaning, keep='')} ({table.rows} rows)")
        width = max(len(column.name) for column in table.columns)
        kinds = max(len(column.kind) for column in table.columns)
        if any(column.meaning for column in table.columns):
            for column in table.columns:
                typer.echo(f"  {column.name:{width}}  {column.kind:{kinds}}  {column.meaning}")
        else:
            typer.echo("  " + ", ".join(printable(column.name, keep="") for column in table.columns))
        typer.echo()
    known = {table.name for table in asker.tables}
    if "screen" not in known:
        typer.echo(f"`insideout analyse {run}` adds screen (seconds on screen), shares and other tables.\n")
    typer.echo("Some questions; docs/questions.md has more:")
    for title, query in QUESTIONS:
        if "screen" in known or "screen" not in query:
            typer.echo(f'  # {title}\n  insideout ask {run} "{query}"')
