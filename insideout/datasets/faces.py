"""Render labelled vector faces to a classification export, for pretraining an emotion classifier.

    FACES/STYLE/EMOTION/*.svg  ->  OUT/train/Emotion/*.jpg  OUT/valid/Emotion/*.jpg  OUT/crops.csv

FACES is a folder or a tar archive of one, such as the bundled `data/faces/faces.tar.gz`. Colour gives
such faces away (red is angry, green is disgusted), so the hue of each picture is turned at random.
Whole styles go to `valid`. Needs resvg-py (`insideout[faces]`).
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import numpy.typing as npt

from insideout.datasets.labelled import TABLE
from insideout.datasets.svg import check_drawing
from insideout.errors import DataError, UsageError
from insideout.objects import said

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the drawing's sides."""

#: The folder of each emotion and the class it becomes; disgust has no class in the bundled pack.
NAMES: Mapping[str, str] = {
    "angry": "Angry",
    "fear": "Afraid",
    "happy": "Happy",
    "neutral": "Neutral",
    "sad": "Sad",
    "surprised": "Surprised",
}

_COLUMNS = ("film", "scene", "shot", "track", "character", "ordinal")
_MOST_BYTES = 1 << 20  # of one SVG; the largest bundled one has 30 kB
_MOST_BYTES_IN_ALL = 1 << 28


@dataclass(frozen=True)
class Face:
    """One labelled drawing."""

    style: str
    emotion: str
    """Name of its folder."""
    name: str
    svg: bytes = field(repr=False)

    @property
    def key(self) -> str:
        """STYLE/EMOTION/NAME, unique in its collection."""
        return f"{self.style}/{self.emotion}/{self.name}"


@dataclass(frozen=True)
class Cut:
    """Where in a drawing the head is, and what of it must stay in the picture."""

    head: Box
    features: Box
    """Brows, eyes and mouth."""
    bare: bool = False
    """Whether the style draws features only, so that a head has to be put behind them."""


#: Styles that draw shoulders too, or no head at all. Emoji fill their drawing, which is the default.
CUTS: Mapping[str, Cut] = {
    "avataaars": Cut((0.19, 0.03, 0.81, 0.73), (0.30, 0.26, 0.70, 0.64)),
    "big-smile": Cut((0.12, 0.08, 0.92, 0.90), (0.44, 0.36, 0.88, 0.86)),
    "dylan": Cut((0.10, 0.06, 0.90, 0.86), (0.33, 0.28, 0.72, 0.77)),
    "fun-emoji": Cut((0.00, 0.05, 1.00, 1.00), (0.05, 0.26, 0.95, 0.88), bare=True),
    "micah": Cut((0.20, 0.03, 0.82, 0.78), (0.36, 0.28, 0.72, 0.70)),
    "open-peeps": Cut((0.22, 0.08, 0.88, 0.84), (0.45, 0.38, 0.84, 0.74)),
    "personas": Cut((0.20, 0.13, 0.80, 0.77), (0.32, 0.36, 0.68, 0.72)),
}
_EMOJI_FEATURES: Box = (0.10, 0.15, 0.90, 0.95)
_BUST = Cut((0.20, 0.02, 0.80, 0.76), (0.27, 0.28, 0.73, 0.73))
_IS_BUST = re.compile(r"/(?:man|woman|person)-|^fxemoji/(?:angry/pout|sad/frown)$")


@dataclass(frozen=True)
class FaceExport:
    """What was written: pictures by split and class, and the faces that were not used."""

    path: Path
    pictures: Mapping[str, Counter[str]]
    left_out: Counter[str]
    """Faces by emotion folder that has no class."""
    repeated: int
    """Faces that equal another one of their style and emotion."""

    def lines(self) -> list[str]:
        """What was written, a line for each split, and what was not."""
        said = []
        for split, counts in self.pictures.items():
            listed = ", ".join(f"{label} {n}" for label, n in sorted(counts.items()))
            said.append(f"{split}: {counts.total()} pictures ({listed})")
        if self.left_out:
            listed = ", ".join(f"{emotion} {n}" for emotion, n in sorted(self.left_out.items()))
            said.append(f"left out: {listed} faces, since no class is named for them")
        if self.repeated:
            said.append(f"left out: {self.repeated} faces that equal another of their style and emotion")
        return said


