"""Nested trials: each is a training by Ray Train, with workers of its own that share each batch.

The dashboard must run: Ray Train asks it whether a trial that was stopped still needs its workers,
and without an answer they are kept for good.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.store import Store
from pipelines.train_emotion import Job, fit
from pipelines.workers import places
from tune.emotion import EmotionJob, score
from tune.settings import Share

#: Share of a CPU that a trial itself takes beside its workers: it only waits for them.
OWN_CPU = 0.01


@dataclass(frozen=True)
class NestedJob:
    """What a nested trial is told; `root` is the folder or URL of its run folders."""

    inner: EmotionJob
    root: str
    workers: int
    gpus: bool


def at_once(share: Share) -> int:
    """How many nested trials the cluster can run side by side, at most as many as asked for; at least one.

    Ray Train waits for all its workers: of two trials that have half of theirs none would ever begin.
    """
    fits = [
        int(ray.cluster_resources().get("CPU", 0) // (share.workers * share.cpus + OWN_CPU)),
        places(share.cpus, share.gpus) // share.workers,
    ]
    return max(1, min([*fits, share.at_once or max(fits)]))


def train(config: Mapping[str, Any], job: NestedJob) -> None:
    """A trial as Ray Tune calls it; after a fault Ray Train goes on in the same run folder by itself."""
    recipe = job.inner.recipe(config)
    inner = Job(
        job.inner.data,
        job.inner.labels,
        recipe.model_dump(mode="json"),
        job.inner.threads,
        job.inner.pretrained,
        job.inner.unreadable,
    )
    name = f"trial-{tune.get_context().get_trial_id()}"
    report = ScoreReport(job.inner.metric, recipe)
    fit(inner, Store(job.root), name, job.workers, job.workers if job.gpus else 0, recipe.keep, callbacks=[report])


class ScoreReport(TuneReportCallback):
    """Tells Ray Tune each epoch of a nested trial with its score."""

    def __init__(self, metric: str, recipe: EmotionRecipe) -> None:
        super().__init__()
        self._metric, self._recipe = metric, recipe

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """All workers have reported an epoch; the checkpoint holds the epochs before it as well."""
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            history = json.loads((Path(folder) / "meta.json").read_text())["history"]
        told = dict(metrics[0], score=score(history, self._metric, self._recipe))
        super().after_report(run_context, [told], checkpoint)
