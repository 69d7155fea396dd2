"""The commands that answer from a finished run: `ask`, `render`, `diff`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from insideout.errors import UsageError
from insideout.messages import printable, shown

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
            typer.echo(f"{found} rows: {shown(out)}")
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


def render(
    run: Output,
    out: Annotated[str, typer.Option(help="File or fsspec URL: .mp4, .mov, .m4v, .mkv; a sheet .png, .jpg, .webp.")],
    clip: Annotated[
        str | None, typer.Option(help="Part of the film: 00:01:30-00:02:00, or seconds: 90-120, 90-, -30.")
    ] = None,
    sheet: Annotated[
        bool, typer.Option("--contact-sheet", help="A picture of each shot instead; many shots make several pages.")
    ] = False,
    film: Annotated[str | None, typer.Option(help="Id, path or name of the film, where the run has several.")] = None,
    source: Annotated[str | None, typer.Option(help="Where the film lies now, if it has moved.")] = None,
    height: Annotated[
        int | None, typer.Option(min=16, max=8192, help="Scale to so many lines; of a sheet: lines of each picture.")
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(help="List of names, emotions, certainty, masks (these are usual), tracks, boxes, heads, times."),
    ] = None,
    fused: Annotated[bool, typer.Option("--fused", help="Show emotions of tracks instead of single frames.")] = False,
) -> None:
    """Draw the labels over the film, with its sound and its times, or over a picture of each shot."""
    from insideout.render import RenderSettings, parse_clip, parse_show, render_film, render_sheet
    from pipelines.progress import Tally

    settings = RenderSettings(
        film, source, parse_clip(clip) if clip else None, height, None if show is None else parse_show(show), fused
    )
    with Tally("drawing", "shots" if sheet else "frames") as progress:
        if sheet:
            pages = render_sheet(run, out, settings, begin=progress.start, tell=progress.advance)
        else:
            done = render_film(run, out, settings, begin=progress.start, tell=progress.advance)
    if sheet:
        for page in pages:
            typer.echo(f"contact sheet: {shown(page)}")
        return
    sound = f"{done.sounds} stream{'' if done.sounds == 1 else 's'} of sound copied" if done.sounds else "no sound"
    typer.echo(f"{_frames(done.frames)} of {done.width}x{done.height}, encoded by {done.encoder}; {sound}")
    if done.unknown:
        typer.echo(f"{_frames(done.unknown)} marked: failed, or could not be decoded")
    if done.unseen:
        typer.echo(f"{_frames(done.unseen)} marked: not looked at, no frame of the shot was")
    for note in done.notes:
        typer.echo(note)
    typer.echo(f"film: {shown(out)}")


def _frames(count: int) -> str:
    return f"{count} frame{'' if count == 1 else 's'}"


def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="An output folder of `insideout label`.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another one over the same films.")],
    html: Annotated[str | None, typer.Option(help="Write a page with the changed frames side by side.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead of words.")] = False,
    most: Annotated[int, typer.Option(min=0, help="Frames to list of those that changed most.")] = 12,
    fused: Annotated[
        bool, typer.Option("--fused", help="Compare emotions of tracks instead of single frames.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of all resampling.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of each interval.")] = 10_000,
) -> None:
    """Say what changed from one run to another: per character and emotion, and in which frames most."""
    from insideout.compare import compare_runs
    from insideout.compare.page import render_page
    from insideout.compare.words import lines
    from insideout.outfile import new_file
    from pipelines.progress import Tally

    with Tally("comparing") as progress:
        found = compare_runs(
            run_a, run_b, fused=fused, most=most, seed=seed, resamples=resamples,
            begin=progress.start, tell=progress.advance,
        )  # fmt: skip
    if html:
        page = render_page(found)
        with new_file(html) as path:
            path.write_text(page, encoding="utf-8")
    if as_json:
        # Escaped: then no name in it can steer a terminal.
        typer.echo(json.dumps(found.plain(), indent=2))
        return
    for line in lines(found):
        typer.echo(line)
    if html:
        typer.echo(f"page: {shown(html)}")
