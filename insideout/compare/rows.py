"""The rows of one frame in two runs: which are the same figure, and how much a row changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco
from scipy.optimize import linear_sum_assignment

from insideout.masks import box_iou
from insideout.shown import Figure

Floats = npt.NDArray[np.float64]

LEAST_OVERLAP = 0.5
"""Two rows are the same figure where their masks share at least this much (intersection over union)."""
_SAME_NAME = 1e-3  # between figures that overlap equally, the one of the same name is the same


@dataclass(frozen=True)
class Pair:
    """A figure as run A and as run B have it; None where a run has not got it. `overlap` 0 to 1."""

    a: Figure | None
    b: Figure | None
    overlap: float = 0.0

    @property
    def renamed(self) -> bool:
        """Whether both have the figure by different names."""
        return self.a is not None and self.b is not None and self.a.character != self.b.character

    def differs(self, fused: bool) -> bool:
        """Whether both have the figure with different emotions."""
        return self.a is not None and self.b is not None and emotion(self.a, fused) != emotion(self.b, fused)

    @property
    def distance(self) -> float:
        """Total variation distance of the two probabilities, 0 to 1: half the sum of their differences."""
        if self.a is None or self.b is None:
            return 1.0
        one, other = self.a.probabilities, self.b.probabilities
        return sum(abs(one.get(name, 0.0) - other.get(name, 0.0)) for name in one.keys() | other.keys()) / 2

    def change(self, fused: bool) -> float:
        """How much of a change this is, 0 to 1: 1 for a figure that is new, gone or has another name.

        Else the mean of the probabilities' distance and of whether the emotion differs.
        """
        if self.a is None or self.b is None or self.renamed:
            return 1.0
        return (self.distance + self.differs(fused)) / 2


def emotion(figure: Figure, fused: bool) -> str:
    """The emotion of a figure: that of its frame, or that of its track."""
    return figure.track_emotion if fused else figure.emotion


def match(a: Sequence[Figure], b: Sequence[Figure]) -> list[Pair]:
    """Match the figures of one frame so that the sum of their overlaps is largest (Kuhn 1955).

    Overlap is that of masks, of boxes where a mask is missing or of another size; less than
    `LEAST_OVERLAP` matches nothing. Those matched come first, in A's order, then those only in A, then in B.
    """
    overlaps = _overlaps(a, b)
    names = np.array([[one.character == other.character for other in b] for one in a], np.float64).reshape(
        overlaps.shape
    )
    fits = overlaps >= LEAST_OVERLAP
    rows, columns = linear_sum_assignment(np.where(fits, overlaps + _SAME_NAME * names, 0.0), maximize=True)
    matched = {int(i): int(j) for i, j in zip(rows, columns, strict=True) if fits[i, j]}
    found = [Pair(a[i], b[j], float(overlaps[i, j])) for i, j in sorted(matched.items())]
    found += [Pair(one, None) for i, one in enumerate(a) if i not in matched]
    return found + [Pair(None, other) for j, other in enumerate(b) if j not in set(matched.values())]


def _overlaps(a: Sequence[Figure], b: Sequence[Figure]) -> Floats:
    """Intersection over union of each figure of A with each of B, float64 [len(a), len(b)]."""
    sizes = {(figure.mask_h, figure.mask_w) for figure in (*a, *b)}
    if a and b and len(sizes) == 1 and all(figure.mask_rle for figure in (*a, *b)):
        found: Floats = np.asarray(coco.iou(_encoded(a), _encoded(b), [0] * len(b)), np.float64)
        return found
    return np.array([[box_iou(one.box, other.box) for other in b] for one in a], np.float64).reshape(len(a), len(b))


def _encoded(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [{"size": [f.mask_h, f.mask_w], "counts": (f.mask_rle or "").encode("ascii")} for f in figures]
