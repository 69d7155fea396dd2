"""What a sweep found: every trial and every epoch of it as one table, read from the trials' own files.

Nothing is unpickled for it, so results of others can be looked at without trusting them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from insideout.errors import OutputError
from insideout.store import Store
from tune.search import STUDENT, trial_recipe
from tune.settings import FIGURES
from tune.space import Space

TRIALS = "trials"
RESULTS = "results.parquet"
BEST = "best.yaml"


@dataclass(frozen=True)
class TrialResult:
    """A trial: its configuration and, by epoch, what it reported; `error` is why it failed, if it did."""

    name: str
    config: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    error: str = ""

    @property
    def student(self) -> bool:
        """Whether this is the student's recipe."""
        return bool(self.config.get(STUDENT))

    @property
    def score(self) -> float:
        """The score after the last epoch; minus infinity where there is none."""
        return float(self.epochs[-1]["score"]) if self.epochs else float("-inf")


def read_trials(store: Store) -> list[TrialResult]:
    """The trials of a sweep by name. Raises OutputError where there are none, or none reported a score."""
    found = []
    failed = _failed(store)
    for key in store.list(TRIALS, "/params.json"):
        folder = key.rsplit("/", 1)[0]
        error = ""
        # A trial that died once and went on has left an error behind too.
        if folder.rsplit("/", 1)[-1] in failed and store.exists(f"{folder}/error.txt"):
            lines = store.read(f"{folder}/error.txt").decode(errors="replace").strip().splitlines()
            error = lines[-1].strip() if lines else "no reason given"
        found.append(TrialResult(folder.rsplit("/", 1)[-1], store.read_json(key), tuple(_epochs(store, folder)), error))
    if not found:
        raise OutputError(f"{store.root}: no trials there; give the folder that `insideout tune … --out` wrote")
    if not any(trial.epochs for trial in found):
        reasons = "; ".join(sorted({trial.error for trial in found if trial.error})) or "none has ended an epoch"
        raise OutputError(f"{store.root}: no trial reported a score: {reasons}")
    return sorted(found, key=lambda trial: trial.name)


def _failed(store: Store) -> set[str]:
    """Folders of the trials that ended in an error, from Ray Tune's newest record of the sweep."""
    records = [key for key in store.list(TRIALS, ".json") if key.startswith(f"{TRIALS}/experiment_state-")]
    if not records:
        return set()
    trials = (json.loads(state) for state, _ in store.read_json(records[-1])["trial_data"])
    return {trial["relative_logdir"] for trial in trials if trial["status"] == "ERROR"}


def _epochs(store: Store, folder: str) -> Iterator[dict[str, Any]]:
    """Reports in order; of an epoch that was done twice, after a fault, the last."""
    if not store.exists(f"{folder}/result.json"):
        return
    by_epoch: dict[int, dict[str, Any]] = {}
    for line in store.read(f"{folder}/result.json").decode().splitlines():
        try:
            report = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that a kill cut off: the epoch is done again
        if "score" in report:
            by_epoch[int(report["epoch"])] = report
    yield from (by_epoch[epoch] for epoch in sorted(by_epoch))


def best_trial(trials: list[TrialResult]) -> TrialResult:
    """The trial with the best score; of equal ones the student's, then the first."""
    return max(trials, key=lambda trial: (trial.score, trial.student, [-ord(c) for c in trial.name]))


def results_table(trials: list[TrialResult], space: Space) -> pa.Table:
    """A row for each trial and epoch: trial, student, epoch, figures, error, and the recipe's settings as JSON."""
    rows, names = [], ("score", *FIGURES[space.of])
    for trial in trials:
        start = {"trial": trial.name, "student": trial.student, "error": trial.error}
        for report in trial.epochs or ({"epoch": 0},):
            # With population-based training the settings of a trial change on its way.
            recipe = trial_recipe(space, report.get("config", trial.config)).model_dump(mode="json")
            figures = {key: float(report[key]) if key in report else None for key in names}
            rows.append(start | {"epoch": int(report["epoch"])} | figures | {"recipe": json.dumps(recipe)})
    schema = pa.schema(
        [("trial", pa.string()), ("student", pa.bool_()), ("epoch", pa.int32())]
        + [(key, pa.float64()) for key in names]
        + [("error", pa.string()), ("recipe", pa.string())]
    )
    return pa.Table.from_pylist(rows, schema)
