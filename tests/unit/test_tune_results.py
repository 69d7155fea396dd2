from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from insideout.errors import OutputError
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.store import Store
from tests.sweeps import write_sweep
from tune import charts
from tune.report import write_report
from tune.results import best_trial, read_trials
from tune.sweep import claim, read_space, read_sweep, write_results

SGD = {"batch": 4, "label_smoothing": 0.1, "optimizer": "sgd", "optimizer.sgd.lr": 0.01, "optimizer.sgd.momentum": 0.8}
ADAMW = {"batch": 8, "label_smoothing": 0.0, "optimizer": "adamw", "optimizer.adamw.lr": 0.001}
STUDENT = {"student": True}


def test_every_epoch_of_every_trial_is_in_the_table(tmp_path: Path) -> None:
    store = Store(write_sweep(tmp_path, [(STUDENT, [0.2, 0.3, 0.3]), (SGD, [0.1]), (ADAMW, [0.3, 0.5])]))
    best = write_results(store, read_sweep(store), read_space(read_sweep(store)))
    assert (best.name, best.score) == ("trial-2", 0.5)
    rows = store.read_table("results.parquet").to_pylist()
    assert [(row["trial"], row["epoch"], row["score"], row["student"]) for row in rows] == [
        ("trial-0", 1, 0.2, True), ("trial-0", 2, 0.3, True), ("trial-0", 3, 0.3, True),
        ("trial-1", 1, 0.1, False), ("trial-2", 1, 0.3, False), ("trial-2", 2, 0.5, False),
    ]  # fmt: skip
    assert json.loads(rows[3]["recipe"])["momentum"] == 0.8
    recipe = EmotionRecipe.read(tmp_path / "best.yaml")
    assert (recipe.optimizer, recipe.lr, recipe.batch, recipe.size) == ("adamw", 0.001, 8, 32)


def test_the_student_wins_a_tie_and_the_recipe_says_so(tmp_path: Path) -> None:
    store = Store(write_sweep(tmp_path, [(SGD, [0.4]), (STUDENT, [0.4])]))
    assert write_results(store, read_sweep(store), read_space(read_sweep(store))).student
    text = (tmp_path / "best.yaml").read_text()
    assert "the student's recipe, which no other trial beat" in text.splitlines()[1]
    assert EmotionRecipe.read(tmp_path / "best.yaml").lr == 0.001


def test_a_failed_trial_has_its_reason_and_one_that_went_on_has_none(tmp_path: Path) -> None:
    write_sweep(tmp_path, [(STUDENT, [0.2]), (SGD, []), (ADAMW, [0.3])], failed={1: "TrainingError: the loss is nan"})
    (tmp_path / "trials" / "trial-2" / "error.txt").write_text("died once\n")
    trials = read_trials(Store(tmp_path))
    assert [trial.error for trial in trials] == ["", "TrainingError: the loss is nan", ""]
    assert best_trial(trials).name == "trial-2"


def test_an_epoch_that_was_done_twice_counts_once_and_a_cut_line_not(tmp_path: Path) -> None:
    write_sweep(tmp_path, [(STUDENT, [0.2, 0.3])])
    file = tmp_path / "trials" / "trial-0" / "result.json"
    again = file.read_text().splitlines()[1].replace("0.3", "0.35")
    file.write_text(file.read_text() + again + '\n{"epoch": 3, "sco')
    (trial,) = read_trials(Store(tmp_path))
    assert [(report["epoch"], report["score"]) for report in trial.epochs] == [(1, 0.2), (2, 0.35)]


def test_settings_that_changed_on_the_way_are_told(tmp_path: Path) -> None:
    write_sweep(tmp_path, [(STUDENT, [0.2]), (SGD, [0.3, 0.4])])
    file = tmp_path / "trials" / "trial-1" / "result.json"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    changed = SGD | {"optimizer.sgd.lr": 0.05}
    file.write_text("".join(json.dumps(r | {"config": c}) + "\n" for r, c in zip(lines, (SGD, changed), strict=True)))
    store = Store(tmp_path)
    sweep = read_sweep(store)
    write_results(store, sweep, read_space(sweep))
    rows = store.read_table("results.parquet").to_pylist()
    assert [json.loads(row["recipe"])["lr"] for row in rows] == [0.001, 0.01, 0.05]
    assert EmotionRecipe.read(tmp_path / "best.yaml").lr == 0.05
    about = (tmp_path / "best.yaml").read_text().splitlines()[1]
    assert "whose settings changed on its way: these are the last of them, by what chose it: macro_f1 0.400" in about


def test_folders_without_a_sweep_or_a_score_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no sweep there"):
        read_sweep(Store(tmp_path))
    with pytest.raises(OutputError, match="no trials there"):
        read_trials(Store(tmp_path))
    write_sweep(tmp_path / "failed", [(SGD, [])], failed={0: "MemoryError: no room"})
    with pytest.raises(OutputError, match="no trial reported a score: MemoryError: no room"):
        read_trials(Store(tmp_path / "failed"))


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    store = Store(write_sweep(tmp_path, [(STUDENT, [0.2])]))
    sweep = read_sweep(store)
    claim(sweep, store, "a")  # of a version that did not keep the digest
    assert read_sweep(store) == sweep
    with pytest.raises(OutputError, match=r"another sweep \(data, seed differ\)"):
        claim(replace(sweep, seed=5, data=("other",)), store, "a")
    with pytest.raises(OutputError, match=r"another sweep \(content of data and weights differ\)"):
        claim(sweep, store, "b")


def test_what_made_the_score_is_found(tmp_path: Path) -> None:
    trials = [(STUDENT, [0.9])]
    for place in range(24):
        config = dict(SGD if place % 2 else ADAMW) | {"batch": (4, 8)[place // 2 % 2], "label_smoothing": place / 120}
        trials.append((config, [0.2 + 0.5 * (place % 2) + 0.001 * place]))
    store = Store(write_sweep(tmp_path, trials))
    found = read_trials(store)
    space = read_space(read_sweep(store))
    # lr is drawn by either optimizer, momentum by one: shared is what all have.
    assert set(charts.shared_settings(found[1:])) == {"batch", "label_smoothing", "optimizer", "lr"}
    shares = charts.importances(found, space)
    assert shares["optimizer"] + shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert charts.importances(found[:5], space) == {}


def test_the_report_holds_everything_and_no_markup_from_outside(tmp_path: Path) -> None:
    odd = SGD | {"optimizer.sgd.lr": 0.02}
    trials = [(STUDENT, [0.2, 0.25]), (odd, [0.1]), (ADAMW, [0.3, 0.5])]
    store = Store(write_sweep(tmp_path, trials, failed={1: "Error: <script>alert(1)</script>"}))
    sweep = read_sweep(store)
    space = read_space(sweep)
    write_results(store, sweep, space)
    page = Path(write_report(store, sweep, space)).read_text()
    assert "The best recipe scores 0.500" in page
    assert "trained 5 epochs; all of them in full are 9" in page
    assert "saved 44%" in page
    assert "The score is macro_f1 on valid." in page
    folds = Path(write_report(store, replace(sweep, folds=3, metric="accuracy"), space)).read_text()
    assert "The score is accuracy on 3 folds by scene of train." in folds
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "optimizer: adamw" in page
    assert not re.search(r'(src|href)="https?:', page)
    assert page.count("vegaEmbed(") >= 4
