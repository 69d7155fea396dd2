"""Checkpoints on object storage: a training whose run folder is s3://."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import s3fs

from insideout.recipes.emotion_recipe import EmotionRecipe
from tests.exports import write_export
from tests.object_storage import BUCKET, s3_server

pytestmark = pytest.mark.ray


def test_a_training_keeps_its_checkpoints_on_s3_and_goes_on_from_them(tmp_path: Path, root: Path) -> None:
    data = write_export(tmp_path / "data")
    recipe = EmotionRecipe(backbone="efficientnet_lite0", size=32, batch=8, epochs=2, augment="face", precision="fp32")
    recipe.write(tmp_path / "recipe.yaml")
    out = f"s3://{BUCKET}/runs/emotion"
    command = [sys.executable, "-m", "pipelines.train_emotion", "--data", str(data), "--out", out, "--cpus", "1"]
    command += ["--recipe", str(tmp_path / "recipe.yaml"), "--pretrained", "imagenet"]
    with s3_server(tmp_path / "weed") as environment:
        env = os.environ | environment
        fs = s3fs.S3FileSystem(
            key=env["FSSPEC_S3_KEY"], secret=env["FSSPEC_S3_SECRET"], endpoint_url=env["FSSPEC_S3_ENDPOINT_URL"]
        )
        first = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=280, check=False)
        assert first.returncode == 0, first.stderr[-3000:]
        assert f"checkpoint: {out}/best" in first.stdout
        assert "epoch 2/2" in first.stdout
        found = {path.removeprefix(f"{BUCKET}/runs/emotion/") for path in fs.find(f"{BUCKET}/runs/emotion")}
        assert {"recipe.yaml", "run.csv", "best/model.safetensors", "best/meta.json", "best/valid.parquet"} <= found
        assert any(name.startswith("run/checkpoint_") and name.endswith("/state.pt") for name in found)
        meta = json.loads(fs.cat_file(f"{BUCKET}/runs/emotion/best/meta.json"))
        assert [row["epoch"] for row in meta["history"]][-1] in (1, 2)
        # Workers on other machines read from there what the driver fetched.
        assert meta["pretrained"] in found
        assert meta["pretrained"].startswith("efficientnet-lite0")

        again = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=280, check=False)
        assert again.returncode == 0, again.stderr[-3000:]
        assert "already done: epoch" in again.stdout
        assert "epoch 1/2" not in again.stdout
        fs.invalidate_cache()
        assert json.loads(fs.cat_file(f"{BUCKET}/runs/emotion/best/meta.json")) == meta
