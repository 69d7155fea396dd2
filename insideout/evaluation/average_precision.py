"""COCO's average precision of detections, with intervals over shots.

The matching of detections with what is labelled and the figures themselves are COCO's own code
(pycocotools). For the intervals whole shots are drawn with replacement; a frame that is drawn twice
counts twice. The matches within a frame do not change by that, so that precision and recall of every
resample follow from the same matches, weighted: what pycocotools would say of the frames repeated,
without its loop over detections for each resample.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from insideout.evaluation.instances import Instance, ScoredFrame, Share
from insideout.evaluation.intervals import LOOPED_RESAMPLES, draw, percentiles

Floats = npt.NDArray[np.float64]

#: Key of a figure: what overlaps, and the thresholds of IoU that it is a mean over.
KINDS = {"segm": "mask", "bbox": "box"}
THRESHOLDS = {"map50": slice(0, 1), "map50_95": slice(None)}
FIGURES = tuple(f"{kind}_{name}" for kind in KINDS.values() for name in THRESHOLDS)
_DETECTIONS = 100  # of a class in a picture, the best; COCO's number


def average_precision(
    frames: Sequence[ScoredFrame],
    classes: Sequence[str],
    clusters: Sequence[str],
    resamples: int = LOOPED_RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Share]]:
    """`FIGURES` of the detections, by class and for `all`; classes without instances are left out.

    Over 101 recall levels; `map50` at IoU .50, `map50_95` over ten thresholds from .50 to .95 (Lin et
    al., ECCV 2014, doi 10.1007/978-3-319-10602-1_48). `all` is the mean over the classes that occur.
    `clusters` names the shot of each frame, `count` of a figure is that of the labelled instances. A
    resample without an instance of a class has no figure of it.
    """
    truth = _table([frame.truth for frame in frames], classes)
    detections = _table([frame.detections for frame in frames], classes)
    counts = {name: sum(i.name == name for frame in frames for i in frame.truth) for name in classes}
    present = [name for name, count in counts.items() if count]
    if not present:
        return {"all": {figure: {"value": None, "low": None, "high": None, "count": 0} for figure in FIGURES}}
    shots, index = np.unique(list(clusters), return_inverse=True)
    drawn = draw(len(shots), resamples, seed)[:, index] if len(shots) > 1 else np.zeros((0, len(frames)), np.int64)
    rows: dict[str, dict[str, Share]] = {name: {} for name in (*present, "all")}
    for kind, key in KINDS.items():
        scorer = _matched(truth, detections, kind)
        # [thresholds, recalls, classes]
        precision = scorer.eval["precision"][:, :, :, 0, 0]
        whole = np.stack([precision[:, :, classes.index(name)].mean(1) for name in present])
        spread = np.stack([_resampled(scorer, classes.index(name), drawn) for name in present])
        for figure, at in THRESHOLDS.items():
            values, spreads = whole[:, at].mean(1), spread[:, :, at].mean(2)
            with np.errstate(invalid="ignore"):
                mean = np.nansum(spreads, 0) / (~np.isnan(spreads)).sum(0)
            named = zip(
                (*present, "all"),
                (*values, values.mean()),
                (*spreads, mean),
                (*(counts[name] for name in present), sum(counts.values())),
                strict=True,
            )
            for name, value, by_resample, count in named:
                low, high = percentiles(by_resample)
                rows[name][f"{key}_{figure}"] = {"value": float(value), "low": low, "high": high, "count": count}
    return rows


def _matched(truth: COCO, detections: COCO, kind: str) -> COCOeval:
    """COCO's evaluation over objects of any area, matched and accumulated."""
    scorer = COCOeval(truth, detections, kind)
    scorer.params.areaRng, scorer.params.areaRngLbl = scorer.params.areaRng[:1], ["all"]
    scorer.params.maxDets = [_DETECTIONS]
    with contextlib.redirect_stdout(io.StringIO()):
        scorer.evaluate()
        scorer.accumulate()
    return scorer


def _resampled(scorer: COCOeval, category: int, drawn: npt.NDArray[np.int64]) -> Floats:
    """Average precision of a class on every resample, float64 [resamples, thresholds]; NaN without an instance.

    `drawn` tells how often each frame is in each resample, int64 [resamples, frames].
    """
    frames = drawn.shape[1]
    # By class, area and picture in this order; None where a picture has nothing of the class.
    found = scorer.evalImgs[category * frames : (category + 1) * frames]
    positives = drawn @ np.array([0 if one is None else len(one["gtIds"]) for one in found], np.int64)
    seen = [(i, one) for i, one in enumerate(found) if one is not None and one["dtScores"]]
    recalls = scorer.params.recThrs
    result = np.zeros((len(drawn), len(scorer.params.iouThrs)))
    result[positives == 0] = np.nan
    if not seen:
        return result
    frame = np.concatenate([np.full(len(one["dtScores"]), i) for i, one in seen])
    order = np.argsort(-np.concatenate([one["dtScores"] for _, one in seen]), kind="stable")
    hits = np.concatenate([one["dtMatches"] for _, one in seen], axis=1)[:, order] > 0
    weights = drawn[:, frame[order]].astype(np.float64)
    ranks = weights.cumsum(1)
    for threshold, hit in enumerate(hits):
        right = (weights * hit).cumsum(1)
        precision = right / np.maximum(ranks, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for row in np.flatnonzero(positives):
            reached = np.searchsorted(right[row] / positives[row], recalls, side="left")
            inside = reached < len(order)
            result[row, threshold] = precision[row, reached[inside]].sum() / len(recalls)
    return result


def _table(frames: Sequence[Sequence[Instance]], classes: Sequence[str]) -> COCO:
    annotations: list[dict[str, Any]] = [
        {
            "id": 0, "image_id": i, "category_id": classes.index(instance.name), "bbox": list(instance.box),
            "segmentation": instance.rle, "area": float(coco.area(instance.rle)), "score": instance.score,
            "iscrowd": 0,
        }
        for i, frame in enumerate(frames)
        for instance in frame
    ]  # fmt: skip
    for number, annotation in enumerate(annotations, 1):  # 0 would mean unmatched to COCOeval
        annotation["id"] = number
    table = COCO()
    table.dataset = {
        # A size is asked for, though encoded masks bring their own.
        "images": [{"id": i, "height": 0, "width": 0} for i in range(len(frames))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        table.createIndex()
    return table
