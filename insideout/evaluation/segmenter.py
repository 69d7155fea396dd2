"""Score a segmenter on a split of a YOLO segmentation export.

Two questions, two ways of running the same weights. Average precision asks how well detections are
ranked and needs those of tiny scores too: ultralytics' network in float32 and its NMS, every detection
above .001, scored by COCO's own code (pycocotools) on masks of the picture's full size. What labelling
a film finds is asked of `CharacterSegmenter` as labelling runs it, at the pack's confidence, with one
name per figure: it drops and merges detections, so that precision at low scores cannot be had from it.

Ultralytics' own validator gives slightly other figures: it pads pictures by up to one stride more,
compares masks at the size of the network's input, and interpolates precision where COCO's code takes
steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from insideout.errors import DataError, UsageError
from insideout.evaluation.average_precision import average_precision
from insideout.evaluation.instances import Instance, Rle, ScoredFrame, Share
from insideout.evaluation.intervals import LOOPED_RESAMPLES, RESAMPLES, draw, percentiles
from insideout.masks import Mask
from insideout.packs import SegmenterSpec
from insideout.recipes.yolo_data import (
    YoloSplit,
    label_path,
    pictures_of,
    read_split,
    read_yolo_data,
    shared_pictures,
    shot_of,
)
from insideout.segment import BATCH, CharacterSegmenter, Letterbox, mask_in_box
from insideout.yolo import load_segmentation_model, set_ultralytics_environment

Picture = npt.NDArray[np.uint8]

#: Size of a character: square root of the area of its mask over the height of the frame, below these.
SIZES = {"small": 0.10, "medium": 0.30, "large": float("inf")}
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
_LEAST_SCORE = 0.001
_UNREADABLE = 0.01  # so much of the pictures may be
_LISTED = 3
_SAME = 0.5  # mask IoU from which a character counts as found


class SegmenterScores(TypedDict):
    """What `evaluate_segmenter` measures; see there."""

    split: str
    frames: int
    shots: int
    frames_without_shot: int
    confidence: float
    average_precision: dict[str, dict[str, Share]]
    recall_by_size: dict[str, Share]
    false_positives_per_1000_frames: Share
    screen_time_found: Share
    screen_time_found_by_character: dict[str, Share]
    notes: list[str]


def evaluate_segmenter(
    spec: SegmenterSpec,
    data: Path,
    split: str = "valid",
    *,
    shots: Mapping[int, str] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SegmenterScores:
    """Measure a pack's segmenter on a split (`train`, `valid`, `test`) of a YOLO export, read as training reads it.

    `shots` gives the shot of each frame ordinal, which is what a picture's file name must be then;
    without it the shot is taken from file names such as `000123_shot012.jpg`. A picture without a shot
    is one by itself, which makes intervals too narrow for a film; `frames_without_shot` counts those.

    - `average_precision`, by class and for `all` (mean over the classes that occur): `mask_map50`,
      `mask_map50_95`, `box_map50`, `box_map50_95`, each of `count` labelled instances.
    - `recall_by_size`: share of the labelled characters (not parts) that are found under their name
      with a mask IoU of .5, by `SIZES`; each labelled and each found character counts once.
    - `false_positives_per_1000_frames`: characters found per 1,000 frames that have none; `count` is
      the number of such frames, those with an empty label file or, as YOLO has it, without one.
    - `screen_time_found`: share of the pairs of frame and labelled character that are found so; also
      by character.
    - `notes`: what was left out, what stands for a frame without characters, what train shares.

    All but the first at the pack's confidence; intervals by bootstrap over shots. Up to 1 % of the
    pictures may be unreadable. Raises DataError for an export that cannot be read, one without label
    files, other classes than the pack's, boxes in place of outlines, and frames that `shots` does not
    have; UsageError for an unknown split.
    """
    notes: list[str] = []
    pictures, train, classes = _read_pictures(data, split, notes)
    if classes != spec.classes:
        raise DataError(f"{data}: classes {list(classes)} are not those of the segmenter, {list(spec.classes)}")
    named = {path: shot_of(path, shots) for path in pictures}
    frames = _run(spec, pictures, split, notes, device, threads)
    clusters = [named[frame.path] or str(frame.path) for frame in frames]
    without = sum(not named[frame.path] for frame in frames)
    if without:
        notes.append(
            f"{without} frames have no shot and count as one each: where they are neighbours in a film,"
            " intervals are too narrow; give the film's shots with --shots"
        )
    if shared := _shared(train, pictures, shots):
        notes.append(f"train and {split} share {shared}: the figures are too good")
    elif split == "train":
        notes.append("the training frames themselves are scored: no figure says anything of new shots")
    return {
        "split": split,
        "frames": len(frames),
        "shots": len(set(clusters)),
        "frames_without_shot": without,
        "confidence": spec.confidence,
        "average_precision": average_precision(frames, classes, clusters, min(resamples, LOOPED_RESAMPLES), seed),
        **operating_point(frames, clusters, [c for c in classes if c not in spec.parts], resamples, seed),
        "notes": notes,
    }


class _OperatingPoint(TypedDict):
    recall_by_size: dict[str, Share]
    false_positives_per_1000_frames: Share
    screen_time_found: Share
    screen_time_found_by_character: dict[str, Share]


def operating_point(
    frames: Sequence[ScoredFrame],
    clusters: Sequence[str],
    names: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> _OperatingPoint:
    """What `characters` of the frames find of the truth; `clusters` names the shot of each frame.

    `names` are the classes that are characters. Figures as in `evaluate_segmenter`.
    """
    sized: dict[str, list[tuple[int, bool]]] = {size: [] for size in SIZES}
    named: dict[str, list[tuple[int, bool]]] = {name: [] for name in names}
    strangers: list[tuple[int, int]] = []
    for i, frame in enumerate(frames):
        truth = [instance for instance in frame.truth if instance.name in named]
        found = matched(truth, frame.characters)
        for instance, hit in zip(truth, found, strict=True):
            extent = float(np.sqrt(coco.area(instance.rle))) / instance.rle["size"][0]
            sized[next(size for size, limit in SIZES.items() if extent < limit)].append((i, hit))
        for name in {instance.name for instance in truth}:
            hits = [hit for instance, hit in zip(truth, found, strict=True) if instance.name == name]
            named[name].append((i, any(hits)))
        if not frame.truth:
            strangers.append((i, len(frame.characters)))

    def share(cases: Sequence[tuple[int, int]], scale: float = 1.0) -> Share:
        return _share(cases, clusters, scale, resamples, seed)

    return {
        "recall_by_size": {size: share(cases) for size, cases in sized.items()},
        "false_positives_per_1000_frames": share(strangers, 1000.0),
        "screen_time_found": share([case for cases in named.values() for case in cases]),
        "screen_time_found_by_character": {name: share(cases) for name, cases in named.items()},
    }


def matched(truth: Sequence[Instance], found: Sequence[Instance]) -> list[bool]:
    """For each labelled figure: is it found under its name with a mask IoU of .5?

    As in COCO: the found in order of score each take the labelled figure that they overlap most and
    that no other has taken.
    """
    taken = [False] * len(truth)
    if not truth or not found:
        return taken
    ranked = sorted(found, key=lambda instance: -instance.score)
    overlaps = coco.iou([f.rle for f in ranked], [t.rle for t in truth], [0] * len(truth))
    for row, instance in zip(overlaps, ranked, strict=True):
        free = [i for i, t in enumerate(truth) if t.name == instance.name and not taken[i] and row[i] >= _SAME]
        if free:
            taken[max(free, key=lambda i: float(row[i]))] = True
    return taken


def _share(cases: Sequence[tuple[int, int]], clusters: Sequence[str], scale: float, resamples: int, seed: int) -> Share:
    """Mean of the cases (frame, value) times `scale`; whole shots that have any case are drawn."""
    if not cases:
        return {"value": None, "low": None, "high": None, "count": 0}
    shots, index = np.unique([clusters[frame] for frame, _ in cases], return_inverse=True)
    values = np.array([float(value) for _, value in cases])
    low = high = None
    if len(shots) > 1:
        drawn = draw(len(shots), resamples, seed).astype(np.float64)
        low, high = percentiles(scale * (drawn @ np.bincount(index, values)) / (drawn @ np.bincount(index)))
    return {"value": scale * float(values.mean()), "low": low, "high": high, "count": len(cases)}


def _read_pictures(data: Path, split: str, notes: list[str]) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    """The pictures that are scored, those of train (none where these are they), the classes."""
    if split not in _SPLITS:
        raise UsageError(f"unknown split {split!r}; choose train, valid or test")
    resolved = read_yolo_data(data)
    folder = resolved.get(_SPLITS[split])
    if folder is None:
        raise DataError(f"{data}: has no split '{split}'; name its folder in data.yaml")
    scored: YoloSplit = read_split(split, data, Path(folder), len(resolved["names"]), notes)
    train = [] if split == "train" else pictures_of(Path(resolved["train"]))
    return list(scored.pictures), train, tuple(resolved["names"])


def _shared(train: Sequence[Path], pictures: Sequence[Path], shots: Mapping[int, str] | None) -> str:
    """What training has of the scored pictures, in words; empty where nothing is.

    Unlike `shared_pictures` with shots it bears training frames that the shots given do not have.
    """
    found = [shared_pictures(train, pictures)]
    if shots is not None:
        known = {shots.get(int(path.stem), "") for path in train if path.stem.isdecimal()}
        if both := sorted(known & {shots[int(path.stem)] for path in pictures} - {""}):
            found.append(f"shots: {', '.join(both[:_LISTED])}{', …' * (len(both) > _LISTED)}")
    return "; ".join(filter(None, found))


def _run(
    spec: SegmenterSpec, pictures: Sequence[Path], split: str, notes: list[str], device: str, threads: int | None
) -> list[ScoredFrame]:
    set_ultralytics_environment()
    segmenter = CharacterSegmenter(spec, device, threads)
    network = load_segmentation_model(spec.architecture, spec.weights, len(spec.classes)).to(device)
    frames: list[ScoredFrame] = []
    unreadable: list[str] = []
    for start in range(0, len(pictures), BATCH):
        read = {path: _read_picture(path) for path in pictures[start : start + BATCH]}
        images = {path: image for path, image in read.items() if image is not None}
        unreadable += [str(path) for path in read if path not in images]
        if len(unreadable) > _UNREADABLE * len(pictures):
            raise DataError(
                f"{'; '.join(unreadable)}: cannot be decoded; mend or remove such pictures: more than 1 % of '{split}'"
            )
        if len({image.shape for image in images.values()}) == 1:
            found = segmenter.segment(np.stack(list(images.values())))
        else:
            found = [segmenter.segment(image[None])[0] for image in images.values()]
        for (path, image), characters in zip(images.items(), found, strict=True):
            named = tuple(Instance(c.name, c.box, _rle(c.mask), c.score) for c in characters)
            truth = _read_truth(path, spec.classes, *image.shape[:2])
            frames.append(ScoredFrame(path, truth, _detect(network, spec, image), named))
    if unreadable:
        notes.append(f"{split}: left out as unreadable: {'; '.join(unreadable)}")
    return frames


def _detect(network: Any, spec: SegmenterSpec, picture: Picture) -> tuple[Instance, ...]:
    """Every detection above .001, several names for one box allowed; those without a pixel are left out."""
    import torch
    from ultralytics.utils.nms import non_max_suppression

    height, width = picture.shape[:2]
    letterbox = Letterbox.fit(height, width, spec.imgsz)
    with torch.inference_mode():
        device = next(network.parameters()).device
        x = torch.from_numpy(letterbox.apply(picture)).to(device).permute(2, 0, 1)[None].float() / 255
        (output, protos), _ = network(x)
        rows = non_max_suppression(
            output, _LEAST_SCORE, spec.iou, multi_label=True, max_det=300, nc=len(spec.classes), max_time_img=60.0
        )[0]
        logits = (rows[:, 6:] @ protos[0].flatten(1)).view(-1, *protos.shape[2:]).cpu().numpy()
    found = []
    for (*ends, score, index), low in zip(rows[:, :6].cpu().tolist(), logits, strict=True):
        corners = letterbox.to_picture(ends[0], ends[1], ends[2], ends[3], height, width)
        mask = mask_in_box(low, corners, letterbox, height, width)
        if mask is not None and mask.area:
            box = (corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1])
            found.append(Instance(spec.classes[int(index)], box, _rle(mask), score))
    return tuple(found)


def _rle(mask: Mask) -> Rle:
    return {"size": [mask.height, mask.width], "counts": mask.rle().encode()}


def _read_picture(path: Path) -> Picture | None:
    """A picture as ultralytics reads it for training, RGB uint8 [h, w, 3]; None where it cannot be decoded."""
    from ultralytics.utils.patches import imread

    try:
        picture = imread(path)
    except cv2.error:  # of its header: so many pixels are not decoded
        return None
    return None if picture is None else np.ascontiguousarray(picture[:, :, ::-1])


def _read_truth(picture: Path, classes: Sequence[str], height: int, width: int) -> tuple[Instance, ...]:
    """The outlines of a picture's label file, which `read_split` has checked; none where there is no file."""
    path = label_path(picture)
    found: list[Instance] = []
    for line in path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else ():
        if not line.strip():
            continue
        index, *points = map(float, line.split())
        xs, ys = np.array(points[0::2]) * width, np.array(points[1::2]) * height
        outline = np.stack([xs, ys], 1).ravel().tolist()
        box = (float(xs.min()), float(ys.min()), float(np.ptp(xs)), float(np.ptp(ys)))
        found.append(Instance(classes[int(index)], box, coco.merge(coco.frPyObjects([outline], height, width))))
    return tuple(found)
