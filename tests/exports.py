"""Small classification exports, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

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
