"""What a sweep is and what it runs on; light, so that the command line can be read without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

#: How trials are drawn.
Algorithm = Literal["random", "optuna"]
#: Which trials go on.
Rule = Literal["asha", "median", "pbt", "none"]

#: What trials can be judged by, the default first. More is better in each.
METRICS: Mapping[str, tuple[str, ...]] = {
    "emotion": ("macro_f1", "balanced_accuracy", "accuracy"),
    "segmenter": ("mask_map50_95", "mask_map50", "box_map50_95", "box_map50"),
}
#: What else a trial reports after each epoch.
FIGURES: Mapping[str, tuple[str, ...]] = {
    "emotion": (*METRICS["emotion"], "nll", "loss", "seconds"),
    "segmenter": (*METRICS["segmenter"], "loss", "seconds"),
}


class Log(StrEnum):
    """Where else trials are logged to, by Ray Tune's own callbacks."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"
    wandb = "wandb"


@dataclass(frozen=True)
class Sweep:
    """What a sweep is, apart from what it runs on: kept in its folder, so that it can be resumed from there alone."""

    of: str
    data: tuple[str, ...]
    labels: str | None
    space: str
    """Text of the space's YAML."""
    trials: int
    algorithm: Algorithm = "optuna"
    rule: Rule = "asha"
    metric: str = ""
    """One of METRICS; the first of its kind by default."""
    folds: int = 0
    pretrained: str | None = None
    grace: int | None = None
    reduction: int = 3
    seed: int = 0
    nested: bool = False
    """Each trial is a training by Ray Train with workers of its own, instead of one process."""
    allow_leaks: bool = False

    @property
    def judged_by(self) -> str:
        """The figure that decides."""
        return self.metric or METRICS[self.of][0]


@dataclass(frozen=True)
class Share:
    """What each trial gets, and how many run side by side at most."""

    cpus: float = 1
    gpus: float = 0
    at_once: int | None = None
    seconds: float | None = None
    """Time budget of the whole sweep."""
    workers: int = 1
    """Workers of a nested trial, each with these CPUs and GPUs."""
