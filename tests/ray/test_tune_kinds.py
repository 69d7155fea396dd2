"""Sweeps of other kinds: of the segmenter, with workers for each trial, with a population."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from insideout.errors import UsageError
from insideout.recipes.segmenter_recipe import SegmenterRecipe
from insideout.recipes.segmenter_run import read_metrics
from insideout.store import Store
from tests.exports import write_export, write_yolo_export
from tune import emotion, loggers
from tune.results import read_trials
from tune.settings import Log, Share, Sweep
from tune.space import Space
from tune.sweep import run
from tune.winner import check_winner, train_winner

pytestmark = pytest.mark.ray

EMOTION = """
of: emotion
base: {backbone: mobilenet_v2, size: 32, epochs: 4, precision: fp32, augment: none}
search:
  batch: {choice: [4, 8]}
  momentum: {uniform: [0.5, 0.9]}
  lr: {log: [0.0001, 0.03]}
"""

SEGMENTER = """
of: segmenter
base: {imgsz: 64, batch: 4, epochs: 3, patience: 0, mosaic: 0.0, close_mosaic: 0, warmup_epochs: 0}
search:
  optimizer:
    choice:
      SGD: {lr0: {log: [0.001, 0.03]}}
      AdamW: {lr0: {log: [0.0001, 0.003]}}
  hsv_h: {uniform: [0.0, 0.015]}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("data"), shots=(1, 2, 3, 4))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.chaos
def test_a_segmenter_is_swept_as_a_classifier_is(tmp_path: Path) -> None:
    data = write_yolo_export(tmp_path / "export")
    sweep = Sweep("segmenter", (str(data),), None, SEGMENTER, 3, rule="none")
    best = run(sweep, str(tmp_path / "out"), Share())
    rows = Store(str(tmp_path / "out")).read_table("results.parquet").to_pylist()
    assert {(row["trial"], row["epoch"]) for row in rows} == {
        (name, epoch) for name in {row["trial"] for row in rows} for epoch in (1, 2, 3)
    }
    assert len(rows) == 9
    assert {row["error"] for row in rows} == {""}
    for row in rows:
        recipe = SegmenterRecipe(**json.loads(row["recipe"]))
        assert (recipe.imgsz, recipe.epochs) == (64, 3)
        assert recipe.optimizer == "auto" if row["student"] else recipe.optimizer in ("SGD", "AdamW")
        done = [r["mask_map50_95"] or 0.0 for r in rows if r["trial"] == row["trial"] and r["epoch"] <= row["epoch"]]
        assert row["score"] == max(done)
        assert row["loss"] > 0
    chosen = SegmenterRecipe.read(tmp_path / "out" / "best.yaml")
    assert chosen.model_dump(mode="json") == json.loads(next(r for r in rows if r["trial"] == best.name)["recipe"])
    assert "insideout train segmenter" in (tmp_path / "out" / "best.yaml").read_text()
    checkpoint = Path(train_winner(sweep, Store(str(tmp_path / "out")), Share()))
    assert checkpoint.is_relative_to(tmp_path / "out" / "winner")
    assert len(read_metrics(tmp_path / "out" / "winner")) == 3


@pytest.mark.chaos
@pytest.mark.usefixtures("ray_cluster")
def test_of_a_population_the_last_go_on_from_the_first(data: Path, tmp_path: Path) -> None:
    sweep = Sweep("emotion", (str(data),), None, EMOTION, 4, algorithm="random", rule="pbt", grace=2)
    run(sweep, str(tmp_path / "out"), Share())
    trials = read_trials(Store(str(tmp_path / "out")))
    assert [trial.error for trial in trials] == [""] * 4
    (student,) = (trial for trial in trials if trial.student)
    assert [report["epoch"] for report in student.epochs] == [1, 2, 3, 4]
    assert all(report["config"] == {"student": True} for report in student.epochs)
    changed = 0
    for trial in trials:
        assert trial.epochs[-1]["epoch"] == 4
        for before, after in zip(trial.epochs, trial.epochs[1:], strict=False):
            if before["config"] != after["config"]:
                changed += 1
                assert "student" not in after["config"]
                assert (before["epoch"], after["epoch"]) == (2, 3)
    assert changed
    table = Store(str(tmp_path / "out")).read_table("results.parquet").to_pylist()
    for row in table:
        trial = next(trial for trial in trials if trial.name == row["trial"])
        drawn = trial.epochs[row["epoch"] - 1]["config"]
        assert json.loads(row["recipe"])["lr"] == (0.001 if row["student"] else drawn["lr"])


