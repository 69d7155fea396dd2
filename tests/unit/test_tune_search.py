from __future__ import annotations

from pathlib import Path

import pytest

from insideout.recipes.emotion_recipe import EmotionRecipe
from tests.sweeps import SPACE
from tune.search import StudentFirst, trial_recipe
from tune.space import Space


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "space.yaml").write_text(SPACE)
    return Space.read(tmp_path / "space.yaml")


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_the_student_comes_first_and_draws_repeat_by_seed(space: Space, algorithm: str) -> None:
    def draws(seed: int) -> list[dict[str, object]]:
        search = StudentFirst(space, algorithm, "score", "max", seed)
        found = []
        for place in range(14):
            config = search.suggest(f"t{place}")
            found.append(config)
            search.on_trial_result(f"t{place}", {"score": 0.1, "training_iteration": 1})
            search.on_trial_complete(f"t{place}", {"score": 0.1 * (place % 3), "training_iteration": 2})
        return found

    first = draws(1)
    assert first[0] == {"student": True}
    assert all("student" not in config for config in first[1:])
    assert first == draws(1)
    assert first[1:] != draws(2)[1:]


def test_a_search_is_kept_and_goes_on(space: Space, tmp_path: Path) -> None:
    search = StudentFirst(space, "optuna", "score", "max", 0)
    for place in range(3):
        search.suggest(f"t{place}")
    search.save(str(tmp_path / "state"))
    other = StudentFirst(space, "optuna", "score", "max", 0)
    other.restore(str(tmp_path / "state"))
    assert "student" not in (other.suggest("t3") or {})


def test_the_student_has_its_own_recipe_in_the_frame_of_the_sweep(space: Space) -> None:
    recipe = trial_recipe(space, {"student": True})
    assert isinstance(recipe, EmotionRecipe)
    assert recipe == EmotionRecipe(backbone="mobilenet_v2", size=32, epochs=3)
