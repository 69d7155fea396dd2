"""Where trials come from: the student's recipe first, then what Optuna draws."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from insideout.recipes.base import Recipe
from tune.settings import Algorithm
from tune.space import Space

#: Key of a trial's configuration that stands for a whole recipe instead of draws.
STUDENT = "student"


class StudentFirst(OptunaSearch):
    """Optuna over a space, after one trial of the student project's recipe, which the space need not hold.

    What that trial reaches is told to nobody but the results: it is what the others are compared
    with, so that a sweep cannot end below it unnoticed.
    """

    def __init__(self, space: Space, algorithm: Algorithm, metric: str, mode: str, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler: optuna.samplers.BaseSampler
        if algorithm == "random":
            sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            # Trials that run side by side are not to crowd at the same place.
            with warnings.catch_warnings():
                # Grouping is what makes it work for settings that only some trials have; Optuna still calls it new.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
        super().__init__(space.draw, metric=metric, mode=mode, sampler=sampler)
        self._student: str | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of a trial: `{"student": True}` for the first, else draws by name."""
        if self._student is None:
            self._student = trial_id
        if trial_id == self._student:
            return {STUDENT: True}
        return super().suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note a result between."""
        if trial_id != self._student:
            with warnings.catch_warnings():
                # A trial that went back, to its last checkpoint or to that of another, comes by an epoch again.
                warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
                super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note the last result of a trial."""
        if trial_id != self._student:
            super().on_trial_complete(trial_id, result, error)


def student(space: Space) -> Recipe:
    """The student's recipe in the sweep's frame: its own settings, but what all trials share from the space."""
    return space.recipe({})


def trial_recipe(space: Space, config: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial from its configuration. Raises RecipeError."""
    return student(space) if config.get(STUDENT) else space.recipe(config)
