"""The leak audit: how much of one split is known from the other.

Neighbouring frames of a film are near copies. A random split of frames puts copies of what is
measured into training, and any model looks good. The audit counts what two splits share: shots,
scenes, augmented copies of one picture, and pictures that look alike.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from insideout.datasets.labelled import LabelledCrop
from insideout.errors import DataError

Hashes = npt.NDArray[np.bool_]
"""Perceptual hashes, bool [n, HASH_BITS]."""
Indices = npt.NDArray[np.int64]

HASH_BITS = 64
NEAR_BITS = 6
"""Hashes that differ in at most so many bits are of near-duplicates; docs/splits.md says why 6."""
NEAR_ORDINALS = 48
"""Near-duplicates of one film condemn a split when their frames are at most so far apart."""
CLOSE_ORDINALS = 24

_CHUNK = 1024
_LISTED = 5
_WORST = 3


@dataclass(frozen=True)
class Pair:
    """A crop of each split that have something in common."""

    first: str
    second: str
    why: str
    bits: int | None = None
    """Bits in which their hashes differ; None where pictures were not compared."""
    ordinals: int | None = None
    """Frames between them in their film; None where unknown."""

    def __str__(self) -> str:
        facts = [self.why]
        facts += [f"{self.bits} of {HASH_BITS} bits"] if self.bits is not None else []
        facts += [f"{self.ordinals} frames apart"] if self.ordinals is not None else []
        return f"{self.first} and {self.second} ({', '.join(facts)})"


@dataclass(frozen=True)
class Nearest:
    """How far the nearest training frame is from the crops whose ordinal is known, in ordinals."""

    crops: int
    least: int
    median: int
    share_close: float
    """Share of these crops whose nearest training frame is at most CLOSE_ORDINALS away."""


@dataclass(frozen=True)
class Duplicates:
    """Pairs of pictures that look alike, one from each split."""

    pairs: int
    pairs_condemned: int
    """Those of one film at most NEAR_ORDINALS apart, or of frames whose place is unknown."""
    share: float
    """Share of the second split's crops with a near-duplicate in the first."""
    closest: tuple[Pair, ...]
    """The closest pairs, near-duplicates or not, with one for each crop of the second split."""


@dataclass(frozen=True)
class Audit:
    """What two splits share; pairs of numbers and lists are (first split, second split)."""

    sides: tuple[str, str]
    classes: Mapping[str, tuple[int, int]]
    shots: tuple[int, int]
    shared_shots: tuple[str, ...]
    scenes: tuple[int, int]
    shared_scenes: tuple[str, ...]
    shared_sources: tuple[str, ...]
    characters: tuple[tuple[str, ...], tuple[str, ...]]
    without_shot: tuple[int, int]
    by_scene: bool
    nearest: Nearest | None
    """None where no film has known ordinals on both sides."""
    duplicates: Duplicates | None
    """None where pictures were not compared."""
    worst: tuple[Pair, ...]
    """Up to three pairs that condemn the split, the most alike first."""

    @property
    def leaks(self) -> tuple[str, ...]:
        """Why the split leaks, one sentence part each; empty when it does not."""
        found = []
        if self.shared_shots:
            found.append(f"{_number(len(self.shared_shots), 'shot')} on both sides")
        if self.by_scene and self.shared_scenes:
            found.append(f"{_number(len(self.shared_scenes), 'scene')} on both sides")
        if self.shared_sources:
            found.append(f"copies of {_number(len(self.shared_sources), 'picture')} on both sides")
        if self.duplicates and self.duplicates.pairs_condemned:
            n = self.duplicates.pairs_condemned
            found.append(f"{_number(n, 'pair')} of near-duplicates from frames close by or of unknown place")
        return tuple(found)

    @property
    def warning(self) -> str | None:
        """That crops have no shot, where that is so: then copies among them are found by their looks alone."""
        if not any(self.without_shot):
            return None
        total = sum(n for counts in self.classes.values() for n in counts)
        return (
            f"WARNING: {sum(self.without_shot)} of {total} crops have no shot, so frames of one shot cannot"
            " be kept together; name the shot in the file name or in crops.csv"
        )

    def lines(self) -> list[str]:
        """The audit as a plain table to print."""
        first, second = self.sides
        totals = [sum(counts[i] for counts in self.classes.values()) for i in (0, 1)]
        width = max(10, *(len(name) + 2 for name in self.classes))
        rows = [("crops", totals[0], totals[1], "")]
        rows += [(f"  {name}", n, m, "" if n and m else "on one side only") for name, (n, m) in self.classes.items()]
        rows.append(("shots", *self.shots, f"{len(self.shared_shots)} on both sides"))
        if any(self.scenes):
            rows.append(("scenes", *self.scenes, f"{len(self.shared_scenes)} on both sides"))
        said = [f"{'':{width}}{first:>8}{second:>8}"]
        said += [f"{name:{width}}{n:>8}{m:>8}  {remark}".rstrip() for name, n, m, remark in rows]
        for side, mine, other in ((first, 0, 1), (second, 1, 0)):
            if only := sorted(set(self.characters[mine]) - set(self.characters[other])):
                said.append(f"only in {side}: {', '.join(only)}")
        if self.shared_sources:
            said.append(f"augmented copies on both sides: of {_number(len(self.shared_sources), 'picture')}")
        if self.nearest:
            said.append(
                f"nearest {first} frame of the film: {self.nearest.least} frames away at the least,"
                f" {self.nearest.median} in the median; within {CLOSE_ORDINALS} for {self.nearest.share_close:.1%}"
            )
        said += self._duplicate_lines()
        if self.warning:
            said.append(self.warning)
        said.append(f"LEAKS: {'; '.join(self.leaks)}" if self.leaks else "leaks: none found")
        return said

    def _duplicate_lines(self) -> list[str]:
        if self.duplicates is None:
            return ["near-duplicates: pictures were not compared"]
        found = self.duplicates
        told = f"near-duplicates (at most {NEAR_BITS} of {HASH_BITS} bits): {found.pairs or 'none'}"
        if found.pairs:
            told += (
                f", {found.pairs_condemned} within {NEAR_ORDINALS} frames or of unknown place;"
                f" {found.share:.1%} of {self.sides[1]} has one in {self.sides[0]}"
            )
        return [f"{told}; the closest pairs:", *(f"  {pair}" for pair in found.closest[:_WORST])]

    def to_json(self) -> dict[str, object]:
        """Every field and `leaks`, as JSON takes it."""
        return {"leaks": list(self.leaks), **asdict(self)}


