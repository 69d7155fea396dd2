"""A contact sheet: a picture of each shot with its labels drawn, its time, and who is read as what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from insideout.decode import read_frames
from insideout.messages import printable
from insideout.render.drawing import Drawing, Picture, font_of
from insideout.render.source import FilmSource
from insideout.report.words import timecode
from insideout.shown import FAILED, UNSEEN, Figure, Shot
from insideout.stats.screen import UNCERTAIN

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
COLUMNS, ROWS = 6, 8
HEIGHT = 150
"""Lines of each picture unless asked for otherwise."""

_PAGE, _INK, _SOFT, _EMPTY = (251, 250, 247), (29, 31, 36), (91, 96, 107), (222, 219, 211)
_WHY = {FAILED: "failed", UNSEEN: "not looked at"}
_MOST = 3  # figures named below a picture
_QUALITY = 84


@dataclass(frozen=True)
class Tile:
    """A shot of the sheet: the frame that stands for it, its figures, and `why` there are none."""

    shot: Shot
    ordinal: int
    time: float
    figures: list[Figure]
    why: str


def tiles(source: FilmSource, clip: tuple[Fraction, Fraction | None] | None = None) -> list[Tile]:
    """One tile for each shot, in order; with a clip, for each shot of which a frame is in it.

    The frame is that of the shot with somebody on screen which is nearest to its middle, else the one in its middle.
    """
    ordinals, shown = source.within(clip), source.shown
    labelled = shown.source_of(ordinals)
    found = []
    for shot in shown.shots:
        inside = (ordinals >= shot.start_ordinal) & (ordinals < shot.end_ordinal)
        if not inside.any():
            continue
        own, read = ordinals[inside], labelled[inside]
        # A sampled frame rather than one it stands for: there the mask fits.
        for among in (own[np.isin(own, shown.ordinals) & (read >= 0)], own[read >= 0], own):
            if len(among):
                middle = (int(own[0]) + int(own[-1])) / 2
                ordinal = int(among[np.argmin(np.abs(among - middle))])
                break
        at = int(read[int(np.searchsorted(own, ordinal))])
        figures = shown.rows(at, at) if at >= 0 else []
        found.append(Tile(shot, ordinal, source.film.time_s(ordinal), figures, _WHY.get(at, "nobody")))
    return found


def sheets(
    source: FilmSource,
    drawing: Drawing,
    found: Sequence[Tile],
    *,
    title: str,
    emotions: Sequence[str],
    height: int | None = None,
    tell: Callable[[int], None] | None = None,
) -> Iterator[Picture]:
    """Draw the pages, `COLUMNS` by `ROWS` shots each, one after the other: uint8 [H,W,3], blue, green, red.

    `tell` is called with 1 after each shot. One page is in memory at a time.
    """
    pages = [found[at : at + COLUMNS * ROWS] for at in range(0, len(found), COLUMNS * ROWS)]
    width, lines = source.sides(height or HEIGHT)
    for number, part in enumerate(pages, 1):
        page = _Page(width, lines, part, drawing)
        of = f", page {number} of {len(pages)}" if len(pages) > 1 else ""
        page.head(
            f"{printable(title, keep='')}: {len(found)} shot{'' if len(found) == 1 else 's'}{of}",
            emotions,
            source.attribution,
        )
        by_ordinal = {tile.ordinal: place for place, tile in enumerate(part)}
        for ordinal, picture in read_frames(source.film.path, sorted(by_ordinal), film=source.film):
            small = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (width, lines), interpolation=cv2.INTER_AREA)
            figures = part[by_ordinal[ordinal]].figures
            page.picture(by_ordinal[ordinal], drawing.draw(small.astype(np.uint8), figures))
        for place, tile in enumerate(part):
            page.caption(place, tile)
            if tell is not None:
                tell(1)
        yield page.done()


def encode(picture: Picture, suffix: str) -> bytes:
    """The bytes of a picture file of this kind."""
    options = {".webp": [cv2.IMWRITE_WEBP_QUALITY, _QUALITY], ".png": [cv2.IMWRITE_PNG_COMPRESSION, 9]}
    done, data = cv2.imencode(suffix, picture, options.get(suffix, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]))
    if not done:
        raise ValueError(f"cannot encode a picture of shape {picture.shape} as {suffix}")
    return bytes(data.tobytes())


class _Page:
    """One page while it is drawn; letters in proportion to the pictures."""

    def __init__(self, width: int, height: int, found: Sequence[Tile], drawing: Drawing) -> None:
        self._width, self._height, self._drawing = width, height, drawing
        self._letter = max(11, round(height / 12))
        self._font = font_of(self._letter)
        self._gap, self._line = self._letter, round(1.35 * self._letter)
        self._top = self._gap + round(2.6 * self._line) + self._line
        # A row is as high as the longest of its captions.
        self._tops = [self._top]
        for at in range(0, len(found), COLUMNS):
            named = [max(1, len(tile.figures)) for tile in found[at : at + COLUMNS]]
            self._tops.append(self._tops[-1] + height + (2 + min(_MOST, max(named))) * self._line)
        self._image = Image.new("RGB", (self._gap + COLUMNS * (width + self._gap), self._tops[-1]), _PAGE)
        self._pen, self._painted = ImageDraw.Draw(self._image), set[int]()

    def head(self, title: str, emotions: Sequence[str], attribution: str | None) -> None:
        """The title, whose film it is, and the colours of the emotions."""
        x, y = self._gap, self._gap
        self._pen.text((x, y), title, fill=_INK, font=font_of(round(1.4 * self._letter)))
        if attribution:
            y_at = y + round(0.25 * self._line)
            self._pen.text((self._image.width - self._gap, y_at), attribution, fill=_SOFT, font=self._font, anchor="ra")
        y += round(2 * self._line)
        for emotion in [name for name in dict.fromkeys(emotions) if name != UNCERTAIN] + [UNCERTAIN]:
            x = self._chip(x, y, emotion, printable(emotion, keep="")) + 2 * self._gap

    def picture(self, place: int, picture: npt.NDArray[np.uint8]) -> None:
        """Put a picture at its place."""
        self._painted.add(place)
        self._image.paste(Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)), self._at(place))

    def caption(self, place: int, tile: Tile) -> None:
        """The number of the shot, the time of its picture, and who is read as what."""
        x, y = self._at(place)
        if place not in self._painted:  # a picture that could not be decoded
            self._pen.rectangle((x, y, x + self._width - 1, y + self._height - 1), fill=_EMPTY)
        y += self._height + self._line // 4
        time = timecode(tile.time)
        self._pen.text((x, y), f"shot {tile.shot.shot}", fill=_INK, font=self._font)
        self._pen.text((x + self._width, y), time, fill=_SOFT, font=self._font, anchor="ra")
        if not tile.figures:
            self._pen.text((x, y + self._line), tile.why, fill=_SOFT, font=self._font)
            return
        figures = sorted(tile.figures, key=lambda figure: -figure.box[2] * figure.box[3])
        for line, figure in enumerate(figures[:_MOST], 1):
            text, emotion = self._drawing.words(figure)
            if line == _MOST and len(figures) > _MOST:
                text += f"  +{len(figures) - _MOST}"
            self._chip(x, y + line * self._line, emotion, text)

    def done(self) -> Picture:
        """The page."""
        return cv2.cvtColor(np.asarray(self._image), cv2.COLOR_RGB2BGR).astype(np.uint8)

    def _at(self, place: int) -> tuple[int, int]:
        row, column = divmod(place, COLUMNS)
        return self._gap + column * (self._width + self._gap), self._tops[row]

    def _chip(self, x: int, y: int, emotion: str, text: str) -> int:
        """A square in the colour of an emotion with a text beside it; returns where that ends."""
        side = round(0.8 * self._letter)
        self._pen.rectangle(
            (x, y + side // 5, x + side, y + side // 5 + side), fill=self._drawing.colour(emotion)[::-1]
        )
        while text and self._pen.textlength(text, font=self._font) > self._width - 2 * side:
            text = text[:-2] + "…" if len(text) > 2 else ""
        self._pen.text((x + round(1.6 * side), y), text, fill=_INK, font=self._font)
        return x + round(1.6 * side) + round(self._pen.textlength(text, font=self._font))
