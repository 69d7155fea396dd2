"""Which trials go on: successive halving, the median rule, population-based training, or all of them."""

from __future__ import annotations

import random
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.schedulers.pbt import _PBTTrialState

from tune.search import STUDENT
from tune.settings import Rule
from tune.space import Space

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


class Population(_SparesTheStudent, PopulationBasedTraining):
    """Trials that fall behind go on from a copy of a better one (Jaderberg et al., Population Based Training, 2017).

    The copy has the better one's settings, its numbers changed a little. The student's trial is neither
    replaced nor copied.
    """

    def __init__(self, space: Space, every: int, seed: int) -> None:
        draws = random.Random(seed)
        super().__init__(
            time_attr=TIME,
            perturbation_interval=every,
            custom_explore_fn=lambda config: space.perturbed(config, draws),
        )

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        """Ray refuses any search algorithm here, since results would mislead it; a random one takes no notice."""
        self._trial_state[trial] = _PBTTrialState(trial)


def build_scheduler(rule: Rule, space: Space, *, grace: int | None, reduction: int, seed: int) -> Any:
    """The scheduler of a sweep.

    `grace` epochs are every trial's (default: a sixth, at least one), with `pbt` before each comparison;
    of those that reach a rung of `asha` one in `reduction` goes on.
    """
    epochs = space.epochs()
    grace = grace or max(1, epochs // 6)
    if rule == "asha":
        return Halving(time_attr=TIME, max_t=epochs, grace_period=min(grace, epochs), reduction_factor=reduction)
    if rule == "median":
        return Median(time_attr=TIME, grace_period=grace, min_samples_required=3)
    if rule == "pbt":
        return Population(space, grace, seed)
    return FIFOScheduler()
