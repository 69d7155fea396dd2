"""Score an emotion classifier on labelled crops, beside its baselines, and write all of it to a folder.

    OUT/metrics.json          every figure with its interval, and what it was measured on; written last
    OUT/table.md              the same to read
    OUT/predictions.parquet   logits of each crop: every figure can be computed from it again
    OUT/*.png                 confusion, reliability, risk, characters, worst errors

Nothing is fitted on the scored crops: baselines learn from the training crops, and the pack's
temperature is taken as it is. It may have been fitted on this very split when the pack was trained,
so `cross_fitted` says what temperatures fitted on other shots reach.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from insideout import __version__
from insideout.datasets.crop_table import read_crop_table
from insideout.datasets.labelled import SPLITS, CropList, LabelledCrop, read_export
from insideout.errors import DataError, UsageError
from insideout.evaluation import calibration, intervals, metrics
from insideout.evaluation.intervals import RESAMPLES, Interval, shot_index
from insideout.evaluation.predictions import Predictions, predict
from insideout.evaluation.tables import write_tables
from insideout.packs import EmotionSpec, load_pack
from insideout.store import Store

VERSION = 1
PICTURES = ("confusion", "reliability", "risk_coverage", "characters", "worst")
_RATES = (0.8, 0.9, 0.95)
_FIT = ("nll", "ece")


def evaluate_export(
    pack: Path,
    data: Path,
    split: str,
    out: Path,
    *,
    labels: Path | None = None,
    against: Path | None = None,
    resamples: int = RESAMPLES,
    device: str = "cpu",
) -> dict[str, Any]:
    """Score the classifier of a pack on a split of a classification export, as `evaluate` does.

    With a table of `labels`, `data` is a run whose crops it labels (see `read_crop_table`). The `train` split
    teaches the baselines. Raises UsageError for an unknown split, DataError for one that is not there,
    PackError for a folder that is no pack, and what `evaluate` and `read_crop_table` raise.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split called {split}; choose one of {', '.join(SPLITS)}")
    loaded, other = load_pack(pack), load_pack(against) if against else None
    export = read_export(data) if labels is None else read_crop_table(data, labels)
    if split not in export:
        where = f"{data}: has no {split} folder" if labels is None else f"{labels}: has no row for {split}"
        raise DataError(f"{where}; there is {' and '.join(export)}: give --split one of these")
    return evaluate(
        loaded.emotion,
        export[split],
        export.get("train", []),
        out,
        against=other.emotion if other else None,
        facts={
            "data": {"path": str(data), "split": split} | ({"labels": str(labels)} if labels else {}),
            "packs": {
                name: {"path": str(path), "name": found.name, "digest": found.digest}
                for name, path, found in (("pack", pack, loaded), ("against", against, other))
                if found
            },
        },
        title=f"{loaded.name} on {split}" + (f", against {other.name}" if other else ""),
        notes=["the training crops themselves are scored: no figure says anything of new shots"] * (split == "train"),
        resamples=resamples,
        device=device,
    )


def evaluate(
    spec: EmotionSpec,
    crops: Sequence[LabelledCrop],
    train_crops: Sequence[LabelledCrop],
    out: Path,
    *,
    against: EmotionSpec | None = None,
    facts: Mapping[str, Any] | None = None,
    title: str = "pack",
    notes: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
) -> dict[str, Any]:
    """Score a classifier on `crops` and write the files above to `out`; returns what metrics.json holds.

    Crops of classes that the classifier (or the one it is compared with, `against`) does not have are
    left out and counted. `train_crops` teach the baselines and the usual emotion of each character;
    what cannot be had without them is added to `notes`. `facts` go into metrics.json as they are,
    `title` onto the pictures. Raises DataError when no crop is left to score, PackError for unreadable
    weights, StorageError when a file cannot be written.
    """
    known = tuple(name for name in spec.classes if against is None or name in against.classes)
    extra = tuple(name for name in (against.classes if against else ()) if name not in spec.classes)
    kept = tuple(crop for crop in crops if crop.emotion in known)
    left_out = Counter(crop.emotion for crop in crops if crop.emotion not in known)
    if not kept:
        raise DataError(
            f"none of the {len(crops)} crops has a class of the model ({', '.join(known) or 'none in common'});"
            " rename the class folders, or give another pack"
        )
    train = CropList(known, tuple(crop for crop in train_crops if crop.emotion in known))

    def score(network: EmotionSpec, *, grey: bool = False) -> Predictions:
        return predict(network, CropList(network.classes, kept), grey=grey, device=device, threads=threads)

    own = score(spec)
    notes = [*notes]
    models = {"pack": own, "pack_grey": score(spec, grey=True)}
    if against is not None:
        models["against"] = score(against)
    models |= _baselines(train, CropList(known, kept), notes)
    models = {name: embed(found, (*spec.classes, *extra)) for name, found in models.items()}
    own = models["pack"]
    if len(set(shot_index(own))) < 2:
        notes.append("all crops are of one shot: there are no intervals over shots")
    if unknown := sum(not crop.shot for crop in kept):
        notes.append(f"{unknown} crops have no shot and count as one each: where they are neighbours in a film,"
                     " intervals are too narrow")  # fmt: skip
    usual = metrics.usual_emotions(train) if len(train) else {}
    again = partial(_interval, resamples=resamples, seed=seed)
    found: dict[str, Any] = {
        "schema": VERSION,
        "insideout": __version__,
        **(facts or {}),
        "title": title,
        "crops": len(kept),
        "shots": len(set(shot_index(own))),
        "crops_without_shot": unknown,
        "left_out": dict(sorted(left_out.items())),
        "train_crops": len(train),
        "data_digest": data_digest(crops),
        "train_digest": data_digest(train_crops),
        "weights": {"pack": spec.sha256} | ({"against": against.sha256} if against else {}),
        "classes": list(own.classes),
        "support": own.crops.counts(),
        "bootstrap": {
            "over": "shots", "interval": "95 % percentile", "resamples": resamples, "seed": seed,
            "resamples_of": dict.fromkeys(intervals.LOOPED, min(resamples, intervals.LOOPED_RESAMPLES)),
        },
        "models": {name: _figures(one, resamples, seed) for name, one in models.items()},
        "calibration": _calibration(own, resamples, seed),
        "confusion": metrics.confusion(own).tolist(),
        "per_class": {name: asdict(score) for name, score in metrics.per_class(own).items()},
        "per_character": _characters(own, again),
        "counter_stereotype": _counter(models, usual, again),
        "fusion": _fusion(own, train, notes, resamples, seed),
        "notes": notes,
    }  # fmt: skip
    if against is not None:
        paired = _differences(own, models["against"], resamples, seed)
        found["against"] = {"pack_minus_against": paired}
    _write(found, models, out, title)
    return found


