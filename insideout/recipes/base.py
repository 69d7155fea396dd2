"""Recipes: training settings that are read from YAML and refuse what they do not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from insideout.errors import RecipeError


class Recipe(BaseModel):
    """Base of all recipes: immutable, no unknown keys, values checked against their range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path, **overrides: Any) -> Self:
        """Read a YAML file; `overrides` that are not None win over it. Raises RecipeError."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RecipeError(f"{path}: no such recipe; the shipped ones are in configs/") from error
        except (OSError, UnicodeDecodeError) as error:
            why = "not text" if isinstance(error, UnicodeDecodeError) else error.strerror
            raise RecipeError(
                f"{path}: not readable as a recipe ({why}); give a YAML file; the shipped ones are in configs/"
            ) from error
        return cls.from_yaml(text, str(path), **overrides)

    @classmethod
    def from_yaml(cls, text: str, where: str, **overrides: Any) -> Self:
        """The recipe of a YAML text that was found at `where`, as `read`. Raises RecipeError."""
        try:
            raw = yaml.safe_load(text) or {}
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError(f"{where}: not YAML: {error}") from error
        if not isinstance(raw, dict):
            raise RecipeError(f"{where}: a recipe is a map of settings, found {type(raw).__name__}")
        raw |= {key: value for key, value in overrides.items() if value is not None}
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise RecipeError(f"{where}: {problems}") from error

    def write(self, path: Path) -> None:
        """Write the recipe, every value spelled out, so that a run can be repeated."""
        path.write_text(self.to_yaml())

    def to_yaml(self) -> str:
        """The recipe as YAML, every value spelled out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