def audit(
    train: Sequence[LabelledCrop],
    valid: Sequence[LabelledCrop],
    *,
    hashes: bool | tuple[Hashes, Hashes] = True,
    by_scene: bool = False,
    sides: tuple[str, str] = ("train", "valid"),
) -> Audit:
    """Compare two splits.

    `hashes`: whether pictures are compared by perceptual hash, or the hashes of both splits where
    they are known already. With `by_scene` a scene on both sides is a leak, otherwise it is only
    told. A split leaks when shots or augmented copies of one picture are on both sides, or when
    near-duplicates are which are of one film and at most NEAR_ORDINALS apart, or of frames whose
    place is unknown. Raises DataError for a picture that cannot be read.
    """
    pair = (train, valid)
    marked = {source_key(crop) for crops in pair for crop in crops if is_copy(crop)}
    shots = _shared(pair, lambda crop: crop.shot_key)
    scenes = _shared(pair, _scene)
    copies = tuple(key for key in _shared(pair, source_key) if key in marked)
    compared = (fingerprints(train), fingerprints(valid)) if hashes is True else hashes or None
    places = _Places(train, valid)
    found, condemned = _duplicates(train, valid, compared, places) if compared else (None, [])
    condemned += _pairs_of(pair, lambda crop: crop.shot_key, shots, "same shot", places, compared)
    condemned += _pairs_of(pair, source_key, copies, "copies of one picture", places, compared)
    if by_scene:
        condemned += _pairs_of(pair, _scene, scenes, "same scene", places, compared)
    counts = [Counter(crop.emotion for crop in crops) for crops in pair]
    return Audit(
        sides=sides,
        classes={name: (counts[0][name], counts[1][name]) for name in sorted(counts[0] | counts[1])},
        shots=(_distinct(train, lambda crop: crop.shot_key), _distinct(valid, lambda crop: crop.shot_key)),
        shared_shots=shots,
        scenes=(_distinct(train, _scene), _distinct(valid, _scene)),
        shared_scenes=scenes,
        shared_sources=copies,
        characters=(_characters(train), _characters(valid)),
        without_shot=(sum(not crop.shot for crop in train), sum(not crop.shot for crop in valid)),
        by_scene=by_scene,
        nearest=places.nearest(),
        duplicates=found,
        worst=_worst(condemned),
    )


