"""The command `insideout analyse`: what a label table says of its characters, with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from insideout.stats.clusters import RESAMPLES


def analyse(
    run: Annotated[str, typer.Argument(metavar="DIR", help="The output folder of `insideout label`.")],
    scenes: Annotated[
        Path | None,
        typer.Option(help="CSV: scene, start_ordinal, end_ordinal, and film if several; for intervals over scenes."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV of true emotions: ordinal, track or character, emotion, and film if several."),
    ] = None,
    pack: Annotated[
        Path | None, typer.Option(help="The pack that labelled DIR, where DIR holds no confusion.parquet.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all resampling.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of each interval.")] = RESAMPLES,
    as_json: Annotated[bool, typer.Option("--json", help="Print DIR/analysis/analysis.json instead of words.")] = False,
) -> None:
    """Say how long each character shows each emotion, how sure that is, and write DIR/analysis/."""
    from insideout.stats.run import FOLDER, analyse_run
    from insideout.store import Store

    found = analyse_run(run, scenes=scenes, labels=labels, pack=pack, seed=seed, resamples=resamples)
    if as_json:
        typer.echo(json.dumps(Store(run).read_json(f"{FOLDER}/analysis.json"), indent=2, ensure_ascii=False))
        return
    for line in found.lines():
        typer.echo(line)
    typer.echo(f"tables and definitions: {run.rstrip('/')}/{FOLDER}")