def embed(predictions: Predictions, classes: tuple[str, ...]) -> Predictions:
    """The same predictions with the columns of `classes`: a class the model lacks has no probability."""
    if predictions.classes == classes:
        return predictions
    logits = np.full((len(predictions), len(classes)), -np.inf, np.float32)
    logits[:, [classes.index(name) for name in predictions.classes]] = predictions.logits
    return Predictions(CropList(classes, predictions.crops.crops), logits, predictions.temperature)


def data_digest(crops: Sequence[LabelledCrop]) -> str:
    """sha256 over name, emotion, shot, character and picture of each crop, in order of names.

    Raises DataError for a picture that cannot be read.
    """
    digest = hashlib.sha256()
    for crop in sorted(crops, key=lambda crop: crop.name):
        try:
            content = crop.picture if isinstance(crop.picture, bytes) else crop.picture.read_bytes()
        except OSError as error:
            raise DataError(f"{crop.name}: not readable ({error.strerror}); export it again") from error
        row = (crop.name, crop.emotion, crop.shot_key, crop.character, hashlib.sha256(content).hexdigest())
        digest.update(("\t".join(row) + "\n").encode())
    return digest.hexdigest()


def _baselines(train: CropList, test: CropList, notes: list[str]) -> dict[str, Predictions]:
    from insideout.evaluation.baselines import baselines

    if not len(train):
        notes.append("no training crops: there are no baselines, and usual emotions of the characters are unknown")
        return {}
    try:
        return baselines(train, test)
    except DataError as error:
        notes.append(f"no baselines: {error}")
        return {}


def _figures(predictions: Predictions, resamples: int, seed: int) -> dict[str, Any]:
    """All figures at the model's own temperature, NLL and ECE at temperature 1 too."""
    plain = _intervals(predictions, 1.0, resamples, seed, _FIT)
    return (
        {"temperature": predictions.temperature}
        | _intervals(predictions, predictions.temperature, resamples, seed)
        | {f"{name}_at_1": value for name, value in plain.items()}
    )


def _intervals(
    predictions: Predictions, temperature: float, resamples: int, seed: int, names: Sequence[str] = metrics.METRICS
) -> dict[str, Any]:
    if len(set(shot_index(predictions))) < 2:
        values = metrics.point_metrics(predictions, temperature)
        return {name: asdict(Interval(values[name], None, None)) for name in names}
    found = intervals.intervals(predictions, temperature, resamples, seed, names)
    return {name: asdict(value) for name, value in found.items()}


def _interval(predictions: Predictions, figure: Callable[..., Any], *, resamples: int, seed: int) -> Interval:
    """The interval of a figure of the confusion; without ends where there is one shot only."""
    if len(set(shot_index(predictions))) < 2:
        return Interval(float(figure(metrics.confusion(predictions))), None, None)
    return intervals.confusion_interval(predictions, figure, resamples, seed)


def _differences(first: Predictions, second: Predictions, resamples: int, seed: int) -> dict[str, Any] | None:
    if len(set(shot_index(first))) < 2:
        return None
    return {name: asdict(value) for name, value in intervals.differences(first, second, resamples, seed).items()}


