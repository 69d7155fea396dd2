"""What the emotion classifier sees of a character: head, mask on black, or box with background."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from insideout.segment import Character

CropKind = Literal["head", "mask", "box"]
Picture = NDArray[np.uint8]


def square(picture: Picture) -> Picture:
    """Pad a picture [h, w, 3] with black to a square, centred, as the student project did."""
    height, width = picture.shape[:2]
    side = max(height, width)
    padded = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = picture
    return padded


def resize(picture: Picture, size: int) -> Picture:
    """Resize a square picture to [size, size, 3]; area averaging when it shrinks, against aliasing."""
    if picture.shape[0] == size:
        return picture
    shrinking = picture.shape[0] > size
    resized = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


def cut(picture: Picture, character: Character, kind: CropKind, margin: float) -> Picture:
    """Cut a character out of its frame.

    `picture` is uint8 [H, W, 3] RGB. Returns uint8 [s, s, 3] in the picture's own resolution:
    `head` is the head box widened by `margin` of its longer side, with its background, and falls
    back to `mask` where no head is seen; `mask` is the pixels on black, tight; `box` is the tight box
    with its background. All are padded to a centred square.
    """
    height, width = picture.shape[:2]
    if kind == "head" and character.head is not None:
        x, y, w, h = character.head
        edge = margin * max(w, h)
        x0, y0 = max(0, round(x - edge)), max(0, round(y - edge))
        x1, y1 = min(width, round(x + w + edge)), min(height, round(y + h + edge))
        if x1 > x0 and y1 > y0:
            return square(picture[y0:y1, x0:x1])
    x0, y0, w0, h0 = (round(v) for v in character.mask.box())
    region = picture[y0 : y0 + h0, x0 : x0 + w0]
    if kind == "box":
        return square(region)
    mask = character.mask
    pixels = mask.pixels[y0 - mask.top : y0 - mask.top + h0, x0 - mask.left : x0 - mask.left + w0]
    return square(region * pixels[:, :, None].astype(np.uint8))


def encode_webp(crop: Picture, quality: int = 85) -> bytes:
    """Encode a crop [s, s, 3] RGB as WebP."""
    done, data = cv2.imencode(".webp", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode a crop of shape {crop.shape} as WebP")
    return data.tobytes()
