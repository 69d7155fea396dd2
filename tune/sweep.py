"""Search for a better recipe with Ray Tune: many short trainings, the best of which is a recipe in YAML.

space -> trials (the student's recipe first) -> results.parquet and best.yaml

python -m tune.sweep emotion --data EXPORT --space configs/space-emotion.yaml --trials 24 --out DIR
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Ray Tune keeps the state of a sweep as often as this, in seconds: what a kill can lose.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "10")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# The newer output prints a banner that cannot be turned off; ours is in tune/progress.py.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Ctrl+C ends the command; by Ray Tune's own handler the sweep would end as if all its trials had been run.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")

from ray import tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback

from insideout.errors import OutputError, UsageError
from insideout.store import Store
from pipelines.workers import check_places
from tune import emotion, nested, segmenter
from tune.progress import Told
from tune.report import write_report
from tune.results import BEST, RESULTS, TRIALS, TrialResult, best_trial, read_trials, results_table
from tune.schedulers import METRIC, MODE, build_scheduler
from tune.search import StudentFirst, trial_recipe
from tune.settings import METRICS, Share, Sweep
from tune.space import Space

SWEEP = "sweep.json"
#: Its key for what its data and its starting weights held.
DIGEST = "content of data and weights"
#: Run folders of nested trials.
NESTED = "nested"


def run(sweep: Sweep, out: str, share: Share, loggers: Sequence[tune.Callback] = ()) -> TrialResult:
    """Run or go on with a sweep on a started Ray cluster and return the best trial.

    `out` (a folder or an fsspec URL) gets sweep.json, trials/, results.parquet, and best.yaml, a
    recipe for `insideout train emotion --recipe`. Raises OutputError where `out` has another sweep or
    no trial reported a score, RecipeError for a space that cannot be, DataError for unusable data,
    UsageError for settings that cannot go together, or more CPUs or GPUs than the cluster has.
    """
    store = Store(out)
    check(sweep, share)
    space = read_space(sweep)
    job: Any
    if sweep.of == "segmenter":
        job, trial = segmenter.prepare(sweep, space, share, store), segmenter.train
    else:
        job, trial = emotion.prepare(sweep, space, share, store), emotion.train
    claim(sweep, store, job.digest)
    resources = {"cpu": share.cpus} | ({"gpu": share.gpus} if share.gpus else {})
    at_once = share.at_once
    if sweep.nested:
        job = nested.NestedJob(job, f"{store.root.rstrip('/')}/{NESTED}", share.workers, bool(share.gpus))
        trial, resources, at_once = nested.train, {"cpu": nested.OWN_CPU}, nested.at_once(share)
    able = tune.with_resources(tune.with_parameters(trial, job=job), resources)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tuner = _tuner(sweep, store, space, able, at_once, share.seconds, loggers)
    with _quiet():
        tuner.fit()
    best = write_results(store, sweep, space)
    write_report(store, sweep, space)
    return best


def write_results(store: Store, sweep: Sweep, space: Space) -> TrialResult:
    """Write results.parquet and best.yaml from what the trials left, and return the best trial."""
    trials = read_trials(store)
    store.write_table(RESULTS, results_table(trials, space))
    best = best_trial(trials)
    about = "the student's recipe, which no other trial beat" if best.student else f"of {len(trials)} trials the best"
    config = best.epochs[-1].get("config", best.config)
    if any(report.get("config", config) != config for report in best.epochs):
        about += ", whose settings changed on its way: these are the last of them,"
    text = (
        f"# insideout train {space.of} --data DATA --recipe {BEST} --out runs/{space.of}\n"
        f"# {about} by what chose it: {sweep.judged_by} {best.score:.3f}, trial {best.name}\n"
    )
    store.write(BEST, (text + trial_recipe(space, config).to_yaml()).encode())
    return best


def claim(sweep: Sweep, store: Store, digest: str) -> None:
    """Write what this folder is for, or refuse a folder that is for another sweep, or for data that has changed."""
    mine = json.loads(json.dumps(asdict(sweep))) | {DIGEST: digest}
    if store.exists(SWEEP):
        other = store.read_json(SWEEP)
        other.setdefault(DIGEST, digest)  # of a version that did not keep it
        changed = sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key))
        if changed:
            raise OutputError(
                f"{store.path(SWEEP)}: this folder has another sweep ({', '.join(changed)} differ); choose another"
                " --out, or go on with `insideout tune resume`"
            )
    store.write_json(SWEEP, mine)


def read_sweep(store: Store) -> Sweep:
    """The sweep of a folder. Raises OutputError where there is none."""
    if not store.exists(SWEEP):
        raise OutputError(f"{store.root}: no sweep there; give the folder that `insideout tune … --out` wrote")
    raw = store.read_json(SWEEP)
    try:
        raw.pop(DIGEST, None)
        return Sweep(**raw | {"data": tuple(raw["data"])})
    except (TypeError, KeyError) as error:
        raise OutputError(f"{store.path(SWEEP)}: of another version ({error}); start the sweep anew") from error


def read_space(sweep: Sweep) -> Space:
    """The space of a sweep. Raises RecipeError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(sweep.space)
        return Space.read(path)


