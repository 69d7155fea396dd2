"""Small pictures of characters, from the stored crops or cut from the film itself."""

from __future__ import annotations

import base64
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from insideout.datasets.labelled import decode_picture
from insideout.errors import InsideoutError
from insideout.report.tables import Extra, FilmFacts, Key, Rectangle, Sighting

HEIGHT = 112  # pixels; the largest a thumbnail gets
_WIDEST = 2 * HEIGHT
_HEAD_MARGIN = 0.25  # of the longer side of the head: enough to see ears and hands beside a face
_BOX_MARGIN = 0.04
_QUALITY = 78

Picture = NDArray[np.uint8]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data URI, with its size in pixels."""

    uri: str
    width: int
    height: int


def find_pictures(
    facts: FilmFacts, wanted: Sequence[Sighting], extras: Mapping[Key, Extra]
) -> tuple[dict[Key, Thumbnail], str | None]:
    """Return a thumbnail per wanted sighting, and one sentence on why some are missing, if any are.

    A stored crop is used where there is one; the rest is cut from the film, provided that the file is
    where it was and still has the digest it was labelled with. Never raises on a missing film.
    """
    pictures: dict[Key, Thumbnail] = {}
    missing: list[Sighting] = []
    for sighting in wanted:
        extra = extras.get(sighting.key)
        crop = decode_picture(np.frombuffer(extra.crop, np.uint8)) if extra is not None and extra.crop else None
        if crop is None:
            missing.append(sighting)
        else:
            pictures[sighting.key] = thumbnail(crop)
    if not missing:
        return pictures, None
    cut, why = _from_film(facts, missing)
    pictures.update(cut)
    return pictures, why


def thumbnail(picture: Picture) -> Thumbnail:
    """Encode a picture uint8 [h, w, 3] RGB as WebP, at most 112 pixels high and 224 wide; never enlarged."""
    height, width = picture.shape[:2]
    scale = min(1.0, HEIGHT / height, _WIDEST / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = picture if scale == 1.0 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".webp", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"cannot encode a picture of shape {picture.shape} as WebP")
    return Thumbnail("data:image/webp;base64," + base64.b64encode(data.tobytes()).decode(), size[0], size[1])


def cut(picture: Picture, box: Rectangle, head: Rectangle | None) -> Picture | None:
    """Cut a square around the head, or the box where no head is seen; None where nothing is left.

    `picture` is uint8 [H, W, 3] RGB, rectangles are x, y, width, height in its pixels. What lies
    outside the picture is left out, never padded.
    """
    x, y, w, h = box if head is None else head
    if head is None:
        reach_x, reach_y = w * (0.5 + _BOX_MARGIN), h * (0.5 + _BOX_MARGIN)
    else:
        reach_x = reach_y = max(w, h) * (0.5 + _HEAD_MARGIN)
    middle_x, middle_y = x + w / 2, y + h / 2
    height, width = picture.shape[:2]
    left, right = max(0, round(middle_x - reach_x)), min(width, round(middle_x + reach_x))
    top, bottom = max(0, round(middle_y - reach_y)), min(height, round(middle_y + reach_y))
    if right <= left or bottom <= top:
        return None
    return picture[top:bottom, left:right]


def _from_film(facts: FilmFacts, wanted: Sequence[Sighting]) -> tuple[dict[Key, Thumbnail], str | None]:
    if "://" not in facts.path:
        if not Path(facts.path).is_file():
            return (
                {},
                f"no crops were stored, and {facts.name} is no longer where it was labelled",
            )
        if Path(facts.path).stat().st_size != facts.bytes:
            return {}, f"no crops were stored, and {facts.name} is not the file that was labelled (another size)"
    by_ordinal: dict[int, list[Sighting]] = defaultdict(list)
    for sighting in wanted:
        by_ordinal[sighting.ordinal].append(sighting)
    pictures: dict[Key, Thumbnail] = {}
    # Imported here: with stored crops a report needs no video library.
    from insideout.decode import read_frames
    from insideout.film import open_film

    try:
        film = open_film(facts.path)
        if film.sha256 != facts.sha256:
            return {}, f"no crops were stored, and {facts.name} is not the file that was labelled (another digest)"
        for ordinal, picture in read_frames(facts.path, sorted(by_ordinal), film=film):
            for sighting in by_ordinal[ordinal]:
                part = cut(picture, sighting.box, sighting.head)
                if part is not None:
                    pictures[sighting.key] = thumbnail(part)
    except (InsideoutError, OSError) as error:
        _log.info("cannot cut pictures from %s: %s", facts.path, error)
        return pictures, f"no crops were stored, and {facts.name} could not be read again as a video"
    if len(pictures) < len(wanted):
        return pictures, f"no crops were stored, and some frames of {facts.name} could not be decoded again"
    return pictures, None
