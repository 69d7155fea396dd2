"""Render labelled vector faces to a classification export, for pretraining an emotion classifier.

    FACES/STYLE/EMOTION/*.svg  ->  OUT/train/Emotion/STYLE_NAME_0.jpg, OUT/valid/...

Colour gives such faces away (red is angry, green is disgusted), so each picture gets a hue of its
own and a background of soft colours. Whole styles go to `valid`. Needs resvg-py (`insideout[faces]`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from insideout.errors import DataError, UsageError

Picture = npt.NDArray[np.uint8]


def render_faces(
    faces: Path,
    out: Path,
    *,
    valid_styles: Collection[str],
    names: Mapping[str, str] | None = None,
    copies: int = 4,
    size: int = 128,
    seed: int = 0,
) -> dict[str, Counter[str]]:
    """Write `copies` JPEGs of `size` px of each face and return the number by split and class.

    `names` maps folder names to class names, and folders it does not name are left out; without it
    the class is the folder's name, capitalised. A face gives the same pictures in every run.
    Raises DataError when there are no faces or an SVG cannot be rendered.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise UsageError("rendering SVG needs resvg-py; install it with: pip install 'insideout[faces]'") from error
    paths = sorted(faces.glob("*/*/*.svg"))
    if not paths:
        raise DataError(f"{faces}: no STYLE/EMOTION/*.svg in it")
    counts: dict[str, Counter[str]] = {"train": Counter(), "valid": Counter()}

    def draw(index: int) -> tuple[str, str] | None:
        path = paths[index]
        style, folder = path.parts[-3:-1]
        label = folder.capitalize() if names is None else names.get(folder)
        if label is None:
            return None
        try:
            png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=2 * size, skip_system_fonts=True))
        except ValueError as error:
            raise DataError(f"{path}: cannot be rendered: {error}") from error
        face = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        if face is None:
            raise DataError(f"{path}: renders to nothing")
        split = "valid" if style in valid_styles else "train"
        target = out / split / label
        target.mkdir(parents=True, exist_ok=True)
        for copy in range(copies):
            random = np.random.default_rng((seed, index, copy))
            picture = compose(face.astype(np.uint8, copy=False), size, random)
            cv2.imwrite(str(target / f"{style}_{path.stem}_{copy}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        return split, label

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(draw, range(len(paths))):
            if found:
                counts[found[0]][found[1]] += copies
    return counts


def compose(face: Picture, size: int, random: np.random.Generator) -> Picture:
    """Put a BGRA face on a background of soft colours, with another hue; BGR [size, size, 3]."""
    ys, xs = np.nonzero(face[:, :, 3] > 16)
    face = face[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] if len(ys) else face
    hsv = cv2.cvtColor(np.ascontiguousarray(face[:, :, :3]), cv2.COLOR_BGR2HSV)
    hsv[:, :, 0] = (hsv[:, :, 0].astype(np.int32) + random.integers(180)) % 180
    colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if random.random() < 0.2:
        colour = cv2.cvtColor(cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    scale = size * random.uniform(0.8, 1.1) / max(face.shape[:2])
    angle = random.uniform(-12, 12)
    height, width = face.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    shift = random.uniform(-0.06, 0.06, 2) * size
    matrix[0, 2] += size / 2 - width / 2 + shift[0]
    matrix[1, 2] += size / 2 - height / 2 + shift[1]
    premultiplied = np.dstack([colour.astype(np.float32) * (face[:, :, 3:] / 255.0), face[:, :, 3].astype(np.float32)])
    placed = cv2.warpAffine(premultiplied.astype(np.float32), matrix, (size, size), flags=cv2.INTER_AREA)
    coarse = random.integers(0, 256, (random.integers(2, 6), random.integers(2, 6), 3)).astype(np.uint8)
    background = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    mixed = placed[:, :, :3] + background * (1 - placed[:, :, 3:] / 255)
    return np.clip(mixed, 0, 255).astype(np.uint8)