def check(sweep: Sweep, share: Share) -> None:
    """Raises UsageError for what cannot go together, and rather than wait for what the cluster does not have."""
    if sweep.judged_by not in METRICS[sweep.of]:
        raise UsageError(
            f"--metric {sweep.metric}: no trial of the {sweep.of} reports it; choose from"
            f" {', '.join(METRICS[sweep.of])}"
        )
    if sweep.rule == "pbt":
        if sweep.of != "emotion" or sweep.nested:
            what = "a nested trial" if sweep.nested else "a training of ultralytics"
            raise UsageError(f"--scheduler pbt: {what} cannot change its settings on its way; choose asha or median")
        if sweep.algorithm != "random":
            raise UsageError(
                f"--scheduler pbt: changes settings while trials run, which would mislead {sweep.algorithm}; add"
                " --search random"
            )
    if sweep.nested and sweep.of != "emotion":
        raise UsageError("--nested: a segmenter is trained by ultralytics, in one process; leave it out")
    if sweep.folds and sweep.of != "emotion":
        raise UsageError("--folds: a segmenter is scored on val; leave it out")
    advice = f"ask for fewer --cpus or --gpus{' or --workers' if sweep.nested else ''} of a trial"
    check_places(share.workers if sweep.nested else 1, share.cpus, share.gpus, advice)


def _tuner(
    sweep: Sweep,
    store: Store,
    space: Space,
    able: Callable[..., None],
    at_once: int | None,
    seconds: float | None,
    loggers: Sequence[tune.Callback],
) -> tune.Tuner:
    where = store.path(TRIALS)
    # Ray Tune writes tuner.pkl before anything has begun; without a state it would go on with one trial only.
    begun = any("/experiment_state-" in key for key in store.list(TRIALS, ".json"))
    if begun and tune.Tuner.can_restore(where, storage_filesystem=store.arrow()):
        return tune.Tuner.restore(where, able, storage_filesystem=store.arrow())
    scheduler = build_scheduler(sweep.rule, space, grace=sweep.grace, reduction=sweep.reduction, seed=sweep.seed)
    return tune.Tuner(
        able,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode=MODE,
            search_alg=StudentFirst(space, sweep.algorithm, METRIC, MODE, sweep.seed),
            scheduler=scheduler,
            num_samples=sweep.trials,
            max_concurrent_trials=at_once,
            time_budget_s=seconds,
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=TRIALS,
            storage_path=store.path("").rstrip("/"),
            storage_filesystem=store.arrow(),
            # A trial whose process dies goes on after its last epoch, once; what fails twice is at fault itself.
            failure_config=tune.FailureConfig(max_failures=1),
            # Of population-based training others may go on from a checkpoint that is not the last any more.
            checkpoint_config=tune.CheckpointConfig(num_to_keep=None if sweep.rule == "pbt" else 1),
            callbacks=[JsonLoggerCallback(), CSVLoggerCallback(), Told(sweep.trials), *loggers],
            verbose=0,
        ),
    )


@contextlib.contextmanager
def _quiet() -> Any:
    """Ray Tune's remarks on its own state are not for our users; what fails is in the table."""
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # An actor is not used for two trials: what a training leaves behind in a process is not ours to know.
            warnings.filterwarnings("ignore", "Consider boosting PBT", UserWarning)
            yield
    finally:
        logger.setLevel(before)


if __name__ == "__main__":
    # Under its name, so that what travels to the workers is not of __main__.
    from pipelines.cli import main
    from tune.cli import tune_app

    main(tune_app)