@pytest.mark.usefixtures("ray_cluster")
def test_what_cannot_go_together_is_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(match: str, share: Share | None = None, space: str = EMOTION, **settings: object) -> None:
        sweep = Sweep("emotion", (str(data),), None, space, 2)
        with pytest.raises(UsageError, match=match):
            run(Sweep(**{**vars(sweep), **settings}), str(tmp_path / "out"), share or Share())
        assert not (tmp_path / "out").exists()

    refused("no trial of the emotion reports it; choose from macro_f1", metric="mask_map50")
    refused("would mislead optuna; add --search random", rule="pbt")
    refused("a nested trial cannot change its settings", rule="pbt", algorithm="random", nested=True)
    refused("trained by ultralytics, in one process", of="segmenter", space=SEGMENTER, nested=True)
    refused("scored on val; leave it out", of="segmenter", space=SEGMENTER, folds=2)
    refused(r"no room for 4 workers of 1 CPU: .* hold 2; .* or --workers of a trial", Share(workers=4), nested=True)
    refused("trains one network a trial", nested=True, folds=2)
    with pytest.raises(UsageError, match=r"no room for 3 workers of 1 CPU: .* for the winner, or --no-winner"):
        check_winner(Sweep("emotion", (str(data),), None, EMOTION, 2), Store(tmp_path / "out"), Share(workers=3))
    with pytest.raises(UsageError, match="give --nested --workers 2 --gpus 1"):
        emotion.prepare(*_asked(data, tmp_path, nested=False), Share(gpus=2), Store(tmp_path / "out"))
    with pytest.raises(UsageError, match="each worker has one GPU"):
        emotion.prepare(*_asked(data, tmp_path, nested=True), Share(gpus=0.5), Store(tmp_path / "out"))
    monkeypatch.setitem(loggers._PACKAGES, Log.wandb, "no_such_package")
    with pytest.raises(UsageError, match="--log wandb: no_such_package is not installed; pip install no_such_package"):
        loggers.build_loggers([Log.tensorboard, Log.wandb], "sweep")


def _asked(data: Path, tmp_path: Path, *, nested: bool) -> tuple[Sweep, Space]:
    (tmp_path / "space.yaml").write_text(EMOTION)
    return Sweep("emotion", (str(data),), None, EMOTION, 2, nested=nested), Space.read(tmp_path / "space.yaml")


@pytest.mark.chaos
def test_nested_trials_give_back_their_workers_when_they_are_stopped(data: Path, tmp_path: Path, root: Path) -> None:
    """On two CPUs: were the worker of a stopped trial kept, the third would wait for its own for ever.

    Successive halving stops a trial at its last epoch at the latest; the student's ends by itself.
    """
    space, out = tmp_path / "space.yaml", tmp_path / "out"
    space.write_text(EMOTION)
    command = [sys.executable, "-m", "tune.sweep", "emotion", "--data", str(data), "--space", str(space)]
    command += ["--out", str(out), "--trials", "3", "--nested", "--grace", "1", "--reduction", "2", "--no-winner"]
    command += ["--log", "tensorboard", "--log", "mlflow", "--log", "wandb"]
    elsewhere = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "WANDB_MODE": "offline"}
    env = os.environ | elsewhere | {"WANDB_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    trials = read_trials(Store(str(out)))
    assert [trial.error for trial in trials] == [""] * 3
    assert len(next(trial for trial in trials if trial.student).epochs) == 4
    for trial in trials:
        figures = [report["macro_f1"] for report in trial.epochs]
        assert [report["score"] for report in trial.epochs] == [max(figures[: i + 1]) for i in range(len(figures))]
        assert list((out / "trials" / trial.name).glob("events.out.tfevents.*"))
        assert (out / "nested" / trial.name).is_dir()
        assert list((tmp_path / "wandb").glob(f"offline-run-*-{trial.name.removeprefix('trial-')}/*.wandb"))
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        logged = database.execute("select step, value from metrics where key = 'macro_f1'").fetchall()
    assert len(logged) == sum(len(trial.epochs) for trial in trials)
