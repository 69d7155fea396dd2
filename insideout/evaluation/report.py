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

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insideout import __version__
from insideout.datasets.crop_table import read_crop_table
from insideout.datasets.labelled import SPLITS, CropList, LabelledCrop, data_digest, find_unreadable, read_export
from insideout.errors import DataError, UsageError
from insideout.evaluation import calibration, intervals, metrics
from insideout.evaluation.intervals import RESAMPLES, Difference, Interval, shot_index
from insideout.evaluation.predictions import Predictions, predict
from insideout.evaluation.tables import NAMES, write_tables
from insideout.leaks import audit_training
from insideout.packs import EmotionSpec, Pack, load_pack
from insideout.store import Store

VERSION = 2
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
    against: Sequence[Path] = (),
    resamples: int = RESAMPLES,
    device: str = "cpu",
) -> dict[str, Any]:
    """Score the classifier of a pack on a split of a classification export, as `evaluate` does.

    The packs it is compared with, `against`, are called by their folders' names, with a number where a name
    is taken. With a table of `labels`, `data` is a run whose crops it labels (see `read_crop_table`). The `train` split
    teaches the baselines. Raises UsageError for an unknown split, DataError for one that is not there,
    PackError for a folder that is no pack, and what `evaluate` and `read_crop_table` raise.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split called {split}; choose one of {', '.join(SPLITS)}")
    loaded, others = load_pack(pack), _named([load_pack(path) for path in against])
    export = read_export(data) if labels is None else read_crop_table(data, labels)
    if split not in export:
        where = f"{data}: has no {split} folder" if labels is None else f"{labels}: has no row for {split}"
        raise DataError(f"{where}; there is {' and '.join(export)}: give --split one of these")
    return evaluate(
        loaded.emotion,
        export[split],
        export.get("train", []),
        out,
        against={name: other.emotion for name, other in others.items()},
        facts={
            "data": {"path": str(data), "split": split} | ({"labels": str(labels)} if labels else {}),
            "packs": {
                name: {"path": str(one.path), "name": one.name, "digest": one.digest}
                for name, one in {"pack": loaded, **others}.items()
            },
        },
        title=f"{loaded.name} on {split}" + (f", against {' and '.join(others)}" if others else ""),
        resamples=resamples,
        device=device,
    )


def _named(packs: Sequence[Pack]) -> dict[str, Pack]:
    """The packs by the names of their folders, each with a row of its own in the table."""
    found: dict[str, Pack] = {}
    for pack in packs:
        folder, number = pack.path.resolve().name, 2
        name = folder
        while name in found or name in NAMES or name in NAMES.values():
            name, number = f"{folder}-{number}", number + 1
        found[name] = pack
    return found


def evaluate(
    spec: EmotionSpec,
    crops: Sequence[LabelledCrop],
    train_crops: Sequence[LabelledCrop],
    out: Path,
    *,
    against: Mapping[str, EmotionSpec] | None = None,
    facts: Mapping[str, Any] | None = None,
    title: str = "pack",
    notes: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
) -> dict[str, Any]:
    """Score a classifier on `crops` and write the files above to `out`; returns what metrics.json holds.

    Crops of classes that the classifier (or one it is compared with, `against`, by name) does not have are
    left out and counted; those that cannot be read are left out and named, while they are at most 1 %.
    `train_crops` teach the baselines and the usual emotion of each character; what cannot be had without
    them, and what they share with the scored crops, is added to `notes`. `facts` go into metrics.json as
    they are, `title` onto the pictures. Raises DataError when no crop is left to score, and as
    `find_unreadable`, UsageError for a name that is another row's, PackError for unreadable weights,
    StorageError when a file cannot be written.
    """
    others = dict(against or {})
    if taken := sorted(others.keys() & NAMES.keys()):
        raise UsageError(f"'{taken[0]}' is a row of its own; call the pack it is compared with something else")
    networks = (spec, *others.values())
    known = tuple(name for name in spec.classes if all(name in network.classes for network in networks))
    extra = tuple(
        dict.fromkeys(name for other in others.values() for name in other.classes if name not in spec.classes)
    )
    kept = tuple(crop for crop in crops if crop.emotion in known)
    left_out = Counter(crop.emotion for crop in crops if crop.emotion not in known)
    if not kept:
        raise DataError(
            f"none of the {len(crops)} crops has a class of the model ({', '.join(known) or 'none in common'});"
            " rename the class folders, or give another pack"
        )
    learned = tuple(crop for crop in train_crops if crop.emotion in known)
    notes = [*notes]
    unreadable = find_unreadable(kept, learned)
    if unreadable:
        notes.append(f"left out as unreadable: {'; '.join(unreadable)}")
        crops, train_crops, kept, learned = (
            tuple(crop for crop in part if crop.name not in unreadable) for part in (crops, train_crops, kept, learned)
        )
    train = CropList(known, learned)
    notes += _leaks(train, kept)

    def score(network: EmotionSpec, *, grey: bool = False) -> Predictions:
        return predict(network, CropList(network.classes, kept), grey=grey, device=device, threads=threads)

    models = {"pack": score(spec), "pack_grey": score(spec, grey=True)}
    models |= {name: score(other) for name, other in others.items()}
    models |= _baselines(train, CropList(known, kept), notes)
    models = {name: embed(found, (*spec.classes, *extra)) for name, found in models.items()}
    own = models["pack"]
    if len(set(shot_index(own))) < 2:
        notes.append("all crops are of one shot: there are no intervals over shots")
    if unknown := sum(not crop.shot for crop in kept):
        notes.append(f"{unknown} crops have no shot and count as one each: where they are neighbours in a film,"
                     " intervals are too narrow")  # fmt: skip
    usual = metrics.usual_emotions(train) if len(train) else {}
    again = partial(intervals.confusion_interval, resamples=resamples, seed=seed)
    found: dict[str, Any] = {
        "schema": VERSION,
        "insideout": __version__,
        **(facts or {}),
        "title": title,
        "crops": len(kept),
        "shots": len(set(shot_index(own))),
        "crops_without_shot": unknown,
        "left_out": dict(sorted(left_out.items())),
        "unreadable": unreadable,
        "train_crops": len(train),
        "data_digest": data_digest(crops),
        "train_digest": data_digest(train_crops),
        "weights": {"pack": spec.sha256} | {name: other.sha256 for name, other in others.items()},
        "classes": list(own.classes),
        "support": own.crops.counts(),
        "bootstrap": {
            "over": "shots", "interval": "95 % percentile", "resamples": resamples, "seed": seed,
            "resamples_of": dict.fromkeys(intervals.LOOPED, min(resamples, intervals.LOOPED_RESAMPLES)),
        },
        "models": {name: _figures(one, resamples, seed) for name, one in models.items()},
        "calibration": _calibration(own, resamples, seed),
        "confusion": metrics.confusion(own).tolist(),
        "per_class": {
            name: _told(scores) | {"support": own.crops.counts()[name]}
            for name, scores in intervals.class_intervals(own, resamples, seed).items()
        },
        "per_character": _characters(own, again),
        "counter_stereotype": _counter(models, usual, again),
        "fusion": _fusion(own, train, notes, resamples, seed),
        "notes": notes,
    }  # fmt: skip
    if others:
        found["against"] = {name: _differences(own, models[name], resamples, seed) for name in others}
    _write(found, models, out, title)
    return found


def _leaks(train: CropList, crops: Sequence[LabelledCrop]) -> list[str]:
    """What makes the figures say less of new shots than they seem to, in words."""
    if not len(train):
        return []
    if {crop.name for crop in crops} <= {crop.name for crop in train.crops}:
        return ["the training crops themselves are scored: no figure says anything of new shots"]
    found = audit_training(train.crops, crops)
    if not found.leaks:
        return []
    return [
        f"train and the scored crops share: {'; '.join(found.leaks)}; such as {found.worst[0]}: figures are too good"
    ]


def embed(predictions: Predictions, classes: tuple[str, ...]) -> Predictions:
    """The same predictions with the columns of `classes`: a class the model lacks has no probability."""
    if predictions.classes == classes:
        return predictions
    logits = np.full((len(predictions), len(classes)), -np.inf, np.float32)
    logits[:, [classes.index(name) for name in predictions.classes]] = predictions.logits
    return Predictions(CropList(classes, predictions.crops.crops), logits, predictions.temperature)


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


def _told(found: Mapping[str, Interval | Difference]) -> dict[str, Any]:
    return {name: asdict(value) for name, value in found.items()}


def _figures(predictions: Predictions, resamples: int, seed: int) -> dict[str, Any]:
    """All figures at the model's own temperature, NLL and ECE at temperature 1 too."""
    plain = _told(intervals.intervals(predictions, 1.0, resamples, seed, _FIT))
    return (
        {"temperature": predictions.temperature}
        | _told(intervals.intervals(predictions, None, resamples, seed))
        | {f"{name}_at_1": value for name, value in plain.items()}
    )


