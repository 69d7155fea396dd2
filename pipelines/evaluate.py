"""The command that scores the models of a pack on labelled data; it runs in one process, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from insideout.errors import UsageError


def evaluate(
    pack: Annotated[Path, typer.Argument(help="Folder of a model pack.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Folders per split and emotion; a run, with --labels; for the segmenter a YOLO export with data.yaml."
        ),
    ],
    split: Annotated[str, typer.Option(help="Which split is scored: train, valid or test.")] = "valid",
    against: Annotated[
        list[Path] | None, typer.Option(metavar="PACK", help="A pack to compare with, crop by crop; may be repeated.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Table of labels (CSV, Parquet) for --data DIR of `insideout label --crops`.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where it is written; runs/evaluate/PACK-SPLIT by default.")] = None,
    shots: Annotated[
        Path | None, typer.Option(help="Segmenter: CSV of shots (shot, start_ordinal, end_ordinal) for its intervals.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the network runs, such as cpu or cuda:0.")] = "cpu",
) -> None:
    """Score a pack on labelled data: emotions beside their baselines, or masks; with intervals over shots."""
    if device != "cpu":
        from insideout.device import why_unusable

        if why := why_unusable(device):
            raise UsageError(f"--device: {why}")
    if data.suffix in (".yaml", ".yml") or (data / "data.yaml").is_file():
        from insideout.evaluation.segmenter_report import report_segmenter
        from insideout.packs import load_pack

        if against or labels:
            raise UsageError("--against and --labels are for emotion classifiers; a segmenter is scored by itself")
        target = out or Path("runs/evaluate") / f"{pack.resolve().name}-segmenter-{split}"
        lines = report_segmenter(load_pack(pack), data, split, target, shots=shots, device=device)
        lines += ["", f"written: {target}/metrics.json, table.md"]
    else:
        from insideout.evaluation.report import evaluate_export
        from insideout.evaluation.tables import screen_lines

        target = out or Path("runs/evaluate") / f"{pack.resolve().name}-{split}"
        found = evaluate_export(pack, data, split, target, labels=labels, against=against or (), device=device)
        lines = screen_lines(found, target)
    for line in lines:
        typer.echo(line)
