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
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

# Ray Tune keeps the state of a sweep as often as this, in seconds: what a kill can lose.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "10")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# The newer output prints a banner that cannot be turned off; ours is in tune/progress.py.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback

from insideout.backbones import PUBLISHED, published_weights
from insideout.errors import OutputError, UsageError
from insideout.leaks import audit, refuse_leaks
from insideout.recipes.crops import find_unreadable
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.store import Store
from tune.progress import Told
from tune.report import write_report
from tune.results import BEST, RESULTS, TRIALS, TrialResult, best_trial, read_trials, results_table
from tune.schedulers import METRIC, MODE, build_scheduler
from tune.search import StudentFirst, trial_recipe
from tune.settings import Share, Sweep
from tune.space import Range, Space
from tune.trial import Job, train_emotion

SWEEP = "sweep.json"


def run(sweep: Sweep, out: str, share: Share, loggers: Sequence[tune.Callback] = ()) -> TrialResult:
    """Run or go on with a sweep on a started Ray cluster and return the best trial.

    `out` (a folder or an fsspec URL) gets sweep.json, trials/, results.parquet, and best.yaml, a
    recipe for `insideout train emotion --recipe`. Raises OutputError where `out` has another sweep or
    no trial reported a score, RecipeError for a space that cannot be, DataError for unusable data,
    UsageError for more CPUs or GPUs than the cluster has.
    """
    store = Store(out)
    _check_share(share)
    space = read_space(sweep)
    recipe = trial_recipe(space, {})
    assert isinstance(recipe, EmotionRecipe)
    pretrained = sweep.pretrained
    if pretrained in PUBLISHED:
        local = Path(out) if store.local else Path(tempfile.gettempdir())
        pretrained = str(published_weights(recipe.backbone, pretrained, local))
    device = "cuda" if share.gpus else "cpu"
    job = Job(sweep.data, sweep.labels, space, pretrained, max(1, int(share.cpus)), device, sweep.folds)
    crops = job.read()
    job = replace(job, unreadable=tuple(find_unreadable(crops)))
    found = audit(crops.train.crops, crops.valid.crops, hashes=False)
    if not sweep.allow_leaks:
        refuse_leaks({"train and valid": found}, ", ".join(sweep.data))
    claim(sweep, store)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tuner = _tuner(sweep, store, space, share, tune.with_parameters(train_emotion, job=job), loggers)
    with _quiet():
        tuner.fit()
    best = write_results(store, space)
    write_report(store, sweep, space)
    return best


def write_results(store: Store, space: Space) -> TrialResult:
    """Write results.parquet and best.yaml from what the trials left, and return the best trial."""
    trials = read_trials(store)
    store.write_table(RESULTS, results_table(trials, space))
    best = best_trial(trials)
    about = "the student's recipe, which no other trial beat" if best.student else f"of {len(trials)} trials the best"
    text = (
        f"# insideout train {space.of} --data DATA --recipe {BEST} --out runs/{space.of}\n"
        f"# {about} on what chose it: {METRIC} {best.score:.3f}, trial {best.name}\n"
    )
    store.write(BEST, (text + trial_recipe(space, best.config).to_yaml()).encode())
    return best


def claim(sweep: Sweep, store: Store) -> None:
    """Write what this folder is for, or refuse a folder that is for another sweep."""
    mine = json.loads(json.dumps(asdict(sweep)))
    if store.exists(SWEEP):
        other = store.read_json(SWEEP)
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
        return Sweep(**raw | {"data": tuple(raw["data"])})
    except (TypeError, KeyError) as error:
        raise OutputError(f"{store.path(SWEEP)}: of another version ({error}); start the sweep anew") from error


def read_space(sweep: Sweep) -> Space:
    """The space of a sweep. Raises RecipeError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(sweep.space)
        return Space.read(path)


def _check_share(share: Share) -> None:
    """Raises UsageError rather than wait for what the cluster does not have."""
    has = ray.cluster_resources()
    for kind, needed in (("CPU", share.cpus), ("GPU", share.gpus)):
        if needed > has.get(kind, 0):
            raise UsageError(
                f"a trial needs {needed:g} {kind}s, the cluster has {has.get(kind, 0):g}; ask for fewer with"
                f" --{kind.lower()}s"
            )


def _tuner(
    sweep: Sweep,
    store: Store,
    space: Space,
    share: Share,
    trainable: Callable[..., None],
    loggers: Sequence[tune.Callback],
) -> tune.Tuner:
    resources = {"cpu": share.cpus} | ({"gpu": share.gpus} if share.gpus else {})
    able = tune.with_resources(trainable, resources)
    filesystem = None if store.local else _arrow(store)
    where = store.path(TRIALS)
    if tune.Tuner.can_restore(where, storage_filesystem=filesystem):
        return tune.Tuner.restore(where, able, storage_filesystem=filesystem)
    scheduler = build_scheduler(sweep.rule, _epochs(space), grace=sweep.grace, reduction=sweep.reduction)
    return tune.Tuner(
        able,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode=MODE,
            search_alg=StudentFirst(space, sweep.algorithm, METRIC, MODE, sweep.seed),
            scheduler=scheduler,
            num_samples=sweep.trials,
            max_concurrent_trials=share.at_once,
            time_budget_s=share.seconds,
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=TRIALS,
            storage_path=store.path("").rstrip("/"),
            storage_filesystem=filesystem,
            # A trial whose process dies goes on after its last epoch, once; what fails twice is at fault itself.
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            callbacks=[JsonLoggerCallback(), CSVLoggerCallback(), Told(sweep.trials), *loggers],
            verbose=0,
        ),
    )


def _epochs(space: Space) -> int:
    """Most epochs that a trial of the space can have."""
    searched = space.search.get("epochs")
    if isinstance(searched, Range):
        return int(searched.high)
    if searched is not None:
        return max(int(value) for value, _ in searched.options)
    return max(1, int(space.recipe({}).model_dump()["epochs"]))


def _arrow(store: Store) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(store.fs))


@contextlib.contextmanager
def _quiet() -> Any:
    """Ray Tune's remarks on its own state are not for our users; what fails is in the table."""
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


if __name__ == "__main__":
    # Under its name, so that what travels to the workers is not of __main__.
    from pipelines.cli import main
    from tune.cli import tune_app

    main(tune_app)
