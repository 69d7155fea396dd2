"""Labelled crops and what is known of where each comes from; read from folders of pictures by class.

    EXPORT/train/Happy/*.jpg  EXPORT/valid/Happy/*.jpg  [EXPORT/test/Happy/*.jpg]  [EXPORT/crops.csv]

This is how Roboflow exports classification data. `crops.csv` is ours and optional: one row per
picture, `file` (relative to EXPORT) with any of `film`, `scene`, `shot`, `track`, `character`,
`ordinal`, `pts` and `time_base` (seconds per unit of pts, such as 1/24000), and a column `p_CLASS` per
class where annotators' votes are kept as a soft label. Without it the shot and the rest are taken from
file names of the form `004128_shot032_track083_Bunny.jpg`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from insideout.datasets.files import check_class_name, check_files, refuse_archive
from insideout.errors import DataError

Picture = npt.NDArray[np.uint8]

TABLE = "crops.csv"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})

#: Share of the pictures that may be unreadable.
MOST_UNREADABLE = 0.01

#: Names of the folder of each split; the second is what other tools call it.
SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}

_SHOT = re.compile(r"(?:^|[_\-.])(shot_?\d+)(?=[_\-.]|$)", re.IGNORECASE)
_NAME = re.compile(r"^(?P<ordinal>\d+)_shot(?P<shot>\d+)_(?P<track>track\d+|more\d+)_(?P<character>.+)$")
#: Roboflow writes several augmented copies of a picture: `name_jpg.rf.0123abcd.jpg`.
_ROBOFLOW = re.compile(r"(?:_(?:jpe?g|png|webp|bmp))?\.rf\.[0-9a-zA-Z]+$")


def decode_picture(encoded: npt.NDArray[np.uint8]) -> Picture | None:
    """Decode the bytes of a picture, RGB uint8 [h, w, 3]; None where they are none, or one of more than MOST_PIXELS."""
    try:
        picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if len(encoded) else None
    except cv2.error:  # of its header: so many pixels are not decoded
        return None
    return None if picture is None else np.ascontiguousarray(picture[:, :, ::-1]).astype(np.uint8, copy=False)


@dataclass(frozen=True)
class LabelledCrop:
    """One crop with its emotion; what is not known of its origin is empty or None."""

    name: str
    """Unique in its data set: the path inside the export, or film/ordinal/character."""
    picture: Path | bytes = field(repr=False)
    """A picture file, or the bytes of one."""
    emotion: str
    film: str = ""
    scene: str = ""
    shot: str = ""
    track: str = ""
    character: str = ""
    ordinal: int | None = None
    source: str = ""
    """The picture it was made from, where an export holds several augmented copies of one."""
    pts: int | None = None
    time_base: Fraction | None = None
    """Seconds per unit of `pts`."""
    votes: Mapping[str, float] | None = None
    """Share of the annotators' votes by class, sum 1; None where there is one label only."""

    @property
    def shot_key(self) -> str:
        """Names the shot among all films; empty where the shot is unknown."""
        return f"{self.film}/{self.shot}" if self.shot else ""

    @property
    def scene_key(self) -> str:
        """Names the scene among all films; the shot where no scene is known, empty without either."""
        return f"{self.film}/scene {self.scene}" if self.scene else self.shot_key

    @property
    def track_key(self) -> str:
        """Names the track among all shots; empty where it is unknown."""
        return f"{self.shot_key}/{self.track}" if self.shot and self.track else ""

    @property
    def time(self) -> Fraction | None:
        """When its frame is shown, in seconds of its film; None where that is unknown."""
        return None if self.pts is None or self.time_base is None else self.pts * self.time_base

    def read(self) -> Picture:
        """Decode the picture, RGB uint8 [h, w, 3]. Raises DataError."""
        try:
            content = np.frombuffer(self.picture, np.uint8) if isinstance(self.picture, bytes) else None
            encoded = np.fromfile(self.picture, np.uint8) if content is None else content
        except OSError as error:
            raise DataError(f"{self.name}: not readable ({error.strerror}); export it again") from error
        picture = decode_picture(encoded)
        if picture is None:
            raise DataError(f"{self.name}: not a readable picture; remove it or export it again")
        return picture


