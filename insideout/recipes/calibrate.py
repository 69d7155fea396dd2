"""The temperature of a classifier from predictions of crops that no network of the training had seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from insideout.datasets.labelled import CropList
from insideout.evaluation.predictions import Predictions
from insideout.recipes.scores import fit_temperature, nll


def join(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of several networks for crops of their own, one after the other."""
    crops = tuple(crop for part in parts for crop in part.crops.crops)
    return Predictions(CropList(parts[0].classes, crops), np.concatenate([part.logits for part in parts]))


def calibrate_checkpoint(meta: bytes, tables: Sequence[Path], out: Path) -> tuple[bytes, Path]:
    """Fit the temperature on the out-of-fold predictions in `tables`, and write them, joined, to `out`.

    `meta` is meta.json of the checkpoint; it is returned with the temperature and what it was fitted
    on. Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    unseen = join([Predictions.read(table) for table in tables])
    temperature = fit_temperature(unseen.labels, unseen.logits)
    content = json.loads(meta) | {
        "temperature": temperature,
        "calibration_folds": len(tables),
        "temperature_fitted_on": _fitted_on(unseen.crops, len(tables)),
        "unseen_nll": {
            "before": nll(unseen.labels, unseen.logits),
            "after": nll(unseen.labels, unseen.logits, temperature),
        },
    }
    unseen = Predictions(unseen.crops, unseen.logits, temperature)
    unseen.write(out)
    return (json.dumps(content, indent=1) + "\n").encode(), out


def _fitted_on(crops: CropList, folds: int) -> str:
    """The crops in words, and what was kept together as they were folded."""
    known = [crop for crop in crops.crops if crop.scene or crop.shot]
    unit = "shot" if any(crop.shot for crop in known) else "scene"
    count = len({crop.shot_key or crop.scene_key for crop in known})
    units = f"{count} {{}}{unit}{'' if count == 1 else 's'}"
    if len(known) == len(crops):
        of = f"{len(crops)} crops of {units.format('training ')}"
        without = f"its {'scene' if all(crop.scene for crop in known) else 'shot'}"
    elif known:
        of = f"{len(crops)} training crops, {len(known)} of them of {units.format('known ')}"
        without = "its shot, where that is known, and the copies of its picture"
    else:
        of, without = f"{len(crops)} training crops of unknown shots", "it and the copies of its picture"
    return f"{of}, each predicted by a network of the same recipe that was trained without {without} ({folds} folds)"
