"""The commands `insideout train …`: the models of a pack, each as a job on a Ray cluster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from insideout.errors import UsageError
from insideout.sources import refuse_password

train_app = typer.Typer(help="Train the models of a pack.", no_args_is_help=True)

Recipe = Annotated[Path | None, typer.Option(help="YAML recipe; the student project's by default.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to use; a local Ray is started otherwise.")]


class Stage(StrEnum):
    """What an emotion classifier is trained on."""

    film = "film"
    faces = "faces"


@train_app.command("segmenter")
def train_segmenter(
    data: Annotated[Path, typer.Option(help="YOLO segmentation export: a data.yaml or its folder.")],
    out: Annotated[str, typer.Option(help="Run folder; running again goes on after its last epoch.")],
    recipe: Recipe = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Start from a local checkpoint, or from `coco` (ultralytics' own, downloads).")
    ] = None,
    shots: Annotated[
        Path | None,
        typer.Option(help="CSV of the film's shots (shot, start_ordinal, end_ordinal), to find one on both sides."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs on one node.")] = 0,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs on one node; all of the largest by default.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in a folder that does not say what it is for.")
    ] = False,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train though train and val share pictures or shots.")
    ] = False,
    address: Address = None,
) -> None:
    """Train the segmenter with ultralytics inside a Ray task."""
    from insideout.recipes.segmenter import SegmenterRecipe

    if "://" in out:
        raise UsageError(f"--out {out}: a segmenter is trained into a local folder; give one, and copy it afterwards")
    settings = SegmenterRecipe.read(recipe) if recipe else SegmenterRecipe()
    from pipelines.cluster import connected
    from pipelines.train_segmenter import run

    with connected(address, training=True):
        best = run(
            data.resolve(),
            settings,
            Path(out).resolve(),
            gpus=gpus,
            cpus=cpus,
            pretrained=pretrained,
            resume=resume,
            allow_leaks=allow_leaks,
            shots=shots.resolve() if shots else None,
        )
    typer.echo(f"best checkpoint: {best}")


@train_app.command("emotion")
def train_emotion(
    out: Annotated[str, typer.Option(help="Run folder or fsspec URL; running again goes on from its last checkpoint.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of train/ and valid/, each with a folder per emotion; or a run, with --labels. Repeat to join."
        ),
    ] = None,
    recipe: Recipe = None,
    labels: Annotated[
        Path | None, typer.Option(help="Table of labels (CSV, Parquet) for --data DIR of `insideout label --crops`.")
    ] = None,
    stage: Annotated[
        Stage, typer.Option(help="`faces` trains on the bundled vector faces, for a later --pretrained OUT/best.")
    ] = Stage.film,
    pretrained: Annotated[
        str | None,
        typer.Option(help="A state dict, a checkpoint folder, or the publisher's `imagenet` or `imagenet-v1`."),
    ] = None,
    calibrate: Annotated[
        int, typer.Option(min=0, metavar="K", help="Train K more networks, on folds by scene, to fit the temperature.")
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Ray Train workers; they share each batch.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs in all: one worker on each.")] = 0,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of each worker; an equal share by default.")] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train though train and valid share shots.")
    ] = False,
    address: Address = None,
) -> None:
    """Train the emotion classifier with Ray Train."""
    from insideout.recipes.emotion_recipe import EmotionRecipe

    settings = EmotionRecipe.read(recipe) if recipe else EmotionRecipe()
    if calibrate == 1:
        raise UsageError("--calibrate 1: one fold leaves nothing to train on; give 2 or more")
    if not data and stage is Stage.film:
        raise UsageError("give --data, a folder with train/ and valid/, or --stage faces for the bundled faces")
    if data and stage is Stage.faces:
        raise UsageError("--stage faces takes the bundled faces; leave out --data, or leave out --stage to train on it")
    if not data:
        data = [_render_faces(out)]
    from pipelines.cluster import connected
    from pipelines.pretrained import everywhere
    from pipelines.train_emotion import run

    with connected(address, training=True):
        best = run(
            [absolute(source) for source in data],
            settings,
            absolute(out),
            workers=workers,
            gpus=gpus,
            cpus=cpus,
            pretrained=everywhere(pretrained),
            labels=labels.resolve() if labels else None,
            calibrate=calibrate,
            allow_leaks=allow_leaks,
        )
    typer.echo(f"checkpoint: {best}")


def _render_faces(out: str) -> str:
    """The bundled faces as pictures in the run folder; nothing is done where they already are."""
    if "://" in out:
        raise UsageError(
            "--stage faces with --out on remote storage: write the faces with `insideout data faces`, and"
            " give their folder as --data"
        )
    folder = Path(out) / "faces"
    if not folder.is_dir():
        from pipelines.data_faces import data_faces

        data_faces(folder)
    return str(folder)


def absolute(path: str) -> str:
    """Local paths are made absolute, since Ray's workers have their own working folder.

    Raises UsageError for a URL with a password.
    """
    refuse_password(path)
    return path if "://" in path else str(Path(path).resolve())