@dataclass(frozen=True)
class CropList:
    """Labelled crops in a fixed order, with their classes."""

    classes: tuple[str, ...]
    crops: tuple[LabelledCrop, ...]

    def __len__(self) -> int:
        return len(self.crops)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Index into `classes` of each crop, int64 [n]."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index[crop.emotion] for crop in self.crops], np.int64)

    @cached_property
    def votes(self) -> npt.NDArray[np.float32]:
        """Share of the votes by class, float32 [n, classes], rows of sum 1.

        Votes for classes that are not used are left out; a crop without votes has all on its label.
        """
        shares = np.zeros((len(self), len(self.classes)), np.float32)
        for row, crop in zip(shares, self.crops, strict=True):
            if crop.votes is not None:
                row[:] = [crop.votes.get(name, 0.0) for name in self.classes]
            total = row.sum()
            if total > 0:
                row /= total
            else:
                row[self.classes.index(crop.emotion)] = 1.0
        return shares

    @property
    def shots(self) -> tuple[str, ...]:
        """The shot of each crop; empty where unknown."""
        return tuple(crop.shot_key for crop in self.crops)

    def counts(self) -> dict[str, int]:
        """Crops by class, in class order."""
        found = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, found, strict=True)}

    def take(self, indices: Iterable[int] | npt.NDArray[np.int64]) -> CropList:
        """The crops at these indices, in this order."""
        return CropList(self.classes, tuple(self.crops[int(i)] for i in indices))


