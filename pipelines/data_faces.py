"""The command `data faces`: render labelled vector faces to a classification export."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def data_faces(
    out: Annotated[Path, typer.Option(help="Where train/, valid/ and crops.csv go.")] = Path("data/faces-export"),
    faces: Annotated[Path, typer.Option(help="A folder STYLE/EMOTION/*.svg or a tar archive of one.")] = Path(
        "data/faces/faces.tar.gz"
    ),
    valid_style: Annotated[
        list[str] | None,
        typer.Option(help="A style that goes to valid as a whole; repeat it. By default avataaars and fxemoji."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="EMOTION=CLASS", help="The class of an emotion folder, beyond the known ones; repeat it."),
    ] = None,
    size: Annotated[int, typer.Option(min=16, help="Side of a picture in pixels.")] = 160,
    copies: Annotated[int, typer.Option(min=1, help="Pictures of each face.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Faces drawn at a time; as many as there are cores by default.")
    ] = None,
) -> None:
    """Render the bundled vector faces, 12 styles of drawing, as training pictures for emotions."""
    import cv2
    from rich.console import Console
    from rich.progress import Progress

    from insideout.datasets.faces import NAMES, render_faces
    from insideout.errors import UsageError

    names = dict(NAMES)
    for pair in name or ():
        emotion, _, label = pair.partition("=")
        if not emotion or not label:
            raise UsageError(f"--name {pair}: give EMOTION=CLASS, such as disgust=Disgusted")
        names[emotion] = label
    cv2.setNumThreads(1)  # faces are drawn side by side already
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("rendering faces", total=None)
        export = render_faces(
            faces,
            out,
            valid_styles=valid_style or ("avataaars", "fxemoji"),
            names=names,
            copies=copies,
            size=size,
            seed=seed,
            threads=threads or os.cpu_count() or 1,
            on_face=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for line in export.lines():
        typer.echo(line)
    typer.echo(f"crops: {export.path}")
