"""Small exports for classification and segmentation, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml

COUNTS = {"train": {"Angry": 10, "Happy": 6}, "valid": {"Angry": 4, "Happy": 4}}


def write_export(
    root: Path, counts: Mapping[str, Mapping[str, int]] = COUNTS, *, size: int = 40, shots: Sequence[int] = (1, 2)
) -> Path:
    """Write noise pictures, brighter with each class, named like the project's own crops."""
    random = np.random.default_rng(0)
    for s, (split, classes) in enumerate(counts.items()):
        for c, (name, n) in enumerate(classes.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                picture = random.integers(60 * c, 60 * c + 120, (size, size, 3), np.uint8)
                shot = 100 * s + shots[i % len(shots)]
                cv2.imwrite(str(folder / f"{i:06d}_shot{shot:03d}_track000_Bunny.jpg"), picture)
    return root


def write_yolo_export(folder: Path, seed: int = 0) -> Path:
    """Write bright discs and squares on noise, some pictures empty, with their polygons."""
    random = np.random.default_rng(seed)
    for split, count in (("train", 8), ("valid", 4)):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(count):
            picture = random.integers(0, 60, (96, 128, 3), np.uint8)
            lines = []
            if i % 4:
                name, x, y, r = i % 2, *random.integers(24, 72, 2).tolist(), 16
                turns = np.linspace(0, 2 * np.pi, 24 if name == 0 else 4, endpoint=False)
                points = np.stack([x + r * np.cos(turns), y + r * np.sin(turns)], 1)
                cv2.fillPoly(picture, [points.astype(np.int32)], (40, 200, 240) if name else (220, 80, 40))
                xy = " ".join(f"{px / 128:.4f} {py / 96:.4f}" for px, py in points)
                lines.append(f"{name} {xy}")
            cv2.imwrite(str(folder / split / "images" / f"{split}{i}.jpg"), picture)
            (folder / split / "labels" / f"{split}{i}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"train": "../train/images", "val": "../valid/images", "nc": 2, "names": ["Disc", "Square"]})
    )
    return folder
