"""The commands `insideout tune …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from insideout.errors import RecipeError, UsageError
from pipelines.cli_train import absolute
from tune.settings import Algorithm, Rule, Share, Sweep

tune_app = typer.Typer(help="Search for a better recipe.", no_args_is_help=True)

Cpus = Annotated[float, typer.Option(min=1, help="CPUs of each trial.")]
Gpus = Annotated[float, typer.Option(min=0, help="GPUs of each trial; with fractions several share one.")]
AtOnce = Annotated[int | None, typer.Option("--max-concurrent", min=1, help="Trials side by side at most.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Time budget of the sweep, in minutes.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to use; a local Ray is started otherwise.")]


@tune_app.command("emotion")
def tune_emotion(
    data: Annotated[list[str], typer.Option(help="As for `insideout train emotion`. Repeat to join.")],
    space: Annotated[Path, typer.Option(help="YAML space: what is searched, and what all trials share.")],
    out: Annotated[str, typer.Option(help="Folder or fsspec URL; running again goes on with its trials.")],
    trials: Annotated[int, typer.Option(min=1, help="Trainings, the student's recipe included.")] = 24,
    labels: Annotated[Path | None, typer.Option(help="Table of labels, for --data of `label --crops`.")] = None,
    pretrained: Annotated[str | None, typer.Option(help="As for `insideout train emotion`.")] = None,
    search: Annotated[Algorithm, typer.Option(help="How trials are drawn.")] = "optuna",
    scheduler: Annotated[Rule, typer.Option(help="Which trials go on.")] = "asha",
    grace: Annotated[int | None, typer.Option(min=1, help="Epochs that every trial has; a sixth by default.")] = None,
    reduction: Annotated[int, typer.Option(min=2, help="Of asha: one in so many goes on.")] = 3,
    folds: Annotated[
        int, typer.Option(min=0, help="Score on so many folds by scene of train instead of on valid.")
    ] = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    at_once: AtOnce = None,
    minutes: Minutes = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search; trainings take the recipe's.")] = 0,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Search though train and valid share shots.")
    ] = False,
    address: Address = None,
) -> None:
    """Search a recipe for the emotion classifier with Ray Tune."""
    from tune.space import Space

    if Space.read(space).of != "emotion":
        raise RecipeError(f"{space}: a space of the segmenter, which cannot be swept yet; give one `of: emotion`")
    if folds == 1:
        raise UsageError("--folds 1: one fold leaves nothing to train on; give 2 or more")
    sweep = Sweep(
        of="emotion",
        data=tuple(absolute(source) for source in data),
        labels=str(labels.resolve()) if labels else None,
        space=space.read_text(),
        trials=trials,
        algorithm=search,
        rule=scheduler,
        folds=folds,
        pretrained=pretrained if pretrained is None or pretrained.startswith("imagenet") else absolute(pretrained),
        grace=grace,
        reduction=reduction,
        seed=seed,
        allow_leaks=allow_leaks,
    )
    _run(sweep, out, Share(cpus, gpus, at_once, 60 * minutes if minutes else None), address)


@tune_app.command("resume")
def resume(
    run: Annotated[str, typer.Argument(metavar="DIR", help="The --out of a sweep.")],
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    at_once: AtOnce = None,
    minutes: Minutes = None,
    address: Address = None,
) -> None:
    """Go on with a sweep that was interrupted: the same trials, none that is finished again."""
    from insideout.store import Store
    from tune.sweep import read_sweep

    sweep = read_sweep(Store(run))
    _run(sweep, run, Share(cpus, gpus, at_once, 60 * minutes if minutes else None), address)


@tune_app.command("report")
def report(run: Annotated[str, typer.Argument(metavar="DIR", help="The --out of a sweep.")]) -> None:
    """Write results.parquet, best.yaml and report.html of a sweep, also while it runs."""
    from insideout.store import Store
    from tune.report import write_report
    from tune.sweep import read_space, read_sweep, write_results

    store = Store(run)
    sweep = read_sweep(store)
    space = read_space(sweep)
    write_results(store, space)
    typer.echo(f"report: {write_report(store, sweep, space)}")


def _run(sweep: Sweep, out: str, share: Share, address: str | None) -> None:
    from pipelines.cluster import connected
    from tune.results import BEST, RESULTS
    from tune.sweep import run

    with connected(address):
        best = run(sweep, absolute(out), share)
    where = out.rstrip("/")
    if best.student:
        typer.echo(f"no trial beat the student's recipe: score {best.score:.3f}")
    else:
        typer.echo(f"best: {best.name}, score {best.score:.3f}")
    typer.echo(f"recipe: {where}/{BEST}\ntrials: {where}/{RESULTS}")
