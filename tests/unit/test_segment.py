from __future__ import annotations

import numpy as np
import pytest

from insideout.masks import Mask
from insideout.segment import Character, Letterbox, attach_parts, mask_in_box, one_per_figure


def _figure(name: str, score: float, x: int, y: int, w: int, h: int) -> Character:
    return Character(name, score, (x, y, w, h), Mask(np.ones((h, w), bool), x, y, 320, 180))


def test_a_head_belongs_to_the_character_that_covers_most_of_it() -> None:
    bunny, frank = _figure("Bunny", 0.9, 0, 0, 100, 100), _figure("Frank", 0.8, 90, 0, 100, 100)
    head = _figure("head", 0.7, 75, 10, 30, 30)  # 25 of its 30 columns lie on Bunny, 15 on Frank
    inside = _figure("head", 0.6, 150, 10, 30, 30)
    found = attach_parts([bunny, frank], [head, inside])
    assert [c.name for c in found] == ["Bunny", "Frank"]
    assert found[0].head == (75, 10, 30, 30)
    assert found[1].head == (150, 10, 30, 30)


def test_of_two_heads_the_better_scored_counts_and_a_stray_one_is_dropped() -> None:
    bunny = _figure("Bunny", 0.9, 0, 0, 100, 100)
    found = attach_parts(
        [bunny],
        [
            _figure("head", 0.5, 10, 10, 20, 20),
            _figure("head", 0.8, 40, 10, 20, 20),
            _figure("head", 0.9, 200, 0, 9, 9),
        ],
    )
    assert [c.head for c in found] == [(40, 10, 20, 20)]
    assert attach_parts([], [_figure("head", 0.9, 0, 0, 9, 9)]) == []
    assert attach_parts([bunny], []) == [bunny]


def test_one_figure_is_named_once_by_its_best_score() -> None:
    found = one_per_figure(
        [
            _figure("Rinky", 0.4, 1, 0, 50, 50),
            _figure("Gamera", 0.6, 0, 0, 50, 50),
            _figure("Rinky", 0.5, 100, 0, 50, 50),
        ]
    )
    assert [(c.name, c.score) for c in found] == [("Gamera", 0.6), ("Rinky", 0.5)]


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1280, 720), (577, 1023), (64, 64)])
def test_letterbox_is_a_multiple_of_the_stride_and_comes_back(height: int, width: int) -> None:
    box = Letterbox.fit(height, width, 320)
    assert box.width % 32 == 0
    assert box.height % 32 == 0
    assert max(box.inner_width, box.inner_height) == 320
    assert box.apply(np.zeros((height, width, 3), np.uint8)).shape == (box.height, box.width, 3)
    corners = (box.left, box.top, box.left + box.inner_width, box.top + box.inner_height)
    assert box.to_picture(*corners, height, width) == pytest.approx((0, 0, width, height), abs=3)


def test_a_mask_is_resampled_to_where_it_was() -> None:
    """A disc drawn at the network's mask resolution lands on the same place of the picture."""
    box = Letterbox.fit(720, 1280, 320)
    logits = np.full((box.height // 4, box.width // 4), -4.0, np.float32)
    rows, columns = np.mgrid[: logits.shape[0], : logits.shape[1]]
    # Centre of the picture: (640, 360) -> network (160, 90 + top) -> mask at a quarter of that.
    centre_x, centre_y = 160 / 4 - 0.5, (90 + box.top) / 4 - 0.5
    logits[np.hypot(columns - centre_x, rows - centre_y) < 8] = 4.0
    mask = mask_in_box(logits, (400.0, 100.0, 900.0, 620.0), box, 720, 1280)
    assert mask is not None
    x, y, w, h = mask.box()
    assert (x + w / 2, y + h / 2) == pytest.approx((640, 360), abs=4)
    assert (w, h) == pytest.approx((2 * 8 * 16, 2 * 8 * 16), abs=24)
    assert mask.area == pytest.approx(np.pi * (8 * 16) ** 2, rel=0.08)
    assert mask_in_box(logits, (10.0, 10.0, 10.0, 40.0), box, 720, 1280) is None
