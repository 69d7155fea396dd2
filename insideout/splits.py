"""Split labelled crops so that no shot is on both sides, stratified by character and emotion.

An export is read as a whole, its crops are put into groups that must stay together, and the groups
are shared out. What comes out is an export of the same form, with an audit of what its splits share.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from itertools import combinations
from pathlib import Path, PurePath
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from insideout.datasets.files import check_folder_name
from insideout.datasets.labelled import SPLITS, TABLE, LabelledCrop, read_export
from insideout.errors import DataError, StorageError, UsageError
from insideout.leaks import Audit, Hashes, Indices, audit, is_copy, near_pairs, refuse_leaks, source_key

By = Literal["shot", "scene", "frame", "character", "film"]
Part = dict[str, Indices]
"""Indices of the crops of each split, ascending; `train`, `valid` and perhaps `test`."""

_ORIGIN = ("film", "scene", "shot", "track", "character", "ordinal", "pts", "time_base")
_MOST_FOLDS = 10


def gather(data: Path, splits: Sequence[str] | None = None, keep: Sequence[str] | None = None) -> list[LabelledCrop]:
    """All crops of an export, in order of split, class and file name.

    `splits` names what is taken; without it train and valid, as far as they are there: test is
    mixed in only where it is named. `keep` names the classes that are taken, all without it.
    Raises UsageError for an unknown split, DataError for one or a class that is not there.
    """
    wanted = ["train", "valid"] if splits is None else list(splits)
    for name in wanted:
        if name not in SPLITS:
            raise UsageError(f"split '{name}' is not known; choose from {', '.join(SPLITS)}")
    found = read_export(data, wanted)
    if splits is not None and (missing := [name for name in wanted if name not in found]):
        raise DataError(f"{data}: has no {' and no '.join(missing)}; it has {', '.join(found)} of those named")
    crops = [crop for name in wanted for crop in found.get(name, [])]
    if keep is not None:
        there = {crop.emotion for crop in crops}
        if absent := [name for name in keep if name not in there]:
            raise DataError(f"{data}: no crops of {', '.join(absent)}; it has {', '.join(sorted(there))}")
        crops = [crop for crop in crops if crop.emotion in keep]
    return crops


def split_crops(
    crops: Sequence[LabelledCrop],
    by: str = "shot",
    *,
    valid: float = 0.2,
    test: float = 0.0,
    folds: int | None = None,
    seed: int = 0,
    hashes: Hashes | None = None,
) -> list[Part]:
    """Share crops out, one split or with `folds` as many, each crop valid in exactly one of them.

    `by` is what is never parted: `shot`, `scene` (the shot where no scene is known), `character`,
    `film`, or `frame` for single crops at random. By shot and by scene, crops without a shot stay
    with the copies of their picture, and with `hashes` (of `insideout.leaks.fingerprints`, bool
    [n, 64]) groups that hold near-duplicates of each other stay together: a film that cuts back to
    the same camera shows the same picture in two shots. `valid` and `test` are shares of all crops,
    met as closely as the groups allow; `test` is taken off before the folds are made. Stratified by
    character and emotion (scikit-learn's StratifiedGroupKFold).

    Raises UsageError for an unknown `by` or shares that leave nothing to train on, DataError for
    fewer groups than folds and for crops whose character or film is not known but asked for.
    """
    if by not in get_args(By):
        raise UsageError(f"--by {by} is not known; choose from {', '.join(get_args(By))}")
    if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise UsageError(f"valid {valid} and test {test}: shares between 0 and 1 that leave something to train on")
    if folds is not None and folds < 2:
        raise UsageError(f"{folds} folds; give at least 2")
    groups = _groups(crops, cast(By, by), hashes)
    sides = 2 + (test > 0)
    needed = sides if folds is None else folds + (test > 0)
    count = len(np.unique(groups))
    if count < needed:
        unit = "crops" if by == "frame" else f"{by}s"
        raise DataError(
            f"{len(crops)} crops are of {count} {unit} that must stay together, too few for"
            f" {f'{folds} folds' if folds else f'{sides} splits'}{' and test' if folds and test else ''};"
            " ask for fewer, or label more"
        )
    everything = np.arange(len(crops), dtype=np.int64)
    rest, apart = everything, {}
    if test > 0:
        held = _held_out(crops, groups, everything, test, by, seed, spare=needed - 1)
        rest, apart = np.setdiff1d(everything, held), {"test": held}
    if folds is None:
        held = _held_out(crops, groups, rest, valid / (1 - test), by, seed, spare=1)
        return [{"train": np.setdiff1d(rest, held), "valid": held, **apart}]
    return [
        {"train": np.setdiff1d(rest, held), "valid": held, **apart}
        for held in _folds(crops, groups, rest, folds, by, seed)
    ]


def audit_part(crops: Sequence[LabelledCrop], part: Part, by: str, hashes: Hashes) -> dict[str, Audit]:
    """Audit each border of a split: `train/valid`, and `train/test` and `valid/test` where there is a test.

    `hashes` are those of all crops. Crops are named as `write_split` will write them.
    """
    names = _file_names(crops)
    sides = {
        split: [_renamed(crops[i], f"{split}/{crops[i].emotion}/{names[i]}") for i in indices]
        for split, indices in part.items()
    }
    borders = [(a, b) for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")) if b in part]
    return {
        f"{a}/{b}": audit(
            sides[a], sides[b], hashes=(hashes[part[a]], hashes[part[b]]), by_scene=by == "scene", sides=(a, b)
        )
        for a, b in borders
    }


def grouping_lines(crops: Sequence[LabelledCrop], by: str, hashes: Hashes | None = None) -> list[str]:
    """What is kept together, in words: the number of groups, and where what was asked is not known."""
    if by not in ("shot", "scene"):
        return [f"{len(crops)} crops split by {by}"]
    alone, joined = (len(np.unique(_groups(crops, cast(By, by), h))) for h in (None, hashes))
    said = [f"{len(crops)} crops split by {by}: {joined} groups that stay together"]
    if joined < alone:
        said.append(f"{alone - joined} fewer than there are, since some show the same picture (a cut back, a repeat)")
    without_scene = sum(not crop.scene for crop in crops)
    if by == "scene" and without_scene:
        said.append(f"{without_scene} of {len(crops)} crops have no scene: their shot stands in for it")
    return said


def check_free(out: Path) -> None:
    """Raise UsageError unless `out` is missing or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: already there; delete it or choose another folder")


def write_split(
    crops: Sequence[LabelledCrop],
    parts: Sequence[Part],
    audits: Sequence[Mapping[str, Audit]],
    out: Path,
    *,
    by: str,
    seed: int,
    allow_leaks: bool = False,
) -> None:
    """Write one export per split: into `out`, or into `out/fold0`, `out/fold1`, … when there are several.

    Each has SPLIT/CLASS/ pictures, `crops.csv` with their origins and votes, and `audit.json`.
    Pictures are hard-linked where the file system allows and copied otherwise; one that shares its
    name with another of its class gets a number. `out` appears whole or not at all. Raises
    DataError when an audit found a leak (unless `allow_leaks`) or a class cannot be a folder,
    UsageError when `out` is taken, StorageError when it cannot be written.
    """
    check_free(out)
    if not allow_leaks:
        for k, found in enumerate(audits):
            refuse_leaks(found, f"the split by {by}" if len(parts) == 1 else f"fold {k} of the split by {by}")
    for emotion in sorted({crop.emotion for crop in crops}):
        check_folder_name(emotion, str(out))
    out = Path(os.path.abspath(out))
    hidden = out.with_name(f".{out.name}.part")
    names = _file_names(crops)
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        for k, (part, found) in enumerate(zip(parts, audits, strict=True)):
            folder = hidden if len(parts) == 1 else hidden / f"fold{k}"
            _write_export(crops, names, part, folder)
            facts = {"by": by, "seed": seed, "leaks": any(a.leaks for a in found.values())}
            told = {**facts, "borders": {border: a.to_json() for border, a in found.items()}}
            (folder / "audit.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        os.replace(hidden, out)
    except OSError as error:
        raise StorageError(f"{out}: could not be written ({error.strerror}); nothing was left there") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _write_export(crops: Sequence[LabelledCrop], names: Sequence[str], part: Part, folder: Path) -> None:
    folder.mkdir(parents=True)
    voted = sorted({name for crop in crops for name in crop.votes or ()})
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", *_ORIGIN, *(f"p_{name}" for name in voted)])
        for split, indices in part.items():
            for index in indices:
                crop = crops[index]
                name = f"{split}/{crop.emotion}/{names[index]}"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _place(crop, folder / name)
                origin = [getattr(crop, key) for key in _ORIGIN]
                shares = [(crop.votes or {}).get(name, "") for name in voted]
                table.writerow([name, *("" if value is None else value for value in origin), *shares])


def _place(crop: LabelledCrop, target: Path) -> None:
    if isinstance(crop.picture, bytes):
        target.write_bytes(crop.picture)
        return
    source = crop.picture.resolve()
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copy2(source, target)


def _file_names(crops: Sequence[LabelledCrop]) -> list[str]:
    """A file name for each crop, unique in its class, from which its source is still read."""
    taken: set[tuple[str, str]] = set()
    names = []
    for crop in crops:
        path = PurePath(crop.name)
        if isinstance(crop.picture, bytes):
            path = path.with_name(f"{crop.name.replace('/', '_')}.{_format(crop)}")
        # The mark of an augmented copy ends the name: letters and digits may follow it, a dash not.
        dash = "" if is_copy(crop) else "-"
        name, number = path.name, 2
        # Some file systems do not tell capitals from small letters.
        while (crop.emotion, name.casefold()) in taken:
            name, number = f"{path.stem}{dash}{number}{path.suffix}", number + 1
        taken.add((crop.emotion, name.casefold()))
        names.append(name)
    return names


def _renamed(crop: LabelledCrop, name: str) -> LabelledCrop:
    """The crop as it will be read from the export that is written."""
    return replace(crop, name=name, source=crop.source if is_copy(crop) else PurePath(name).stem)


def _format(crop: LabelledCrop) -> str:
    assert isinstance(crop.picture, bytes)
    try:
        with Image.open(BytesIO(crop.picture)) as picture:
            return (picture.format or "png").lower()
    except UnidentifiedImageError as error:
        raise DataError(f"{crop.name}: not a readable picture; remove it or export it again") from error


def _groups(crops: Sequence[LabelledCrop], by: By, hashes: Hashes | None) -> Indices:
    """The group of each crop as a number, int64 [n]."""
    if by == "frame":
        return np.arange(len(crops), dtype=np.int64)
    key: dict[By, Callable[[LabelledCrop], str]] = {
        "shot": lambda crop: crop.shot_key,
        "scene": lambda crop: crop.scene_key,
        "character": lambda crop: crop.character,
        "film": lambda crop: crop.film,
    }
    keys = [key[by](crop) for crop in crops]
    if by in ("character", "film"):
        unknown = [crop.name for crop, found in zip(crops, keys, strict=True) if not found]
        if unknown:
            raise DataError(
                f"--by {by}: {len(unknown)} of {len(crops)} crops have no {by}, such as {unknown[0]};"
                f" add it to {TABLE}, column '{by}'"
            )
    else:
        keys = [found or f"source {source_key(c) or i}" for i, (c, found) in enumerate(zip(crops, keys, strict=True))]
    groups = np.unique(np.array(keys, object).astype(str), return_inverse=True)[1].astype(np.int64)
    return groups if hashes is None or by in ("character", "film") else _join(groups, hashes)


def _join(groups: Indices, hashes: Hashes) -> Indices:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    i, j, _ = near_pairs(hashes, hashes)
    count = int(groups.max(initial=-1)) + 1
    edges = coo_matrix((np.ones(len(i)), (groups[i], groups[j])), shape=(count, count))
    joined: npt.NDArray[np.int32] = connected_components(edges, directed=False)[1]
    return joined[groups].astype(np.int64)


def _strata(crops: Sequence[LabelledCrop], by: str, n: int) -> npt.NDArray[np.str_]:
    """What the folds are balanced by, str [n]: the finest label of which some value fills n folds."""
    emotions = [crop.emotion for crop in crops]
    # A character that is held out whole cannot be balanced by character as well.
    fine = [f"{crop.character}/{crop.emotion}" if crop.character else crop.emotion for crop in crops]
    for labels in ([] if by == "character" else [fine]) + [emotions]:
        if max(Counter(labels).values()) >= n:
            return np.array(labels, np.str_)
    return np.array([""] * len(crops), np.str_)


def _folds(crops: Sequence[LabelledCrop], groups: Indices, among: Indices, n: int, by: str, seed: int) -> list[Indices]:
    """Part the crops `among` into n folds of whole groups."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    strata = _strata([crops[i] for i in among], by, n)
    alone = by == "frame"
    kind = (StratifiedKFold if alone else StratifiedGroupKFold)(n, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A rare label is in fewer folds than there are; the audit shows where.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parted = list(kind.split(strata, strata, None if alone else groups[among]))
    return [among[held].astype(np.int64) for _, held in parted]


def _held_out(
    crops: Sequence[LabelledCrop], groups: Indices, among: Indices, share: float, by: str, seed: int, *, spare: int
) -> Indices:
    """About a share of the crops `among` as whole groups, leaving at least `spare` groups.

    Of all ways to take k of n folds, the one that lacks the fewest emotions on either side and then
    meets the share of each stratum best.
    """
    count = len(np.unique(groups[among]))
    most = min(_MOST_FOLDS, count) if share * _MOST_FOLDS >= 1 else min(round(1 / share), count)
    fraction = Fraction(share).limit_denominator(most)
    if not 0 < fraction < 1:
        fraction = Fraction(1 if share < 0.5 else most - 1, most)
    k, n = fraction.numerator, fraction.denominator
    folds = _folds(crops, groups, among, n, by, seed)
    fine = _table(folds, [f"{crop.character}/{crop.emotion}" for crop in crops])
    emotions = _table(folds, [crop.emotion for crop in crops])
    total = emotions.sum(0)

    def cost(taken: tuple[int, ...]) -> tuple[int, float]:
        held = emotions[list(taken)].sum(0)
        lacking = int(((held == 0) | (held == total)).sum())
        return lacking, float(np.abs(fine[list(taken)].sum(0) - share * fine.sum(0)).sum())

    possible = [
        taken
        for taken in combinations(range(n), k)
        if count - len(np.unique(groups[np.concatenate([folds[i] for i in taken])])) >= spare
    ]
    if not possible:
        raise DataError(f"{count} groups are too few to hold out {share:.0%} and still split the rest; label more")
    return np.sort(np.concatenate([folds[i] for i in min(possible, key=cost)]))


def _table(folds: Sequence[Indices], labels: Sequence[str]) -> Indices:
    """How often each label is in each fold, int64 [folds, labels in the folds]."""
    parted = [Counter(labels[i] for i in fold) for fold in folds]
    names = sorted(set().union(*parted))
    return np.array([[counts[name] for name in names] for counts in parted], np.int64)
