"""`insideout split`: an export of labelled crops becomes one whose splits do not leak."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def split(
    data: Annotated[Path, typer.Argument(help="Classification export: train/CLASS/*.jpg, valid/CLASS/*.jpg.")],
    out: Annotated[Path, typer.Option(help="The new export; with --folds one in each of fold0, fold1, …")],
    by: Annotated[
        str, typer.Option(metavar="shot|scene|frame|character|film", help="What stays on one side.")
    ] = "shot",
    valid: Annotated[float, typer.Option(min=0, max=1, help="Share of valid; with --folds each fold is it.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share that is set aside as test.")] = 0.0,
    folds: Annotated[int | None, typer.Option(min=2, help="Write so many exports, each crop valid in one.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Shuffles the groups; few groups split alike whatever it is.")] = 0,
    keep: Annotated[str | None, typer.Option(metavar="CLASS,CLASS", help="Take these classes only.")] = None,
    only_splits: Annotated[
        str | None, typer.Option(metavar="SPLIT,SPLIT", help="Take these splits of DATA (default train,valid).")
    ] = None,
    allow_leaks: Annotated[bool, typer.Option("--allow-leaks", help="Write it even if the audit finds leaks.")] = False,
) -> None:
    """Split labelled crops by shot or scene, and audit what the splits share."""
    from insideout.datasets.labelled import find_unreadable
    from insideout.leaks import fingerprints
    from insideout.splits import audit_part, check_free, gather, grouping_lines, split_crops, write_split

    check_free(out)
    crops = gather(data, _names(only_splits), _names(keep))
    unreadable = find_unreadable(crops)
    for bad in unreadable:
        typer.echo(f"not readable, left out: {bad}")
    crops = [crop for crop in crops if crop.name not in unreadable]
    hashes = fingerprints(crops)
    parts = split_crops(crops, by, valid=valid, test=test, folds=folds, seed=seed, hashes=hashes)
    audits = [audit_part(crops, part, by, hashes) for part in parts]
    for line in grouping_lines(crops, by, hashes):
        typer.echo(line)
    for k, found in enumerate(audits):
        for border, audit in found.items():
            typer.echo(f"\n{border}" if folds is None else f"\nfold {k}, {border}")
            for line in audit.lines():
                typer.echo(f"  {line}")
    write_split(crops, parts, audits, out, by=by, seed=seed, allow_leaks=allow_leaks)
    typer.echo(f"\nsplit: {out}" if folds is None else f"\n{folds} folds: {out}/fold0 to fold{folds - 1}")


def _names(listed: str | None) -> list[str] | None:
    """`a, b` as a list; None where nothing was given."""
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]
