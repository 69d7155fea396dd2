"""The segmenter trains as a Ray job on a small export that the test draws, stops, and goes on."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import yaml

from insideout.packing import read_segmenter
from insideout.recipes.segmenter import SegmenterRecipe


def draw(folder: Path, seed: int = 0) -> Path:
    """Bright discs and squares on noise, some pictures empty, with their polygons."""
    random = np.random.default_rng(seed)
    for split, count in (("train", 12), ("valid", 4)):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(count):
            picture = random.integers(0, 60, (96, 128, 3), np.uint8)
            lines = []
            if i % 4:
                name, x, y, r = i % 2, *random.integers(24, 72, 2).tolist(), 16
                turns = np.linspace(0, 2 * np.pi, 24 if name == 0 else 4, endpoint=False)
                points = np.stack([x + r * np.cos(turns), y + r * np.sin(turns)], 1)
                cv2.fillPoly(picture, [points.astype(np.int32)], (40, 200, 240) if name else (220, 80, 40))
                xy = " ".join(f"{px / 128:.4f} {py / 96:.4f}" for px, py in points)
                lines.append(f"{name} {xy}")
            cv2.imwrite(str(folder / split / "images" / f"{i}.jpg"), picture)
            (folder / split / "labels" / f"{i}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"train": "../train/images", "val": "../valid/images", "nc": 2, "names": ["Disc", "Square"]})
    )
    return folder


def command(data: Path, recipe: SegmenterRecipe, out: Path) -> list[str]:
    recipe.write(out.parent / "recipe.yaml")
    return [
        sys.executable, "-m", "pipelines.cli", "train", "segmenter", "--data", str(data), "--out", str(out),
        "--recipe", str(out.parent / "recipe.yaml"),
    ]  # fmt: skip


def epochs(out: Path) -> list[int]:
    results = out / "run" / "results.csv"
    if not results.exists():
        return []
    with results.open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def test_a_killed_training_goes_on_with_resume(tmp_path: Path) -> None:
    data, out = draw(tmp_path / "export"), tmp_path / "out"
    recipe = SegmenterRecipe(imgsz=64, batch=4, epochs=40, close_mosaic=0, mosaic=0.0, warmup_epochs=0, seed=3)
    driver = subprocess.Popen(
        command(data, recipe, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(epochs(out)) < 2 and driver.poll() is None:
        time.sleep(0.2)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    # Workers are in sessions of their own and end by themselves once the driver is gone.
    before = epochs(out)
    while (settled := epochs(out)) != before or not settled:
        time.sleep(1)
        before = settled
    assert 2 <= len(before) < 40, "the kill came too late to prove anything"

    done = subprocess.run([*command(data, recipe, out), "--resume"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "epoch 40/40" in done.stdout + done.stderr
    assert "epoch 1/40" not in done.stdout + done.stderr
    best = out / "run" / "weights" / "best.pt"
    assert str(best) in done.stdout
    # Loads weights-only, into ultralytics' own class, with the export's names.
    found = read_segmenter(best)
    assert found["classes"] == ("Disc", "Square")
    assert found["architecture"] == "yolov8n-seg"
    assert found["imgsz"] == 64
