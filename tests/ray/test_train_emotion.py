"""Emotion training on Ray Train: several workers, kills, bad ends, calibration."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray.train
import torch
from safetensors.torch import load_file

from insideout.errors import DataError, OutputError, RecipeError, StorageError, TrainingError, UsageError
from insideout.evaluation.predictions import Predictions
from insideout.recipes.crops import read_crops
from insideout.recipes.emotion import EmotionTraining
from insideout.recipes.emotion_recipe import EmotionRecipe
from pipelines.train_emotion import EndAtOwnErrors, run
from pipelines.workers import places, share
from tests.exports import write_export

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

RECIPE = EmotionRecipe(
    backbone="mobilenet_v2", size=32, batch=8, epochs=3, lr=0.01, augment="face", average=0.5, precision="fp32"
)
LONGER = RECIPE.model_copy(update={"epochs": 6})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("data"), shots=(1, 2, 3, 4))


def _curve(out: Path) -> list[dict[str, float]]:
    with (out / "run.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_two_workers_take_the_way_of_one(data: Path, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"backbone": "resnet50"})
    best = Path(run(data, recipe, tmp_path / "two", workers=2, cpus=1))
    assert best == tmp_path / "two" / "best"
    assert sorted(p.name for p in best.iterdir()) == ["meta.json", "model.safetensors", "valid.parquet"]
    meta = json.loads((best / "meta.json").read_text())
    assert meta["classes"] == ["Angry", "Happy"]
    assert meta["recipe"] == recipe.model_dump(mode="json")
    assert meta["valid"]["crops"] == 8
    assert Predictions.read(best / "valid.parquet").logits.shape == (8, 2)

    run(data, recipe, tmp_path / "one", workers=1, cpus=1)
    one, two = _curve(tmp_path / "one"), _curve(tmp_path / "two")
    assert [row["epoch"] for row in two] == [1, 2, 3]
    assert len({round(row["loss"], 3) for row in one}) == 3  # it does learn, or equal curves would mean little
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=0.02, abs=0.01)
    with pytest.raises(OutputError, match="another recipe"):
        run(data, recipe.model_copy(update={"lr": 0.5}), tmp_path / "two")


def test_what_cannot_be_is_told_before_anything_starts(data: Path, tmp_path: Path) -> None:
    export = write_export(tmp_path / "data", {"train": {"A": 1, "B": 1}, "valid": {"A": 1}})
    with pytest.raises(DataError, match="classes differ"):
        run(export, RECIPE, tmp_path / "out")
    leaking = write_export(tmp_path / "leaking")
    source = next((leaking / "train" / "Happy").iterdir())
    (leaking / "valid" / "Happy" / f"9{source.name}").write_bytes(source.read_bytes())
    with pytest.raises(DataError, match=r"(?s)1 shot on both sides.*--allow-leaks"):
        run(leaking, RECIPE, tmp_path / "out")
    for split in ("train", "valid"):
        for path in (leaking / split).rglob("*.jpg"):
            path.rename(path.with_name(f"{path.stem[:6]}.jpg"))
    with pytest.raises(DataError, match=r"(?s)1 pair of near-duplicates from frames close by or of unknown place"):
        run(leaking, RECIPE, tmp_path / "out")
    with pytest.raises(UsageError, match="no room for 64 workers of 1 CPU: the nodes of this cluster hold 2"):
        run(data, RECIPE, tmp_path / "out", workers=64, cpus=1)
    with pytest.raises(UsageError, match="no room for 1 worker of 1 CPU and 1 GPU: the nodes of this cluster hold 0"):
        run(data, RECIPE, tmp_path / "out", gpus=1)
    with pytest.raises(UsageError, match=r"nothing\.pt: no such file"):
        run(data, RECIPE, tmp_path / "out", pretrained=str(tmp_path / "nothing.pt"))
    with pytest.raises(RecipeError, match="a batch of 7 cannot be shared by 2 workers"):
        run(data, RECIPE.model_copy(update={"batch": 7}), tmp_path / "out", workers=2)
    with pytest.raises(DataError, match="too few for 9 folds"):
        run(data, RECIPE, tmp_path / "out", calibrate=9)
    assert not (tmp_path / "out").exists()


def test_a_worker_has_what_each_node_can_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0}]
    rows = [{"Alive": True, "Resources": has} for has in machines]
    monkeypatch.setattr("ray.nodes", lambda: [*rows, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])
    assert [places(4), places(9), places(8, 1), places(1, 0.5), places(9, 1)] == [8, 1, 2, 4, 0]
    assert [share(1, 0), share(2, 0), share(3, 0), share(4, 0), share(1, 1), share(2, 1)] == [16, 8, 8, 8, 8, 8]
    assert share(5, 0) == 5
    with pytest.raises(UsageError, match=r"no room for 2 workers of 9 CPUs and 1 GPU: .* hold 0; ask for fewer"):
        share(2, 1, 9)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(
        update={"epochs": 4, "schedule": "step", "step_epochs": 1, "step_gamma": 1.0, "probe_epochs": 1, "lr": 1e30}
    ).model_copy(update={"head_lr": 0.01, "average": 0.0})
    said = (
        r"the loss is (nan|inf) in epoch [23], step \d.*, in another --out; the last good checkpoint is .*/checkpoint_"
    )
    with pytest.raises(TrainingError, match=said) as raised:
        run(data, recipe, tmp_path / "out", cpus=1)
    assert isinstance(raised.value.__cause__, ray.train.ControllerError), "not tried again"
    (kept,) = (tmp_path / "out" / "run").glob("checkpoint_*/model.safetensors")
    assert str(raised.value).endswith(str(kept.parent))
    assert not (tmp_path / "out" / "best").exists()


@pytest.mark.chaos
def test_calibration_trains_folds_of_train_and_stores_the_temperature(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1})
    best = Path(run(data, recipe, tmp_path / "out", cpus=1, calibrate=2))
    meta = json.loads((best / "meta.json").read_text())
    _check_unseen(best, data)
    assert meta["temperature_fitted_on"].startswith("16 crops of 4 training shots")
    assert meta["temperature_fitted_on"].endswith("(2 folds)")

    ended = {file: file.read_bytes() for file in best.iterdir()}
    assert "already done" not in capfd.readouterr().out
    run(data, recipe, tmp_path / "out", cpus=1, calibrate=2)
    assert "already done: epoch 1 of 1 is kept, valid macro-F1 0." in capfd.readouterr().out
    assert {file: file.read_bytes() for file in best.iterdir()} == ended

    # Other folds of the same training: none of those before may come among them.
    run(data, recipe, tmp_path / "out", cpus=1, calibrate=4)
    _check_unseen(best, data)
    assert json.loads((best / "meta.json").read_text())["temperature_fitted_on"].endswith("(4 folds)")
    assert (best / "model.safetensors").read_bytes() == ended[best / "model.safetensors"]


def _check_unseen(best: Path, data: Path) -> None:
    """Every crop of train was judged once, and the temperature is of that."""
    unseen = Predictions.read(best / "unseen.parquet")
    assert sorted(crop.name for crop in unseen.crops.crops) == sorted(
        p.relative_to(data).as_posix() for p in (data / "train").rglob("*.jpg")
    )
    assert json.loads((best / "meta.json").read_text())["temperature"] == unseen.temperature


def test_a_run_ends_at_what_would_come_again_and_not_where_storage_failed() -> None:
    with pytest.raises(ray.train.ControllerError, match="bad data"):
        EndAtOwnErrors().after_exception(None, {0: RuntimeError("left alone"), 1: DataError("bad data")})
    EndAtOwnErrors().after_exception(None, {0: StorageError("connection lost"), 1: RuntimeError("worker died")})


def _train_and_kill(
    data: Path, start: Path, out: Path, root: Path, victim: Callable[[subprocess.Popen[bytes]], int]
) -> None:
    """Start the job, its weights named by a relative path, and kill the process that `victim` names."""
    LONGER.write(out.parent / f"{out.name}.yaml")
    command = [sys.executable, "-m", "pipelines.train_emotion", "--data", str(data), "--out", str(out)]
    command += ["--recipe", str(out.parent / f"{out.name}.yaml"), "--cpus", "1"]
    command += ["--pretrained", os.path.relpath(start, root)]
    log = out.parent / f"{out.name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=root, stdout=file, stderr=file, start_new_session=True)
        try:
            deadline = time.monotonic() + 240
            # Once there is a checkpoint.
            while not list((out / "run").glob("checkpoint_*/state.pt")):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            pid = victim(process)
            assert not (out / "best").exists()
            os.kill(pid, signal.SIGKILL)
            if pid != process.pid:
                assert process.wait(240) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def _worker(process: subprocess.Popen[bytes]) -> int:
    """The process that trains, of the Ray that the job started."""
    children = psutil.Process(process.pid).children(recursive=True)
    named = [child.pid for child in children if "RayTrainWorker" in " ".join(child.cmdline())]
    assert len(named) == 1, [child.cmdline() for child in children]
    return named[0]


@pytest.mark.parametrize(
    "victim",
    [_worker, pytest.param(lambda process: process.pid, marks=pytest.mark.chaos)],
    ids=["worker", "driver"],
)
def test_a_killed_training_goes_on_and_ends_like_an_undisturbed_one(
    victim: Callable[[subprocess.Popen[bytes]], int],
    data: Path,
    start: Path,
    straight: Path,
    tmp_path: Path,
    root: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "killed"
    _train_and_kill(data, start, out, root, victim)
    ended = {file: file.stat().st_mtime_ns for file in (out / "best").glob("*")}
    capfd.readouterr()
    resumed = Path(run(data, LONGER, out, cpus=1, pretrained=start))
    # Where a worker was killed, the job itself went on to the end.
    assert ("already done: epoch" in capfd.readouterr().out) == bool(ended)
    if ended:
        assert {file: file.stat().st_mtime_ns for file in resumed.iterdir()} == ended
    assert json.loads((resumed / "meta.json").read_text()) == json.loads((straight / "meta.json").read_text())
    expected, found = (load_file(folder / "model.safetensors") for folder in (straight, resumed))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert [row["epoch"] for row in _curve(out)] == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights to start from: a checkpoint of a training that has not learnt anything."""
    folder = tmp_path_factory.mktemp("start")
    EmotionTraining(LONGER.model_copy(update={"seed": 7}), read_crops(data)).save(folder, {})
    return folder


@pytest.fixture(scope="module")
def straight(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(run(data, LONGER, tmp_path_factory.mktemp("straight") / "out", cpus=1, pretrained=start))
