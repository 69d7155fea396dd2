"""The test split is out of reach of a sweep: whatever its trials read is watched."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from insideout.recipes.emotion import EmotionTraining
from insideout.recipes.segmenter import prepare_segmenter
from insideout.store import Store
from tests.exports import COUNTS, write_export, write_yolo_export
from tune import emotion, segmenter
from tune.settings import Share, Sweep
from tune.space import Space

_watched: list[set[str]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _watched and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes | Path):
        _watched[-1].add(os.path.abspath(os.fsdecode(arguments[0])))


sys.addaudithook(_note)


@contextmanager
def watched() -> Iterator[set[str]]:
    """What is opened or listed inside, as absolute paths."""
    _watched.append(set())
    try:
        yield _watched[-1]
    finally:
        _watched.pop()


def _below(seen: set[str], folder: Path) -> set[str]:
    return {path for path in seen if Path(path).is_relative_to(folder)}


def test_an_emotion_trial_opens_nothing_of_test(tmp_path: Path) -> None:
    data = write_export(tmp_path / "data", COUNTS | {"test": COUNTS["valid"]}, shots=(1, 2, 3, 4))
    (tmp_path / "space.yaml").write_text(
        "base: {backbone: mobilenet_v2, size: 32, epochs: 1, precision: fp32}\nsearch: {batch: {choice: [8]}}"
    )
    space = Space.read(tmp_path / "space.yaml")
    sweep = Sweep("emotion", (str(data),), None, "", 1)
    with watched() as seen:
        job = emotion.prepare(sweep, space, Share(), Store(tmp_path / "out"))
        for crops in (job.read(), job.read().inner_fold(0, 2)):
            training = EmotionTraining(job.recipe({"batch": 8}), crops)
            training.train_epoch()
            training.evaluate()
    assert len(_below(seen, data / "train")) >= 16
    assert len(_below(seen, data / "valid")) >= 8
    assert not _below(seen, data / "test")


def test_a_segmenter_trial_opens_no_picture_of_test(tmp_path: Path) -> None:
    data = write_yolo_export(tmp_path / "data")
    (data / "valid").rename(data / "test")
    write_yolo_export(tmp_path / "other", seed=1)
    (tmp_path / "other" / "valid").rename(data / "valid")
    (data / "data.yaml").write_text((data / "data.yaml").read_text() + "test: ../test/images\n")
    (tmp_path / "space.yaml").write_text("of: segmenter\nsearch: {lr0: {log: [0.001, 0.1]}}")
    sweep = Sweep("segmenter", (str(data),), None, "", 1, allow_leaks=True)
    with watched() as seen:
        job = segmenter.prepare(sweep, Space.read(tmp_path / "space.yaml"), Share(), Store(tmp_path / "out"))
        job = replace(job, allow_leaks=True)
        prepare_segmenter(Path(job.data), job.recipe({"lr0": 0.01}), tmp_path / "run", allow_leaks=True)
    assert len(_below(seen, data / "train" / "images")) >= 8
    assert len(_below(seen, data / "valid" / "labels")) >= 3
    # That there is such a folder is looked up; what is in it is not.
    assert _below(seen, data / "test") <= {str(data / "test" / "images")}
    listed = (tmp_path / "run" / "train.txt").read_text() + (tmp_path / "run" / "val.txt").read_text()
    assert "/test/" not in listed
    assert "test" not in (tmp_path / "run" / "data.yaml").read_text().replace(str(tmp_path), "")
