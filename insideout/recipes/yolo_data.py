"""Read a YOLO segmentation export and check all of it before anything trains on it.

    EXPORT/data.yaml  EXPORT/train/images/*.jpg  EXPORT/train/labels/*.txt  EXPORT/valid/...

A line of a label file is an outline: the class, then x y of each corner as shares of the picture.
Ultralytics drops every picture whose file or label it does not like and says so only in its log;
here each is named.
"""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from insideout import MOST_PIXELS
from insideout.datasets.files import check_class_name, check_files, refuse_archive
from insideout.errors import DataError

#: What ultralytics takes for a picture (its IMG_FORMATS).
SUFFIXES = frozenset(
    {".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)

#: Coordinates may leave the picture by rounding; ultralytics clips those.
_TOLERANCE = 1e-3
#: So many pictures of a hundred may be unreadable.
_UNREADABLE = 0.01
_LEAST_SIDE = 10
_LISTED = 3
#: Characters of a value that are quoted in a message.
_SHOWN = 200
_SHOT = re.compile(r"(?:^|[_\-.])(shot_?\d+)(?=[_\-.]|$)", re.IGNORECASE)
#: Roboflow adds a digest to the name of each augmented copy of a picture.
_COPY = re.compile(r"\.rf\.[0-9A-Za-z]+$")


@dataclass(frozen=True)
class YoloSplit:
    """The usable pictures of one split, sorted by path, and the number of outlines on each."""

    pictures: tuple[Path, ...]
    outlines: tuple[int, ...]

    @property
    def negatives(self) -> tuple[Path, ...]:
        """The pictures without an outline."""
        return tuple(path for path, n in zip(self.pictures, self.outlines, strict=True) if not n)


@dataclass(frozen=True)
class YoloExport:
    """A checked export: class names in order, its splits, a digest of its content, what to tell the user."""

    names: tuple[str, ...]
    train: YoloSplit
    val: YoloSplit
    digest: str
    notes: tuple[str, ...]


def read_yolo_data(data: Path) -> dict[str, Any]:
    """Read a YOLO `data.yaml` and resolve its folders.

    `data` is the YAML or the folder that holds it. Returns `train`, `val` (absolute paths of image
    folders), `names` (list, class order) and, where there is one, `test`. Accepts both lists and
    index maps for `names`, and Roboflow's `../train/images`, which lies beside the YAML in the
    archives it ships. Raises DataError with what is missing.
    """
    refuse_archive(data)
    path = data / "data.yaml" if data.is_dir() else data
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a YOLO export with a data.yaml")
    check_files([path], path.parent)
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not YAML: {error}") from error
    if not isinstance(raw, dict) or "names" not in raw:
        raise DataError(f"{path}: no 'names'; a YOLO data.yaml lists its classes there")
    names = _class_names(path, raw["names"])
    if "nc" in raw and raw["nc"] != len(names):
        raise DataError(f"{path}: nc is {reprlib.repr(raw['nc'])} but there are {len(names)} names")
    resolved: dict[str, Any] = {"names": names}
    for key, aliases in {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}.items():
        value = next((raw[alias] for alias in aliases if raw.get(alias)), None)
        if value is None and key == "test":
            continue
        if value is None:
            raise DataError(f"{path}: no '{key}'; name the folder of its images")
        if not isinstance(value, str):
            raise DataError(f"{path}: '{key}' is {reprlib.repr(value)}; name one folder of images")
        root = raw.get("path") or "."
        if not isinstance(root, str):
            raise DataError(f"{path}: 'path' is {reprlib.repr(root)}; name one folder")
        candidates = [path.parent / root / value, path.parent / root / value.removeprefix("../")]
        folder = next((c.resolve() for c in candidates if os.path.isdir(c)), None)
        if folder is None and key == "test":
            continue
        if folder is None:
            where = os.path.normpath(candidates[0])
            raise DataError(f"{path}: '{key}: {value[:_SHOWN]}' is not a folder (looked at {where[: 2 * _SHOWN]})")
        if not any(folder.iterdir()):
            raise DataError(f"{folder}: empty; '{key}' needs images")
        resolved[key] = str(folder)
    return resolved


def read_yolo_export(data: Path, *, allow_leaks: bool = False, shots: Mapping[int, str] | None = None) -> YoloExport:
    """Read and check every picture and label file of `train` and `val`. Changes no file.

    `shots` gives the shot of each frame ordinal, which is what a picture's file name must be then.
    A picture without a label file, or with an empty one, is a negative. Unreadable pictures are left
    out and noted while they are at most 1 % of a split. Raises DataError for more of them, for
    label lines that are not outlines of the classes (naming file and line), for a split without
    pictures or outlines, for a frame that `shots` does not have, and for pictures or shots that train
    and val share, which `allow_leaks` turns into a note.
    """
    resolved = read_yolo_data(data)
    names = tuple(resolved["names"])
    notes: list[str] = []
    home = (data if data.is_dir() else data.parent).resolve()
    for key in ("train", "val"):
        if not Path(resolved[key]).is_relative_to(home):
            notes.append(f"{key}: the pictures lie outside of {home}, in {resolved[key]}, as the data.yaml says")
    splits = {key: read_split(key, data, Path(resolved[key]), len(names), notes) for key in ("train", "val")}
    for key, split in splits.items():
        if not any(split.outlines):
            where = label_path(split.pictures[0])
            raise DataError(f"{resolved[key]}: no outline for any picture (looked at {where}); '{key}' needs some")
    shared = shared_pictures(splits["train"].pictures, splits["val"].pictures, shots)
    if shared and not allow_leaks:
        raise DataError(f"{data}: train and val share {shared}; split by shot, or allow leaks to train all the same")
    if shared:
        notes.append(f"train and val share {shared}: the scores on val are too good")
    return YoloExport(names, splits["train"], splits["val"], _digest(names, resolved, splits), tuple(notes))


def thin_negatives(split: YoloSplit, share: float | None, seed: int) -> tuple[YoloSplit, str]:
    """Leave out negatives, drawn by `seed`, until they are `share` of the pictures; None keeps all.

    Returns the split and a line about it. Files are never touched.
    """
    negatives, total = split.negatives, len(split.pictures)
    found = f"train: {total} pictures, {len(negatives)} of them without a label ({len(negatives) / total:.1%})"
    if not negatives:
        return split, f"{found}; some with nothing to find (5 to 10 %) teach the network to stay silent"
    if share is None:
        return split, found
    keep = round((total - len(negatives)) * share / (1 - share))
    if keep >= len(negatives):
        return split, found if keep == len(negatives) else f"{found}, fewer than the {share:.1%} of the recipe"
    drawn = np.random.default_rng(seed).permutation(len(negatives))[keep:]
    left_out = {negatives[i] for i in drawn}
    kept = [(path, n) for path, n in zip(split.pictures, split.outlines, strict=True) if path not in left_out]
    thinned = replace(split, pictures=tuple(p for p, _ in kept), outlines=tuple(n for _, n in kept))
    return thinned, f"{found}; {keep} of these are used, {share:.1%} of {len(kept)} pictures, as the recipe says"


def label_path(picture: Path) -> Path:
    """Where the labels of a picture lie: the last `images` folder of its path read as `labels`."""
    head, found, tail = str(picture).rpartition("/images/")
    return Path(f"{head}/labels/{tail}" if found else picture).with_suffix(".txt")


def check_split_files(paths: Sequence[Path], data: Path, folder: Path) -> None:
    """Refuse pictures and labels of a split that are links to elsewhere than the export or the split (`check_files`).

    `folder` is that of the split's pictures, which a data.yaml may put outside of its own folder.
    """
    head, images, _ = f"{folder}/".rpartition("/images/")
    check_files(paths, data if data.is_dir() else data.parent, Path(head) if images else folder)


def _class_names(path: Path, names: object) -> list[str]:
    if isinstance(names, dict):
        if {str(key) for key in names} != {str(i) for i in range(len(names))}:
            raise DataError(
                f"{path}: 'names' has the indices {reprlib.repr(list(names))}; they must be 0 to {len(names) - 1}"
            )
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: 'names' is {reprlib.repr(names)}; list the classes there")
    listed = [check_class_name(name, str(path)) for name in names]
    if len(set(listed)) < len(listed):
        raise DataError(f"{path}: 'names' has a class twice: {', '.join(listed)}")
    return listed


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a split's folder and of those inside of it, sorted by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def read_split(key: str, data: Path, folder: Path, classes: int, notes: list[str]) -> YoloSplit:
    """Read and check the pictures in `folder` and their label files; `key` names the split in messages.

    What is left out or stands for a negative is added to `notes`. Raises DataError as `read_yolo_export`
    does for a split, and where no picture has a label file; all of them may be empty.
    """
    pictures = pictures_of(folder)
    if not pictures:
        raise DataError(f"{folder}: no pictures; '{key}' needs images")
    check_split_files([*pictures, *map(label_path, pictures)], data, folder)
    with ThreadPoolExecutor(8, thread_name_prefix="pictures") as pool:
        faults = dict(zip(pictures, pool.map(_fault, pictures), strict=True))
    unreadable = [f"{path}: {fault}" for path, fault in faults.items() if fault]
    if len(unreadable) > _UNREADABLE * len(pictures):
        raise DataError(f"{_some(unreadable)}; mend or remove {_these(unreadable)}: more than 1 % of '{key}'")
    if unreadable:
        notes.append(f"{key}: left out as unreadable: {'; '.join(unreadable)}")
    usable = [path for path in pictures if not faults[path]]
    problems: list[str] = []
    outlines = tuple(_read_outlines(label_path(path), classes, problems) for path in usable)
    if problems:
        raise DataError(f"{_some(problems)}; ultralytics would leave the picture out without a word")
    missing = [path for path in usable if not label_path(path).is_file()]
    if len(missing) == len(usable):
        raise DataError(
            f"{folder}: no label file, and so no outline for any picture (looked for {label_path(usable[0])});"
            " put the label files there, an empty one for a picture that shows nobody"
        )
    if missing:
        notes.append(f"{key}: {len(missing)} pictures have no label file and count as negatives, such as {missing[0]}")
    return YoloSplit(tuple(usable), outlines)


def _fault(path: Path) -> str:
    """Why ultralytics would drop or rewrite a picture (its check_image); empty for a sound one."""
    try:
        with Image.open(path) as picture:
            picture.verify()
            size, kind = picture.size, picture.format
        if min(size) < _LEAST_SIDE:
            return f"{size[0]}x{size[1]} pixels, {_LEAST_SIDE} are the least"
        if size[0] * size[1] > MOST_PIXELS:
            return f"{size[0]}x{size[1]} pixels, {MOST_PIXELS:,} in all are the most"
        if kind == "JPEG":
            with path.open("rb") as file:
                file.seek(-2, 2)
                # Ultralytics would write such a file anew, in place.
                return "" if file.read() == b"\xff\xd9" else "a JPEG file that was cut off"
    except Exception as error:  # what Pillow raises depends on the format and on what is broken
        return f"not readable as a picture ({' '.join(str(error).split()).replace(str(path), 'file')})"
    return ""


def _read_outlines(path: Path, classes: int, problems: list[str]) -> int:
    """Count the outlines of a label file and add what is wrong with it to `problems`."""
    if not path.is_file():
        return 0
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        problems.append(f"{path}: not text")
        return 0
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    problems += [f"{path}:{number}: {wrong}" for number, words in lines if (wrong := _wrong(words, classes))]
    return len(lines)


def _wrong(words: Sequence[str], classes: int) -> str:
    try:
        index, *xy = map(float, words)
    except ValueError:
        return f"'{' '.join(words)[:60]}' is not all numbers"
    if len(words) == 5:
        return "5 columns are a box; an outline has the class and at least three corners"
    if len(xy) < 6 or len(xy) % 2:
        return f"{len(words)} columns; an outline has the class and two columns for each of three or more corners"
    if not (index.is_integer() and 0 <= index < classes):
        return f"class {words[0]}; this export has the classes 0 to {classes - 1}"
    outside = [word for word, value in zip(words[1:], xy, strict=True) if not -_TOLERANCE <= value <= 1 + _TOLERANCE]
    return f"coordinate {outside[0]} is outside of 0 to 1; give shares of width and height" if outside else ""


def shared_pictures(train: Sequence[Path], val: Sequence[Path], shots: Mapping[int, str] | None = None) -> str:
    """What the pictures of two splits have in common, in words; empty where nothing is. `shots` as for `shot_of`."""
    stems = {_stem(path): path for path in train}
    names = [f"{stems[_stem(path)]} and {path}" for path in val if _stem(path) in stems]
    sizes = {path.stat().st_size for path in train} & {path.stat().st_size for path in val}
    contents = {_content(path): path for path in train if path.stat().st_size in sizes}
    twins = [(path, _content(path)) for path in val if path.stat().st_size in sizes]
    copies = [f"{contents[digest]} and {path}" for path, digest in twins if digest in contents]
    both = sorted({shot_of(path, shots) for path in train} & {shot_of(path, shots) for path in val} - {""})
    found = {"names of pictures": names, "the same picture": copies, "shots": both}
    return "; ".join(f"{what}: {_some(items)}" for what, items in found.items() if items)


def _stem(path: Path) -> str:
    return _COPY.sub("", path.stem)


def shot_of(picture: Path, shots: Mapping[int, str] | None = None) -> str:
    """The shot of a picture: by `shots` of the frame ordinal that its name is, else as its name says; empty if unknown.

    Raises DataError for a name that is no ordinal of `shots`.
    """
    if shots is None:
        return shot_in_name(picture)
    if not picture.stem.isdecimal() or int(picture.stem) not in shots:
        raise DataError(f"{picture}: its name is no frame ordinal of the shots given; leave the shots out, or add it")
    return shots[int(picture.stem)]


def shot_in_name(path: Path) -> str:
    """The shot in the name of a picture, such as `shot_012`; empty where there is none."""
    match = _SHOT.search(path.stem)
    return match.group(1).lower() if match else ""


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(names: Sequence[str], folders: dict[str, Any], splits: dict[str, YoloSplit]) -> str:
    """Digest of class names, labels, and names and sizes of pictures; the same wherever the export lies."""
    digest = hashlib.sha256(repr(list(names)).encode())
    for key, split in splits.items():
        for path in split.pictures:
            label = label_path(path)
            digest.update(f"\n{key}/{path.relative_to(folders[key])} {path.stat().st_size}\n".encode())
            digest.update(label.read_bytes() if label.is_file() else b"")
    return digest.hexdigest()


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return "; ".join(items[:_LISTED]) + more


def _these(items: Sequence[str]) -> str:
    return "it" if len(items) == 1 else f"these {len(items)}"
