"""What two frames have in common: cuts between shots, black frames, held drawings.

Everything here works on small versions of the decoded luma and chroma planes, so that looking at
every frame of a film costs a fraction of decoding it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

THUMBNAIL = (160, 90)
"""Width and height of `thumbnail`, in pixels."""

SIGNATURE = (64, 36)
"""Width and height of `signature`, in pixels."""

UNSEEN: Picture = np.zeros((*SIGNATURE[::-1], 3), np.uint8)
"""The signature of a frame that could not be decoded; no picture has it, as black has its chroma at 128."""

# ffmpeg's blackdetect asks for 98 % of the pixels below 10 % luma, which a night scene meets. A film
# black is flat, so we ask for nearly all pixels within 8 codes of the black level: compression noise
# stays inside, a face in the dark or a title on black does not.
_BLACK_MARGIN = 8
_BLACK_SHARE = 0.995

# A thumbnail cell of a 720p film is the mean of 64 pixels, so that the noise of compressing a held
# drawing again and again moves it by one or two codes. A mouth line that moves by one pixel takes its
# contrast over the border of some cells, 1/8 of it a pixel: 6 codes and more for a drawn line.
_HELD_DIFFERENCE = 3

# Chosen on the train shots of Big Buck Bunny.
_FLOOR = 12.0
_RATIO = 1.5
_REACH = 4
_SHORTEST = 4
_FLASH_LENGTH = 2
_FLASH_SYMMETRY = 0.9


def thumbnail(luma: Picture) -> Picture:
    """Shrink a luma plane to the size at which held drawings and black frames are judged.

    luma: uint8 [H,W]. Returns uint8 [90,160], each cell the mean of the pixels it covers.
    """
    return np.asarray(cv2.resize(luma, THUMBNAIL, interpolation=cv2.INTER_AREA), np.uint8)


def signature(luma: Picture, u: Picture, v: Picture) -> Picture:
    """Shrink luma and chroma planes to the size at which frames are compared for cuts.

    luma, u, v: uint8 [H,W], each of its own size; a `thumbnail` is good enough as luma.
    Returns uint8 [36,64,3], the last axis Y, U, V.
    """
    planes = [cv2.resize(plane, SIGNATURE, interpolation=cv2.INTER_AREA) for plane in (luma, u, v)]
    return np.asarray(np.dstack(planes), np.uint8)


def change(before: Picture, after: Picture) -> float:
    """Say how much the picture changed between two signatures, in codes of luma and chroma.

    0 for equal signatures, 1 to 10 for motion, mostly above 20 for a cut, 510 at most. 0 as well where
    one of them is `UNSEEN`.
    """
    if not before.any() or not after.any():
        return 0.0
    y, u, v = cv2.mean(cv2.absdiff(before, after))[:3]
    return float(y + (u + v) / 2)


def is_black(thumb: Picture, *, full_range: bool = False) -> bool:
    """Say whether a thumbnail shows nothing but black.

    thumb: uint8 [90,160]; full_range: black is at luma 0 (JPEG range) instead of 16 (film range).
    """
    limit = _BLACK_MARGIN if full_range else 16 + _BLACK_MARGIN
    return bool(np.count_nonzero(thumb <= limit) >= _BLACK_SHARE * thumb.size)


def is_duplicate(kept: Picture, thumb: Picture) -> bool:
    """Say whether two thumbnails show the same drawing: no cell differs by more than compression does."""
    return bool(cv2.norm(kept, thumb, cv2.NORM_INF) <= _HELD_DIFFERENCE)


def cuts(changes: NDArray[np.float32]) -> NDArray[np.int32]:
    """Find the hard cuts of a film from the change of every frame to the one before.

    changes: float [frames], values of `change`; the first and any NaN count as 0. Returns int32
    ordinals at which a new shot starts, ascending, 0 always first; empty for an empty film.

    The idea is that of PySceneDetect's AdaptiveDetector (https://www.scenedetect.com): a cut is a
    frame that stands out from its neighbours, not one above a fixed value, so that a fast pan is no
    row of cuts. Here a frame has to be 1.5 times the mean of the two largest of the four frames on
    either side, since a drawing held for two or three frames moves in jerks with stillness between,
    and above an absolute floor. Dissolves and fades are not found. Two equally high changes at most
    two frames apart are a flash, there and back, and no cut. Of two cuts less than four frames apart the
    higher one stays.
    """
    count = len(changes)
    if count == 0:
        return np.zeros(0, np.int32)
    known = np.array(changes, np.float64)
    known[0] = np.nan
    padded = np.pad(known, _REACH, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _REACH + 1)
    # A neighbour that is not known, at the ends of the film above all, is taken to be like its opposite.
    around = np.nan_to_num(np.where(np.isnan(around), around[:, ::-1], around), nan=0.0)
    usual = np.sort(np.delete(around, _REACH, axis=1), axis=1)[:, -2:].mean(axis=1)
    values = np.nan_to_num(known, nan=0.0)
    found: list[int] = []
    for ordinal in np.flatnonzero((values >= _FLOOR) & (values >= _RATIO * usual)).tolist():
        if _is_flash(values, ordinal):
            continue
        if found and ordinal - found[-1] < _SHORTEST:
            if values[ordinal] <= values[found[-1]]:
                continue
            found.pop()
        found.append(ordinal)
    return np.array([0, *found], np.int32)


def _is_flash(values: NDArray[np.float64], ordinal: int) -> bool:
    height = values[ordinal]
    for step in range(-_FLASH_LENGTH, _FLASH_LENGTH + 1):
        other = ordinal + step
        if step and 0 < other < len(values):
            low, high = sorted((height, values[other]))
            if low >= _FLASH_SYMMETRY * high:
                return True
    return False
