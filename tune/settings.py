"""What a sweep is and what it runs on; light, so that the command line can be read without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How trials are drawn.
Algorithm = Literal["random", "optuna"]
#: Which trials go on.
Rule = Literal["asha", "median", "none"]


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
    folds: int = 0
    pretrained: str | None = None
    grace: int | None = None
    reduction: int = 3
    seed: int = 0
    allow_leaks: bool = False


@dataclass(frozen=True)
class Share:
    """What each trial gets, and how many run side by side at most."""

    cpus: float = 1
    gpus: float = 0
    at_once: int | None = None
    seconds: float | None = None
    """Time budget of the whole sweep."""
