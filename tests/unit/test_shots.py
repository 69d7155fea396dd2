"""Cuts, black frames and held drawings, on numbers and on drawn pictures."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from insideout import shots


def _planes(luma: int, u: int = 128, v: int = 128) -> tuple[NDArray[np.uint8], ...]:
    return (
        np.full((720, 1280), luma, np.uint8),
        np.full((360, 640), u, np.uint8),
        np.full((360, 640), v, np.uint8),
    )


def test_a_signature_has_the_mean_colours() -> None:
    signature = shots.signature(*_planes(80, 90, 200))
    assert signature.shape == (36, 64, 3)
    assert signature.dtype == np.uint8
    assert signature.reshape(-1, 3).min(0).tolist() == [80, 90, 200]
    assert signature.reshape(-1, 3).max(0).tolist() == [80, 90, 200]


@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920), (73, 131), (36, 64), (640, 360), (1, 1)])
def test_any_size_has_a_thumbnail(size: tuple[int, int]) -> None:
    thumb = shots.thumbnail(np.full(size, 77, np.uint8))
    assert thumb.shape == (90, 160)
    assert np.unique(thumb).tolist() == [77]


def test_change_adds_luma_and_half_of_each_chroma() -> None:
    one, other = shots.signature(*_planes(80, 90, 200)), shots.signature(*_planes(70, 100, 196))
    assert shots.change(one, one) == 0
    assert shots.change(one, other) == shots.change(other, one) == pytest.approx(10 + 5 + 2)


def test_change_to_a_frame_never_seen_is_none() -> None:
    seen = shots.signature(*_planes(16))
    assert seen.any()
    assert shots.change(seen, shots.UNSEEN) == shots.change(shots.UNSEEN, seen) == 0


@pytest.mark.parametrize(
    ("luma", "full_range", "black"),
    [(16, False, True), (22, False, True), (30, False, False), (16, True, False), (0, True, True), (4, True, True)],
)
def test_black_is_at_the_black_level_of_its_range(luma: int, full_range: bool, black: bool) -> None:
    assert shots.is_black(np.full((90, 160), luma, np.uint8), full_range=full_range) is black


def test_eyes_in_the_dark_are_not_black() -> None:
    luma = np.full((720, 1280), 16, np.uint8)
    luma[300:350, 500:580] = luma[300:350, 700:780] = 200
    assert not shots.is_black(shots.thumbnail(luma))


def test_a_drawing_with_the_noise_of_compression_is_held_and_a_moved_line_is_not() -> None:
    drawing = np.full((720, 1280), 180, np.uint8)
    for x in range(600, 660):
        drawing[400 + (x - 600) // 6 :, x][:3] = 40  # a slanting mouth line, three pixels thick
    noise = np.random.default_rng(0).integers(-4, 5, drawing.shape)
    noisy = np.clip(drawing + noise, 0, 255).astype(np.uint8)
    moved = np.roll(drawing, 1, axis=0)
    kept = shots.thumbnail(drawing)
    assert shots.is_duplicate(kept, shots.thumbnail(noisy))
    assert not shots.is_duplicate(kept, shots.thumbnail(moved))


def _still(frames: int = 100) -> NDArray[np.float32]:
    return np.full(frames, 1.0, np.float32)


def test_no_frames_have_no_cuts() -> None:
    assert shots.cuts(np.zeros(0, np.float32)).tolist() == []


def test_the_first_frame_starts_a_shot_whatever_its_change() -> None:
    for first in (0, 90, np.nan):
        changes = _still()
        changes[0] = first
        assert shots.cuts(changes).tolist() == [0]
        assert shots.cuts(changes).dtype == np.int32


def test_cuts_stand_out() -> None:
    changes = _still()
    changes[[5, 40, 99]] = (30, 25, 60)
    assert shots.cuts(changes).tolist() == [0, 5, 40, 99]


def test_not_a_number_is_no_cut_and_hides_none() -> None:
    changes = _still()
    changes[[20, 21, 40]] = (np.nan, np.nan, 30)
    changes[41] = np.nan
    assert shots.cuts(changes).tolist() == [0, 40]


def test_a_small_change_among_stills_is_no_cut() -> None:
    changes = np.zeros(100, np.float32)
    changes[50] = 8
    assert shots.cuts(changes).tolist() == [0]


def test_a_fast_pan_is_no_row_of_cuts() -> None:
    changes = _still()
    changes[30:60] = 25 + np.random.default_rng(1).normal(0, 2, 30)
    assert shots.cuts(changes).tolist() == [0]


@pytest.mark.parametrize("hold", [2, 3, 4])
def test_jerks_of_held_drawings_are_no_cuts(hold: int) -> None:
    changes = np.zeros(120, np.float32)
    changes[::hold] = 20
    changes[60] = 60
    assert shots.cuts(changes).tolist() == [0, 60]


@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_is_no_cut(length: int) -> None:
    changes = _still()
    changes[50], changes[50 + length] = 80, 78
    assert shots.cuts(changes).tolist() == [0]


def test_of_two_cuts_too_close_the_higher_stays() -> None:
    changes = _still()
    changes[[50, 53]] = (40, 70)
    assert shots.cuts(changes).tolist() == [0, 53]
