"""Label the frames of one span: segment, crop, classify. Pure functions over one span at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insideout.crops import CropKind, cut, encode_webp, resize
from insideout.decode import SpanFrames
from insideout.device import lost_device
from insideout.emotion import EmotionClassifier
from insideout.faults import fault
from insideout.packs import EmotionSpec
from insideout.segment import Character, CharacterSegmenter
from insideout.spans import Span

Outcome = tuple[str, str | None]
LABELLED: Outcome = ("labelled", None)


@dataclass(frozen=True)
class SpanLabels:
    """What is known about a span once its pictures are gone.

    `outcomes` has a (status, reason) per sampled frame; `rows` a dict per character, ordered by
    frame and score, whose `frame` is an index into `ordinals`; `crops` is uint8 [rows, size, size,
    3] RGB; `changes` and `edges` are those of SpanFrames; `seconds` is time spent by stage.
    """

    span: Span
    ordinals: NDArray[np.int32]
    pts: NDArray[np.int64]
    outcomes: tuple[Outcome, ...]
    changes: NDArray[np.float32]
    edges: NDArray[np.uint8]
    rows: tuple[dict[str, Any], ...]
    crops: NDArray[np.uint8]
    seconds: dict[str, float] = field(default_factory=dict)


def outcome(reason: str | None) -> Outcome:
    """The ledger's (status, reason) for what decoding says of a frame."""
    if reason is None:
        return LABELLED
    return ("failed" if reason.startswith("decode:") else "dropped", reason)


def segment_span(frames: SpanFrames, segmenter: CharacterSegmenter) -> tuple[list[list[Character]], list[Outcome]]:
    """Find the characters of every frame that is to be labelled.

    Returns a list of characters and an outcome per sampled frame. A picture on which the model
    fails is tried alone before it is given up, so it takes no other frame with it. Raises what shows
    that the device is lost (`lost_device`): then no frame is known to be at fault, and none can be tried here.
    """
    outcomes = [outcome(reason) for reason in frames.reasons]
    characters: list[list[Character]] = [[] for _ in outcomes]
    wanted = [i for i, (status, _) in enumerate(outcomes) if status == "labelled"]
    fault("segment", frames.ordinals[wanted])
    try:
        found = segmenter.segment(frames.pictures[wanted])
    except Exception as whole:
        _raise_if_lost(whole, segmenter)
        found = []
        for i in wanted:
            try:
                found += segmenter.segment(frames.pictures[i : i + 1])
            except Exception as error:
                _raise_if_lost(error, segmenter)
                found.append([])
                outcomes[i] = ("failed", f"segment: {type(error).__name__}: {error}"[:200])
    for i, figures in zip(wanted, found, strict=True):
        characters[i] = figures
        if not figures and outcomes[i] == LABELLED:
            outcomes[i] = ("dropped", "no_character")
    return characters, outcomes


def _raise_if_lost(error: Exception, segmenter: CharacterSegmenter) -> None:
    if lost := lost_device(error, str(segmenter.device)):
        raise lost


def crop_span(
    frames: SpanFrames,
    characters: list[list[Character]],
    outcomes: list[Outcome],
    emotion: EmotionSpec,
    crop_size: int | None = None,
) -> SpanLabels:
    """Cut what the emotion classifier will see, and let go of the pictures.

    With `crop_size` each row gets its `crop` too, as WebP of at most so many pixels a side, never enlarged.
    """
    kind: CropKind = emotion.crop
    rows: list[dict[str, Any]] = []
    crops: list[NDArray[np.uint8]] = []
    for i, figures in enumerate(characters):
        for figure in figures:
            head = figure.head or (None, None, None, None)
            picture = cut(frames.pictures[i], figure, kind, emotion.margin)
            stored = encode_webp(resize(picture, min(crop_size, len(picture)))) if crop_size else None
            rows.append(
                {"frame": i, "character": figure.name, "score": figure.score, "mask_rle": figure.mask.rle()}
                | {"crop": stored}
                | {"mask_h": figure.mask.height, "mask_w": figure.mask.width}
                | dict(zip(("box_x", "box_y", "box_w", "box_h"), figure.box, strict=True))
                | dict(zip(("head_x", "head_y", "head_w", "head_h"), head, strict=True))
            )
            crops.append(resize(picture, emotion.size))
    stacked = np.stack(crops) if crops else np.zeros((0, emotion.size, emotion.size, 3), np.uint8)
    return SpanLabels(
        frames.span, frames.ordinals, frames.pts, tuple(outcomes), frames.changes, frames.edges, tuple(rows), stacked
    )


def classify_span(labels: SpanLabels, classifier: EmotionClassifier) -> SpanLabels:
    """Add calibrated `probabilities` (float32 [emotions], pack order) to each row.

    A frame with a crop for which the network gives no finite number fails, and has no rows.
    """
    fault("classify", labels.ordinals[[row["frame"] for row in labels.rows]])
    probabilities = classifier.classify(labels.crops)
    outcomes, places = list(labels.outcomes), dict[int, int]()
    for row, found in zip(labels.rows, probabilities, strict=True):
        crop = places[row["frame"]] = places.get(row["frame"], -1) + 1
        if not np.isfinite(found).all():
            outcomes[row["frame"]] = ("failed", f"classify: crop {crop}: the network gave no finite number")
    rows = tuple(
        row | {"probabilities": found}
        for row, found in zip(labels.rows, probabilities, strict=True)
        if outcomes[row["frame"]] == LABELLED
    )
    return replace(labels, rows=rows, outcomes=tuple(outcomes), crops=labels.crops[:0])


def warm_up(segmenter: CharacterSegmenter, classifier: EmotionClassifier) -> None:
    """Label black pictures: a GPU loads its libraries before the first span, and fails now if it is to fail."""
    for size, label in ((segmenter.spec.imgsz, segmenter.segment), (classifier.spec.size, classifier.classify)):
        label(np.zeros((1, size, size, 3), np.uint8))


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time spent inside to `seconds[stage]`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