def audit_training(train: Sequence[LabelledCrop], valid: Sequence[LabelledCrop]) -> Audit:
    """The audit before a training: pictures are compared only where a crop has no shot that would tell."""
    return audit(train, valid, hashes=any(not crop.shot for part in (train, valid) for crop in part))


def refuse_leaks(audits: Mapping[str, Audit], what: str) -> None:
    """Raise DataError that names the three worst pairs when any of these audits found a leak."""
    leaking = {name: found for name, found in audits.items() if found.leaks}
    if leaking:
        reasons = "; ".join(f"{name}: {', '.join(found.leaks)}" for name, found in leaking.items())
        worst = _worst([pair for found in leaking.values() for pair in found.worst])
        raise DataError(
            f"{what} leaks ({reasons}). The worst pairs:\n"
            + "".join(f"  {pair}\n" for pair in worst)
            + "Figures measured on it would be too good. Split by shot or by scene, or take it all the same"
            " with --allow-leaks"
        )


def fingerprints(crops: Sequence[LabelledCrop]) -> Hashes:
    """Perceptual hash (pHash) of each picture, bool [n, HASH_BITS]. Raises DataError.

    The signs of the 64 lowest frequencies of the picture at 32 x 32, about their median.
    """
    found = np.zeros((len(crops), HASH_BITS), np.bool_)
    for row, crop in zip(found, crops, strict=True):
        row[:] = imagehash.phash(Image.fromarray(crop.read())).hash.ravel()
    return found


def near_pairs(first: Hashes, second: Hashes) -> tuple[Indices, Indices, Indices]:
    """Near-duplicates: index into `first`, index into `second` and differing bits, each int64 [pairs]."""
    found = [np.zeros((3, 0), np.int64)]
    for start, bits in _distances(first, second):
        i, j = np.nonzero(bits <= NEAR_BITS)
        found.append(np.stack([i + start, j, bits[i, j]]).astype(np.int64))
    i, j, bits = np.concatenate(found, axis=1)
    return i, j, bits


def source_key(crop: LabelledCrop) -> str:
    """Names the picture a crop was made from; copies have its class too, since exports sort by class."""
    return f"{crop.film}/{crop.emotion}/{crop.source}" if crop.source else ""


def is_copy(crop: LabelledCrop) -> bool:
    """Whether its file name marks it as an augmented copy: `0001.jpg` in two folders is not one picture."""
    return bool(crop.source) and PurePath(crop.name).stem != crop.source


def _distances(first: Hashes, second: Hashes) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
    """Differing bits between rows of `first` from `start` on and all of `second`, chunk by chunk."""
    signs = second.astype(np.float32) * 2 - 1
    for start in range(0, len(first), _CHUNK):
        product = (first[start : start + _CHUNK].astype(np.float32) * 2 - 1) @ signs.T
        yield start, ((HASH_BITS - product) / 2).astype(np.int16)


