"""One trial of a sweep: a training in one process that tells its score after every epoch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from insideout.recipes.crops import CropData, read_crops
from insideout.recipes.emotion import EmotionTraining
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.scores import scores
from tune.search import trial_recipe
from tune.space import Space


@dataclass(frozen=True)
class Job:
    """What every trial is told: plain values, since they travel to other machines.

    With `folds` a trial trains so many networks on folds by scene of the training crops and is
    scored on those; without, it trains one and is scored on valid.
    """

    data: tuple[str, ...]
    labels: str | None
    space: Space
    pretrained: str | None
    threads: int
    device: str = "cpu"
    folds: int = 0
    unreadable: tuple[str, ...] = ()

    def read(self) -> CropData:
        """The crops: those of train and valid, never those of test."""
        recipe = trial_recipe(self.space, {})
        assert isinstance(recipe, EmotionRecipe)
        return read_crops(self.data, recipe.classes, Path(self.labels) if self.labels else None).without(
            self.unreadable
        )


def train_emotion(config: Mapping[str, Any], job: Job) -> None:
    """A trial of an emotion sweep, as Ray Tune calls it: trains, reports and goes on from a checkpoint."""
    torch.set_num_threads(job.threads)
    recipe = trial_recipe(job.space, config)
    assert isinstance(recipe, EmotionRecipe)
    data = job.read()
    parts = [data.inner_fold(k, job.folds) for k in range(job.folds)] if job.folds else [data]
    pretrained = Path(job.pretrained) if job.pretrained else None
    trainings = [
        EmotionTraining(recipe, part, device=job.device, pretrained=pretrained, threads=job.threads) for part in parts
    ]
    best = 0.0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            for k, training in enumerate(trainings):
                training.restore(Path(folder) / str(k))
        best = max(entry.get("macro_f1", 0.0) for entry in trainings[0].history)
    else:
        for training in trainings:
            training.start()
    while trainings[0].epoch < max(1, recipe.epochs):
        began = time.monotonic()
        if recipe.epochs:
            losses = [training.train_epoch() for training in trainings]
        else:
            losses = [training.history[-1]["loss"] for training in trainings]
        labels = np.concatenate([part.valid.labels for part in parts])
        logits = np.concatenate([t.predict(part.valid) for t, part in zip(trainings, parts, strict=True)])
        found = {key: value for key, value in scores(labels, logits, data.classes).items() if isinstance(value, float)}
        best = max(best, found["macro_f1"])
        for training in trainings:
            training.history[-1] |= found
        with tempfile.TemporaryDirectory() as folder:
            for k, training in enumerate(trainings):
                (Path(folder) / str(k)).mkdir()
                training.save(Path(folder) / str(k), {})
            report = {
                "epoch": max(1, trainings[0].epoch),
                "score": best if recipe.keep == "best" else found["macro_f1"],
                "loss": float(np.mean(losses)),
                "seconds": time.monotonic() - began,
            }
            tune.report(report | found, checkpoint=tune.Checkpoint.from_directory(folder))
        if not recipe.epochs:
            break
