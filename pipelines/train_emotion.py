"""Train the emotion classifier with Ray Train, on one CPU or many GPUs.

crops -> workers (DDP) -> a checkpoint each epoch -> the best by macro-F1 on valid, or the last
      -> with --calibrate, folds of train by scene -> out-of-fold predictions -> temperature

python -m pipelines.train_emotion --data EXPORT --recipe configs/emotion-student.yaml --out DIR
"""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model

from insideout.backbones import PUBLISHED
from insideout.errors import InsideoutError, OutputError, StorageError, TrainingError
from insideout.leaks import audit_training, refuse_leaks
from insideout.recipes.crops import CropData, find_unreadable, read_crops
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.store import Store
from pipelines.pretrained import fetched, published, weights_digest
from pipelines.workers import share

# What trains and scores is imported where it does: Ray's controller of a run imports this module too, and
# torchvision and scikit-learn would take it longer than all the rest.

#: What of a checkpoint is the result; the rest serves to go on from it.
RESULT = ("model.safetensors", "meta.json", "valid.parquet")


@dataclass(frozen=True)
class Job:
    """What every worker is told: plain values, since they travel to other machines."""

    data: tuple[str, ...]
    labels: str | None
    recipe: dict[str, Any]
    threads: int
    pretrained: str | None
    unreadable: tuple[str, ...] = ()
    fold: int | None = None
    folds: int = 0

    def read(self) -> CropData:
        """The crops of this training."""
        labels = Path(self.labels) if self.labels else None
        crops = read_crops(self.data, EmotionRecipe(**self.recipe).classes, labels).without(self.unreadable)
        return crops if self.fold is None else crops.inner_fold(self.fold, self.folds)


def run(
    data: Path | str | Sequence[Path | str],
    recipe: EmotionRecipe,
    out: Path | str,
    *,
    workers: int = 1,
    gpus: int = 0,
    cpus: int | None = None,
    pretrained: Path | str | None = None,
    labels: Path | None = None,
    calibrate: int = 0,
    allow_leaks: bool = False,
    name: str = "run",
) -> str:
    """Train on a started Ray cluster and return the folder of the result, `OUT/best`.

    It holds model.safetensors, meta.json (classes, recipe, scores on valid, counts), and valid.parquet
    (predictions for valid). `workers` train together, each on `cpus` (default: a share that all of them
    can have) and, with `gpus` > 0, on a GPU of its own. `pretrained` is a file or a checkpoint folder,
    local or a URL, or `imagenet`, the publisher's weights. With `calibrate` = K, K more networks are
    trained on train less a K-th of its scenes; the temperature that fits their predictions of the scenes
    they have not seen is stored with the result. `out` is a local folder or an fsspec URL
    (s3://bucket/prefix). Running again with the same `out` goes on after the last finished epoch, or
    says that all is done; another recipe or other data there is an OutputError. `data` and `out` must be
    seen by every node. Raises DataError for unusable data, TrainingError when no checkpoint comes out,
    UsageError for more CPUs or GPUs than the cluster has.
    """
    from insideout.recipes.emotion import check_start

    out, store = str(out), Store(out)
    workers = max(workers, gpus)
    threads = share(workers, 1 if gpus else 0, cpus)
    sources = [data] if isinstance(data, str | Path) else list(data)
    job = Job(tuple(map(str, sources)), str(labels) if labels else None, recipe.model_dump(), threads, None)
    crops = job.read()
    for split, classes in crops.left_out.items():
        print(f"{split}: left out " + ", ".join(f"{n} {name}" for name, n in classes.items()), flush=True)
    unreadable = find_unreadable(crops)
    for bad in unreadable:
        print(f"not readable, left out: {bad}", flush=True)
    crops = crops.without(unreadable)
    found = audit_training(crops.train.crops, crops.valid.crops)
    if found.warning:
        print(found.warning, flush=True)
    if not allow_leaks:
        refuse_leaks({"train and valid": found}, ", ".join(map(str, sources)))
    for leak in found.leaks:
        print(f"leak, allowed: {leak}", flush=True)
    inner = [crops.inner_fold(k, calibrate) for k in range(calibrate)]
    start = str(pretrained or "none")
    if start in PUBLISHED:
        pretrained = published(recipe.backbone, start, store)
    with fetched(str(pretrained) if pretrained else None) as weights:
        told = check_start(recipe, crops, folds=inner, world=workers, pretrained=weights)
        if weights and start not in PUBLISHED:
            start = weights_digest(weights)
    _claim(store, recipe, crops.digest, start)
    best = f"{out.rstrip('/')}/best"
    # Written last; with the claim it says that this very training has ended.
    done = store.read_json("best/meta.json") if store.exists("best/meta.json") else None
    if done and calibrate in (0, done.get("calibration_folds")):
        print(f"already done: {_result_line(done)}", flush=True)
        return best
    print(f"start: {told}", flush=True)
    job = replace(job, pretrained=str(pretrained) if pretrained else None, unreadable=tuple(unreadable))
    if not done:
        _publish(fit(job, store, name, workers, gpus, recipe.keep), store)
    if calibrate:
        folds = [
            fit(replace(job, fold=k, folds=calibrate), store, f"{name}-fold{k}of{calibrate}", workers, gpus, "last")
            for k in range(calibrate)
        ]
        _calibrate(folds, store)
    return best


