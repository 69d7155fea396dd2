from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from insideout.errors import DataError, OutputError
from insideout.recipes.emotion import EmotionRecipe
from pipelines.train_emotion import run
from tests.exports import write_export

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

RECIPE = EmotionRecipe(size=32, batch=8, epochs=2, augment="face", precision="fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("data"))


def test_two_workers_train_one_network_and_a_second_run_has_nothing_to_do(data: Path, tmp_path: Path) -> None:
    best = run(data, RECIPE, tmp_path / "out", workers=2, cpus=1)
    assert best == tmp_path / "out" / "best"
    assert sorted(p.name for p in best.iterdir()) == ["meta.json", "model.safetensors"]
    meta = json.loads((best / "meta.json").read_text())
    assert meta["classes"] == ["Angry", "Happy"]
    assert meta["recipe"] == RECIPE.model_dump(mode="json")
    assert meta["valid"]["crops"] == 8
    assert 0 <= meta["valid"]["macro_f1"] <= 1
    assert load_file(best / "model.safetensors")["fc.weight"].shape == (2, 2048)

    before = (best / "model.safetensors").read_bytes()
    checkpoints = sorted(p.name for p in (tmp_path / "out" / "run").glob("checkpoint_*"))
    assert run(data, RECIPE, tmp_path / "out", workers=2, cpus=1) == best
    assert (best / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "out" / "run").glob("checkpoint_*")) == checkpoints

    with pytest.raises(OutputError, match="another recipe"):
        run(data, RECIPE.model_copy(update={"lr": 0.5}), tmp_path / "out")


def test_unusable_data_is_told_before_anything_starts(tmp_path: Path) -> None:
    export = write_export(tmp_path / "data", {"train": {"A": 1, "B": 1}, "valid": {"A": 1}})
    with pytest.raises(DataError, match="classes differ"):
        run(export, RECIPE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_training_goes_on_and_ends_like_an_undisturbed_one(data: Path, tmp_path: Path, root: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 4})
    recipe.write(tmp_path / "recipe.yaml")
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "pipelines.train_emotion", str(data), str(tmp_path / "recipe.yaml"), str(out)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--cpus", "1"], cwd=root, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not list((out / "run").glob("checkpoint_*/state.pt")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "best").exists()
    resumed = run(data, recipe, out, cpus=1)
    straight = run(data, recipe, tmp_path / "straight", cpus=1)
    assert json.loads((resumed / "meta.json").read_text()) == json.loads((straight / "meta.json").read_text())
    expected, found = (load_file(folder / "model.safetensors") for folder in (straight, resumed))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
