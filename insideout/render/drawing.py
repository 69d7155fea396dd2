"""Draw labels over a picture: masks and outlines in the colour of the emotion, and a line of text each.

The colours are those of the report. supervision's annotators draw, in blue, green and red as OpenCV has it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv
from PIL import Image, ImageDraw, ImageFont

from insideout.errors import UsageError
from insideout.messages import shown
from insideout.report.colours import DOUBT, ON, PALETTE
from insideout.shown import Figure
from insideout.stats.screen import UNCERTAIN

Picture = npt.NDArray[np.uint8]

SHOWS = ("names", "emotions", "certainty", "masks", "tracks", "boxes", "heads", "times")
USUAL = ("names", "emotions", "certainty", "masks")

_OPACITY = 0.38
_WARNING = (31, 137, 230)  # blue, green, red


def parse_show(text: str) -> tuple[str, ...]:
    """Read a list such as `names,masks`; raises UsageError for what cannot be shown."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if wrong := [name for name in names if name not in SHOWS]:
        raise UsageError(f"--show {wrong[0]}: not known; choose of {', '.join(SHOWS)}")
    return tuple(dict.fromkeys(names))


class Drawing:
    """Draws the labels of one run; pictures are uint8 [H,W,3], blue, green, red, and may be of any size."""

    def __init__(self, emotions: Sequence[str], show: Collection[str] = USUAL, *, fused: bool = False) -> None:
        """`emotions` in the order of the pack, which their colours follow; `fused`: those of tracks, not of frames."""
        self._names = [name for name in dict.fromkeys(emotions) if name != UNCERTAIN]
        colours = [PALETTE[i % len(PALETTE)] for i in range(len(self._names))] + [DOUBT]
        letters = [ON[i % len(ON)] for i in range(len(self._names))] + ["#0c0d0f"]
        self._palette, self._letters = sv.ColorPalette.from_hex(colours), sv.ColorPalette.from_hex(letters)
        self._show, self._fused = frozenset(show), fused
        self._height = 0
        self._last: tuple[tuple[Figure, ...], tuple[int, int], sv.Detections, list[str]] | None = None

    @property
    def shows_time(self) -> bool:
        """Whether something is drawn over every frame."""
        return "times" in self._show

    def colour(self, emotion: str) -> tuple[int, int, int]:
        """The colour of an emotion in blue, green, red."""
        found: tuple[int, int, int] = self._palette.by_idx(self._index(emotion)).as_bgr()
        return found

    def draw(self, picture: Picture, figures: Sequence[Figure], *, note: str | None = None, time: str = "") -> Picture:
        """Return the picture with the labels of its figures, a warning where they are not known, and the time.

        Boxes and masks are those of the stored picture, whatever size this one has.
        """
        self._fit(picture.shape[0])
        drawn: Picture = np.array(picture, np.uint8, order="C")
        if figures:
            detections, labels = self._detections(tuple(figures), (picture.shape[1], picture.shape[0]))
            if "masks" in self._show and detections.mask is not None:
                drawn = self._masks.annotate(drawn, detections)
                drawn = self._outlines.annotate(drawn, detections)
            if "boxes" in self._show:
                drawn = self._boxes.annotate(drawn, detections)
            if "heads" in self._show:
                self._draw_heads(drawn, figures)
            if any(labels):
                drawn = np.asarray(self._texts.annotate(drawn, detections, labels=labels), np.uint8)
        if note is not None:
            cv2.rectangle(drawn, (0, 0), (drawn.shape[1] - 1, drawn.shape[0] - 1), _WARNING, 2 * self._line + 1)
            drawn = self.badge(drawn, note, _WARNING, right=False)
        if time and self.shows_time:
            drawn = self.badge(drawn, time, (235, 235, 235), right=True)
        return drawn

    def badge(self, picture: Picture, text: str, colour: tuple[int, int, int], *, right: bool) -> Picture:
        """Write a line into an upper corner, black on a colour."""
        image = Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        pen, font = ImageDraw.Draw(image), font_of(self._letter)
        pad = self._letter // 3
        left, top, end, bottom = pen.textbbox((0, 0), text, font=font)
        x = image.width - (end - left) - 3 * pad if right else pad
        pen.rectangle((x, pad, x + end - left + 2 * pad, pad + bottom - top + 2 * pad), fill=colour[::-1])
        pen.text((x + pad - left, 2 * pad - top), text, fill=(16, 16, 16), font=font)
        return cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR).astype(np.uint8)

    def label(self, figure: Figure) -> str:
        """What is written at a figure: `Bunny #3 Happy 63 %`."""
        parts = [shown(figure.character)] if "names" in self._show else []
        if "tracks" in self._show:
            parts.append(f"#{figure.track}")
        reading = figure.track_emotion if self._fused else figure.emotion
        if "emotions" in self._show:
            parts.append(shown(reading))
        # It is that of the most probable emotion of the frame, which is not said where it is uncertain or the track's.
        if "certainty" in self._show and not self._fused and reading != UNCERTAIN:
            parts.append(f"{100 * figure.certainty:.0f} %")
        return "  ".join(parts)

    def words(self, figure: Figure) -> tuple[str, str]:
        """Name and emotion of a figure in words, and the emotion that its colour is of."""
        reading = self._reading(figure)
        return f"{shown(figure.character)}  {shown(reading)}", reading

    def _fit(self, height: int) -> None:
        """Letters and lines in proportion to the picture."""
        if height == self._height:
            return
        self._height, self._line, self._letter = height, max(1, round(height / 360)), max(10, round(height / 34))
        self._masks = sv.MaskAnnotator(self._palette, opacity=_OPACITY)
        self._outlines = sv.PolygonAnnotator(self._palette, thickness=self._line)
        self._boxes = sv.BoxAnnotator(self._palette, thickness=self._line)
        self._texts = sv.RichLabelAnnotator(
            self._palette, text_color=self._letters, font_size=self._letter, text_padding=max(2, self._letter // 3),
            border_radius=self._letter // 4, smart_position=True,
        )  # fmt: skip

    def _detections(self, figures: tuple[Figure, ...], size: tuple[int, int]) -> tuple[sv.Detections, list[str]]:
        # Most frames show what the one before showed; then nothing is decoded again.
        if self._last is None or self._last[:2] != (figures, size):
            boxes, masks = [], []
            for figure in figures:
                x, y, w, h = figure.box
                across, down = size[0] / (figure.mask_w or size[0]), size[1] / (figure.mask_h or size[1])
                boxes.append((x * across, y * down, (x + w) * across, (y + h) * down))
                mask = figure.mask()
                if mask.shape != size[::-1]:
                    whole = mask.astype(np.uint8) if mask.size else np.zeros((1, 1), np.uint8)
                    mask = cv2.resize(whole, size, interpolation=cv2.INTER_NEAREST).astype(bool)
                masks.append(mask)
            detections = sv.Detections(
                xyxy=np.array(boxes, np.float32),
                mask=np.stack(masks),
                class_id=np.array([self._index(self._reading(figure)) for figure in figures]),
            )
            self._last = figures, size, detections, [self.label(figure) for figure in figures]
        return self._last[2], self._last[3]

    def _draw_heads(self, picture: Picture, figures: Sequence[Figure]) -> None:
        for figure in figures:
            if figure.head is not None and figure.mask_w and figure.mask_h:
                x, y, w, h = figure.head
                across, down = picture.shape[1] / figure.mask_w, picture.shape[0] / figure.mask_h
                middle = (round((x + w / 2) * across), round((y + h / 2) * down))
                axes = (max(1, round(w / 2 * across)), max(1, round(h / 2 * down)))
                cv2.ellipse(
                    picture, middle, axes, 0, 0, 360, self.colour(self._reading(figure)), self._line, cv2.LINE_AA
                )

    def _reading(self, figure: Figure) -> str:
        return figure.track_emotion if self._fused else figure.emotion

    def _index(self, emotion: str) -> int:
        return self._names.index(emotion) if emotion in self._names else len(self._names)


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which needs no file."""
    return ImageFont.load_default(size)