def _differences(first: Predictions, second: Predictions, resamples: int, seed: int) -> dict[str, Any] | None:
    if len(set(shot_index(first))) < 2:
        return None
    return _told(intervals.differences(first, second, resamples, seed))


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

    def recall(one: Predictions, crops: npt.NDArray[np.int64]) -> dict[str, Any] | None:
        return asdict(again(one.take(crops), metrics.accuracy)) if len(crops) else None

    pack = models["pack"]
    members: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for i in crops.tolist():
        members[pack.crops.crops[i].character, pack.crops.crops[i].emotion].append(i)
    cells = {
        (cell.character, cell.emotion): asdict(cell)
        | {"recall": recall(pack, np.array(members[cell.character, cell.emotion], np.int64))}
        for cell in own.cells
    }
    return {
        "usual": dict(usual),
        "support": own.support,
        "unknown_character": own.unknown,
        "recall": {name: recall(one, crops) for name, one in models.items()},
        "cells": list(cells.values()),
        "worst": cells[own.worst.character, own.worst.emotion] if own.worst else None,
        "worst_among": f"cells of {metrics.LEAST_SUPPORT} crops or more",
    }


def _calibration(own: Predictions, resamples: int, seed: int) -> dict[str, Any]:
    curves = {"at_1": 1.0, "at_temperature": own.temperature}
    found: dict[str, Any] = {"temperature": own.temperature, "cross_fitted": None}
    for name, temperature in curves.items():
        bins = calibration.reliability(own, temperature)
        found[name] = _told(intervals.intervals(own, temperature, resamples, seed, _FIT)) | {
            "bins": [
                {"certainty": float(mean), "accuracy": float(share), "crops": int(n)}
                for mean, share, n in zip(bins.certainty, bins.accuracy, bins.crops, strict=True)
            ]
        }
    if len(set(shot_index(own))) >= 2:
        crossed = calibration.cross_fitted(own, shot_index(own), seed=seed)
        found["cross_fitted"] = _told(intervals.intervals(crossed, 1.0, resamples, seed, _FIT))
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
    from insideout.evaluation import fusion

    named = Counter(crop.track_key for crop in own.crops.crops if crop.track_key)
    if max(named.values(), default=0) < 2:
        notes.append("no track has two crops: nothing to fuse")
        return None
    stay = None
    try:
        stay = fusion.learn_stay(train)
    except DataError as error:
        notes.append(f"no HMM over tracks: {error}")
    try:
        table = fusion.fusion_table(own, stay, resamples=resamples, seed=seed)
        single, fused = (fusion.fuse_tracks(own, method=method) for method in ("frame", "mean_log"))
        untimed = fusion.without_time(own.crops)
    except DataError as error:
        notes.append(f"no fusion of tracks: {error}")
        return None
    if untimed:
        notes.append(f"{untimed} crops in tracks have no time (crops.csv: pts and time_base): what lasts under one"
                     f" second is told at {fusion.ASSUMED_RATE} frames a second there")  # fmt: skip
    return {
        "stay": stay,
        "assumed_frames_per_second": fusion.ASSUMED_RATE if untimed else None,
        "methods": {
            method: {key: asdict(value) if isinstance(value, Interval) else value for key, value in scores.items()}
            for method, scores in table.items()
        },
        "mean_log_minus_frame": _differences(fused, single, resamples, seed),
    }


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