def read_export(data: Path, splits: Sequence[str] = ("train", "valid", "test")) -> dict[str, list[LabelledCrop]]:
    """Read the splits of a folder export that are there, crops in order of class and file name.

    Raises DataError: no such folder, none of the splits in it, a split without class folders, a
    class folder without pictures, `crops.csv` that does not fit the pictures.
    """
    refuse_archive(data)
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; give a classification export (train/CLASS/*.jpg, valid/CLASS/*.jpg)")
    check_files([data / TABLE], data)
    origins = _read_origins(data)
    found: dict[str, list[LabelledCrop]] = {}
    for split in splits:
        folder = next((data / name for name in SPLITS[split] if (data / name).is_dir()), None)
        if folder is not None:
            found[split] = [
                _crop(data, path, emotion, origins)
                for emotion, inside in class_folders(folder).items()
                for path in pictures_in(inside)
            ]
    if not found:
        raise DataError(f"{data}: no {' or '.join(splits)} folder; an export has one folder per split, then per class")
    check_files((data / crop.name for crops in found.values() for crop in crops), data)
    if origins is not None:
        named = {crop.name for crops in found.values() for crop in crops}
        lost = [name for name in origins if name not in named and name.split("/")[0] in _folders(found)]
        if lost:
            raise DataError(f"{data / TABLE}: names {len(lost)} pictures that are not there, such as {lost[0]}")
    return found


def class_folders(split: Path) -> dict[str, Path]:
    """The folder of each class in alphabetical order. Raises DataError when there are none."""
    folders = {path.name: path for path in sorted(split.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    if not folders:
        raise DataError(f"{split}: no class folders; put the crops of each class in a folder of its name")
    for name in folders:
        check_class_name(name, str(split))
    return folders


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a class folder, by name. Raises DataError when there are none."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise DataError(f"{folder}: no pictures; add some, or remove the folder, in the other splits too")
    return found


def find_unreadable(*parts: Sequence[LabelledCrop], threads: int = 2) -> list[str]:
    """Decode every crop of the parts of a data set once and name those that cannot be read, in their order.

    Raises DataError when they are more than one in a hundred of all, or all those of a class in a part.
    """

    def problem(crop: LabelledCrop) -> str | None:
        try:
            crop.read()
        except DataError as error:
            return str(error)
        return None

    every = [crop for part in parts for crop in part]
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="crops") as pool:
        problems = {crop.name: why for crop, why in zip(every, pool.map(problem, every), strict=True) if why}
    if len(problems) > MOST_UNREADABLE * len(every):
        raise DataError(f"{len(problems)} of {len(every)} crops cannot be read: {'; '.join(problems.values())[:300]}")
    for part in parts if problems else ():
        sound = {crop.emotion for crop in part if crop.name not in problems}
        for crop in part:
            if crop.emotion not in sound:
                count = sum(other.emotion == crop.emotion for other in part)
                raise DataError(f"none of the {count} crops of {crop.emotion} can be read: {problems[crop.name]}")
    return list(problems)


def _folders(found: Mapping[str, object]) -> set[str]:
    return {name for split in found for name in SPLITS[split]}


def _crop(data: Path, path: Path, emotion: str, origins: dict[str, dict[str, str]] | None) -> LabelledCrop:
    name = path.relative_to(data).as_posix()
    source = _ROBOFLOW.sub("", path.stem)
    if origins is None:
        return _from_name(LabelledCrop(name, path, emotion, source=source))
    row = origins.get(name)
    if row is None:
        raise DataError(f"{data / TABLE}: has no row for {name}; add one, or delete the table")
    votes = {key[2:]: float(value) for key, value in row.items() if key.startswith("p_") and value}
    origin = {key: row.get(key) or "" for key in ("film", "scene", "shot", "track", "character")}
    return LabelledCrop(
        name,
        path,
        emotion,
        ordinal=_whole(data, name, row, "ordinal"),
        source=source,
        pts=_whole(data, name, row, "pts"),
        time_base=_time_base(data, name, row.get("time_base") or ""),
        votes=votes or None,
        **origin,
    )


def _whole(data: Path, name: str, row: Mapping[str, str], column: str) -> int | None:
    text = row.get(column)
    try:
        return int(text) if text else None
    except ValueError as error:
        raise DataError(f"{data / TABLE}: {name}: {column} '{text}' is not a whole number") from error


def _time_base(data: Path, name: str, text: str) -> Fraction | None:
    if not text:
        return None
    try:
        found = Fraction(text)
    except (ValueError, ZeroDivisionError):
        found = Fraction(0)
    if found <= 0:
        raise DataError(
            f"{data / TABLE}: {name}: time_base '{text}' is no fraction of a second above 0, such as 1/24000"
        )
    return found


def _from_name(crop: LabelledCrop) -> LabelledCrop:
    if full := _NAME.match(crop.source):
        track = full["track"] if full["track"].startswith("track") else ""
        return replace(crop, shot=full["shot"], track=track, character=full["character"], ordinal=int(full["ordinal"]))
    shot = _SHOT.search(crop.source)
    return replace(crop, shot=shot.group(1).lower()) if shot else crop


def _read_origins(data: Path) -> dict[str, dict[str, str]] | None:
    path = data / TABLE
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "file" not in (reader.fieldnames or ()):
            raise DataError(f"{path}: no column 'file'; delete the table, or name each picture in it")
        rows = {row["file"]: row for row in reader}
    for name, row in rows.items():
        for key, value in row.items():
            if key and key.startswith("p_") and value and not _is_share(value):
                raise DataError(f"{path}: {name}: {key} is '{value}', expected a share between 0 and 1")
    return rows


def _is_share(value: str) -> bool:
    try:
        return 0 <= float(value) <= 1
    except ValueError:
        return False


def data_digest(crops: Iterable[LabelledCrop]) -> str:
    """sha256 over the label, the votes, the origin and the picture of each crop, in order of names.

    The origin (film, scene, shot, track, character, source) decides on which side of a fold a crop comes,
    so that data in which it was corrected is other data. Raises DataError for a picture that cannot be read.
    """
    digest = hashlib.sha256()
    for crop in sorted(crops, key=lambda crop: crop.name):
        try:
            content = crop.picture if isinstance(crop.picture, bytes) else crop.picture.read_bytes()
        except OSError as error:
            raise DataError(f"{crop.name}: not readable ({error.strerror}); export it again") from error
        votes = crop.votes and dict(sorted(crop.votes.items()))
        row = (
            crop.name, crop.emotion, crop.film, crop.scene, crop.shot, crop.track, crop.character, crop.source, votes,
            hashlib.sha256(content).hexdigest(),
        )  # fmt: skip
        digest.update((json.dumps(row) + "\n").encode())
    return digest.hexdigest()
