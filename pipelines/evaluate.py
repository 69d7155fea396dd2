"""The command that scores the emotion classifier of a pack on labelled crops; it runs in one process, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    pack: Annotated[Path, typer.Argument(help="Folder of a model pack.")],
    data: Annotated[Path, typer.Option(help="Classification export: a folder per split, in it one per emotion.")],
    split: Annotated[str, typer.Option(help="Which split is scored: train, valid or test.")] = "valid",
    against: Annotated[Path | None, typer.Option(help="A second pack to compare with, crop by crop.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where it is written; runs/evaluate/PACK-SPLIT by default.")] = None,
    device: Annotated[str, typer.Option(help="Where the network runs, such as cpu or cuda:0.")] = "cpu",
) -> None:
    """Score an emotion classifier beside its baselines, with intervals over shots, tables and pictures."""
    from insideout.evaluation.report import evaluate_export
    from insideout.evaluation.tables import screen_lines

    target = out or Path("runs/evaluate") / f"{pack.resolve().name}-{split}"
    found = evaluate_export(pack, data, split, target, against=against, device=device)
    for line in screen_lines(found, target):
        typer.echo(line)