def fit(
    job: Job,
    store: Store,
    name: str,
    workers: int,
    gpus: int,
    keep: str,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> Checkpoint:
    """Train by Ray Train in the folder `name` of a store, or go on there, and return the checkpoint to keep.

    `keep` is that of the recipe. Raises TrainingError when no checkpoint comes out, or the error of a
    worker that would come again.
    """
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=asdict(job),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": job.threads} | ({"GPU": 1} if gpus else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=store.path("").rstrip("/"),
            storage_filesystem=store.arrow(),
            callbacks=[EndAtOwnErrors(), *callbacks],
            # A worker that dies (a spot machine is taken back) is replaced and goes on after its last epoch.
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="macro_f1", checkpoint_score_order="max"
            ),
        ),
    )
    where = store.path(name)
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        own = getattr(error, "controller_failure", None)
        kept = max((key.rpartition("/")[0] for key in store.list(name, "/meta.json")), default=None)
        if isinstance(own, TrainingError):
            last = f"the last good checkpoint is {store.path(kept)}" if kept else "no epoch was finished before"
            raise TrainingError(f"{where}: {own}, in another --out; {last}") from error
        if isinstance(own, InsideoutError):
            raise own from error
        again = "goes on from the last finished epoch, which is kept there" if kept else "tries again"
        raise TrainingError(f"{where}: {_first_line(error)}; the same command {again}") from error
    best = result.get_best_checkpoint("macro_f1", "max")
    if result.checkpoint is None or best is None:
        raise TrainingError(f"{where}: training ended without a checkpoint")
    _write_curve(result.checkpoint, store, f"{name}.csv")
    return best if keep == "best" else result.checkpoint


class EndAtOwnErrors(ray.train.UserCallback):
    """Ends a run at an error of ours, which would come again; a worker that died is replaced.

    Storage that failed is tried again as well: it may answer the next time.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train in its controller; raises ControllerError, which it does not try again."""
        for error in worker_exceptions.values():
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, InsideoutError):
                cause = getattr(cause, "cause", None) or cause.__cause__
            if isinstance(cause, InsideoutError) and not isinstance(cause, StorageError):
                raise ray.train.ControllerError(cause)