def render_faces(
    faces: Path,
    out: Path,
    *,
    valid_styles: Collection[str],
    names: Mapping[str, str] = NAMES,
    copies: int = 6,
    size: int = 160,
    seed: int = 0,
    threads: int = 1,
    on_face: Callable[[int, int], None] | None = None,
) -> FaceExport:
    """Write `copies` JPEGs of `size` x `size` px of each face, with `crops.csv` beside them.

    `faces` is a folder or a tar archive. `names` maps emotion folders to classes; folders that it
    does not name are left out and counted, and so are drawings that occur twice in one folder. In
    `crops.csv` film and character are the style, the shot is the face's file name. The pictures of
    a face depend on `seed`, its key and the copy alone, not on the other faces nor on `threads`.
    `on_face` is told after each face how many of how many are done. `out` appears whole or not at
    all.

    Raises UsageError when `out` is taken, resvg-py is missing or a number is out of range, and
    DataError for an archive that is unsafe or damaged, no faces, a style that is not there, a class
    that is no folder name, an SVG that cannot be rendered.
    """
    if copies < 1 or size < 16 or seed < 0 or threads < 1:
        raise UsageError(
            f"copies {copies}, size {size}, seed {seed}, threads {threads}: give at least 1, 16, 0 and 1 of them"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: already there; delete it or choose another folder")
    for label in names.values():
        if PurePosixPath(label).name != label or label.startswith("."):
            raise DataError(f"class '{label}': not a name of a folder; choose another")
    _renderer()
    found, left_out, repeated = _chosen(faces, names)
    styles = {face.style for face in found}
    if lost := sorted(set(valid_styles) - styles):
        raise DataError(f"{faces}: no style '{lost[0]}'; choose from {', '.join(sorted(styles))}")
    if styles <= set(valid_styles):
        raise DataError(f"{faces}: every style goes to valid ({', '.join(sorted(styles))}); leave one for training")

    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)

    def write(face: Face) -> tuple[str, str, list[str]]:
        split = "valid" if face.style in valid_styles else "train"
        return split, names[face.emotion], _write_copies(face, part / split / names[face.emotion], copies, size, seed)

    pictures: dict[str, Counter[str]] = {"train": Counter(), "valid": Counter()}
    rows: list[dict[str, str]] = []
    try:
        for split, label in {("valid" if f.style in valid_styles else "train", names[f.emotion]) for f in found}:
            (part / split / label).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(threads) as pool:
            for done, (face, (split, label, files)) in enumerate(zip(found, pool.map(write, found), strict=True), 1):
                pictures[split][label] += len(files)
                origin = {"film": face.style, "shot": face.name, "character": face.style}
                rows += ({"file": f"{split}/{label}/{file}", **origin} for file in files)
                if on_face:
                    on_face(done, len(found))
        with (part / TABLE).open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, ("file", *_COLUMNS), restval="", lineterminator="\n")
            table.writeheader()
            table.writerows(sorted(rows, key=lambda row: row["file"]))
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return FaceExport(out, {split: n for split, n in pictures.items() if n}, left_out, repeated)


