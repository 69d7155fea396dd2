"""The segmenter trains as a Ray job on a small export that the test draws, is killed, and goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from insideout.errors import DataError, OutputError, TrainingError, UsageError
from insideout.packing import read_segmenter
from insideout.recipes.segmenter import (
    SegmenterRecipe,
    make_trainer,
    overrides,
    prepare_segmenter,
    say,
    train_segmenter,
)
from insideout.recipes.segmenter_run import EpochRecorder, finish, read_metrics
from insideout.yolo import set_ultralytics_environment
from pipelines.train_segmenter import print_epoch, run
from tests.exports import write_yolo_export

pytestmark = pytest.mark.ray

RECIPE = SegmenterRecipe(imgsz=64, batch=4, epochs=8, close_mosaic=0, mosaic=0.0, warmup_epochs=0, seed=3)


def wait_for(what: Callable[[], bool], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def check_finished(out: Path, before: list[dict[str, Any]], epochs: int) -> None:
    """Each epoch is there once, those before the kill were not done again, and the best can be packed."""
    rows = read_metrics(out)
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
    assert 1 <= len(before) < epochs, "the kill came too late to prove anything"
    # A kill may come between the line of an epoch and its checkpoint; then this one epoch is done again.
    assert rows[: len(before) - 1] == before[:-1]
    with (out / "run" / "results.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(1, epochs + 1))
    result = json.loads((out / "result.json").read_text())
    assert (result["epochs"], result["stopped_early"]) == (epochs, False)
    assert not list((out / "run" / "weights").glob("*.kept.pt"))
    # Loads weights-only, into ultralytics' own class, with the export's names.
    found = read_segmenter(out / "run" / "weights" / "best.pt")
    assert found["classes"] == ("Disc", "Square")
    assert found["architecture"] == "yolov8n-seg"
    assert found["imgsz"] == 64


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_is_replaced_and_a_finished_run_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = write_yolo_export(tmp_path / "export"), tmp_path / "out"
    results: list[Path] = []
    thread = threading.Thread(target=lambda: results.append(run(data, RECIPE, out, cpus=1)))
    thread.start()
    wait_for(lambda: len(read_metrics(out)) >= 2 or not thread.is_alive())
    os.kill(int((out / "training.lock").read_text()), signal.SIGKILL)
    before = read_metrics(out)
    thread.join(200)
    best = out / "run" / "weights" / "best.pt"
    assert results == [best]
    check_finished(out, before, RECIPE.epochs)

    written = best.stat().st_mtime_ns
    capfd.readouterr()
    assert run(data, RECIPE, out, cpus=1) == best
    assert "already done: 8 epochs, the best was epoch" in capfd.readouterr().out
    assert best.stat().st_mtime_ns == written
    with pytest.raises(OutputError, match="lr0"):
        run(data, RECIPE.model_copy(update={"lr0": 0.5}), out)
    with pytest.raises(OutputError, match="data"):
        run(write_yolo_export(tmp_path / "other", seed=1), RECIPE, out)


@pytest.mark.usefixtures("ray_cluster")
def test_what_the_cluster_does_not_have_and_what_is_broken_is_told_at_once(tmp_path: Path) -> None:
    data, out = write_yolo_export(tmp_path / "export"), tmp_path / "out"
    with pytest.raises(UsageError, match="2 GPUs asked for, but the largest node of this Ray cluster has 0"):
        run(data, RECIPE, out, gpus=2)
    with pytest.raises(UsageError, match="9 CPUs asked for, but the largest node has 2"):
        run(data, RECIPE, out, cpus=9)
    (data / "train/labels/train1.txt").write_text("7 0.1 0.1 0.5 0.1 0.5 0.5")
    with pytest.raises(DataError, match=r"train1\.txt:1: class 7"):
        run(data, RECIPE, out)
    assert not out.exists()


def test_a_loss_that_is_not_finite_costs_an_epoch_at_most_and_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_yolo_export(tmp_path / "export"), tmp_path / "out"
    recipe, said = RECIPE.model_copy(update={"epochs": 3}), list[str]()
    bad = {1: 2, 2: 1_000}  # after so many epochs, so many batches

    from ultralytics.nn.tasks import BaseModel

    sound = BaseModel.loss
    done = 0

    def loss(model: Any, batch: Any, preds: Any = None) -> Any:
        found, items = sound(model, batch, preds)
        if model.training and bad.get(done, 0):
            bad[done] -= 1
            found = found * float("nan")
        return found, items

    def count(epoch: int, _figures: dict[str, float]) -> None:
        nonlocal done
        done = epoch

    monkeypatch.setattr(BaseModel, "loss", loss)
    with pytest.raises(TrainingError, match=r"epoch 3 after three attempts; the checkpoint of epoch 2 is kept"):
        train_segmenter(data, recipe, out, threads=1, on_epoch=count, tell=said.append)
    assert [line for line in said if "not finite" in line] == [
        "epoch 2: the loss is not finite; back to epoch 1 (attempt 1 of 3)",
        *(f"epoch 3: the loss is not finite; back to epoch 2 (attempt {i} of 3)" for i in (1, 2, 3)),
    ]
    assert [row["epoch"] for row in read_metrics(out)] == [1, 2]
    with pytest.raises(TrainingError, match=r"not finite in epoch 3; the checkpoint of epoch 2 is kept"):
        train_segmenter(data, recipe, out, threads=1, tell=said.append)
    before = read_metrics(out)
    bad.clear()
    best = train_segmenter(data, recipe, out, threads=1, tell=said.append)
    assert "going on after epoch 2 of 3" in said
    assert read_metrics(out)[:2] == before
    assert len(read_metrics(out)) == 3
    assert all(torch.isfinite(tensor).all() for tensor in read_segmenter(best)["state"].values())


def test_a_batch_that_does_not_fit_ends_the_run_and_is_not_halved_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ultralytics goes on with half of it, on a CPU as on a GPU, and warns where nobody sees it."""
    from ultralytics.nn.tasks import BaseModel

    def loss(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(BaseModel, "loss", loss)
    data, out = write_yolo_export(tmp_path / "export"), tmp_path / "out"
    with pytest.raises(TrainingError, match=r"a batch of 4 does not fit .*; lower batch, to 2 perhaps, in another"):
        train_segmenter(data, RECIPE, out, threads=1, tell=lambda _: None)
    assert not read_metrics(out)


def test_a_run_begun_on_a_gpu_with_bfloat16_goes_on_without(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import torch_safe_load

    data, out, said = write_yolo_export(tmp_path / "export"), tmp_path / "out", list[str]()
    recipe = RECIPE.model_copy(update={"epochs": 2})

    def stop(epoch: int, _figures: dict[str, float]) -> None:
        raise TrainingError(f"stopped after epoch {epoch}")

    with pytest.raises(TrainingError, match="stopped after epoch 1"):
        train_segmenter(data, recipe, out, threads=1, on_epoch=stop, tell=said.append)
    kept = out / "run" / "weights" / "last.kept.pt"
    content, _ = torch_safe_load(str(kept), safe_only=True)
    content["train_args"]["amp"] = "bf16"
    torch.save(content, kept)
    train_segmenter(data, recipe, out, threads=1, tell=said.append)
    assert "going on after epoch 1 of 2" in said
    assert "this hardware computes otherwise than what the run was begun on: amp False instead of bf16" in said
    assert [row["epoch"] for row in read_metrics(out)] == [1, 2]


def test_processes_that_ultralytics_starts_for_several_gpus_keep_the_run_folder(tmp_path: Path) -> None:
    """The script that ultralytics writes for them, run once, on the CPU."""
    job = prepare_segmenter(
        write_yolo_export(tmp_path / "export"), RECIPE.model_copy(update={"epochs": 1}), tmp_path / "out"
    )
    set_ultralytics_environment(job.out / "ultralytics")
    from ultralytics.utils.dist import generate_ddp_file

    recorder = EpochRecorder(job.out, print_epoch, say)
    script = generate_ddp_file(make_trainer(job.recipe, "0,1", overrides(job, "cpu", 1), recorder))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1  loss") == 1
    assert [row["epoch"] for row in read_metrics(job.out)] == [1]
    assert finish(job.out, 1)["best_epoch"] == 1
    assert read_segmenter(job.out / "run" / "weights" / "best.pt")["classes"] == ("Disc", "Square")


@pytest.mark.chaos
def test_a_killed_driver_goes_on_when_the_command_is_given_again(tmp_path: Path) -> None:
    data, out = write_yolo_export(tmp_path / "export"), tmp_path / "out"
    # Many, since the worker trains on for some seconds until it finds its driver gone.
    recipe = RECIPE.model_copy(update={"epochs": 30})
    recipe.write(tmp_path / "recipe.yaml")
    command = [
        sys.executable, "-m", "pipelines.cli", "train", "segmenter", "--data", str(data), "--out", str(out),
        "--recipe", str(tmp_path / "recipe.yaml"),
    ]  # fmt: skip
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: len(read_metrics(out)) >= 2 or driver.poll() is not None)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    before = read_metrics(out)
    # At once: workers are in sessions of their own, and the new one waits for the old one to end.
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "going on after epoch" in said
    assert "epoch 30/30  loss" in said
    assert "epoch 1/30" not in said
    assert "train: 8 pictures, 2 of them without a label (25.0%)" in said
    assert f"best checkpoint: {out / 'run' / 'weights' / 'best.pt'}" in done.stdout
    check_finished(out, before, recipe.epochs)
