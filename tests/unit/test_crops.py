from __future__ import annotations

import cv2
import numpy as np

from insideout.crops import cut, encode_webp, resize, square
from insideout.masks import Mask
from insideout.segment import Character

PICTURE = np.full((60, 80, 3), (200, 100, 50), np.uint8)


def _figure(head: tuple[float, float, float, float] | None = None) -> Character:
    pixels = np.ones((20, 10), bool)
    pixels[8:12, 4:6] = False
    return Character("Bunny", 0.9, (30.0, 10.0, 10.0, 20.0), Mask(pixels, 30, 10, 80, 60), head)


def test_square_pads_centred_with_black() -> None:
    padded = square(np.full((4, 10, 3), 255, np.uint8))
    assert padded.shape == (10, 10, 3)
    assert padded[:3].sum() == 0
    assert (padded[3:7] == 255).all()
    assert padded[7:].sum() == 0


def test_mask_crop_is_black_outside_and_inside_holes() -> None:
    crop = cut(PICTURE, _figure(), "mask", 0.08)
    assert crop.shape == (20, 20, 3)
    assert crop[:, :5].sum() == 0
    assert crop[:, 15:].sum() == 0
    assert tuple(crop[0, 5]) == (200, 100, 50)
    assert tuple(crop[9, 9]) == (0, 0, 0)  # the hole


def test_box_crop_keeps_the_background() -> None:
    crop = cut(PICTURE, _figure(), "box", 0.08)
    assert (crop[:, 5:15] == (200, 100, 50)).all()


def test_head_crop_is_widened_clipped_to_the_picture_and_falls_back_to_the_mask() -> None:
    assert cut(PICTURE, _figure((20.0, 20.0, 10.0, 10.0)), "head", 0.1).shape == (12, 12, 3)
    assert cut(PICTURE, _figure((70.0, 50.0, 20.0, 20.0)), "head", 0.1).shape == (12, 12, 3)
    assert np.array_equal(cut(PICTURE, _figure(), "head", 0.1), cut(PICTURE, _figure(), "mask", 0.1))


def test_resize_averages_when_it_shrinks() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, 16)
    assert small.shape == (16, 16, 3)
    assert np.abs(small.astype(int) - 127).max() <= 1


def test_webp_comes_back_in_the_same_colours() -> None:
    crop = np.full((32, 32, 3), (220, 30, 60), np.uint8)
    back = cv2.imdecode(np.frombuffer(encode_webp(crop), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(back.astype(int) - crop).max() < 12
