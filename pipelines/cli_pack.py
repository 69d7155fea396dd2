"""The commands `insideout pack …`: look at, check and build model packs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

pack_app = typer.Typer(help="Look at, check and build model packs.", no_args_is_help=True)

PackArgument = Annotated[Path, typer.Argument(help="Folder of a model pack.")]


@pack_app.command("show")
def pack_show(pack: PackArgument) -> None:
    """Print what a pack can do and how good it was measured to be."""
    from insideout.packs import describe, load_pack

    typer.echo(describe(load_pack(pack, verify=False)))


@pack_app.command("verify")
def pack_verify(pack: PackArgument) -> None:
    """Check every file of a pack against its digest."""
    from insideout.packs import load_pack

    found = load_pack(pack)
    typer.echo(f"{pack}: every file is what its digest says; pack digest {found.digest}")


@pack_app.command("build")
def pack_build(
    segmenter: Annotated[Path, typer.Option(help="Checkpoint of `train segmenter`: best.pt.")],
    emotion: Annotated[Path, typer.Option(help="Checkpoint folder of `train emotion`: best/.")],
    recipe: Annotated[Path, typer.Option(help="YAML: how labelling uses the models, data and limits for the card.")],
    out: Annotated[Path, typer.Option(help="Folder of the pack; an older pack there is replaced.")],
    data: Annotated[
        Path | None, typer.Option(help="YOLO export on whose val split the segmenter is scored by class.")
    ] = None,
) -> None:
    """Put trained models into one small, digested folder with a model card."""
    from insideout.packing import PackRecipe, build_pack

    settings, metrics = PackRecipe.read(recipe), {}
    if data:
        from insideout.evaluation.segmenter import evaluate_segmenter
        from insideout.evaluation.segmenter_report import segmenter_figures

        # Elsewhere: an older pack in OUT is replaced once the new one has all its figures.
        with tempfile.TemporaryDirectory() as scratch:
            found = evaluate_segmenter(
                build_pack(Path(scratch) / out.name, segmenter, emotion, settings).segmenter, data
            )
        for note in found["notes"]:
            typer.echo(f"note: {note}")
        metrics = {"segmenter": segmenter_figures(found)}
    pack = build_pack(out, segmenter, emotion, settings, metrics=metrics)
    typer.echo(f"pack: {pack.path}, digest {pack.digest}")


@pack_app.command("errors")
def pack_errors(
    pack: PackArgument,
    unseen: Annotated[Path, typer.Option(help="unseen.parquet of the classifier's `train emotion --calibrate`.")],
) -> None:
    """Add to a pack how often its classifier reads each emotion as which; the pack's digest stays."""
    from insideout.packing import add_errors

    found = add_errors(pack, unseen)
    typer.echo(f"errors: {found.confusion}, pack digest {found.digest}")
