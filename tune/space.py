"""What a sweep searches: distributions over the settings of a recipe, some of them under a condition.

    of: emotion                                  # or segmenter
    base: {backbone: resnet50, size: 96}         # what all trials share
    search:
      batch: {choice: [16, 32, 64]}
      label_smoothing: {uniform: [0.0, 0.2]}
      optimizer:
        choice:                                  # each option brings settings of its own
          sgd: {lr: {log: [0.001, 0.1]}, momentum: {uniform: [0.8, 0.98]}}
          adamw: {lr: {log: [0.00003, 0.003]}, weight_decay: {log: [0.001, 0.3]}}

A setting is searched by `choice`, `uniform`, `log` (uniform in the logarithm) or `int`. A setting
under an option is drawn only where the option was: the search is define-by-run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml
from pydantic import ValidationError

from insideout.errors import RecipeError
from insideout.recipes.base import Recipe
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.segmenter_recipe import SegmenterRecipe

RECIPES: Mapping[str, type[Recipe]] = {"emotion": EmotionRecipe, "segmenter": SegmenterRecipe}
#: Parts of a searched setting's name: of `optimizer.sgd.lr` the last is the setting.
SEPARATOR = "."


class Draws(Protocol):
    """What draws values: a trial of Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between low and high."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number between low and high, both included."""

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        """One of the choices."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    kind: Literal["uniform", "log", "int"]

    def draw(self, name: str, draws: Draws) -> None:
        """Draw the setting."""
        if self.kind == "int":
            draws.suggest_int(name, int(self.low), int(self.high))
        else:
            draws.suggest_float(name, self.low, self.high, log=self.kind == "log")

    def ends(self) -> Iterator[dict[str, Any]]:
        """The values to check, each with the settings that come with it: none."""
        for value in (self.low, self.high):
            yield {"": int(value) if self.kind == "int" else value}


@dataclass(frozen=True)
class Choice:
    """One of some values, each with the settings that are searched where it is drawn."""

    options: tuple[tuple[Any, Mapping[str, Range | Choice]], ...]

    def draw(self, name: str, draws: Draws) -> None:
        """Draw the setting and those of the option."""
        chosen = draws.suggest_categorical(name, tuple(_label(value) for value, _ in self.options))
        for field, search in self.below(str(chosen)).items():
            search.draw(SEPARATOR.join((name, str(chosen), field)), draws)

    def below(self, chosen: str) -> Mapping[str, Range | Choice]:
        """What is searched under an option, by its name; nothing for an unknown one."""
        return next((below for value, below in self.options if str(value) == chosen), {})

    def value(self, label: Any) -> Any:
        """The value that a draw stands for."""
        return next(value for value, _ in self.options if _label(value) == label)

    def ends(self) -> Iterator[dict[str, Any]]:
        """The values to check, each with the settings that come with it."""
        for value, below in self.options:
            for settings in _ends(below):
                yield {"": value} | settings


Search = Range | Choice


@dataclass(frozen=True)
class Space:
    """What is searched (`search`, by setting) of which recipe (`of`), and what all trials share (`base`)."""

    of: str
    base: Mapping[str, Any]
    search: Mapping[str, Search]

    @classmethod
    def read(cls, path: Path) -> Space:
        """Read a YAML file. Raises RecipeError: not readable, empty, an unknown setting or a value out of range."""
        try:
            raw = yaml.safe_load(path.read_text())
        except FileNotFoundError as error:
            raise RecipeError(f"{path}: no such space; the shipped ones are configs/space-*.yaml") from error
        except yaml.YAMLError as error:
            raise RecipeError(f"{path}: not YAML: {error}") from error
        if not isinstance(raw, dict) or not raw.get("search"):
            raise RecipeError(f"{path}: nothing to search; give settings with distributions under 'search'")
        if odd := sorted(set(raw) - {"of", "base", "search"}):
            raise RecipeError(f"{path}: unknown key {', '.join(odd)}; a space has of, base and search")
        of = raw.get("of", "emotion")
        if of not in RECIPES:
            raise RecipeError(f"{path}: of: '{of}' is no recipe; choose from {', '.join(RECIPES)}")
        try:
            space = cls(of, dict(raw.get("base") or {}), _parse(raw["search"], ""))
            space._check()
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error
        return space

    def draw(self, draws: Draws) -> dict[str, Any]:
        """Draw a trial, for Optuna's define-by-run: what is drawn is noted there, nothing is constant."""
        for field, search in self.search.items():
            search.draw(field, draws)
        return {}

    def recipe(self, drawn: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial from what was drawn, by the names of `draw`. Raises RecipeError."""
        settings = {}
        for name, value in drawn.items():
            search = self.find(name)
            settings[name.rsplit(SEPARATOR, 1)[-1]] = search.value(value) if isinstance(search, Choice) else value
        return self._build(settings)

    def perturbed(self, drawn: Mapping[str, Any], draws: random.Random) -> dict[str, Any]:
        """What was drawn, with each `uniform` and `log` number a fifth smaller or larger, inside its range.

        Choices and whole numbers stay: what is under training cannot change its optimizer or its layers.
        """
        changed = dict(drawn)
        for name, value in drawn.items():
            search = self.find(name)
            if isinstance(search, Range) and search.kind != "int":
                changed[name] = min(search.high, max(search.low, value * draws.choice((0.8, 1.25))))
        return changed

    def epochs(self) -> int:
        """Most epochs that a trial can have."""
        searched = self.search.get("epochs")
        if isinstance(searched, Range):
            return int(searched.high)
        if searched is not None:
            return max(int(value) for value, _ in searched.options)
        return max(1, int(self.recipe({}).model_dump()["epochs"]))

    def find(self, name: str) -> Search | None:
        """The distribution behind the name of a draw, such as `optimizer.sgd.lr`; None for no draw of the space."""
        field, *rest = name.split(SEPARATOR)
        found = self.search.get(field)
        while rest and isinstance(found, Choice):
            option, field, *rest = rest
            found = found.below(option).get(field)
        return found

    def _build(self, settings: Mapping[str, Any]) -> Recipe:
        try:
            return RECIPES[self.of](**{**self.base, **settings})
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
            raise RecipeError(problems) from error

    def _check(self) -> None:
        """Build recipes with every option and both ends of every range at least once."""
        known = RECIPES[self.of].model_fields
        for field in (*self.base, *_fields(self.search)):
            if field not in known:
                raise RecipeError(f"{field}: not a setting of the {self.of} recipe; it has {', '.join(sorted(known))}")
        if twice := sorted(set(self.base) & set(_fields(self.search))):
            raise RecipeError(f"{', '.join(twice)}: both in base and searched; leave one")
        for settings in _ends(self.search):
            self._build(settings)


def _ends(search: Mapping[str, Search]) -> Iterator[dict[str, Any]]:
    """Settings in which each value to check occurs at least once; at least one, if empty."""
    columns = {field: [{field: s.pop(""), **s} for s in map(dict, found.ends())] for field, found in search.items()}
    rows = zip_longest(*columns.values()) if columns else [()]
    for row in rows:
        settings: dict[str, Any] = {}
        for column, cell in zip(columns.values(), row, strict=True):
            settings |= column[-1] if cell is None else cell
        yield settings


def _fields(search: Mapping[str, Search]) -> Iterator[str]:
    for field, found in search.items():
        yield field
        if isinstance(found, Choice):
            for _, below in found.options:
                yield from _fields(below)


def _parse(raw: Any, where: str) -> dict[str, Search]:
    if not isinstance(raw, dict):
        raise RecipeError(f"{where or 'search'}: expected settings with distributions, found {raw!r}")
    return {field: _distribution(found, f"{where}{field}") for field, found in raw.items()}


def _distribution(raw: Any, where: str) -> Search:
    if not isinstance(raw, dict) or len(raw) != 1 or not set(raw) <= {"choice", "uniform", "log", "int"}:
        raise RecipeError(
            f"{where}: expected one of choice, uniform, log and int, found {raw!r}; put fixed ones in base"
        )
    ((kind, content),) = raw.items()
    if kind == "choice":
        options = content.items() if isinstance(content, dict) else [(value, {}) for value in content or ()]
        found = tuple((_frozen(value), _parse(below or {}, f"{where}.{value}.")) for value, below in options)
        if not found:
            raise RecipeError(f"{where}: nothing to choose from")
        return Choice(found)
    numbers = isinstance(content, list) and len(content) == 2 and all(type(x) in (int, float) for x in content)
    if not numbers or content[0] >= content[1]:
        raise RecipeError(f"{where}: {kind} takes [low, high], found {content!r}")
    if kind == "log" and content[0] <= 0:
        raise RecipeError(f"{where}: log needs low above 0, found {content!r}")
    if kind == "int" and not all(type(x) is int for x in content):
        raise RecipeError(f"{where}: int takes whole numbers, found {content!r}")
    return Range(content[0], content[1], kind)


def _label(value: Any) -> Any:
    """What Optuna is told of an option: it takes plain values only."""
    return str(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
