"""Sweeps on Ray Tune: what they leave behind, and trials that fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from insideout.errors import DataError, OutputError, RecipeError, UsageError
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.store import Store
from tests.exports import write_export
from tune.results import read_trials
from tune.settings import Share, Sweep
from tune.sweep import run
from tune.winner import train_winner

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SPACE = """
of: emotion
base: {backbone: mobilenet_v2, size: 32, epochs: 3, precision: fp32, augment: none}
search:
  batch: {choice: [4, 8]}
  optimizer:
    choice:
      sgd: {lr: {log: [0.001, 0.1]}, momentum: {uniform: [0.5, 0.9]}}
      adamw: {lr: {log: [0.0001, 0.01]}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_export(tmp_path_factory.mktemp("data"), shots=(1, 2, 3, 4))
    # A test split that would end any training which looked at it.
    broken = root / "test" / "Nothing"
    broken.mkdir(parents=True)
    (broken / "000000_shot900_track000_Bunny.jpg").write_bytes(b"not a picture")
    return root


def _sweep(data: Path, **settings: object) -> Sweep:
    return replace(Sweep("emotion", (str(data),), None, SPACE, 4), **settings)


def test_a_sweep_begins_with_the_student_and_leaves_a_table_and_a_recipe(data: Path, tmp_path: Path) -> None:
    sweep = _sweep(data, folds=2, reduction=2)
    best = run(sweep, str(tmp_path / "out"), Share())
    table = Store(str(tmp_path / "out")).read_table("results.parquet").to_pylist()
    by_trial = {row["trial"]: [r for r in table if r["trial"] == row["trial"]] for row in table}
    assert len(by_trial) == 4
    (student,) = (rows for rows in by_trial.values() if rows[0]["student"])
    assert [row["epoch"] for row in student] == [1, 2, 3]  # never stopped
    recipe = EmotionRecipe(**json.loads(student[0]["recipe"]))
    assert (recipe.optimizer, recipe.lr, recipe.schedule, recipe.size) == ("sgd", 0.001, "step", 32)
    for rows in by_trial.values():
        drawn = json.loads(rows[0]["recipe"])
        assert drawn["backbone"] == "mobilenet_v2"
        assert drawn["batch"] in ((32,) if rows[0]["student"] else (4, 8))
        scores = [row["score"] for row in rows]
        assert scores == [max(row["macro_f1"] for row in rows[: i + 1]) for i in range(len(rows))]
    # Successive halving stopped some before their last epoch.
    assert sum(map(len, by_trial.values())) < 12
    assert best.score == max(rows[-1]["score"] for rows in by_trial.values())
    chosen = EmotionRecipe.read(tmp_path / "out" / "best.yaml")
    assert chosen.model_dump(mode="json") == json.loads(by_trial[best.name][0]["recipe"])

    # The winner is trained as any recipe is, here by two workers.
    folder = Path(train_winner(sweep, Store(str(tmp_path / "out")), Share(workers=2)))
    meta = json.loads((folder / "meta.json").read_text())
    assert folder == tmp_path / "out" / "winner" / "best"
    assert meta["recipe"] == chosen.model_dump(mode="json")

    # The same again has nothing to do; another one is refused.
    before = Store(str(tmp_path / "out")).read("results.parquet")
    assert run(sweep, str(tmp_path / "out"), Share()).name == best.name
    assert Store(str(tmp_path / "out")).read("results.parquet") == before
    with pytest.raises(OutputError, match=r"another sweep \(rule, seed differ\)"):
        run(replace(sweep, rule="median", seed=3), str(tmp_path / "out"), Share())


@pytest.mark.parametrize(
    ("drawn", "reasons"),
    [
        ("lr: {choice: [1.0e+30]}", ("the network gives no numbers", "lower the recipe's lr")),
        pytest.param("size: {choice: [1000000]}", ("Insufficient memory",), marks=pytest.mark.chaos),
    ],
    ids=["diverges", "memory"],
)
def test_a_trial_that_fails_says_why_and_the_others_go_on(
    drawn: str, reasons: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    base = SPACE[: SPACE.index("search:")]
    space = f"{base.replace('size: 32, ', '') if 'size' in drawn else base}search:\n  {drawn}"
    best = run(_sweep(data, space=space, trials=2, rule="none"), str(tmp_path / "out"), Share())
    assert best.student
    (failed,) = (trial for trial in read_trials(Store(str(tmp_path / "out"))) if not trial.student)
    assert all(reason in failed.error for reason in reasons), failed.error
    first = (tmp_path / "out" / "best.yaml").read_text().splitlines()
    assert "the student's recipe, which no other trial beat" in first[1]


def test_what_cannot_be_is_told_before_anything_starts(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no room for 1 worker of 1 CPU and 1 GPU: .* hold 0; ask for fewer .* of a trial"
    ):
        run(_sweep(data), str(tmp_path / "gpu"), Share(gpus=1))
    with pytest.raises(RecipeError, match="nothing to search"):
        run(_sweep(data, space="search: {}"), str(tmp_path / "empty"), Share())
    with pytest.raises(DataError, match="no such folder"):
        run(_sweep(tmp_path / "missing"), str(tmp_path / "out"), Share())
    assert not any((tmp_path / name).exists() for name in ("gpu", "empty", "out"))
