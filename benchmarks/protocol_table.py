"""The tables of docs/results.md from the predictions that benchmarks/protocols.py wrote."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
#: Emotions that every row is scored on; a recipe that knows others is scored without them.
CLASSES = ("Afraid", "Angry", "Happy", "Neutral", "Surprised")
RESULTS = Path(__file__).parent / "emotion.json"


@dataclass(frozen=True)
class Row:
    """What a recipe with one seed says of all crops of a protocol, in the order of their names.

    `plain` is without a temperature. `warm` has one that comes from elsewhere, where there is one. `best`
    has the one that fits the scored crops themselves: nobody can know it before, so that it is what a
    rival is held against.
    """

    plain: Predictions
    warm: Predictions | None
    best: Predictions

    @property
    def macro_f1(self) -> float:
        """What seeds are put in order by."""
        return point_metrics(self.plain, 1.0)["macro_f1"]


def write_table(folder: Path, data: Path) -> None:
    """Score everything in `folder` and the baselines beside it; write benchmarks/emotion.json and print Markdown.

    A recipe of which no seed has all its folds has a table of its own: the crops that it has scored so
    far, and what the others say of the same.
    """
    found: dict[str, dict[str, Any]] = {}
    for protocol in FOLDS:
        for kind, title in (("-found", f"{protocol}, heads that the segmenter found"), ("", protocol)):
            trained = {path.name: _seeds(path, protocol, kind) for path in sorted(folder.glob("*")) if path.is_dir()}
            whole = {
                name: [_read(paths, protocol, kind) for paths in seeds if _ended(paths, protocol)]
                for name, seeds in trained.items()
            }
            rows = {name: seeds for name, seeds in whole.items() if seeds}
            if not kind:
                rows |= {name: [_row([said], None)] for name, said in _baselines(data, protocol).items()}
            if rows:
                found[title] = _score(rows)
            for name, seeds in trained.items():
                if seeds and not whole[name]:
                    paths = max(seeds, key=len)
                    row = _row([_kept(Predictions.read(path)) for path in paths], None)
                    same = {other: [_only(theirs, row) for theirs in many] for other, many in rows.items()}
                    found[f"{title}: what {', '.join(path.stem for path in paths)} of {name} score"] = _score(
                        {name: [row]} | same
                    )
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    for protocol, scored in found.items():
        print("\n".join(_markdown(protocol, scored)))


def _seeds(recipe: Path, protocol: str, kind: str) -> list[list[Path]]:
    """The files of the folds of each seed; where a training has not ended, that of the last epoch with one."""
    seeds: defaultdict[int, dict[int, tuple[float, Path]]] = defaultdict(dict)
    for path in recipe.glob(f"{protocol}-seed*-fold*{kind}.parquet"):
        if name := re.fullmatch(rf"{protocol}-seed(\d+)-fold(\d+)(?:-epoch(\d+))?{kind}", path.stem):
            seed, fold, epoch = int(name[1]), int(name[2]), float(name[3] or "inf")
            seeds[seed][fold] = max(seeds[seed].get(fold, (0.0, path)), (epoch, path))
    return [[folds[k][1] for k in sorted(folds)] for _, folds in sorted(seeds.items())]


def _ended(paths: list[Path], protocol: str) -> bool:
    return len(paths) == FOLDS[protocol] and not any("-epoch" in path.stem for path in paths)


def _only(row: Row, other: Row) -> Row:
    """What `row` says of the crops that `other` scores."""
    names = {crop.name for crop in other.plain.crops.crops}
    chosen = np.flatnonzero([crop.name in names for crop in row.plain.crops.crops])
    plain = row.plain.take(chosen)
    best = replace(plain, logits=plain.logits / _temperature(plain))
    return Row(plain, None if row.warm is None else row.warm.take(chosen), best)


def _read(paths: list[Path], protocol: str, kind: str) -> Row:
    """The folds of one seed, each at a temperature from crops that it does not score."""
    folds = [_kept(Predictions.read(path)) for path in paths]
    fitted = [_kept(Predictions.read(path.with_stem(path.stem.removesuffix(kind)))) for path in paths]
    unseen = [_unseen(fitted, k, paths[0].parent, protocol) for k in range(len(folds))]
    known = [join(parts) for parts in unseen if parts]
    return _row(folds, [_temperature(one) for one in known] if len(known) == len(folds) else None)


def _unseen(folds: list[Predictions], k: int, folder: Path, protocol: str) -> list[Predictions]:
    """Crops that fold `k` does not score, each judged by a network that had not seen it; empty where there are none.

    Where `protocols train --pairs` was run, by networks that had not seen fold `k` either: the temperature
    is nested. Otherwise by those of the other folds, which have seen fold `k`: it is cross-fitted. Where
    there is one fold only, what `valid-unseen.parquet` has.
    """
    if len(folds) == 1:
        file = folder / f"{protocol}-unseen.parquet"
        return [_kept(Predictions.read(file))] if file.exists() else []
    pairs = sorted(path for path in folder.glob(f"{protocol}-seed*-pair??.parquet") if str(k) in path.stem[-2:])
    if len(pairs) < len(folds) - 1:
        return folds[:k] + folds[k + 1 :]
    scored = {crop.name for crop in folds[k].crops.crops}
    judged = [_kept(Predictions.read(path)) for path in pairs]
    return [one.take(np.flatnonzero([crop.name not in scored for crop in one.crops.crops])) for one in judged]


def _row(folds: list[Predictions], temperatures: list[float] | None) -> Row:
    def joined(by: list[float]) -> Predictions:
        whole = join([replace(fold, logits=fold.logits / t) for fold, t in zip(folds, by, strict=True)])
        return whole.take(np.argsort([crop.name for crop in whole.crops.crops]))

    plain = joined([1.0] * len(folds))
    best = replace(plain, logits=plain.logits / _temperature(plain))
    return Row(plain, joined(temperatures) if temperatures else None, best)


def _temperature(predictions: Predictions) -> float:
    return fit_temperature(predictions.labels, predictions.logits)


def _kept(predictions: Predictions) -> Predictions:
    """Without the crops and the outputs of emotions that not every row knows."""
    columns = [predictions.classes.index(name) for name in CLASSES]
    inside = [crop.emotion in CLASSES for crop in predictions.crops.crops]
    crops = CropList(CLASSES, tuple(c for c, keep in zip(predictions.crops.crops, inside, strict=True) if keep))
    return Predictions(crops, predictions.logits[inside][:, columns])


def _baselines(data: Path, protocol: str) -> dict[str, Predictions]:
    parts: defaultdict[str, list[Predictions]] = defaultdict(list)
    features: dict[str, np.ndarray] = {}
    for fold in range(FOLDS[protocol]):
        crops = fold_data(data, protocol, fold, list(CLASSES))
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


def _score(rows: dict[str, list[Row]]) -> dict[str, Any]:
    """By recipe: seeds, each figure of every seed with the interval of the one in the middle, and differences.

    `nll` and `ece` are given plain, `_warm` and `_best`; differences of those are between `warm`, where
    there is one, and the other's `best`.
    """
    middle = {name: sorted(seeds, key=lambda row: row.macro_f1)[(len(seeds) - 1) // 2] for name, seeds in rows.items()}
    scored = {}
    for name, seeds in rows.items():
        mine = middle[name]
        figures = _figures(seeds, mine, "plain", SHOWN)
        for kind in ("warm", "best"):
            if getattr(mine, kind) is not None:
                figures |= {f"{key}_{kind}": f for key, f in _figures(seeds, mine, kind, ("nll", "ece")).items()}
        minus = {}
        for other, theirs in middle.items():
            if other != name:
                found = differences(mine.plain, theirs.plain, names=SHOWN)
                warm = differences(mine.warm or mine.plain, theirs.best, names=("nll", "ece"))
                kept = {key: found[key] for key in SHOWN} | {f"{key}_best": warm[key] for key in ("nll", "ece")}
                minus[other] = {key: {"value": d.value, "low": d.low, "high": d.high} for key, d in kept.items()}
        scored[name] = {
            "seeds": len(seeds),
            "crops": len(mine.plain),
            "shots": len({crop.shot_key for crop in mine.plain.crops.crops}),
            **figures,
            "minus": minus,
        }
    return scored


def _figures(seeds: list[Row], middle: Row, kind: str, keys: Sequence[str]) -> dict[str, Any]:
    each = [point_metrics(getattr(row, kind), 1.0) for row in seeds]
    bounds = intervals(getattr(middle, kind), 1.0, names=keys)
    return {
        key: {
            "mean": float(np.mean([found[key] for found in each])),
            "each": [float(found[key]) for found in each],
            "low": bounds[key].low,
            "high": bounds[key].high,
        }
        for key in keys
    }


def _markdown(protocol: str, scored: dict[str, Any]) -> Iterable[str]:
    first = next(iter(scored.values()))
    columns = (*SHOWN, "nll_warm", "ece_warm", "nll_best", "ece_best")
    yield f"\n### {protocol}: {first['crops']} crops of {first['shots']} shots\n"
    yield "| | seeds | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 2) + "|"
    for name, row in sorted(scored.items(), key=lambda item: -item[1]["macro_f1"]["mean"]):
        cells = [
            f"{row[key]['mean']:.3f} [{row[key]['low']:.2f}, {row[key]['high']:.2f}]" if key in row else ""
            for key in columns
        ]
        yield f"| {name} | {row['seeds']} | " + " | ".join(cells) + " |"
