"""Films: open and probe a video file, index its frames by time stamp, say which ones to look at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from insideout.errors import FilmError, StorageError, UsageError
from insideout.index import Index, decode_index, decoded, read_index
from insideout.objects import RangedFile, check_read, is_url, said, storage_errors

_CHUNK = 16 * 1024 * 1024

MOST_PIXELS = 1 << 26
"""Pixels of a picture of a film at most, twice as many as 8K has: a span holds eight pictures at least."""

#: ffmpeg's names of the containers that are read. A playlist or a list of files is not among them: it would
#: have ffmpeg open other files and addresses, whatever its name says it is.
_FORMATS = (
    "apng,asf,av1,avi,dv,flv,gif,gxf,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,vc1,"
    "webm,wtv,yuv4mpegpipe"
)


@dataclass(frozen=True, eq=False)
class Film:
    """One video stream of one file, probed and indexed.

    path: local path or fsspec URL as given; film: the first 16 hex digits of sha256; bytes: size.
    width, height: pixels of the stored picture after rotation. rotation: degrees counter-clockwise to
    apply, 0, 90, 180 or 270. time_base: seconds per pts unit. fps: average frame rate.
    pts: int64 [frames], ascending, by ordinal. keyframes: int32 ordinals of key frames, ascending.
    counted: whether the file's time stamps do not tell its frames apart (two have the same, or they count
    packets and not pictures, as in AVI with B-frames). Then frames are told by counting them from the first
    on, so that the film is decoded in one reel, and pts may repeat.
    gaps: int32 ordinals, ascending, of frames that may be predicted from data that is missing or damaged.
    """

    path: str
    film: str
    sha256: str
    bytes: int
    width: int
    height: int
    rotation: int
    time_base: Fraction
    fps: Fraction
    codec: str
    pts: NDArray[np.int64]
    keyframes: NDArray[np.int32]
    counted: bool = False
    gaps: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def frames(self) -> int:
        """The number of frames in the film, sampled or not."""
        return len(self.pts)

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last, for display only."""
        return float((int(self.pts[-1]) - int(self.pts[0])) * self.time_base + 1 / self.fps)

    def time_s(self, ordinal: int) -> float:
        """Seconds from the first frame to this one, for display only."""
        return float((int(self.pts[ordinal]) - int(self.pts[0])) * self.time_base)

    @cached_property
    def gops(self) -> NDArray[np.int32]:
        """Ordinals from which decoding can begin, where groups of pictures start, 0 first: int32 [groups]."""
        if self.counted:
            return np.zeros(1, np.int32)
        return np.union1d(np.zeros(1, np.int32), self.keyframes).astype(np.int32)


