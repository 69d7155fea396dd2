from __future__ import annotations

import numpy as np
import pytest

from insideout.masks import Mask, decode_rle


def _ring_and_dot() -> Mask:
    """A ring with a hole, and a part that does not touch it."""
    pixels = np.zeros((20, 30), bool)
    pixels[2:12, 2:12] = True
    pixels[5:9, 5:9] = False
    pixels[15:18, 24:28] = True
    return Mask(pixels, left=7, top=3, width=64, height=48)


def test_rle_keeps_parts_and_holes() -> None:
    mask = _ring_and_dot()
    whole = decode_rle(mask.rle(), 48, 64)
    assert whole.shape == (48, 64)
    assert whole.sum() == mask.area == 100 - 16 + 12
    assert np.array_equal(whole[3:23, 7:37], mask.pixels)
    assert not whole[3 + 6, 7 + 6]  # inside the hole
    assert whole[3 + 16, 7 + 25]  # inside the second part


def test_box_is_tight_and_in_picture_coordinates() -> None:
    assert _ring_and_dot().box() == (9.0, 5.0, 26.0, 16.0)
    assert Mask(np.zeros((3, 3), bool), 1, 1, 9, 9).box() == (0.0, 0.0, 0.0, 0.0)


def test_covered_counts_pixels_of_a_box_even_outside_the_picture() -> None:
    mask = Mask(np.ones((10, 10), bool), left=0, top=0, width=20, height=20)
    assert mask.covered(0, 0, 10, 10) == 1.0
    assert mask.covered(5, 0, 10, 10) == pytest.approx(0.5)
    assert mask.covered(-5, 0, 10, 10) == pytest.approx(0.5)
    assert mask.covered(15, 15, 10, 10) == 0.0


def test_overlap_is_intersection_over_union() -> None:
    a = Mask(np.ones((10, 10), bool), 0, 0, 40, 40)
    b = Mask(np.ones((10, 10), bool), 5, 0, 40, 40)
    far = Mask(np.ones((4, 4), bool), 30, 30, 40, 40)
    assert a.overlap(b) == pytest.approx(50 / 150)
    assert a.overlap(a) == 1.0
    assert a.overlap(far) == 0.0
