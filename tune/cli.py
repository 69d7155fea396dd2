"""The commands `insideout tune …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from insideout.errors import RecipeError, UsageError
from pipelines.cli_train import absolute
from tune.settings import Algorithm, Log, Rule, Share, Sweep

tune_app = typer.Typer(help="Search for a better recipe.", no_args_is_help=True, pretty_exceptions_enable=False)

SpaceFile = Annotated[Path, typer.Option(help="YAML file: what is searched.")]
Out = Annotated[str, typer.Option(help="Folder or URL; running again goes on there.")]
Trials = Annotated[int, typer.Option(min=1, help="How many, the student's recipe included.")]
Search = Annotated[Algorithm | None, typer.Option(help="How trials are drawn; random for pbt.")]
Scheduler = Annotated[Rule, typer.Option(help="Which trials go on.")]
Grace = Annotated[int | None, typer.Option(min=1, help="Epochs of every trial; a sixth by default.")]
Reduction = Annotated[int, typer.Option(min=2, help="Of asha: one in so many goes on.")]
Logs = Annotated[list[Log] | None, typer.Option(metavar="TO", help="tensorboard, mlflow or wandb. Repeat for several.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the search; trainings take the recipe's.")]
AllowLeaks = Annotated[bool, typer.Option("--allow-leaks", help="Search though train and val share shots.")]
Winner = Annotated[bool, typer.Option("--winner/--no-winner", help="Train the winning recipe at the end.")]
Cpus = Annotated[float, typer.Option(min=1, help="CPUs of each trial.")]
Gpus = Annotated[float, typer.Option(min=0, help="GPUs of each trial; fractions share one.")]
Workers = Annotated[int, typer.Option(min=1, help="Of the winner, and of each --nested trial.")]
AtOnce = Annotated[int | None, typer.Option("--max-concurrent", min=1, help="Trials side by side at most.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Time budget of the search, in minutes.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to use; a local Ray is started otherwise.")]


@tune_app.command("emotion")
def tune_emotion(
    data: Annotated[list[str], typer.Option(help="As for `train emotion`. Repeat to join.")],
    space: SpaceFile,
    out: Out,
    trials: Trials = 24,
    labels: Annotated[Path | None, typer.Option(help="Labels of --data of `label --crops`.")] = None,
    pretrained: Annotated[str | None, typer.Option(help="As for `insideout train emotion`.")] = None,
    search: Search = None,
    scheduler: Scheduler = "asha",
    metric: Annotated[str, typer.Option(help="macro_f1, balanced_accuracy or accuracy.")] = "macro_f1",
    grace: Grace = None,
    reduction: Reduction = 3,
    folds: Annotated[int, typer.Option(min=0, help="Score on folds by scene of train, not on valid.")] = 0,
    nested: Annotated[bool, typer.Option("--nested", help="Trials with --workers, for several GPUs each.")] = False,
    log: Logs = None,
    winner: Winner = True,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    workers: Workers = 1,
    at_once: AtOnce = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    allow_leaks: AllowLeaks = False,
    address: Address = None,
) -> None:
    """Search a recipe for the emotion classifier with Ray Tune."""
    if folds == 1:
        raise UsageError("--folds 1: one fold leaves nothing to train on; give 2 or more")
    from pipelines.pretrained import everywhere

    sweep = Sweep(
        of="emotion",
        data=tuple(absolute(source) for source in data),
        labels=str(labels.resolve()) if labels else None,
        space=_text(space, "emotion"),
        trials=trials,
        algorithm=search or ("random" if scheduler == "pbt" else "optuna"),
        rule=scheduler,
        metric=metric,
        folds=folds,
        pretrained=everywhere(pretrained),
        grace=grace,
        reduction=reduction,
        seed=seed,
        nested=nested,
        allow_leaks=allow_leaks,
    )
    _run(sweep, out, Share(cpus, gpus, at_once, _seconds(minutes), workers), address, log or [], winner)


@tune_app.command("segmenter")
def tune_segmenter(
    data: Annotated[Path, typer.Option(help="YOLO segmentation export, as for `insideout train segmenter`.")],
    space: SpaceFile,
    out: Out,
    trials: Trials = 12,
    pretrained: Annotated[str | None, typer.Option(help="As for `insideout train segmenter`.")] = None,
    search: Search = None,
    scheduler: Scheduler = "asha",
    metric: Annotated[
        str, typer.Option(help="mask_map50_95, mask_map50, box_map50_95 or box_map50.")
    ] = "mask_map50_95",
    grace: Grace = None,
    reduction: Reduction = 3,
    log: Logs = None,
    winner: Winner = True,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    at_once: AtOnce = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    allow_leaks: AllowLeaks = False,
    address: Address = None,
) -> None:
    """Search a recipe for the segmenter: ultralytics' own hyper-parameters, with Ray Tune."""
    sweep = Sweep(
        of="segmenter",
        data=(str(data.resolve()),),
        labels=None,
        space=_text(space, "segmenter"),
        trials=trials,
        algorithm=search or "optuna",
        rule=scheduler,
        metric=metric,
        pretrained=pretrained if pretrained in (None, "coco") else absolute(pretrained),
        grace=grace,
        reduction=reduction,
        seed=seed,
        allow_leaks=allow_leaks,
    )
    _run(sweep, out, Share(cpus, gpus, at_once, _seconds(minutes)), address, log or [], winner)