class _Places:
    """Where in which film the crops of both splits are."""

    def __init__(self, train: Sequence[LabelledCrop], valid: Sequence[LabelledCrop]) -> None:
        self.films = tuple(np.array([crop.film for crop in crops], object) for crops in (train, valid))
        self.ordinals = tuple(
            np.array([-1 if crop.ordinal is None else crop.ordinal for crop in crops], np.int64)
            for crops in (train, valid)
        )

    def between(self, i: Indices, j: Indices) -> Indices:
        """Ordinals between crops i of train and j of valid; -1 where unknown or of two films."""
        a, b = self.ordinals[0][i], self.ordinals[1][j]
        known = (a >= 0) & (b >= 0) & (self.films[0][i] == self.films[1][j])
        return np.where(known, np.abs(a - b), -1)

    def far(self, i: Indices, j: Indices) -> npt.NDArray[np.bool_]:
        """Whether the two are known to be of different films or more than NEAR_ORDINALS apart."""
        a, b = self.films[0][i], self.films[1][j]
        other: npt.NDArray[np.bool_] = ((a != b) & (a != "") & (b != "")).astype(np.bool_)
        return other | (self.between(i, j) > NEAR_ORDINALS)

    def nearest(self) -> Nearest | None:
        gaps: list[int] = []
        for film in sorted(set(self.films[1])):
            train, valid = (
                np.sort(ordinals[(films == film) & (ordinals >= 0)])
                for films, ordinals in zip(self.films, self.ordinals, strict=True)
            )
            if len(train) and len(valid):
                after = np.searchsorted(train, valid)
                below = np.abs(valid - train[np.maximum(after - 1, 0)])
                above = np.abs(valid - train[np.minimum(after, len(train) - 1)])
                gaps += np.minimum(below, above).tolist()
        if not gaps:
            return None
        gaps.sort()
        close = sum(gap <= CLOSE_ORDINALS for gap in gaps)
        return Nearest(len(gaps), gaps[0], gaps[(len(gaps) - 1) // 2], close / len(gaps))


def _duplicates(
    train: Sequence[LabelledCrop], valid: Sequence[LabelledCrop], hashes: tuple[Hashes, Hashes], places: _Places
) -> tuple[Duplicates, list[Pair]]:
    j, i, bits = near_pairs(hashes[1], hashes[0])
    condemning = ~places.far(i, j)
    best = np.zeros((len(valid), 2), np.int64)
    for start, block in _distances(hashes[1], hashes[0]):
        partner = block.argmin(1)
        best[start : start + len(block)] = np.stack([partner, block[np.arange(len(block)), partner]], 1)

    def pairs(i: Indices, j: Indices, bits: Indices) -> list[Pair]:
        gaps = places.between(i, j)
        return [
            Pair(
                train[a].name,
                valid[b].name,
                "same shot" if train[a].shot and train[a].shot_key == valid[b].shot_key else "other shot",
                int(n),
                int(gap) if gap >= 0 else None,
            )
            for a, b, n, gap in zip(i, j, bits, gaps, strict=True)
        ]

    order = np.argsort(best[:, 1], kind="stable")[:_LISTED].astype(np.int64)
    found = Duplicates(
        pairs=len(bits),
        pairs_condemned=int(condemning.sum()),
        share=len(np.unique(j)) / len(valid),
        closest=tuple(pairs(best[order, 0], order, best[order, 1])),
    )
    worst = np.argsort(bits[condemning], kind="stable")[:_WORST]
    return found, pairs(i[condemning][worst], j[condemning][worst], bits[condemning][worst])


def _pairs_of(
    pair: tuple[Sequence[LabelledCrop], Sequence[LabelledCrop]],
    key: Callable[[LabelledCrop], str],
    shared: Sequence[str],
    why: str,
    places: _Places,
    hashes: tuple[Hashes, Hashes] | None,
) -> list[Pair]:
    """For each shared key the pair of crops whose frames are the nearest."""
    members: list[defaultdict[str, list[int]]] = [defaultdict(list), defaultdict(list)]
    for inside, crops in zip(members, pair, strict=True):
        for index, crop in enumerate(crops):
            inside[key(crop)].append(index)
    found = []
    for name in shared:
        i, j = (grid.ravel() for grid in np.meshgrid(members[0][name], members[1][name]))
        gaps = places.between(i, j)
        at = int(np.where(gaps < 0, np.iinfo(np.int64).max, gaps).argmin())
        bits = int((hashes[0][i[at]] != hashes[1][j[at]]).sum()) if hashes else None
        gap = int(gaps[at]) if gaps[at] >= 0 else None
        found.append(Pair(pair[0][i[at]].name, pair[1][j[at]].name, why, bits, gap))
    return found


def _worst(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    def badness(pair: Pair) -> tuple[int, float]:
        bits = HASH_BITS if pair.bits is None else pair.bits
        return bits, float("inf") if pair.ordinals is None else pair.ordinals

    # A pair may be told twice, as near-duplicates and for what it shares; the later reason stands.
    told = {(pair.first, pair.second): pair for pair in pairs}
    return tuple(sorted(told.values(), key=badness)[:_WORST])


def _shared(
    pair: tuple[Sequence[LabelledCrop], Sequence[LabelledCrop]], key: Callable[[LabelledCrop], str]
) -> tuple[str, ...]:
    first, second = ({key(crop) for crop in crops} for crops in pair)
    return tuple(sorted((first & second) - {""}))


def _distinct(crops: Sequence[LabelledCrop], key: Callable[[LabelledCrop], str]) -> int:
    return len({key(crop) for crop in crops} - {""})


def _scene(crop: LabelledCrop) -> str:
    return crop.scene_key if crop.scene else ""


def _characters(crops: Sequence[LabelledCrop]) -> tuple[str, ...]:
    return tuple(sorted({crop.character for crop in crops} - {""}))


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
