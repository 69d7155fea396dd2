"""Masks: COCO run-length encoding that keeps parts and holes, and what one mask covers of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mask:
    """A figure's pixels, kept only where it is.

    `pixels` is bool [h, w], `left` and `top` its place in a picture of `width` x `height` pixels.
    """

    pixels: NDArray[np.bool_]
    left: int
    top: int
    width: int
    height: int

    @property
    def area(self) -> int:
        """Number of pixels covered."""
        return int(self.pixels.sum())

    def box(self) -> Box:
        """Tight box (x, y, w, h) in pixels of the picture; (0, 0, 0, 0) for an empty mask."""
        rows, columns = np.flatnonzero(self.pixels.any(1)), np.flatnonzero(self.pixels.any(0))
        if not len(rows):
            return (0.0, 0.0, 0.0, 0.0)
        x, y = self.left + int(columns[0]), self.top + int(rows[0])
        return (float(x), float(y), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1))

    def rle(self) -> str:
        """Counts of the COCO compressed run-length encoding over the whole picture."""
        # Column-major from the start, as COCO counts, so that nothing has to be transposed.
        whole = np.zeros((self.height, self.width), np.uint8, order="F")
        h, w = self.pixels.shape
        whole[self.top : self.top + h, self.left : self.left + w] = self.pixels
        counts = coco.encode(whole)["counts"]
        return counts.decode("ascii") if isinstance(counts, bytes) else str(counts)

    def covered(self, x: float, y: float, w: float, h: float) -> float:
        """Share of a box, 0 to 1, whose pixels belong to this mask; the box may leave the picture."""
        x0, y0 = max(0, round(x) - self.left), max(0, round(y) - self.top)
        x1, y1 = max(0, round(x + w) - self.left), max(0, round(y + h) - self.top)
        area = max(1, round(x + w) - round(x)) * max(1, round(y + h) - round(y))
        return float(self.pixels[y0:y1, x0:x1].sum()) / area

    def overlap(self, other: Mask) -> float:
        """Intersection over union with another mask of the same picture, 0 to 1."""
        x0, y0 = max(self.left, other.left), max(self.top, other.top)
        x1 = min(self.left + self.pixels.shape[1], other.left + other.pixels.shape[1])
        y1 = min(self.top + self.pixels.shape[0], other.top + other.pixels.shape[0])
        if x1 <= x0 or y1 <= y0:
            return 0.0
        a = self.pixels[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left]
        b = other.pixels[y0 - other.top : y1 - other.top, x0 - other.left : x1 - other.left]
        shared = int((a & b).sum())
        return shared / max(1, self.area + other.area - shared)


def decode_rle(counts: str, height: int, width: int) -> NDArray[np.bool_]:
    """Decode the counts of a label table row to a bool mask [height, width]."""
    encoded: Any = {"size": [height, width], "counts": counts.encode("ascii")}
    decoded: NDArray[np.uint8] = coco.decode(encoded)
    return decoded.astype(bool)


def box_iou(a: Box, b: Box) -> float:
    """Area that two boxes (x, y, width, height) share, over the area they cover together."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)
