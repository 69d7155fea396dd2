"""Write the labels of *Big Buck Bunny* as data sets: YOLO segmentation, and folders of crops.

The forms are those that users have: a Roboflow export (`data.yaml`, `train/`, `valid/`) for the
segmenter and one folder of pictures per emotion for the classifier, with `crops.csv`, which says
where each crop comes from and how the annotators voted.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import yaml

from insideout.crops import CropKind, Picture, cut
from insideout.datasets.bbb import CHARACTERS, SPLITS, UNCLEAR, Figure, LabelledFrame, film_digest, read_labels
from insideout.datasets.fetch import check_digest
from insideout.datasets.labelled import TABLE
from insideout.errors import DataError, FilmError, UsageError
from insideout.masks import Mask
from insideout.segment import Character

_HEAD_MARGIN = 0.08  # of the longer side of the head box
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]


@dataclass(frozen=True)
class Exports:
    """What was written: frames by split, crops by (split, emotion)."""

    path: Path
    frames: Mapping[str, int]
    crops: Mapping[tuple[str, str], int]

    def lines(self) -> list[str]:
        """What was written, a line for each split."""
        said = []
        for split in sorted(self.frames.keys() | {split for split, _ in self.crops}):
            crops = {label: n for (of, label), n in sorted(self.crops.items()) if of == split}
            listed = ", ".join(f"{label} {n}" for label, n in crops.items())
            said.append(f"{split}: {self.frames.get(split, 0)} frames, {sum(crops.values())} crops ({listed})")
        return said


def make_exports(
    film: Path,
    labels: Path,
    out: Path,
    *,
    heads: bool = True,
    crop: CropKind = "head",
    splits: Sequence[str] = ("train", "val"),
    classes: Sequence[str] = CHARACTERS,
) -> Exports:
    """Cut the labelled frames out of the film into `out/segmentation` and `out/classification`.

    `labels` is the folder `data/bbb`. Segmentation: the frames on which every character is
    annotated, one line per character with its class and outline, relative to the frame (the format
    holds neither parts nor holes, so the largest part is taken); with `heads` one more class,
    `head`. Classification: a folder per emotion; `crop` is the head with a margin of 8 % and its
    background (`head`), the pixels of the character on black (`mask`) or its box with the
    background (`box`), each padded to a square with black. `out` appears whole or not at all.

    Raises DataError for unreadable labels, a film with another digest or an unknown split, and
    UsageError when `out` is taken. `held_out` shots are measured elsewhere and never exported.
    """
    for split in splits:
        if split not in SPLITS:
            raise DataError(f"split '{split}' is not exported; choose from {', '.join(SPLITS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: already there; delete it or choose another folder")
    frames = read_labels(labels, splits)
    if not film.is_file():
        raise FilmError(f"{film}: no such film; `make film` fetches it")
    digest = film_digest(labels)
    check_digest(film, digest)

    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    writer = _Writer(part, digest[:16], tuple(classes), heads, crop)
    try:
        for ordinal, time, picture in _pictures(film, frames):
            writer.write(ordinal, time, frames[ordinal], picture)
        writer.finish()
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exports(out, dict(writer.frames), dict(writer.crops))


class _Writer:
    """Writes one frame after the other and counts them."""

    def __init__(self, out: Path, film: str, classes: tuple[str, ...], heads: bool, crop: CropKind) -> None:
        self.out, self.film, self.classes, self.heads, self.crop = out, film, classes, heads, crop
        self.frames: Counter[str] = Counter()
        self.crops: Counter[tuple[str, str]] = Counter()
        self.origins: list[dict[str, object]] = []

    def write(self, ordinal: int, time: Mapping[str, object], frame: LabelledFrame, picture: Picture) -> None:
        folder = SPLITS[frame.split]
        lines: list[str] = []
        for figure in frame.figures:
            mask = figure.mask()
            lines += self._lines(figure, mask)
            if figure.emotion and figure.emotion != UNCLEAR:
                crop = _crop(self.crop, picture, mask, figure)
                if crop is not None:
                    name = f"{folder}/{figure.emotion}/{ordinal:06d}_shot{frame.shot:03d}_{figure.name}.jpg"
                    self._save(self.out / "classification" / name, crop)
                    self.origins.append(
                        {
                            "file": name,
                            "film": self.film,
                            "scene": frame.scene,
                            "shot": frame.shot,
                            "track": "" if figure.track is None else figure.track,
                            "character": figure.character,
                            "ordinal": ordinal,
                            **time,
                        }
                        | {f"p_{label}": round(share, 4) for label, share in figure.votes.items()}
                    )
                    self.crops[frame.split, figure.emotion] += 1
        if frame.complete:
            stem = self.out / "segmentation" / folder
            self._save(stem / "images" / f"{ordinal:06d}.jpg", picture)
            (stem / "labels").mkdir(exist_ok=True)
            (stem / "labels" / f"{ordinal:06d}.txt").write_text("".join(f"{line}\n" for line in lines))
            self.frames[frame.split] += 1

    def finish(self) -> None:
        names = [*self.classes, *(["head"] if self.heads else [])]
        content = {"train": "../train/images", "val": "../valid/images", "nc": len(names), "names": names}
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
        (self.out / "segmentation" / "data.yaml").write_text(text)
        votes = sorted({key for origin in self.origins for key in origin if key.startswith("p_")})
        columns = ["file", "film", "scene", "shot", "track", "character", "ordinal", "pts", "time_base", *votes]
        with (self.out / "classification" / TABLE).open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            table.writeheader()
            table.writerows(sorted(self.origins, key=lambda origin: str(origin["file"])))

    def _lines(self, figure: Figure, mask: Picture | None) -> list[str]:
        if mask is None or figure.character not in self.classes:
            return []
        lines = _outline(mask, self.classes.index(figure.character))
        if self.heads and figure.head:
            x, y, w, h = figure.head
            head = np.zeros_like(mask)
            head[y : y + h, x : x + w] = mask[y : y + h, x : x + w]
            lines += _outline(head, len(self.classes))
        return lines

    @staticmethod
    def _save(path: Path, picture: Picture) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), picture, _JPEG):
            raise OSError(f"{path}: could not be written")


def _outline(mask: Picture, index: int) -> list[str]:
    """The line of a YOLO label file for the largest part of a mask; none for an empty mask."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    points = cv2.approxPolyDP(max(contours, key=cv2.contourArea), 1.0, True)[:, 0, :]
    if len(points) < 3:
        return []
    height, width = mask.shape
    return [f"{index} " + " ".join(f"{x / width:.5f} {y / height:.5f}" for x, y in points)]


def _crop(kind: CropKind, picture: Picture, mask: Picture | None, figure: Figure) -> Picture | None:
    """The crop of a figure, as labelling cuts it; None where what it takes was not labelled."""
    if (figure.head if kind == "head" else mask) is None:
        return None
    height, width = picture.shape[:2]
    pixels = np.zeros((0, 0), bool) if mask is None else mask.astype(bool)
    box = figure.box or figure.head
    assert box is not None  # a figure has a mask with its box, or a head
    character = Character(figure.character, 1.0, box, Mask(pixels, 0, 0, width, height), figure.head)
    return cut(picture, character, kind, _HEAD_MARGIN)


def _pictures(film: Path, wanted: Mapping[int, Any]) -> Iterator[tuple[int, dict[str, object], Picture]]:
    """The wanted frames of the film in presentation order: ordinal, pts with time base, BGR picture."""
    last = max(wanted, default=-1)
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for ordinal, frame in enumerate(container.decode(stream)):
            if ordinal in wanted:
                time: dict[str, object] = {"pts": frame.pts, "time_base": stream.time_base}
                yield ordinal, time, frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)
            if ordinal >= last:
                return
