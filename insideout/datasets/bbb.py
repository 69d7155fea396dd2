"""The labels of *Big Buck Bunny*: who is in which frame, with mask, head and emotion.

`data/bbb/README.md` says what the labels are and how they were made.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from insideout.crops import Picture
from insideout.errors import DataError
from insideout.masks import decode_rle

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the frame, top-left origin."""

CHARACTERS = ("Bunny", "Frank", "Gamera", "Rinky")
SPLITS = {"train": "train", "val": "valid"}
"""The splits that may be exported, and the folder of each."""

UNCLEAR = "Unclear"
#: Share of a vote that the first choice gets, by the confidence that the annotator gave: 1 is a guess, 3 sure.
_CERTAINTY = {"1": 0.6, "2": 0.75, "3": 0.9}


@dataclass(frozen=True)
class Figure:
    """One labelled character in one frame."""

    character: str
    name: str
    """What its crop is called, unique in the frame."""
    emotion: str
    """Empty where nobody judged it or the judges differ."""
    head: Box | None
    votes: Mapping[str, float] = field(default_factory=dict)
    """Share of the annotators' votes by emotion; empty where nobody judged it."""
    track: int | None = None
    box: Box | None = None
    segmentation: Mapping[str, Any] | None = None
    """COCO compressed RLE of the whole frame; None where only the head was labelled."""

    def mask(self) -> Picture | None:
        """0 or 1 for each pixel of the frame, uint8 [H, W]; None where only the head was labelled."""
        if self.segmentation is None:
            return None
        return decode_rle(self.segmentation["counts"], *self.segmentation["size"]).view(np.uint8)


@dataclass
class LabelledFrame:
    """One frame with labels; `complete` where every character of some size has its mask."""

    shot: int
    split: str
    scene: int
    complete: bool = False
    figures: list[Figure] = field(default_factory=list)


def read_labels(labels: Path, splits: Sequence[str] = ("train", "val")) -> dict[int, LabelledFrame]:
    """Read the label files of `data/bbb`: frames by ordinal, of the given splits only.

    Raises DataError for a missing or unreadable file, and when a frame's shot or split contradicts
    `shots.csv`: a frame on the wrong side of a split would make every figure too good.
    """
    coco = _read_json(labels / "masks.coco.json")
    names = {c["id"]: c["name"] for c in coco["categories"]}
    emotions = {row["annotation"]: row for row in _read_csv(labels / "emotions.csv")}
    scenes = {int(row["shot"]): int(row["scene"]) for row in _read_csv(labels / "shots.csv")}
    frames = {
        image["ordinal"]: LabelledFrame(image["shot"], image["split"], scenes.get(image["shot"], -1), image["complete"])
        for image in coco["images"]
        if image["split"] in splits
    }
    ordinals = {image["id"]: image["ordinal"] for image in coco["images"] if image["split"] in splits}
    for a in coco["annotations"]:
        if a["image_id"] not in ordinals:
            continue
        frame = frames[ordinals[a["image_id"]]]
        character = names[a["category_id"]]
        judged = emotions.get(str(a["id"]))
        frame.figures.append(
            Figure(
                character=character,
                name=f"track{a['track']:03d}_{character}",
                emotion=judged["emotion"] if judged else "",
                head=_box(a["head"]) if a.get("head") else None,
                votes=_votes(judged, "a_", "b_") if judged else {},
                track=a["track"],
                box=_box(a["bbox"]),
                segmentation=a["segmentation"],
            )
        )
    counted: defaultdict[int, int] = defaultdict(int)
    for row in _read_csv(labels / "heads_more.csv"):
        if row["split"] not in splits:
            continue
        ordinal = int(row["ordinal"])
        frame = frames.setdefault(ordinal, LabelledFrame(int(row["shot"]), row["split"], int(row["scene"])))
        name = f"more{counted[ordinal]}_{row['character']}"
        counted[ordinal] += 1
        head = _box(row[f"head_{side}"] for side in "xywh")
        frame.figures.append(Figure(row["character"], name, row["emotion"], head, _votes(row, "")))
    _check_shots(labels / "shots.csv", frames)
    return frames


def _votes(row: Mapping[str, str], *annotators: str) -> dict[str, float]:
    """Shares of the votes: each annotator's label by certainty, the rest of the vote to the second choice."""
    votes: defaultdict[str, float] = defaultdict(float)
    for who in annotators:
        label = row.get(f"{who}label") or row["emotion"]
        first = _CERTAINTY.get(row.get(f"{who}confidence", ""), 1.0)
        second = row.get(f"{who}second", "")
        votes[label] += first if second else 1.0
        votes[second] += 1 - first
    found = {name: share for name, share in votes.items() if name not in ("", UNCLEAR) and share > 0}
    total = sum(found.values())
    return {name: share / total for name, share in sorted(found.items())}


def _check_shots(path: Path, frames: Mapping[int, LabelledFrame]) -> None:
    shots = {int(row["shot"]): row for row in _read_csv(path)}
    for ordinal, frame in frames.items():
        shot = shots.get(frame.shot)
        if shot is None or not int(shot["start_ordinal"]) <= ordinal < int(shot["end_ordinal"]):
            raise DataError(f"{path}: frame {ordinal} is labelled as of shot {frame.shot}, which does not hold it")
        if shot["split"] != frame.split:
            raise DataError(f"{path}: frame {ordinal} is labelled as {frame.split}, its shot is {shot['split']}")


def film_digest(labels: Path) -> str:
    """sha256 of the film that the labels belong to, hex; its first 16 digits name the film. Raises DataError."""
    return str(_read_json(labels / "masks.coco.json")["info"]["film_sha256"])


def _box(values: Any) -> Box:
    x, y, w, h = (int(v) for v in values)
    return x, y, w, h


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; the labels are the folder data/bbb") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; the labels are the folder data/bbb") from error
