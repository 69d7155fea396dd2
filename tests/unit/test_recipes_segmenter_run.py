"""The run folder of a segmenter."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from insideout.errors import OutputError, TrainingError
from insideout.recipes.segmenter import SegmenterRecipe
from insideout.recipes.segmenter_run import EpochRecorder, alone, claim, finish, read_metrics, result_line


def test_a_run_of_unknown_recipe_is_gone_on_with_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "run/weights").mkdir(parents=True)
    with pytest.raises(OutputError, match="unknown recipe and data"):
        claim(tmp_path, SegmenterRecipe(), "d", "random")
    claim(tmp_path, SegmenterRecipe(), "d", "random", resume=True)
    claim(tmp_path, SegmenterRecipe(), "d", "random")


def test_two_trainings_never_share_a_folder_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from insideout.recipes.segmenter_run import alone\n"
        f"with alone(Path({str(tmp_path)!r}), print): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        assert (tmp_path / "training.lock").read_text() == f"{holder.pid}\n"
        said: list[str] = []
        with pytest.raises(OutputError, match="another training runs"), alone(tmp_path, said.append, wait_s=0.3):
            pass
        assert len(said) == 1
        holder.send_signal(signal.SIGKILL)
        with alone(tmp_path, said.append, wait_s=10):
            assert (tmp_path / "training.lock").read_text() == f"{os.getpid()}\n"


def trainer(out: Path, epoch: int, loss: float = 1.0, **changes: object) -> SimpleNamespace:
    """What the recorder reads of ultralytics' trainer."""
    weights = out / "run" / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    for name in ("best", "last"):
        (weights / f"{name}.pt").write_text(f"{name} of epoch {epoch + 1}")
    metrics = {f"metrics/mAP{kind}({what})": 0.1 * (epoch + 1) for kind in ("50", "50-95") for what in "BM"}
    return SimpleNamespace(
        **{
            "epoch": epoch, "epochs": 5, "start_epoch": 0, "epoch_time_start": 0.0, "fitness": 0.5, "best_fitness": 0.5,
            "stopper": SimpleNamespace(best_epoch=epoch + 1), "metrics": metrics | {"val/seg_loss": math.nan},
            "tloss": {"box_loss": 1.5, "seg_loss": 2.0}, "loss": torch.tensor(loss), "nan_recovery_attempts": 0,
            "label_loss_items": lambda items: {f"train/{key}": value for key, value in items.items()},
            "best": weights / "best.pt", "last": weights / "last.pt",
        } | changes
    )  # fmt: skip


def test_each_epoch_is_a_whole_line_and_its_checkpoints_are_kept(tmp_path: Path) -> None:
    reports: list[tuple[int, dict[str, float]]] = []
    recorder = EpochRecorder(tmp_path, lambda epoch, row: reports.append((epoch, row)), print)
    recorder.record(trainer(tmp_path, 0))
    recorder.record(trainer(tmp_path, 1, fitness=0.4, stopper=SimpleNamespace(best_epoch=1)))
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert lines.endswith("}\n")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines.splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["mask_map50"] == pytest.approx(0.2)
    assert rows[1]["loss"] == 3.5
    assert rows[1]["train_seg_loss"] == 2.0
    assert rows[1]["val_seg_loss"] is None
    assert [epoch for epoch, _ in reports] == [1, 2]
    weights = tmp_path / "run/weights"
    assert (weights / "best.kept.pt").read_text() == "best of epoch 1"
    assert (weights / "last.kept.pt").read_text() == "last of epoch 2"

    result = finish(tmp_path, epochs=5)
    assert (result["epochs"], result["best_epoch"], result["stopped_early"]) == (2, 1, True)
    assert result["scores"]["box_map50_95"] == pytest.approx(0.1)
    assert result_line(result).startswith("stopped early after epoch 2, the best was epoch 1: mask_map50 0.100")
    assert sorted(path.name for path in weights.iterdir()) == ["best.pt", "last.pt"]
    with pytest.raises(TrainingError, match="without a checkpoint"):
        finish(tmp_path / "elsewhere", epochs=5)


def test_a_loss_that_is_not_finite_is_told_and_never_saved_over_a_good_checkpoint(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = EpochRecorder(tmp_path, None, said.append)
    recorder.check_loss(trainer(tmp_path, 3, loss=1.0))
    assert not said
    recorder.check_loss(trainer(tmp_path, 3, loss=math.nan))
    assert said == ["epoch 4: the loss is not finite; back to epoch 3 (attempt 1 of 3)"]
    with pytest.raises(TrainingError, match=r"epoch 4; the checkpoint of epoch 3 is kept"):
        recorder.check_loss(trainer(tmp_path, 3, loss=math.inf, start_epoch=3))
    with pytest.raises(TrainingError, match=r"after three attempts; the checkpoint of epoch 3 is kept"):
        recorder.check_loss(trainer(tmp_path, 3, loss=math.inf, nan_recovery_attempts=3))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_processes_of_several_gpus_get_the_recorder_and_end_with_their_owner(tmp_path: Path) -> None:
    """As ultralytics sends it to them: by cloudpickle, to a fresh interpreter."""
    import cloudpickle

    state = tmp_path / "state"
    recorder = EpochRecorder(tmp_path, None, print)
    owner = subprocess.Popen([sys.executable, "-c", ""])
    owner.wait()
    lost = EpochRecorder(tmp_path, None, print)
    lost.owner = owner.pid
    state.write_bytes(cloudpickle.dumps([recorder.callbacks(), lost.callbacks()]))
    # While it trains, while it validates, and before it writes what another training may be writing.
    code = (
        f"import pickle; mine, lost = pickle.load(open({str(state)!r}, 'rb'))\n"
        "from insideout.errors import TrainingError\n"
        "for event in ('on_train_batch_end', 'on_val_batch_end', 'on_model_save'):\n"
        "    if event != 'on_model_save': mine[event](None); print(event, 'goes on')\n"
        "    try: lost[event](None)\n"
        "    except TrainingError as error: print(event, error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    gone = f"{tmp_path}: the process that began this training is gone"
    assert done.stdout.splitlines() == [
        "on_train_batch_end goes on", f"on_train_batch_end {gone}",
        "on_val_batch_end goes on", f"on_val_batch_end {gone}",
        f"on_model_save {gone}",
    ], done.stderr  # fmt: skip
    assert not (tmp_path / "metrics.jsonl").exists()


def test_metrics_of_a_run_that_has_not_begun_are_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
