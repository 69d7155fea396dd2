"""Small pictures of characters, from the stored crops or cut from the film itself."""

from __future__ import annotations

import base64
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from insideout.datasets.labelled import decode_picture
from insideout.errors import InsideoutError
from insideout.report.tables import FilmFacts, Key, Rectangle, Sighting

HEIGHT = 112  # pixels; the largest that most thumbnails get
PORTRAIT = 168
SMALL = 80  # where there is no room for all of them at their full size
#: Without stored crops so many frames are decoded again, the most telling first: each may cost a group of pictures.
FROM_FILM = 240
_HEAD_MARGIN = 0.25  # of the longer side of the head: enough to see ears and hands beside a face
_BOX_MARGIN = 0.04
_BLACK = 16  # a compressed bar is not quite black
_QUALITY, _SMALL_QUALITY = 78, 60

Picture = NDArray[np.uint8]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as WebP in base64, with its size in pixels."""

    data: str
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/webp;base64," + self.data


def find_pictures(
    facts: FilmFacts, wanted: Sequence[Sighting], crops: Mapping[Key, bytes], portraits: Collection[Key] = ()
) -> tuple[dict[Key, Thumbnail], str | None]:
    """Return a thumbnail per wanted sighting, and one sentence on why some are missing, if any are.

    `wanted` has the most telling first. A stored crop is used where there is one; of the rest the first
    `FROM_FILM` are cut from the film, provided that the file is where it was and still has the digest it
    was labelled with. `portraits` are larger. Never raises on a missing film.
    """
    pictures: dict[Key, Thumbnail] = {}
    missing: list[Sighting] = []
    for sighting in wanted:
        data = crops.get(sighting.key)
        crop = decode_picture(np.frombuffer(data, np.uint8)) if data else None
        if crop is None:
            missing.append(sighting)
        else:
            pictures[sighting.key] = thumbnail(_unpadded(crop), PORTRAIT if sighting.key in portraits else HEIGHT)
    if not missing:
        return pictures, None
    cut, why = _from_film(facts, missing[:FROM_FILM], portraits)
    pictures.update(cut)
    if why is None and len(missing) > FROM_FILM:
        _log.info("%s: no crops were stored; %d of %d frames are decoded again", facts.name, FROM_FILM, len(missing))
    return pictures, why


def within(pictures: Mapping[Key, Thumbnail], times: Mapping[Key, int], room: int) -> dict[Key, Thumbnail]:
    """The pictures that take at most `room` bytes of the page: all of them, else smaller ones, else the first of these.

    `times` says how often each stands in the page, the most telling first.
    """
    found = {key: pictures[key] for key in times if key in pictures}
    if sum(len(picture.data) * times[key] for key, picture in found.items()) <= room:
        return found
    kept: dict[Key, Thumbnail] = {}
    for key, picture in found.items():
        small = _smaller(picture)
        room -= len(small.data) * times[key]
        if room < 0:
            break
        kept[key] = small
    return kept


def thumbnail(picture: Picture, height: int = HEIGHT, quality: int = _QUALITY) -> Thumbnail:
    """Encode a picture uint8 [h, w, 3] RGB as WebP, at most `height` pixels high and twice as wide; never enlarged."""
    rows, columns = picture.shape[:2]
    scale = min(1.0, height / rows, 2 * height / columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    small = picture if scale == 1.0 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".webp", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode a picture of shape {picture.shape} as WebP")
    return Thumbnail(base64.b64encode(data.tobytes()).decode(), size[0], size[1])


def _unpadded(crop: Picture) -> Picture:
    """A stored crop without the black bars that made it square."""
    seen = crop.max(2) > _BLACK
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else crop


def _smaller(picture: Thumbnail) -> Thumbnail:
    """A thumbnail at three quarters of its size or less, whichever takes fewer bytes."""
    full = decode_picture(np.frombuffer(base64.b64decode(picture.data), np.uint8))
    if full is None:
        return picture
    small = thumbnail(full, SMALL * full.shape[0] // HEIGHT, _SMALL_QUALITY)
    return small if len(small.data) < len(picture.data) else picture


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


def _from_film(
    facts: FilmFacts, wanted: Sequence[Sighting], portraits: Collection[Key]
) -> tuple[dict[Key, Thumbnail], str | None]:
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
                    pictures[sighting.key] = thumbnail(part, PORTRAIT if sighting.key in portraits else HEIGHT)
    except (InsideoutError, OSError) as error:
        _log.info("cannot cut pictures from %s: %s", facts.path, error)
        return pictures, f"no crops were stored, and {facts.name} could not be read again as a video"
    if len(pictures) < len(wanted):
        return pictures, f"no crops were stored, and some frames of {facts.name} could not be decoded again"
    return pictures, None