def _characters(own: Predictions, again: Callable[..., Interval]) -> dict[str, Any]:
    figure = partial(metrics.macro_f1, true_only=True)
    return {
        name: {"macro_f1": asdict(again(part, figure)), "crops": len(part), "shots": len(set(shot_index(part)))}
        for name, part in metrics.by_character(own).items()
    }


def _counter(
    models: Mapping[str, Predictions], usual: Mapping[str, str], again: Callable[..., Interval]
) -> dict[str, Any] | None:
    if not usual:
        return None
    scores = {name: metrics.counter_stereotype(one, usual) for name, one in models.items()}
    own, crops = scores["pack"], scores["pack"].crops

    def recall(one: Predictions) -> dict[str, Any] | None:
        part = one.take(crops)
        return asdict(again(part, lambda counts: metrics.confusion_metrics(counts)["accuracy"])) if len(part) else None

    return {
        "usual": dict(usual),
        "support": own.support,
        "unknown_character": own.unknown,
        "recall": {name: recall(one) for name, one in models.items()},
        "cells": [asdict(cell) for cell in own.cells],
        "worst": asdict(own.worst) if own.worst else None,
        "worst_among": f"cells of {metrics.LEAST_SUPPORT} crops or more",
    }


def _calibration(own: Predictions, resamples: int, seed: int) -> dict[str, Any]:
    curves = {"at_1": 1.0, "at_temperature": own.temperature}
    found: dict[str, Any] = {"temperature": own.temperature, "cross_fitted": None}
    for name, temperature in curves.items():
        bins = calibration.reliability(own, temperature)
        found[name] = _intervals(own, temperature, resamples, seed, _FIT) | {
            "bins": [
                {"certainty": float(mean), "accuracy": float(share), "crops": int(n)}
                for mean, share, n in zip(bins.certainty, bins.accuracy, bins.crops, strict=True)
            ]
        }
    if len(set(shot_index(own))) >= 2:
        crossed = calibration.cross_fitted(own, shot_index(own), seed=seed)
        found["cross_fitted"] = _intervals(crossed, 1.0, resamples, seed, _FIT)
    sure, right = calibration.certainty_of(own)
    found["thresholds"] = {
        f"{rate:g}": {
            "certainty": calibration.threshold_for_accuracy(own, rate),
            "coverage": calibration.coverage_at(sure, right, rate),
        }
        for rate in _RATES
    }
    return found


def _fusion(own: Predictions, train: CropList, notes: list[str], resamples: int, seed: int) -> dict[str, Any] | None:
    """What fusing the crops of each track does, and its gain over single crops with intervals."""
    from insideout.evaluation.fusion import fuse_tracks, fusion_table, learn_stay

    named = Counter(crop.track_key for crop in own.crops.crops if crop.track_key)
    if max(named.values(), default=0) < 2:
        notes.append("no track has two crops: nothing to fuse")
        return None
    try:
        stay = learn_stay(train)
        table = fusion_table(own, stay)
        single, fused = fuse_tracks(own, method="frame"), fuse_tracks(own, method="mean_log")
    except DataError as error:
        notes.append(f"no fusion of tracks: {error}")
        return None
    gain = _differences(fused, single, resamples, seed)
    return {"stay": stay, "methods": table, "mean_log_minus_frame": gain}


def _write(found: dict[str, Any], models: Mapping[str, Predictions], out: Path, title: str) -> None:
    """Pictures and tables first, metrics.json last: where it is, all is there."""
    from insideout.evaluation import pictures

    store, own = Store(out), models["pack"]
    store.remove("metrics.json")
    told = {name: figures for name, figures in found["models"].items() if name != "pack_grey"}
    drawn = {
        "confusion": pictures.confusion_picture(metrics.confusion(own), own.classes, title),
        "reliability": pictures.reliability_picture(
            {
                f"T = {t:.3g}": (calibration.reliability(own, t), found["calibration"][name]["ece"]["value"])
                for name, t in (("at_1", 1.0), ("at_temperature", own.temperature))
            },
            title,
        ),
        "risk_coverage": pictures.risk_picture(
            {
                name: (calibration.risk_coverage(*calibration.certainty_of(models[name])), figures["aurc"]["value"])
                for name, figures in told.items()
            },
            title,
        ),
        "characters": pictures.character_picture(
            {n: (Interval(**s["macro_f1"]), s["crops"], s["shots"]) for n, s in found["per_character"].items()}, title
        ),
        "worst": pictures.worst_picture(own, f"Surest wrong answers, {title}"),
    }
    for name, figure in drawn.items():
        if figure is None:
            store.remove(f"{name}.png")  # an older one would be of other predictions
        else:
            store.write(f"{name}.png", pictures.png(figure))
    own.write(out / "predictions.parquet")
    write_tables(store, found, [name for name in PICTURES if drawn[name] is not None])
