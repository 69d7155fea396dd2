"""Trials of an emotion sweep: a training in one process that tells its score after every epoch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from insideout.backbones import PUBLISHED
from insideout.errors import UsageError
from insideout.leaks import audit_training, refuse_leaks
from insideout.recipes.crops import CropData, find_unreadable, read_crops
from insideout.recipes.emotion import EmotionTraining, check_start
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.scores import scores
from insideout.store import Store
from pipelines.pretrained import fetched, published, weights_digest
from tune.search import trial_recipe
from tune.settings import Share, Sweep
from tune.space import Space


@dataclass(frozen=True)
class EmotionJob:
    """What every trial is told: plain values, since they travel to other machines.

    With `folds` a trial trains so many networks on folds by scene of the training crops and is
    scored on those; without, it trains one and is scored on valid.
    """

    data: tuple[str, ...]
    labels: str | None
    space: Space
    pretrained: str | None
    metric: str
    threads: int
    device: str = "cpu"
    folds: int = 0
    unreadable: tuple[str, ...] = ()
    digest: str = ""
    """Of the crops and of weights in a file of the user's own: what the sweep is for, with its settings."""

    def recipe(self, config: Mapping[str, Any]) -> EmotionRecipe:
        """The recipe of a trial."""
        recipe = trial_recipe(self.space, config)
        assert isinstance(recipe, EmotionRecipe)
        return recipe

    def read(self) -> CropData:
        """The crops: those of train and valid, never those of test."""
        labels = Path(self.labels) if self.labels else None
        return read_crops(self.data, self.recipe({}).classes, labels).without(self.unreadable)


def prepare(sweep: Sweep, space: Space, share: Share, store: Store) -> EmotionJob:
    """Check the data of a sweep and say what its trials are told.

    Raises DataError for unusable data, UsageError for a trial of several GPUs that is not nested.
    """
    if share.gpus > 1 and not sweep.nested:
        raise UsageError(
            f"--gpus {share.gpus:g}: a trial is one process on one GPU; for several give --nested --workers"
            f" {share.gpus:g} --gpus 1"
        )
    if sweep.nested and share.gpus not in (0, 1):
        raise UsageError(f"--nested --gpus {share.gpus:g}: each worker has one GPU; give --gpus 1, and --workers")
    if sweep.nested and sweep.folds:
        raise UsageError("--nested: trains one network a trial; leave out --folds")
    pretrained = sweep.pretrained
    if pretrained in PUBLISHED:
        pretrained = published(str(space.recipe({}).model_dump()["backbone"]), pretrained, store)
    device = "cuda" if share.gpus else "cpu"
    threads = max(1, int(share.cpus))
    job = EmotionJob(
        sweep.data, sweep.labels, space, pretrained, sweep.judged_by, threads, device, folds=sweep.folds
    )  # fmt: skip
    crops = job.read()
    job = replace(job, unreadable=tuple(find_unreadable(crops)))
    found = audit_training(crops.train.crops, crops.valid.crops)
    if found.warning:
        print(found.warning, flush=True)
    if not sweep.allow_leaks:
        refuse_leaks({"train and valid": found}, ", ".join(sweep.data))
    crops, recipe = crops.without(job.unreadable), space.recipe({})
    assert isinstance(recipe, EmotionRecipe)
    inner = [crops.inner_fold(k, job.folds) for k in range(job.folds)]
    with fetched(pretrained) as weights:
        check_start(recipe, crops, folds=inner, pretrained=weights)
        start = weights_digest(weights) if weights and sweep.pretrained not in PUBLISHED else ""
    return replace(job, digest=f"{crops.digest} {start}".rstrip())


def train(config: Mapping[str, Any], job: EmotionJob) -> None:
    """A trial as Ray Tune calls it: trains, reports and goes on from a checkpoint."""
    torch.set_num_threads(job.threads)
    recipe = job.recipe(config)
    data = job.read()
    parts = [data.inner_fold(k, job.folds) for k in range(job.folds)] if job.folds else [data]
    with fetched(job.pretrained) as weights:
        trainings = [
            EmotionTraining(recipe, part, device=job.device, pretrained=weights, threads=job.threads) for part in parts
        ]
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            for k, training in enumerate(trainings):
                training.restore(Path(folder) / str(k))
    else:
        for training in trainings:
            training.start()
    history = trainings[0].history
    while trainings[0].epoch < max(1, recipe.epochs):
        began = time.monotonic()
        if recipe.epochs:
            losses = [training.train_epoch() for training in trainings]
        else:
            losses = [training.history[-1]["loss"] for training in trainings]
        labels = np.concatenate([part.valid.labels for part in parts])
        logits = np.concatenate([t.predict(part.valid) for t, part in zip(trainings, parts, strict=True)])
        found = {key: value for key, value in scores(labels, logits, data.classes).items() if isinstance(value, float)}
        for training in trainings:
            training.history[-1] |= found
        with tempfile.TemporaryDirectory() as folder:
            for k, training in enumerate(trainings):
                (Path(folder) / str(k)).mkdir()
                training.save(Path(folder) / str(k), {})
            report = {
                "epoch": max(1, trainings[0].epoch),
                "score": score(history, job.metric, recipe),
                "loss": float(np.mean(losses)),
                "seconds": time.monotonic() - began,
            }
            tune.report(report | found, checkpoint=tune.Checkpoint.from_directory(folder))
        if not recipe.epochs:
            break


def score(history: list[dict[str, float]], metric: str, recipe: EmotionRecipe) -> float:
    """What a trial is judged by after these epochs: the best of them where the recipe keeps that, else the last."""
    figures = [entry[metric] for entry in history]
    return max(figures) if recipe.keep == "best" else figures[-1]
