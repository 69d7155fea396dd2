"""The tables of docs/results.md from the predictions that benchmarks/protocols.py wrote."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocols import FOLDS, fold_data
from insideout.backbones import build, layout, published_weights, read_weights, start_from
from insideout.datasets.labelled import CropList
from insideout.evaluation.baselines import baselines, frozen_probe
from insideout.evaluation.intervals import differences, intervals
from insideout.evaluation.metrics import point_metrics
from insideout.evaluation.predictions import Predictions
from insideout.recipes.calibrate import join
from insideout.recipes.crops import CropLoader
from insideout.recipes.scores import fit_temperature

SHOWN = ("macro_f1", "balanced_accuracy", "accuracy", "kappa", "nll", "ece")
RESULTS = Path(__file__).parent / "emotion.json"


def write_table(folder: Path, data: Path) -> None:
    """Score everything in `folder` and the baselines beside it; write benchmarks/emotion.json and print Markdown."""
    found: dict[str, dict[str, Any]] = {}
    for protocol in FOLDS:
        rows = {name: seeds for name, seeds in _trained(folder, protocol, "-found") if seeds}
        if rows:
            found[f"{protocol}, heads that the segmenter found"] = _score(rows)
        rows = {name: seeds for name, seeds in _trained(folder, protocol) if seeds}
        for name, predictions in _baselines(data, protocol).items():
            rows[name] = [predictions]
        found[protocol] = _score(rows)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    for protocol, scored in found.items():
        print("\n".join(_markdown(protocol, scored)))


def _trained(folder: Path, protocol: str, kind: str = "") -> Iterable[tuple[str, list[Predictions]]]:
    """By recipe one table of predictions per seed whose folds are complete, each fold at its own temperature."""
    for recipe in sorted(path for path in folder.glob("*") if path.is_dir()):
        seeds: defaultdict[int, dict[int, Path]] = defaultdict(dict)
        for path in recipe.glob(f"{protocol}-seed*-fold?{kind}.parquet"):
            _, seed, fold = path.stem.removesuffix(kind).split("-")
            seeds[int(seed[4:])][int(fold[4:])] = path
        whole = [
            [folds[k] for k in sorted(folds)] for _, folds in sorted(seeds.items()) if len(folds) == FOLDS[protocol]
        ]
        yield recipe.name, [_at_temperature(folds, recipe / f"{protocol}-unseen.parquet", kind) for folds in whole]


def _at_temperature(paths: list[Path], unseen: Path, kind: str) -> Predictions:
    """One table, each fold divided by a temperature that neither it nor its network's training has seen.

    A fold's is fitted on the predictions of the other folds, each by a network that was trained
    without their scenes; where there is one fold only, on `unseen`, if it is there.
    """
    folds = [Predictions.read(path) for path in paths]
    fitted = [Predictions.read(path.with_stem(path.stem.removesuffix(kind))) for path in paths]
    warm = []
    for k, fold in enumerate(folds):
        others = fitted[:k] + fitted[k + 1 :] or ([Predictions.read(unseen)] if unseen.exists() else [])
        temperature = 1.0
        if others:
            joined = join(others)
            temperature = fit_temperature(joined.labels, joined.logits)
        warm.append(replace(fold, logits=fold.logits / temperature))
    return join(warm)


def _baselines(data: Path, protocol: str) -> dict[str, Predictions]:
    parts: defaultdict[str, list[Predictions]] = defaultdict(list)
    features: dict[str, np.ndarray] = {}
    for fold in range(FOLDS[protocol]):
        crops = fold_data(data, protocol, fold, ["Afraid", "Angry", "Happy", "Neutral", "Surprised"])
        for name, found in baselines(crops.train, crops.valid).items():
            parts[name].append(found)
        for split in (crops.train, crops.valid):
            fresh = CropList(split.classes, tuple(c for c in split.crops if c.name not in features))
            if len(fresh):
                features |= dict(zip((c.name for c in fresh.crops), _features(fresh), strict=True))
        train, valid = (np.stack([features[c.name] for c in s.crops]) for s in (crops.train, crops.valid))
        parts["frozen probe"].append(frozen_probe(train, valid, crops.train, crops.valid))
    return {name: join(found) for name, found in parts.items()}


def _features(crops: CropList) -> np.ndarray:
    """What EfficientNet-Lite0 with ImageNet weights has before its last layer, float32 [n, 1280], at 224 px."""
    import torch

    name = "efficientnet_lite0"
    network = build(name, 1000).eval()
    start_from(network, name, read_weights(published_weights(name, "imagenet", Path())), "published")
    loader, plan, found = CropLoader(crops, 224, cache_bytes=0), layout(name), []
    with torch.inference_mode():
        for start in range(0, len(crops), 32):
            pictures = torch.from_numpy(loader.load(range(start, min(start + 32, len(crops))))).permute(0, 3, 1, 2)
            pictures = (pictures.float() / 255 - plan.mean[0]) / plan.std[0]
            found.append(network.forward_head(network.forward_features(pictures), pre_logits=True))
    return torch.cat(found).numpy()


def _score(rows: dict[str, list[Predictions]]) -> dict[str, Any]:
    """By row: seeds, mean and spread of each figure, the interval of the seed in the middle, and differences."""
    order = {name: sorted(seeds, key=lambda p: point_metrics(p, 1.0)["macro_f1"]) for name, seeds in rows.items()}
    middle = {name: seeds[(len(seeds) - 1) // 2] for name, seeds in order.items()}
    scored = {}
    for name, seeds in rows.items():
        figures = [point_metrics(p, 1.0) for p in seeds]
        bounds = intervals(middle[name], 1.0)
        scored[name] = {
            "seeds": len(seeds),
            "crops": len(seeds[0]),
            "shots": len({crop.shot_key for crop in seeds[0].crops.crops}),
            **{
                key: {
                    "mean": float(np.mean([f[key] for f in figures])),
                    "each": [float(f[key]) for f in figures],
                    "low": bounds[key].low,
                    "high": bounds[key].high,
                }
                for key in SHOWN
            },
            "minus": {
                other: {
                    key: {"value": d.value, "low": d.low, "high": d.high}
                    for key, d in differences(_ordered(middle[name], middle[other]), middle[other]).items()
                    if key in SHOWN
                }
                for other in rows
                if other != name
            },
        }
    return scored


def _ordered(predictions: Predictions, like: Predictions) -> Predictions:
    """The same predictions in the order of the crops of another table."""
    place = {crop.name: i for i, crop in enumerate(predictions.crops.crops)}
    return predictions.take(np.array([place[crop.name] for crop in like.crops.crops], np.int64))


def _markdown(protocol: str, scored: dict[str, Any]) -> Iterable[str]:
    first = next(iter(scored.values()))
    yield f"\n### {protocol}: {first['crops']} crops of {first['shots']} shots\n"
    yield "| | seeds | macro-F1 | balanced accuracy | accuracy | kappa | NLL | ECE |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in sorted(scored.items(), key=lambda item: -item[1]["macro_f1"]["mean"]):
        cells = [f"{row[key]['mean']:.3f} [{row[key]['low']:.2f}, {row[key]['high']:.2f}]" for key in SHOWN]
        yield f"| {name} | {row['seeds']} | " + " | ".join(cells) + " |"