@dataclass(frozen=True)
class Sampling:
    """Which frames to look at: every n-th ordinal, a rate in frames per second, or the key frames.

    Exactly one holds; `fps` and `keyframes` win over the default of `every`.
    """

    every: int | None = 4
    fps: Fraction | None = None
    keyframes: bool = False

    def __post_init__(self) -> None:
        if self.keyframes and self.fps is not None:
            raise UsageError("sampling by rate and by key frames exclude each other; choose one")
        if self.fps is not None or self.keyframes:
            object.__setattr__(self, "every", None)
            if self.fps is not None and self.fps <= 0:
                raise UsageError(f"sampling at {self.fps} frames per second: the rate must be above 0")
        elif self.every is None or self.every < 1:
            raise UsageError(f"sampling every {self.every} frames: the step must be 1 or more")

    def __str__(self) -> str:
        if self.keyframes:
            return "keyframes"
        return f"every:{self.every}" if self.fps is None else f"fps:{self.fps}"

    @classmethod
    def parse(cls, text: str) -> Sampling:
        """Read what `str` writes: `every:4`, `fps:2`, `fps:24000/1001`, `keyframes`; else UsageError."""
        kind, _, value = text.partition(":")
        try:
            if kind == "keyframes" and not value:
                return cls(keyframes=True)
            if kind == "every":
                return cls(every=int(value))
            if kind == "fps":
                return cls(fps=Fraction(value))
        except (ValueError, ZeroDivisionError):
            pass
        raise UsageError(f"sampling '{text}' is not understood; write every:4, fps:2 or keyframes")

    def ordinals(self, film: Film) -> NDArray[np.int32]:
        """Return the ordinals to look at, int32, ascending, without repeats.

        At a rate, that is the frame shown at 0, 1/fps, 2/fps ... seconds after the first frame.
        """
        if self.keyframes:
            return film.keyframes.astype(np.int32)
        if self.fps is None:
            return np.arange(0, film.frames, self.every, dtype=np.int32)
        step = 1 / (self.fps * film.time_base)
        # How many of these times lie before each frame: counted, not listed, since a file may claim to last for
        # ages. Python integers: the products do not fit 64 bits for a long film with a fine time base.
        since = [pts - int(film.pts[0]) for pts in film.pts.tolist()]
        before = [-(-pts * step.denominator // step.numerator) for pts in since]
        before.append(since[-1] * step.denominator // step.numerator + 1)
        return np.flatnonzero([a < b for a, b in pairwise(before)]).astype(np.int32)


def open_film(path: str, *, known: tuple[str, int] | None = None) -> Film:
    """Probe and index a film, without decoding more than one frame where packets tell which frames there are.

    path: local path or fsspec URL. known: sha256 and size, if they are known already. The file is read twice:
    once for its sha256 unless that is known, once for its packets. Films are decoded for their index where
    packets may be half frames (field-coded H.264) or lack time stamps.
    Raises FilmError: missing, not a video, no video stream, zero frames, no time stamps, or such as go back.
    """
    sha256, size = known or digest(path)
    if size == 0:
        raise FilmError(f"{path}: the file is empty; copy or download it again")
    index = _indexed(path, size)
    with open_video(path) as (container, stream):
        first = _first_frame(container, stream, path)
        rotation = round(first.rotation / 90) % 4 * 90
        sides = (first.width, first.height)
        width, height = sides if rotation % 180 == 0 else sides[::-1]
        return Film(
            path=path,
            film=sha256[:16],
            sha256=sha256,
            bytes=size,
            width=width,
            height=height,
            rotation=rotation,
            time_base=_fraction(stream.time_base, path),
            fps=Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or 25),
            codec=stream.codec_context.name,
            pts=index.pts,
            keyframes=index.keyframes,
            counted=index.counted,
            gaps=index.gaps,
        )


@contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a film and its first video stream that is not a cover picture; FilmError if there is none."""
    handle: RangedFile | None = None
    try:
        source: Any = path
        if is_url(path):
            handle = source = RangedFile(path)
        else:
            # Whole, so that nothing of a name is taken for a protocol of ffmpeg, such as `concat:`.
            source = os.path.abspath(path)
        container = av.open(source, options={"format_whitelist": _FORMATS})
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FilmError(f"{path}: no such file; check the path") from error
    except av.error.ArgumentError as error:
        if handle is not None:
            handle.close()
        raise FilmError(
            f"{path}: not a film but another kind of file, such as text, a picture or a playlist"
        ) from error
    except storage_errors(FFmpegError, ValueError, ImportError) as error:
        if handle is not None:
            handle.close()
            if handle.failure is not None:
                why = said(handle.failure)
                raise StorageError(f"{path}: cannot be read ({why}); check it and run again") from error
        raise FilmError(f"{path}: not a video that can be opened ({said(error)})") from error
    try:
        # ffmpeg renders any text file as a film of a terminal.
        decodable = [s for s in container.streams.video if s.codec_context is not None]
        pictures = [s for s in decodable if s.codec_context.name != "ansi"]
        moving = [s for s in pictures if not s.disposition & av.stream.Disposition.attached_pic]
        if not moving:
            raise FilmError(f"{path}: no video stream; choose a file with moving pictures")
        if moving[0].width * moving[0].height > MOST_PIXELS:
            raise FilmError(
                f"{path}: its pictures have {moving[0].width}x{moving[0].height} pixels, more than {MOST_PIXELS:,};"
                " make them smaller first: ffmpeg -i FILM -vf scale=3840:-2 SMALLER.mp4"
            )
        # Pictures may become larger in the middle of a film: then they are not decoded.
        moving[0].codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        try:
            yield container, moving[0]
        finally:
            check_read(container, path)
    finally:
        container.close()
        if handle is not None:
            handle.close()


def digest(path: str) -> tuple[str, int]:
    """The sha256 of a file, hex, and its bytes; FilmError or StorageError where it cannot be read."""
    found, size = hashlib.sha256(), 0
    try:
        with RangedFile(path, block_bytes=_CHUNK) if is_url(path) else open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
                size += len(chunk)
    except FileNotFoundError as error:
        raise FilmError(f"{path}: no such file; check the path") from error
    except storage_errors(ValueError, ImportError) as error:
        if size:
            raise StorageError(f"{path}: cannot be read further ({said(error)}); check it and run again") from error
        kind = "a folder, not a film" if not is_url(path) and os.path.isdir(path) else f"cannot be read ({said(error)})"
        raise FilmError(f"{path}: {kind}") from error
    return found.hexdigest(), size


def _indexed(path: str, size: int) -> Index:
    with open_video(path) as (container, stream):
        index = read_index(container, stream, path, size=size)
    for threads in (0, 1):
        if index is None:
            with open_video(path) as (container, stream):
                index = decode_index(container, stream, path, threads=threads)
    if index is None or not len(index.pts):
        raise FilmError(f"{path}: the video stream has zero frames; was the recording cut off?")
    return index


def _first_frame(container: InputContainer, stream: VideoStream, path: str) -> VideoFrame:
    for frame in decoded(container, stream):
        return frame
    raise FilmError(f"{path}: no picture of the {stream.codec_context.name} stream can be decoded")


def _fraction(value: Fraction | None, path: str) -> Fraction:
    if not value:
        raise FilmError(f"{path}: the video stream has no time base; put it into another container")
    return Fraction(value)
