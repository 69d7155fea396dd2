"""Labelled crops as a training sees them: which are read, in which order they are drawn, loaded as squares."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from insideout.crops import resize, square
from insideout.datasets import labelled
from insideout.datasets.crop_table import read_crop_table
from insideout.datasets.labelled import CropList, LabelledCrop, data_digest, read_export
from insideout.errors import DataError
from insideout.store import Store

Balance = Literal["none", "sqrt", "equal"]
Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CropData:
    """What a training learns from and what it is scored on.

    `left_out` counts crops by split and class that the recipe does not keep; `unreadable` names the
    pictures that could not be decoded.
    """

    classes: tuple[str, ...]
    train: CropList
    valid: CropList
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Counts by split and class, shots by split, and the shots that both splits share (a leak)."""
        splits = {"train": self.train, "valid": self.valid}
        shared = set(self.train.shots) & set(self.valid.shots) - {""}
        return {
            **{name: split.counts() for name, split in splits.items()},
            "shots": {name: len(set(split.shots) - {""}) for name, split in splits.items()},
            "shots_in_both": len(shared),
            "left_out": {split: dict(classes) for split, classes in self.left_out.items()},
            "unreadable": list(self.unreadable),
        }

    @cached_property
    def digest(self) -> str:
        """Digest of both splits by `data_digest`, by which a resumed training knows its data."""
        both = f"{data_digest(self.train.crops)} {data_digest(self.valid.crops)}"
        return hashlib.sha256(both.encode()).hexdigest()

    def without(self, names: Collection[str]) -> CropData:
        """The same data less the named crops, which are noted as unreadable."""
        if not names:
            return self
        train, valid = (
            CropList(self.classes, tuple(crop for crop in crops.crops if crop.name not in names))
            for crops in (self.train, self.valid)
        )
        return replace(self, train=train, valid=valid, unreadable=tuple(sorted(names)))

    def inner_fold(self, fold: int, folds: int, seed: int = 0) -> CropData:
        """One fold of the training crops as valid, the others as train, grouped by scene; valid is not touched.

        Its purpose is to predict training crops by networks that have not seen their scenes. Without
        scenes shots stay together, and without those the copies of a picture. Raises DataError when
        there are fewer of them than folds, or fewer crops of every class.
        """
        from sklearn.model_selection import StratifiedGroupKFold

        crops, counts = self.train.crops, self.train.counts()
        groups = [crop.scene_key or f"\0{crop.source or crop.name}" for crop in crops]
        if len(set(groups)) < folds:
            found = {"scenes" if crop.scene else "shots" if crop.shot else "pictures" for crop in crops}
            what = " or ".join(kind for kind in ("scenes", "shots", "pictures") if kind in found)
            raise DataError(
                f"{len(set(groups))} {what} in train are too few for {folds} folds; ask for {len(set(groups))} at most"
            )
        if max(counts.values()) < folds:
            each = ", ".join(f"{name} {n}" for name, n in counts.items())
            raise DataError(f"no class has the {folds} crops in train that {folds} folds need ({each})")
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            # Of a class with fewer crops than folds some folds have none.
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            inside, outside = list(splitter.split(groups, self.train.labels, groups))[fold]
        return replace(self, train=self.train.take(inside), valid=self.train.take(outside))


def read_crops(
    data: str | Path | Sequence[str | Path], keep: Sequence[str] | None = None, labels: Path | None = None
) -> CropData:
    """Read the training and validation crops of one or several sources.

    A source is an export, a folder of pictures per split and class, or the output of `insideout
    label --crops`; `labels` is the table that says what the crops of the latter show
    (`insideout.datasets.crop_table`). `keep` names the classes to use; without
    it all are. The order of the classes is alphabetical. Raises DataError for a missing split, a
    class folder without pictures, classes that differ between the splits, a class of `keep` that is
    not there, fewer than two classes, and `labels` that no source needs.
    """
    sources = [data] if isinstance(data, str | Path) else list(data)
    if labels is not None and not any(_is_run(source) for source in sources):
        raise DataError(
            f"{labels}: says what the crops of a run show, and none of {', '.join(map(str, sources))} is the output of"
            " `insideout label --crops`; add one, or leave out --labels"
        )
    found: dict[str, list[LabelledCrop]] = {}
    for source in sources:
        for split, crops in _read_source(source, labels).items():
            found.setdefault(split, []).extend(crops)
    where = ", ".join(map(str, sources))
    for split in ("train", "valid"):
        if split not in found:
            raise DataError(f"{where}: no {split} crops; an export has train/ and valid/, each with class folders")
    return select(found, keep, where)


def _is_run(source: str | Path) -> bool:
    return bool(Store(source).list("characters", ".parquet"))