def _write_curve(last: Checkpoint, store: Store, key: str) -> None:
    """Loss and scores of every epoch as a table."""
    with last.as_directory() as folder:
        history = json.loads((Path(folder) / "meta.json").read_text())["history"]
    text = io.StringIO()
    table = csv.DictWriter(text, history[0], lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    store.write(key, text.getvalue().encode())


def train_worker(config: dict[str, Any]) -> None:
    """What every worker does: its share of each batch; worker 0 evaluates and saves."""
    from insideout.recipes.emotion import EmotionTraining

    job = Job(**config)
    torch.set_num_threads(job.threads)
    logging.disable(logging.INFO)  # Ray tells of each checkpoint, by its path
    context = ray.train.get_context()
    rank = context.get_world_rank()
    recipe = EmotionRecipe(**job.recipe)
    with fetched(job.pretrained) as weights:
        training = EmotionTraining(
            recipe,
            job.read(),
            device=str(get_device()),
            wrap=prepare_model,
            rank=rank,
            world=context.get_world_size(),
            pretrained=weights,
            threads=job.threads,
        )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            training.restore(Path(folder))
    else:
        training.start()
    fold = "" if job.fold is None else f"fold {job.fold + 1}/{job.folds}  "
    # A probe alone has no epoch, and one checkpoint all the same.
    while training.epoch < recipe.epochs or (recipe.epochs == 0 and checkpoint is None):
        began = time.monotonic()
        loss = training.train_epoch() if recipe.epochs else training.history[-1]["loss"]
        if rank != 0:
            ray.train.report({"loss": loss})
            if recipe.epochs == 0:
                break
            continue
        figures = training.evaluate()
        with tempfile.TemporaryDirectory() as folder:
            training.save(Path(folder), figures)
            numbers = {key: value for key, value in figures.items() if isinstance(value, float)}
            ray.train.report({"epoch": training.epoch, "loss": loss} | numbers, Checkpoint.from_directory(folder))
        # Not print: Ray Train logs what is printed, so that it would come twice.
        sys.stdout.write(
            f"{fold}epoch {training.epoch}/{recipe.epochs}  loss {loss:.3f}  valid macro-F1 {figures['macro_f1']:.3f}"
            f"  balanced accuracy {figures['balanced_accuracy']:.3f}  nll {figures['nll']:.3f}"
            f"  {time.monotonic() - began:.1f} s\n"
        )
        sys.stdout.flush()
        if recipe.epochs == 0:
            break


def _claim(store: Store, recipe: EmotionRecipe, digest: str, pretrained: str) -> None:
    """Write what this folder is for, or refuse a folder that is for something else."""
    text = f"# data {digest}\n# pretrained {pretrained}\n{recipe.to_yaml()}".encode()
    if not store.exists("recipe.yaml"):
        store.write("recipe.yaml", text)
    if store.read("recipe.yaml") != text:
        raise OutputError(
            f"{store.path('recipe.yaml')}: this folder has a training with another recipe, other data or another start;"
            " choose another --out"
        )


def _publish(checkpoint: Checkpoint, store: Store) -> None:
    with checkpoint.as_directory() as folder:
        for file in RESULT:
            # meta.json comes last: a result without it is not taken for one.
            if file != "meta.json":
                store.write(f"best/{file}", (Path(folder) / file).read_bytes())
        store.write("best/meta.json", (Path(folder) / "meta.json").read_bytes())


def _calibrate(folds: list[Checkpoint], store: Store) -> None:
    from insideout.recipes.calibrate import calibrate_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        tables = []
        for k, checkpoint in enumerate(folds):
            with checkpoint.as_directory() as folder:
                table = Path(scratch) / f"fold{k}.parquet"
                table.write_bytes((Path(folder) / "valid.parquet").read_bytes())
                tables.append(table)
        before = store.read("best/meta.json")
        meta, table = calibrate_checkpoint(before, tables, Path(scratch) / "unseen.parquet")
        # A run that is cut off in between is not taken for a calibrated one, by the earlier calibration or this.
        store.write_json("best/meta.json", json.loads(before) | {"calibration_folds": None})
        store.write("best/unseen.parquet", table.read_bytes())
        store.write("best/meta.json", meta)


def _result_line(meta: dict[str, Any]) -> str:
    """What a finished training came to, in one line."""
    figures = meta["valid"]
    return (
        f"epoch {meta['epoch']} of {meta['recipe']['epochs']} is kept, valid macro-F1 {figures['macro_f1']:.3f}"
        f"  balanced accuracy {figures['balanced_accuracy']:.3f}  nll {figures['nll']:.3f}"
    )


def _first_line(error: BaseException) -> str:
    """The last line of the deepest cause: what went wrong, without the traceback around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


if __name__ == "__main__":
    # Functions of __main__ travel to the workers by value, with all they touch; of a module by name.
    from pipelines.cli import train_main

    train_main("emotion")
