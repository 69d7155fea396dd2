"""The commands `insideout plan`, `label`, `retry`, `status` and `report`: from films to a label table and its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from insideout.errors import UsageError
from insideout.messages import LEFT_OUT, shown
from pipelines.cli_train import absolute

if TYPE_CHECKING:
    from insideout.plan import LabelSettings

#: So many films are opened before Ray is started, so that a wrong path is answered at once.
_PROBED = 16

Films = Annotated[list[str], typer.Argument(help="A file, a folder, a glob or an fsspec URL; several are fine.")]
PackPath = Annotated[Path, typer.Option("--pack", help="Folder of a model pack.")]
Every = Annotated[int | None, typer.Option(min=1, help="Look at every n-th frame: ordinals 0, n, 2n … (default 4)")]
Fps = Annotated[str | None, typer.Option(help="Look at so many frames a second instead, such as 2 or 24000/1001.")]
Keyframes = Annotated[bool, typer.Option("--keyframes", help="Look at key frames only.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to use; a local Ray is started otherwise.")]
GpusPerActor = Annotated[
    float, typer.Option(min=0.01, max=1, help="GPU of each model actor where Ray has any; fractions share one.")
]
Cpus = Annotated[
    int | None, typer.Option(min=1, help="CPUs to use in all; a cluster that adds machines when asked grows to it.")
]
Gpus = Annotated[float | None, typer.Option(min=0, help="GPUs to use in all, likewise; those there now by default.")]
CopyFilms = Annotated[
    bool, typer.Option("--copy-films", help="Copy films from storage to each machine instead of reading by range.")
]
WithReport = Annotated[bool, typer.Option("--report/--no-report", help="Write DIR/report.html at the end.")]
Output = Annotated[str, typer.Argument(metavar="DIR", help="The output folder of `insideout label`.")]


def _sampling(every: int | None, fps: str | None, keyframes: bool) -> str:
    if sum((every is not None, fps is not None, keyframes)) > 1:
        raise UsageError("--every, --fps and --keyframes exclude each other; give one")
    if keyframes:
        return "keyframes"
    return f"fps:{fps}" if fps else f"every:{every or 4}"


def plan(films: Films, every: Every = None, fps: Fps = None, keyframes: Keyframes = False) -> None:
    """Say what `label` would do: films, frames, spans. Decodes nothing."""
    from insideout.film import Sampling, open_film
    from insideout.sources import find_films
    from insideout.spans import plan_reels

    sampling = Sampling.parse(_sampling(every, fps, keyframes))
    frames = 0
    for path in find_films(films):
        film = open_film(path)
        samples = sampling.ordinals(film)
        reels = plan_reels(film, samples, keyframes_only=sampling.keyframes)
        frames += len(samples)
        typer.echo(
            f"{shown(path)}\n  film {film.film}: {film.width}x{film.height} {film.codec}, {film.frames} frames at"
            f" {float(film.fps):.3f}/s, {film.duration_s:.1f} s\n  {sampling}: {len(samples)} frames in"
            f" {sum(len(reel.spans) for reel in reels)} spans, {len(reels)} reels"
        )
    typer.echo(f"{frames} frames to look at")


def label(
    films: Films,
    pack: PackPath,
    out: Annotated[str, typer.Option("--out", help="Output folder or fsspec URL; run again to go on.")],
    every: Every = None,
    fps: Fps = None,
    keyframes: Keyframes = False,
    confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score of a character; the pack's own by default.")
    ] = None,
    crops: Annotated[bool, typer.Option("--crops", help="Store the picture of every crop in the table.")] = False,
    crop_size: Annotated[
        int, typer.Option(min=16, help="With --crops: most pixels a side; smaller ones stay as they are.")
    ] = 256,
    cpus: Cpus = None,
    gpus: Gpus = None,
    gpus_per_actor: GpusPerActor = 0.5,
    copy_films: CopyFilms = False,
    address: Address = None,
    report: WithReport = True,
) -> None:
    """Label films: who is in each sampled frame, where, and with what emotion."""
    from insideout.film import Sampling
    from insideout.packs import load_pack
    from insideout.plan import LabelSettings
    from insideout.sources import find_films

    settings = LabelSettings(
        sampling=_sampling(every, fps, keyframes), confidence=confidence, crop_size=crop_size if crops else None
    )
    Sampling.parse(settings.sampling)
    paths = [absolute(path) for path in find_films(films)]
    load_pack(pack)
    _run_label(paths, pack, out, settings, gpus_per_actor, copy_films, address, cpus, gpus)
    if report:
        _write_report(out)


def retry(
    run: Output,
    pack: PackPath,
    cpus: Cpus = None,
    gpus: Gpus = None,
    gpus_per_actor: GpusPerActor = 0.5,
    copy_films: CopyFilms = False,
    address: Address = None,
    report: WithReport = True,
) -> None:
    """Try the failed frames of a run again, and do what is missing; nothing else is done twice."""
    from insideout.packs import load_pack
    from insideout.retry import forget_failures
    from insideout.store import Store

    again = forget_failures(Store(run), load_pack(pack))
    typer.echo(f"failed frames to try again: {again.failed}")
    if unknown := [path for path in again.films if path.endswith(LEFT_OUT)]:
        raise UsageError(
            f"{unknown[0]}: the query of a URL is never stored, so this film cannot be opened from here; give its URL"
            " to `insideout label` with the same pack, settings and --out, which does what is missing now"
        )
    _run_label(list(again.films), pack, run, again.settings, gpus_per_actor, copy_films, address, cpus, gpus)
    if report:
        _write_report(run)


def _run_label(
    paths: list[str],
    pack: Path,
    out: str,
    settings: LabelSettings,
    gpus_per_actor: float,
    copy_films: bool,
    address: str | None,
    cpus: int | None,
    gpus: float | None,
) -> None:
    from insideout.film import open_video
    from pipelines.cluster import connected
    from pipelines.gpus import usable
    from pipelines.label import label as run_label
    from pipelines.progress import Tally
    from pipelines.summary import run_lines

    target = absolute(out)
    for path in paths[:_PROBED]:
        with open_video(path):
            pass
    with Tally("looking at films", "films") as looked, Tally("labelling") as progress, connected(address) as there:
        resources = usable(there.asked(cpus, gpus), asked=gpus is not None)
        if len(paths) > 1:
            looked.start(len(paths))
        manifest = run_label(
            paths,
            str(pack.resolve()),
            target,
            settings,
            resources,
            gpus_per_actor=gpus_per_actor,
            copy_films=copy_films,
            on_film=looked.advance,
            on_plan=lambda outlook: progress.start(outlook["frames"]),
            on_span=lambda line: progress.advance(line["frames"]),
        )
    for line in run_lines(manifest):
        typer.echo(line)
    if manifest["counts"]["failed"]:
        typer.echo(f"some frames failed: {out}/frames has the reasons; `insideout retry {out}` tries them again")
    if manifest["unfinished"]:
        typer.echo(f"films of this folder that other runs have begun and not finished: {manifest['unfinished']}")
    typer.echo(f"label table: {out}")


def status(run: Output) -> None:
    """Show what is done and what is missing, also while a run is going on."""
    from insideout.manifest import run_status
    from insideout.store import Store
    from pipelines.summary import status_lines

    found = run_status(Store(run))
    for line in status_lines(found):
        typer.echo(line)
    raise typer.Exit(0 if found["done"] else 1)


def report(run: Output) -> None:
    """Write DIR/report.html: one self-contained page with pictures."""
    _write_report(run)


def _write_report(run: str) -> None:
    from insideout.report import write_report
    from pipelines.progress import steps

    with steps() as say:
        written = write_report(run, say=say)
    typer.echo(f"report: {written}")