def _read_source(source: str | Path, labels: Path | None) -> dict[str, list[LabelledCrop]]:
    if not _is_run(source):
        return read_export(Path(source), ("train", "valid"))
    if labels is None:
        raise DataError(
            f"{source}: the output of `insideout label`; say with --labels what its crops show"
            " (`insideout data labels` makes such a table for the bundled film)"
        )
    found = read_crop_table(source, labels)
    return {split: found[split] for split in ("train", "valid") if split in found}


def select(found: Mapping[str, Sequence[LabelledCrop]], keep: Sequence[str] | None, where: str) -> CropData:
    """Keep the crops of the wanted classes and check that both splits have the same. Raises as `read_crops`."""
    names = {split: {crop.emotion for crop in crops} for split, crops in found.items()}
    left_out: dict[str, dict[str, int]] = {}
    if keep is not None:
        for split, crops in found.items():
            if missing := sorted(set(keep) - names[split]):
                has = ", ".join(sorted(names[split]))
                raise DataError(f"{where}: {split} has no crops of {', '.join(missing)}; it has {has}")
            others = Counter(crop.emotion for crop in crops if crop.emotion not in keep)
            if others:
                left_out[split] = dict(sorted(others.items()))
            names[split] &= set(keep)
    if names["train"] != names["valid"]:
        odd = ", ".join(sorted(names["train"] ^ names["valid"]))
        raise DataError(
            f"{where}: classes differ between the splits ({odd}); list those to use in the recipe's 'classes'"
        )
    classes = tuple(sorted(names["train"]))
    if len(classes) < 2:
        raise DataError(f"{where}: {len(classes)} class ({', '.join(classes)}); a classifier needs at least two")
    lists = {
        split: CropList(classes, tuple(crop for crop in found[split] if crop.emotion in classes))
        for split in ("train", "valid")
    }
    return CropData(classes, lists["train"], lists["valid"], left_out)


def find_unreadable(data: CropData, threads: int = 2) -> list[str]:
    """Decode every crop once and name those that cannot be read. Raises DataError as `labelled.find_unreadable`."""
    return labelled.find_unreadable(data.train.crops, data.valid.crops, threads=threads)


def draw_weights(crops: CropList, balance: Balance, shots_first: bool) -> npt.NDArray[np.float64]:
    """Probability of each crop to be drawn, float64 [n], sum 1.

    A class of k crops gets a share in proportion to k (`none`), its root (`sqrt`) or 1 (`equal`).
    Within a class crops are equally likely or, with `shots_first`, shots are; crops whose shot is
    unknown count as a shot each.
    """
    weights: npt.NDArray[np.float64] = np.ones(len(crops), np.float64)
    if shots_first:
        keys = [(int(y), shot or str(i)) for i, (y, shot) in enumerate(zip(crops.labels, crops.shots, strict=True))]
        sizes = Counter(keys)
        weights = np.array([1 / sizes[key] for key in keys])
    power = {"none": 1.0, "sqrt": 0.5, "equal": 0.0}[balance]
    for label in range(len(crops.classes)):
        mine = crops.labels == label
        if mine.any():
            weights[mine] *= mine.sum() ** power / weights[mine].sum()
    weights /= weights.sum()
    return weights


def class_weights(crops: CropList, balance: Balance) -> npt.NDArray[np.float32]:
    """Weight of each class in the loss, float32 [classes], mean 1 over the crops."""
    counts = np.maximum(1, np.bincount(crops.labels, minlength=len(crops.classes)))
    weights = counts ** -{"none": 0.0, "sqrt": 0.5, "equal": 1.0}[balance]
    scaled: npt.NDArray[np.float32] = (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)
    return scaled


def epoch_order(crops: CropList, balance: Balance, shots_first: bool, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Indices of the crops in the order of an epoch, int64 [n], the same in every run and on every worker.

    Without balance and shots every crop once in random order; otherwise n draws with replacement.
    """
    random = np.random.default_rng((seed, epoch))
    if balance == "none" and not shots_first:
        return random.permutation(len(crops)).astype(np.int64)
    return random.choice(len(crops), size=len(crops), p=draw_weights(crops, balance, shots_first)).astype(np.int64)


class CropLoader:
    """Loads crops by index as squares and keeps them in memory while they fit in `cache_bytes`."""

    def __init__(self, crops: CropList, size: int, *, threads: int = 2, cache_bytes: int = 1 << 30) -> None:
        self.crops = crops
        self.size = size
        self._kept: dict[int, Pictures] = {}
        self._may_keep = cache_bytes // (3 * size * size)
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="crops")

    def load(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Pictures:
        """Return RGB uint8 [n, size, size, 3], padded to a square with black as labelling does."""
        return np.stack(list(self._pool.map(self._one, map(int, indices))))

    def _one(self, index: int) -> Pictures:
        kept = self._kept.get(index)
        if kept is None:
            kept = resize(square(self.crops.crops[index].read()), self.size)
            if len(self._kept) < self._may_keep:
                self._kept[index] = kept
        return kept
