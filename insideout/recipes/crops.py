"""Crops sorted by emotion in folders, as Roboflow exports classification data.

    EXPORT/train/Happy/*.jpg  EXPORT/valid/Happy/*.jpg  [EXPORT/test/Happy/*.jpg]

Class names come from the folders. Where a file name says which shot a crop is from
(`..._shot012_...`), training can draw shots first, so that one long shot does not outweigh ten.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from insideout.errors import DataError

Balance = Literal["none", "sqrt", "equal"]
Pictures = npt.NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_SHOT = re.compile(r"(?:^|[_\-.])(shot_?\d+)(?=[_\-.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class CropList:
    """The crops of one split: `paths`, `labels` (int64 [n], index into `classes`), `shots` (str [n])."""

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]
    shots: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """Crops by class, in class order."""
        found = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, found, strict=True)}


@dataclass(frozen=True)
class CropData:
    """The splits of an export: `left_out` counts crops by split and class that the recipe does not keep."""

    classes: tuple[str, ...]
    train: CropList
    valid: CropList
    left_out: dict[str, dict[str, int]]

    def summary(self) -> dict[str, Any]:
        """Counts by split and class, shots by split, and the shots that both splits share (a leak)."""
        splits = {"train": self.train, "valid": self.valid}
        shared = set(self.train.shots) & set(self.valid.shots) - {""}
        return {
            **{name: split.counts() for name, split in splits.items()},
            "shots": {name: len(set(split.shots) - {""}) for name, split in splits.items()},
            "shots_in_both": len(shared),
            "left_out": self.left_out,
        }

    def digest(self) -> str:
        """Digest of the names and sizes of all crops, by which a resumed training knows its data."""
        lines = [
            f"{split}/{path.parent.name}/{path.name} {path.stat().st_size}"
            for split, crops in (("train", self.train), ("valid", self.valid))
            for path in crops.paths
        ]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def read_crops(data: Path, keep: Sequence[str] | None = None) -> CropData:
    """Read the `train` and `valid` folders of an export.

    `keep` names the classes to use; without it all are. The order of the classes is alphabetical.
    Raises DataError for a missing split, a class folder without pictures, classes that differ
    between the splits, a class of `keep` that is not there, and fewer than two classes.
    """
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; give a classification export (train/CLASS/*.jpg, valid/CLASS/*.jpg)")
    folders = {"train": _split_folder(data, "train"), "valid": _split_folder(data, "valid", "val")}
    found = {split: _class_folders(folder) for split, folder in folders.items()}
    left_out: dict[str, dict[str, int]] = {}
    if keep is not None:
        for split, names in found.items():
            missing = sorted(set(keep) - set(names))
            if missing:
                raise DataError(f"{folders[split]}: no folder for {', '.join(missing)}; it has {', '.join(names)}")
            for name in sorted(set(names) - set(keep)):
                left_out.setdefault(split, {})[name] = len(_pictures(names.pop(name)))
    if set(found["train"]) != set(found["valid"]):
        odd = ", ".join(sorted(set(found["train"]) ^ set(found["valid"])))
        raise DataError(
            f"{data}: classes differ between the splits ({odd}); list those to use in the recipe's 'classes'"
        )
    classes = tuple(sorted(found["train"]))
    if len(classes) < 2:
        raise DataError(f"{data}: {len(classes)} class ({', '.join(classes)}); a classifier needs at least two")
    lists = {split: _crop_list(classes, names) for split, names in found.items()}
    return CropData(classes, lists["train"], lists["valid"], left_out)


def _split_folder(data: Path, *names: str) -> Path:
    for name in names:
        if (data / name).is_dir():
            return data / name
    raise DataError(f"{data / names[0]}: no such folder; an export has train/ and valid/ with a folder for each class")


def _class_folders(split: Path) -> dict[str, Path]:
    folders = {path.name: path for path in sorted(split.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    if not folders:
        raise DataError(f"{split}: no class folders; put the crops of each class in a folder of its name")
    return folders


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _crop_list(classes: Sequence[str], folders: dict[str, Path]) -> CropList:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        pictures = _pictures(folders[name])
        if not pictures:
            raise DataError(f"{folders[name]}: no pictures; add some or leave '{name}' out of the recipe's 'classes'")
        paths += pictures
        labels += [label] * len(pictures)
    shots = tuple(m.group(1).lower() if (m := _SHOT.search(path.name)) else "" for path in paths)
    return CropList(tuple(classes), tuple(paths), np.array(labels, np.int64), shots)


def draw_weights(crops: CropList, balance: Balance, shots_first: bool) -> npt.NDArray[np.float64]:
    """Probability of each crop to be drawn, float64 [n], sum 1.

    A class of k crops gets a share in proportion to k (`none`), its root (`sqrt`) or 1 (`equal`).
    Within a class crops are equally likely or, with `shots_first`, shots are; crops whose name
    tells no shot count as a shot each.
    """
    weights: npt.NDArray[np.float64] = np.ones(len(crops), np.float64)
    if shots_first:
        keys = [(int(y), shot or str(i)) for i, (y, shot) in enumerate(zip(crops.labels, crops.shots, strict=True))]
        sizes = Counter(keys)
        weights = np.array([1 / sizes[key] for key in keys])
    power = {"none": 1.0, "sqrt": 0.5, "equal": 0.0}[balance]
    for label in range(len(crops.classes)):
        mine = crops.labels == label
        weights[mine] *= mine.sum() ** power / weights[mine].sum()
    weights /= weights.sum()
    return weights


def epoch_order(
    crops: CropList, balance: Balance, shots_first: bool, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> npt.NDArray[np.int64]:
    """Indices that worker `rank` of `world` sees in an epoch, int64 [n // world], the same in every run.

    Without balance and shots every crop once in random order; otherwise n draws with replacement.
    """
    random = np.random.default_rng((seed, epoch))
    if balance == "none" and not shots_first:
        order = random.permutation(len(crops))
    else:
        order = random.choice(len(crops), size=len(crops), p=draw_weights(crops, balance, shots_first))
    share = max(1, len(crops) // world)
    return order[rank::world][:share].astype(np.int64)


def load_square(path: Path, size: int) -> Pictures:
    """Read a picture as RGB uint8 [size, size, 3], padded to a square with black. Raises DataError."""
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if picture is None:
        raise DataError(f"{path}: not a readable picture; remove it or export it again")
    height, width = picture.shape[:2]
    if height != width:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        picture = cv2.copyMakeBorder(
            picture, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=(0, 0, 0)
        )
    if picture.shape[0] != size:
        shrinks = picture.shape[0] > size
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(picture[:, :, ::-1])


class CropLoader:
    """Loads crops by index and keeps them in memory while they fit in `cache_bytes`."""

    def __init__(self, crops: CropList, size: int, *, threads: int = 2, cache_bytes: int = 1 << 30) -> None:
        self.crops = crops
        self.size = size
        self._kept: dict[int, Pictures] = {}
        self._may_keep = cache_bytes // (3 * size * size)
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="crops")

    def load(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> tuple[Pictures, npt.NDArray[np.int64]]:
        """Return RGB uint8 [n, size, size, 3] and labels int64 [n]."""
        pictures = list(self._pool.map(self._one, map(int, indices)))
        return np.stack(pictures), self.crops.labels[np.asarray(indices)]

    def _one(self, index: int) -> Pictures:
        kept = self._kept.get(index)
        if kept is None:
            kept = load_square(self.crops.paths[index], self.size)
            if len(self._kept) < self._may_keep:
                self._kept[index] = kept
        return kept
