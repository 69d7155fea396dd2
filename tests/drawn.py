"""Figures and frames for the tests of a segmenter's scores: rectangles on a small picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from insideout.evaluation.instances import Instance, ScoredFrame

HEIGHT, WIDTH = 200, 320


def figure(name: str, x: int, y: int, w: int, h: int, score: float = 1.0) -> Instance:
    """A rectangle."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    return Instance(name, (x, y, w, h), coco.encode(pixels), score)


def frame(truth: list[Instance], detections: list[Instance], characters: list[Instance] | None = None) -> ScoredFrame:
    """A frame in which labelling finds `characters`, all that is detected by default."""
    return ScoredFrame(
        Path("0"), tuple(truth), tuple(detections), tuple(detections if characters is None else characters)
    )