def read_faces(faces: Path) -> list[Face]:
    """Read STYLE/EMOTION/*.svg of a folder or a tar archive, in order of their keys.

    Nothing of an archive is written to disk. Raises DataError: neither folder nor archive, no faces
    in it, an archive that is damaged or that holds links, devices, paths that lead out of it, two
    files of one name or files too large for a drawing.
    """
    if faces.is_dir():
        found = {p.relative_to(faces).as_posix(): p.read_bytes() for p in faces.glob("*/*/*.svg")}
    elif faces.is_file():
        found = {}
        for name, content in _members(faces):
            if name in found:
                raise DataError(f"{faces}: holds {name} twice; pack the archive again")
            found[name] = content
    else:
        raise DataError(f"{faces}: no such file; give a folder STYLE/EMOTION/*.svg or a tar archive of one")
    found = {name: svg for name, svg in found.items() if not any(part.startswith(".") for part in name.split("/"))}
    if not found:
        raise DataError(f"{faces}: no STYLE/EMOTION/*.svg in it; the archive begins with the styles, not a folder")
    paths = ((PurePosixPath(name), svg) for name, svg in sorted(found.items()))
    return [Face(path.parts[0], path.parts[1], path.stem, svg) for path, svg in paths]


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each SVG three levels deep."""
    total = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
                    raise DataError(
                        f"{archive}: '{member.name}' is a link, a device or a path that leads out of the archive; "
                        "do not use an archive that you did not pack"
                    )
                total += member.size
                if member.size > _MOST_BYTES or total > _MOST_BYTES_IN_ALL:
                    raise DataError(f"{archive}: '{member.name}' is too large for a drawing; pack SVGs only")
                if member.isfile() and len(path.parts) == 3 and path.suffix == ".svg":
                    content = tar.extractfile(member)
                    assert content is not None  # it is a regular file
                    yield path.as_posix(), content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{archive}: not a readable tar archive ({said(error)}); copy it again") from error


def _chosen(faces: Path, names: Mapping[str, str]) -> tuple[list[Face], Counter[str], int]:
    """The faces to draw, those left out by emotion, and how many were repeated."""
    kept: dict[tuple[str, str, bytes], Face] = {}
    left_out: Counter[str] = Counter()
    repeated = 0
    for face in read_faces(faces):
        key = (face.style, face.emotion, face.svg)
        if face.emotion not in names:
            left_out[face.emotion] += 1
        elif key in kept:
            repeated += 1
        else:
            kept[key] = face
    if not kept:
        raise DataError(f"{faces}: no face of {', '.join(names) or 'a named emotion'}; it has {', '.join(left_out)}")
    return list(kept.values()), left_out, repeated


def _renderer() -> Callable[..., bytes]:
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise UsageError("rendering SVG needs resvg-py; install it with: pip install 'insideout[faces]'") from error
    renderer: Callable[..., bytes] = svg_to_bytes
    return renderer


def _write_copies(face: Face, folder: Path, copies: int, size: int, seed: int) -> list[str]:
    cut = CUTS.get(face.style)
    if _IS_BUST.search(face.key):
        cut = _BUST
    drawing = _draw(face, round(1.3 * size / (cut.head[2] - cut.head[0] if cut else 1.0)))
    cut = cut or _cut_of_emoji(drawing)
    files = []
    for copy in range(copies):
        random = np.random.default_rng((seed, zlib.crc32(face.key.encode()), copy))
        picture = compose(drawing, cut, size, random)
        name = f"{face.style}_{face.emotion}_{face.name}_{copy}.jpg"
        if not cv2.imwrite(str(folder / name), picture, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(50, 96))]):
            raise OSError(f"{folder / name}: could not be written")
        files.append(name)
    return files


def _draw(face: Face, width: int) -> Picture:
    """The drawing as BGRA, not premultiplied."""
    try:
        check_drawing(face.svg)
        png = bytes(_renderer()(svg_string=face.svg.decode(), width=width, skip_system_fonts=True))
    except ValueError as error:
        raise DataError(f"{face.key}.svg: cannot be rendered: {error}; repair it or take it out") from error
    drawing = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if drawing is None or drawing.ndim != 3 or drawing.shape[2] != 4 or not drawing[:, :, 3].any():
        raise DataError(f"{face.key}.svg: renders to nothing; repair it or take it out")
    return drawing.astype(np.uint8, copy=False)


def _cut_of_emoji(drawing: Picture) -> Cut:
    """The head is all that is drawn."""
    height, width = drawing.shape[:2]
    ys, xs = np.nonzero(drawing[:, :, 3] > 16)
    left, top, right, bottom = xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height
    w, h = right - left, bottom - top
    x0, y0, x1, y1 = _EMOJI_FEATURES
    return Cut((left, top, right, bottom), (left + x0 * w, top + y0 * h, left + x1 * w, top + y1 * h))


def compose(drawing: Picture, cut: Cut, size: int, random: np.random.Generator) -> Picture:
    """One picture of a face on a made-up background, BGR uint8 [size, size, 3].

    `drawing` is BGRA uint8 [h, w, 4], not premultiplied. The face is turned, sheared, mirrored, seen
    in perspective and cut off at the edges, but never so far that `cut.features` leaves the picture;
    it is coloured and lit at random, and blurred a little in some pictures.
    """
    if cut.bare:
        drawing = _with_head(drawing, cut.head, random)
    shares = drawing[:, :, 3:].astype(np.float32) / 255
    layer = np.dstack([_coloured(drawing, cut.features, random) * shares, shares])
    placed = cv2.warpPerspective(layer, _placement(drawing, cut, size, random), (size, size), flags=cv2.INTER_LINEAR)
    picture = placed[:, :, :3] + _background(size, random) * (1 - placed[:, :, 3:])
    return _degraded(_lit(picture, random), random)


def _with_head(drawing: Picture, head: Box, random: np.random.Generator) -> Picture:
    """Put a light, rounded shape behind features that are drawn without a head."""
    height, width = drawing.shape[:2]
    left, top, right, bottom = head
    xs = ((np.arange(width) + 0.5) / width - (left + right) / 2) / ((right - left) / 2)
    ys = ((np.arange(height) + 0.5) / height - (top + bottom) / 2) / ((bottom - top) / 2)
    roundness = random.uniform(2.2, 5)
    distance = np.abs(ys[:, None]) ** roundness + np.abs(xs[None, :]) ** roundness
    alpha = np.clip((1 - distance) * 0.1 * width + 0.5, 0, 1).astype(np.float32)
    angle, chroma = random.uniform(0, 2 * np.pi), random.uniform(10, 60)
    lightness = random.uniform(65, 88) + random.uniform(-10, 10) * ys
    lab = np.empty((height, width, 3), np.float32)
    lab[:] = (0, chroma * np.cos(angle), chroma * np.sin(angle))
    lab[:, :, 0] = lightness[:, None]
    behind = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2BGR), 0, 1) * 255
    over = drawing[:, :, 3:].astype(np.float32) / 255
    colour = drawing[:, :, :3] * over + behind * (1 - over)
    whole = np.maximum(alpha, over[:, :, 0])
    return np.dstack([colour, whole * 255]).round().astype(np.uint8)


def _coloured(drawing: Picture, features: Box, random: np.random.Generator) -> Floats:
    """Turn the hue, change saturation and lightness; a quarter goes grey. BGR float32, 0 to 1.

    The turn is done in CIELAB: it keeps the lightness, so that features stay as plain as drawn. The
    lightness of the face is drawn anew for each picture, so that it tells nothing of the emotion.
    """
    lab = cv2.cvtColor(drawing[:, :, :3].astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
    angle = random.uniform(0, 2 * np.pi)
    saturation = 0.0 if random.random() < 0.25 else random.uniform(0.35, 1.15)
    a, b = lab[:, :, 1].copy(), lab[:, :, 2].copy()
    lab[:, :, 1] = saturation * (np.cos(angle) * a - np.sin(angle) * b)
    lab[:, :, 2] = saturation * (np.sin(angle) * a + np.cos(angle) * b)
    lightness = np.clip(lab[:, :, 0] / 100, 0, 1)
    height, width = lightness.shape
    x0, y0, x1, y1 = np.array(features) * (width, height, width, height)
    face = lightness[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1]
    usual = float(np.clip(np.median(face[drawing[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1, 3] > 127]), 0.1, 0.97))
    gamma = np.clip(np.log(random.uniform(0.48, 0.9)) / np.log(usual), 0.45, 2.5)
    lab[:, :, 0] = 100 * lightness**gamma
    return np.asarray(np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2BGR), 0, 1), np.float32)


def _placement(drawing: Picture, cut: Cut, size: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """The homography from the drawing to the picture, float64 [3, 3]; features stay inside."""
    scale = np.array([drawing.shape[1], drawing.shape[0]], np.float64)
    head, features = (np.array(box, np.float64).reshape(2, 2) * scale for box in (cut.head, cut.features))
    side = float((head[1] - head[0]).max())
    unit = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64) / 2
    must = np.array([[[x, y] for x in features[:, 0] for y in features[:, 1]]], np.float64)
    target = (unit + 0.5) * size
    if random.random() < 0.5:
        target = target[[1, 0, 3, 2]]
    # Less of everything until the features fit; without any of it they do, as part of the head.
    for strength in (1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0):
        zoom = 1.04 * np.exp(strength * random.uniform(-0.35, 0.3))
        shift = strength * random.uniform(-0.2, 0.2, 2) * side
        angle = np.radians(strength * np.clip(random.normal(0, 12), -30, 30))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[1, strength * random.uniform(-0.15, 0.15)], [0, 1 + strength * random.uniform(-0.12, 0.12)]])
        corners = head.mean(0) + shift + side * zoom * unit @ (turn @ shear).T
        seen = target + strength * random.uniform(-0.06, 0.06, (4, 2)) * size
        matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), seen.astype(np.float32))
        inside = cv2.perspectiveTransform(must, matrix)
        if inside.min() >= 0.02 * size and inside.max() <= 0.98 * size:
            break
    return np.asarray(matrix, np.float64)


def _background(size: int, random: np.random.Generator) -> Floats:
    """Black, plain, gradients, noise, blurred blobs or simple shapes. BGR float32 [size, size, 3], 0 to 1."""
    kind = random.choice(["black", "gradient", "noise", "blobs", "shapes"], p=[0.08, 0.27, 0.15, 0.25, 0.25])
    if kind == "black":
        return np.zeros((size, size, 3), np.float32)
    coarse = random.uniform(0, 1, (int(random.integers(1, 5)), int(random.integers(1, 5)), 3)).astype(np.float32)
    ground = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)
    if kind == "noise":
        grain = random.normal(0, 0.25, (size // int(random.integers(1, 12)) + 1,) * 2 + (3,)).astype(np.float32)
        ground += cv2.resize(grain, (size, size), interpolation=cv2.INTER_LINEAR)
    elif kind in ("blobs", "shapes"):
        for _ in range(int(random.integers(3, 12))):
            colour = tuple(float(v) for v in random.uniform(0, 1, 3))
            x, y, x1, y1 = (int(v) for v in random.integers(0, size, 4))
            w, h = (int(v) for v in random.integers(size // 20, size // 3, 2))
            shape = random.integers(3)
            if kind == "blobs" or shape == 0:
                cv2.ellipse(ground, (x, y), (w, h), float(random.uniform(0, 180)), 0, 360, colour, -1)
            elif shape == 1:
                cv2.rectangle(ground, (x, y), (x + w, y + h), colour, -1)
            else:
                cv2.line(ground, (x, y), (x1, y1), colour, max(1, w // 4))
        if kind == "blobs":
            ground = np.asarray(cv2.GaussianBlur(ground, (0, 0), size * random.uniform(0.02, 0.1)), np.float32)
    grey = ground.mean(2, keepdims=True)
    return np.asarray(np.clip(grey + random.uniform(0.2, 1) * (ground - grey), 0, 1), np.float32)


def _lit(picture: Floats, random: np.random.Generator) -> Floats:
    """Brighten or darken the whole, more on one side than on the other, with a slight cast."""
    size = len(picture)
    along = np.linspace(-1, 1, size, dtype=np.float32)
    angle, slope = random.uniform(0, 2 * np.pi), random.uniform(0, 0.35)
    light = 1 + slope * (np.cos(angle) * along[None, :] + np.sin(angle) * along[:, None])
    gain = np.exp(random.uniform(-0.3, 0.2)) * random.uniform(0.93, 1.07, 3)
    return np.asarray(np.clip(picture * light[:, :, None] * gain, 0, 1), np.float32)


def _degraded(picture: Floats, random: np.random.Generator) -> Picture:
    """Coarser, softer or noisier in some pictures; uint8."""
    size = len(picture)
    if random.random() < 0.35:
        small = round(size * random.uniform(0.35, 0.9))
        coarse = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        picture = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)
    if random.random() < 0.3:
        sigma = random.uniform(0.3, 1.3) * size / 160
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)
    if random.random() < 0.25:
        picture = picture + random.normal(0, random.uniform(0.005, 0.03), picture.shape).astype(np.float32)
    return np.clip(picture * 255, 0, 255).round().astype(np.uint8)
