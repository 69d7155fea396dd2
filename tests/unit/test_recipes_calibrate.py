"""What the temperature was fitted on, in words that are true of the data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.evaluation.predictions import Predictions
from insideout.recipes.calibrate import calibrate_checkpoint

IN_SCENES = [{"scene": str(i), "shot": str(s)} for i in range(2) for s in (2 * i, 2 * i + 1)]
IN_SHOTS = [{"shot": str(i)} for i in range(4)]
ALONE: list[dict[str, str]] = [{}] * 4


@pytest.mark.parametrize(
    ("origins", "says"),
    [
        (IN_SCENES, "4 crops of 4 training shots, each predicted by a network of the same recipe that was trained"
                    " without its scene (2 folds)"),
        (IN_SHOTS, "4 crops of 4 training shots, each predicted by a network of the same recipe that was trained"
                   " without its shot (2 folds)"),
        (IN_SCENES + IN_SHOTS[2:], "6 crops of 4 training shots, each predicted by a network of the same recipe that"
                                   " was trained without its shot (2 folds)"),
        ([{"scene": "1"}] * 4, "4 crops of 1 training scene, each predicted by a network of the same recipe that was"
                               " trained without its scene (2 folds)"),
        (ALONE, "4 training crops of unknown shots, each predicted by a network of the same recipe that was trained"
                " without it and the copies of its picture (2 folds)"),
        (IN_SHOTS + ALONE, "8 training crops, 4 of them of 4 known shots, each predicted by a network of the same"
                           " recipe that was trained without its shot, where that is known, and the copies of its"
                           " picture (2 folds)"),
    ],
)  # fmt: skip
def test_what_the_temperature_was_fitted_on_is_told_by_what_is_known(
    origins: list[dict[str, str]], says: str, tmp_path: Path
) -> None:
    crops = [LabelledCrop(f"{i}.jpg", b"", "ab"[i % 2], **origin) for i, origin in enumerate(origins)]
    tables = []
    for fold in range(2):
        part = CropList(("a", "b"), tuple(crops[fold::2]))
        tables.append(tmp_path / f"{fold}.parquet")
        Predictions(part, np.random.default_rng(fold).normal(size=(len(part), 2)).astype(np.float32)).write(tables[-1])
    meta, _ = calibrate_checkpoint(b"{}", tables, tmp_path / "unseen.parquet")
    assert json.loads(meta)["temperature_fitted_on"] == says
