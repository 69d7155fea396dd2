"""Decode reels into spans of sampled pictures, with what there is to say about each frame on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from insideout import shots
from insideout.errors import UsageError
from insideout.film import Film, open_film
from insideout.pictures import pictures, pictures_around
from insideout.spans import Reel, Span, reel_of

_PLANAR = frozenset({"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"})


@dataclass(frozen=True, eq=False)
class SpanFrames:
    """The decoded frames of one span.

    ordinals: int32 [n], sampled frames, ascending. pts: int64 [n].
    pictures: uint8 [n,H,W,3] RGB, rotation applied; zeros where no usable picture came out.
    reasons: [n], None = to be labelled; `black` or `duplicate_of:<ordinal>` = dropped; `decode: ...` = failed.
    changes: float32 [end - start], `shots.change` of each frame to the one before; NaN for the first frame
    of the span if nothing before it was decoded here; 0 for failed frames, the next is compared across them.
    edges: uint8 [2,36,64,3], `shots.signature` of the first and last frame; of the nearest that did not fail
    where one failed; `shots.UNSEEN` if all did so far.
    """

    span: Span
    ordinals: NDArray[np.int32]
    pts: NDArray[np.int64]
    pictures: NDArray[np.uint8]
    reasons: tuple[str | None, ...]
    changes: NDArray[np.float32]
    edges: NDArray[np.uint8]


def decode(
    reel: Reel,
    *,
    threads: int = 1,
    broken: Mapping[int, str] | None = None,
    tell: Callable[[int], None] | None = None,
) -> Iterator[SpanFrames]:
    """Decode a reel in one pass; yield one SpanFrames for each of its spans, in order.

    `broken` are ordinals that the decoder does not survive, with the reason: from each of them to the end
    of its group of pictures frames fail with it, and decoding begins anew behind. `tell` is called with
    the ordinal of each frame before it is decoded.

    What is wrong with single frames becomes their reason. With `reel.keyframes_only` a key frame's change
    is that to the key frame before, and 0 for frames between, so that shots begin at key frames only.
    Raises FilmError where the file cannot be opened.
    """
    judge, painter = _Judge(reel), _Painter(reel, threads)
    outcomes = pictures_around(reel, broken or {}, threads=threads, tell=tell)
    held: tuple[int, VideoFrame | None, str | None] | None = next(outcomes, None)
    for span in reel.spans:
        ordinals = reel.samples[slice(*np.searchsorted(reel.samples, (span.start, span.end)))]
        places = {ordinal: i for i, ordinal in enumerate(ordinals.tolist())}
        rgb = np.zeros((len(ordinals), reel.height, reel.width, 3), np.uint8)
        reasons: list[str | None] = [None] * len(ordinals)
        changes = np.zeros(span.end - span.start, np.float32)
        first: NDArray[np.uint8] | None = None
        while held is not None and held[0] < span.start:
            judge.look(*held)
            held = next(outcomes, None)
        if judge.seen is None:
            changes[0] = np.nan
        while held is not None and held[0] < span.end:
            ordinal, frame, failure = held
            before, reason = judge.seen, judge.look(*held)
            if failure is None and judge.seen is not None:
                first = judge.seen if first is None else first
                if before is not None:
                    changes[ordinal - span.start] = shots.change(before, judge.seen)
            if ordinal in places:
                reasons[places[ordinal]] = reason
                if frame is not None and failure is None:
                    rgb[places[ordinal]] = painter.paint(frame)
            held = next(outcomes, None)
        last = shots.UNSEEN if judge.seen is None else judge.seen
        yield SpanFrames(
            span=span,
            ordinals=ordinals,
            pts=reel.pts[ordinals - reel.start],
            pictures=rgb,
            reasons=tuple(reasons),
            changes=changes,
            edges=np.stack([last if first is None else first, last]),
        )


def read_frames(
    path: str, ordinals: Sequence[int], *, film: Film | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (ordinal, uint8 [H,W,3] RGB picture) for some frames of a film, ascending, each once.

    film: the index of the film, if it is known already; else the file is opened and indexed.
    A frame that cannot be decoded is left out. Raises UsageError for an ordinal outside the film,
    FilmError where the file cannot be opened.
    """
    film = film or open_film(path)
    wanted = np.unique(np.asarray(ordinals, np.int64))
    if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < film.frames:
        raise UsageError(f"{path}: frames {wanted[0]} to {wanted[-1]} asked for, the film has 0 to {film.frames - 1}")
    groups = np.searchsorted(film.gops, wanted, side="right")
    for group in np.unique(groups):
        chosen = wanted[groups == group].astype(np.int32)
        reel = reel_of(film, chosen)
        painter = _Painter(reel, threads=1)
        asked = frozenset(chosen.tolist())
        for ordinal, frame, failure in pictures(reel):
            if ordinal in asked and frame is not None and failure is None:
                yield ordinal, painter.paint(frame).copy()


class _Judge:
    """Looks at every decoded frame of a reel in order; remembers what the next is compared with."""

    def __init__(self, reel: Reel) -> None:
        self._samples = frozenset(reel.samples.tolist())
        self._groups = frozenset(reel.groups)
        self._kept: tuple[int, NDArray[np.uint8]] | None = None
        self.seen: NDArray[np.uint8] | None = None

    def look(self, ordinal: int, frame: VideoFrame | None, failure: str | None) -> str | None:
        """Return the reason not to label a frame, None for none; `seen` is the signature of the last good one."""
        if ordinal in self._groups:
            # Duplicates are sought within a group of pictures only, because a reel can begin with any group.
            self._kept = None
        if frame is None or failure is not None:
            return failure
        luma, u, v, full_range = _planes(frame)
        thumb = shots.thumbnail(luma)
        self.seen = shots.signature(thumb, u, v)
        if ordinal not in self._samples:
            return None
        if shots.is_black(thumb, full_range=full_range):
            return "black"
        if self._kept is not None and shots.is_duplicate(self._kept[1], thumb):
            return f"duplicate_of:{self._kept[0]}"
        self._kept = (ordinal, thumb)
        return None


def _planes(frame: VideoFrame) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], bool]:
    """Return the 8-bit luma and chroma planes of a frame, as it is where possible, and if it is full range."""
    full_range = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    if frame.format.name not in _PLANAR:
        frame = frame.reformat(format="yuv420p")
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8, count=plane.line_size * plane.height)
        planes.append(rows.reshape(plane.height, plane.line_size)[:, : plane.width])
    return planes[0], planes[1], planes[2], full_range


class _Painter:
    """Turns decoded frames into RGB pictures as the film stores them; keeps the converter between frames."""

    def __init__(self, reel: Reel, threads: int) -> None:
        self._turns = reel.rotation // 90
        self._sides = reel.stored
        self._threads = threads
        self._reformatter = VideoReformatter()

    def paint(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return uint8 [H,W,3], rotated: copy to keep."""
        width, height = self._sides
        plane = self._reformatter.reformat(frame, width, height, "rgb24", threads=self._threads).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8, count=plane.line_size * height)
        picture = rows.reshape(height, plane.line_size)[:, : width * 3].reshape(height, width, 3)
        return np.rot90(picture, self._turns)
