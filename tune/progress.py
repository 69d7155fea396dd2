"""What a sweep tells while it runs: a line for each trial that ends; on a terminal a live table of those running."""

from __future__ import annotations

import sys
from typing import Any

from ray import tune
from rich.live import Live
from rich.table import Table

from tune.search import STUDENT

_SHOWN = 12


class Told(tune.Callback):
    """Prints how a sweep goes. It travels with the sweep's state, so it holds plain values only."""

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._done = 0
        self._best = float("-inf")
        self._running: dict[str, tuple[str, int, float]] = {}
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_live": None, "_running": {}}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch of a trial is done."""
        if "score" in result:
            self._running[trial.trial_id] = (_about(trial), int(result["epoch"]), float(result["score"]))
            self._best = max(self._best, float(result["score"]))
        self._draw()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, at its last epoch or stopped before."""
        about, epoch, score = self._running.pop(trial.trial_id, (_about(trial), 0, float("nan")))
        self._done += 1
        self._say(f"{about}: score {score:.3f} after {epoch} epochs; best so far {self._best:.3f}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed for good."""
        self._running.pop(trial.trial_id, None)
        self._done += 1
        lines = str(trial.get_error() or "").strip().splitlines()
        self._say(f"{_about(trial)}: failed: {lines[-1].strip() if lines else 'no reason given'}")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """All is done."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say(self, line: str) -> None:
        text = f"{self._done}/{self._trials} {line}"
        if self._live is not None:
            self._live.console.print(text)
        else:
            print(text, flush=True)
        self._draw()

    def _draw(self) -> None:
        if not sys.stdout.isatty():
            return
        if self._live is None:
            self._live = Live(refresh_per_second=2, transient=True)
            self._live.start()
        table = Table("trial", "epoch", "score", title=f"{self._done} of {self._trials} trials, best {self._best:.3f}")
        for about, epoch, score in list(self._running.values())[:_SHOWN]:
            table.add_row(about, str(epoch), f"{score:.3f}")
        self._live.update(table)


def _about(trial: Any) -> str:
    """A trial in a few words: its choices."""
    config = trial.config
    if config.get(STUDENT):
        return f"{trial.trial_id} (student)"
    choices = [str(value) for name, value in config.items() if "." not in name and isinstance(value, str)]
    return f"{trial.trial_id} ({', '.join(choices)})" if choices else str(trial.trial_id)
