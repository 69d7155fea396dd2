"""Which trials go on: successive halving, the median rule, or all of them."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from tune.search import STUDENT
from tune.settings import Rule

#: What a trial reports of itself: its epoch, and the figure that it is judged by.
TIME, METRIC, MODE = "epoch", "score", "max"


class _SparesTheStudent:
    """Never stops the trial that all others are compared with."""

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide on a trial by a result of it."""
        if trial.config.get(STUDENT):
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(controller, trial, result)  # type: ignore[misc]
        return decision


class Halving(_SparesTheStudent, AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020)."""


class Median(_SparesTheStudent, MedianStoppingRule):
    """Stops what is worse than the median of the others at the same epoch (Golovin et al., Vizier, KDD 2017)."""


def build_scheduler(rule: Rule, epochs: int, *, grace: int | None, reduction: int) -> Any:
    """The scheduler of a sweep whose trials have at most `epochs`.

    `grace` epochs are every trial's (default: a sixth, at least one); of those that reach a rung of
    `asha` one in `reduction` goes on.
    """
    grace = grace or max(1, epochs // 6)
    if rule == "asha":
        return Halving(time_attr=TIME, max_t=epochs, grace_period=min(grace, epochs), reduction_factor=reduction)
    if rule == "median":
        return Median(time_attr=TIME, grace_period=grace, min_samples_required=3)
    return FIFOScheduler()
