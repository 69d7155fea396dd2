from __future__ import annotations

import random
from pathlib import Path

import optuna
import pytest

from insideout.errors import RecipeError
from insideout.recipes.emotion_recipe import EmotionRecipe
from tune.space import Range, Space

SPACE = """
of: emotion
base: {size: 48, epochs: 4, backbone: mobilenet_v2}
search:
  batch: {choice: [8, 16]}
  optimizer:
    choice:
      sgd: {lr: {log: [0.001, 0.1]}, momentum: {uniform: [0.8, 0.98]}}
      adamw: {lr: {log: [0.0001, 0.001]}}
  schedule:
    choice:
      multistep: {milestones: {choice: [[0.5], [0.3, 0.6]]}}
      restarts: {restart_epochs: {int: [1, 3]}}
"""


def _space(tmp_path: Path, text: str = SPACE) -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return Space.read(path)


def _drawn(space: Space, n: int) -> list[dict[str, object]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(n):
        trial = study.ask()
        assert space.draw(trial) == {}
        found.append(dict(trial.params))
    return found


def test_settings_under_an_option_are_drawn_only_with_it(tmp_path: Path) -> None:
    space = _space(tmp_path)
    seen = set()
    for drawn in _drawn(space, 60):
        recipe = space.recipe(drawn)
        assert isinstance(recipe, EmotionRecipe)
        assert (recipe.size, recipe.epochs, recipe.backbone) == (48, 4, "mobilenet_v2")
        assert ("optimizer.sgd.momentum" in drawn) == (recipe.optimizer == "sgd")
        low, high = (0.001, 0.1) if recipe.optimizer == "sgd" else (0.0001, 0.001)
        assert low <= recipe.lr <= high
        if recipe.schedule == "multistep":
            assert recipe.milestones in ((0.5,), (0.3, 0.6))
        else:
            assert 1 <= recipe.restart_epochs <= 3
            assert not any("milestones" in name for name in drawn)
        seen.add((recipe.optimizer, recipe.schedule, recipe.batch))
    assert len(seen) == 8


def test_a_draw_is_found_by_its_name(tmp_path: Path) -> None:
    space = _space(tmp_path)
    assert space.find("optimizer.sgd.momentum") == space.search["optimizer"].below("sgd")["momentum"]
    assert space.find("optimizer.adamw.momentum") is None
    assert space.find("student") is None


@pytest.mark.parametrize("kind", ["emotion", "segmenter"])
def test_the_shipped_spaces_give_recipes(kind: str, root: Path) -> None:
    space = Space.read(root / "configs" / f"space-{kind}.yaml")
    assert space.of == kind
    recipes = [space.recipe(drawn) for drawn in _drawn(space, 40)]
    assert len({recipe.to_yaml() for recipe in recipes}) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("sgd: {lr", "sdg: {lr"), "optimizer: Input should be 'sgd', 'adamw', 'adam' or 'rmsprop'"),
        (("momentum: {u", "momentun: {u"), "momentun: not a setting of the emotion recipe; it has .*momentum"),
        (("multistep: {", "polynomial: {"), "schedule: Input should be"),
        (("batch: {choice: [8, 16]}", "augment: {choice: [face, autoaugment]}"), "augment: Input should be 'none'"),
        (("[0.8, 0.98]", "[0.8, 1.2]"), "momentum: Input should be less than 1"),
        (("log: [0.001, 0.1]", "log: [0, 0.1]"), r"optimizer\.sgd\.lr: log needs low above 0"),
        (("uniform: [0.8, 0.98]", "uniform: [0.98, 0.8]"), r"momentum: uniform takes \[low, high\]"),
        (("batch: {choice: [8, 16]}", "batch: {choice: []}"), "batch: nothing to choose from"),
        (("batch: {choice: [8, 16]}", "batch: 8"), "batch: expected one of choice, uniform, log and int, found 8"),
        (("batch: {choice: [8, 16]}", "size: {choice: [32, 64]}"), "size: both in base and searched"),
        (("of: emotion", "of: emotions"), "of: 'emotions' is no recipe; choose from emotion, segmenter"),
        (("search:", "searched:"), "nothing to search"),
        (("of: emotion", "of: emotion\ntrials: 3"), "unknown key trials"),
    ],
)
def test_a_space_that_cannot_be_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in SPACE
    with pytest.raises(RecipeError, match=message) as raised:
        _space(tmp_path, SPACE.replace(*change))
    assert "space.yaml" in str(raised.value)


def test_an_empty_space_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nothing to search"):
        _space(tmp_path, "search: {}\n")
    with pytest.raises(RecipeError, match="no such space; the shipped ones are configs/space"):
        Space.read(tmp_path / "missing.yaml")


def test_a_perturbed_draw_keeps_its_choices_and_its_ranges(tmp_path: Path) -> None:
    space = _space(tmp_path)
    draws, seen = random.Random(0), set()
    for drawn in _drawn(space, 40):
        changed = space.perturbed(drawn, draws)
        assert changed.keys() == drawn.keys()
        for name, value in drawn.items():
            search = space.find(name)
            if not isinstance(search, Range) or search.kind == "int":
                assert changed[name] == value
                continue
            assert search.low <= changed[name] <= search.high
            seen.add(round(changed[name] / value, 6))
        space.recipe(changed)
    assert {0.8, 1.25} < seen  # and what the ends of a range cut off


def test_the_longest_trial_of_a_space_is_known(tmp_path: Path) -> None:
    assert _space(tmp_path).epochs() == 4
    search = "\nsearch:\n  epochs: {int: [2, 9]}\n"
    assert _space(tmp_path, "base: {size: 48}" + search).epochs() == 9
    assert _space(tmp_path, "base: {size: 48}" + search.replace("int: [2, 9]", "choice: [3, 7]")).epochs() == 7