@tune_app.command("resume")
def resume(
    run: Annotated[str, typer.Argument(metavar="DIR", help="The --out of a sweep.")],
    winner: Winner = True,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    workers: Workers = 1,
    at_once: AtOnce = None,
    minutes: Minutes = None,
    address: Address = None,
) -> None:
    """Go on with a sweep that was interrupted: the same trials, none that is finished again.

    Only in a folder of your own: Ray Tune unpickles what it left there.
    """
    from insideout.store import Store
    from tune.sweep import read_sweep

    sweep = read_sweep(Store(run))
    _run(sweep, run, Share(cpus, gpus, at_once, _seconds(minutes), workers), address, [], winner)


@tune_app.command("report")
def report(run: Annotated[str, typer.Argument(metavar="DIR", help="The --out of a sweep.")]) -> None:
    """Write results.parquet, best.yaml and report.html of a sweep, also while it runs."""
    from insideout.store import Store
    from tune.report import write_report
    from tune.sweep import read_space, read_sweep, write_results

    store = Store(run)
    sweep = read_sweep(store)
    space = read_space(sweep)
    write_results(store, sweep, space)
    typer.echo(f"report: {write_report(store, sweep, space)}")


def _text(space: Path, of: str) -> str:
    """A space as it is written. Raises RecipeError for one of another kind."""
    from tune.space import Space

    found = Space.read(space).of
    if found != of:
        raise RecipeError(f"{space}: a space `of: {found}`; sweep it with `insideout tune {found}`")
    return space.read_text()


def _seconds(minutes: float | None) -> float | None:
    return 60 * minutes if minutes else None


def _run(sweep: Sweep, out: str, share: Share, address: str | None, logs: list[Log], winner: bool) -> None:
    from insideout.store import Store
    from pipelines.cluster import connected
    from tune.loggers import build_loggers
    from tune.results import BEST, RESULTS
    from tune.sweep import run
    from tune.winner import check_winner, train_winner

    where, store = out.rstrip("/"), Store(absolute(out))
    loggers = build_loggers(logs, Path(where).name)
    with connected(address, dashboard=sweep.nested):
        if winner:
            check_winner(sweep, store, share)
        best = run(sweep, store.root, share, loggers)
    if best.student:
        typer.echo(f"no trial beat the student's recipe: score {best.score:.3f}")
    else:
        typer.echo(f"best: {best.name}, score {best.score:.3f}")
    typer.echo(f"recipe: {where}/{BEST}\ntrials: {where}/{RESULTS}")
    if winner:
        with connected(address, training=True):
            typer.echo(f"winner: {train_winner(sweep, store, share)}")
