"""Write a film again with its labels drawn: every frame at its time, the sound as it was.

The time stamps of frames are those of the source, in its time base. Packets of sound are copied. A clip
begins at 0: its frames keep their distances, and its sound is moved by the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from insideout.errors import StorageError, UsageError
from insideout.film import open_video
from insideout.pictures import pictures
from insideout.render.drawing import Drawing, Picture
from insideout.render.source import FilmSource
from insideout.report.words import timecode
from insideout.shown import FAILED, UNSEEN, Figure
from insideout.spans import reel_of

ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""Tried in this order: what FFmpeg is built with differs."""
SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv")
CRF = 20

_OPTIONS = {"libx264": {"preset": "veryfast", "crf": str(CRF)}, "mpeg4": {"q": "3"}, "libopenh264": {}}
_JPEG, _MPEG = 2, 1
#: So that colours come back as they were: without it luma loses up to 2 of 255 on the way.
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class _Mark(Enum):
    """Why a frame is marked, as it is written into the picture."""

    FAILED = "not labelled: this frame failed"
    UNSEEN = "not labelled: this shot was not looked at"
    LOST = "not decoded: the picture before"
    DAMAGED = "damaged picture"


@dataclass(frozen=True)
class Rendered:
    """What was written, and notes for the user.

    Of the `frames`, `unknown` are marked since they failed or could not be decoded, and `unseen` since no frame of
    their shot was looked at.
    """

    frames: int
    unknown: int
    unseen: int
    width: int
    height: int
    encoder: str
    sounds: int
    notes: tuple[str, ...]


def render_film(
    source: FilmSource,
    drawing: Drawing,
    out: Path,
    *,
    clip: tuple[Fraction, Fraction | None] | None = None,
    height: int | None = None,
    begin: Callable[[int], None] | None = None,
    tell: Callable[[int], None] | None = None,
) -> Rendered:
    """Draw the labels over the frames of a film, or of a clip of it, and write them to `out` with the sound.

    Without `height` pictures keep their size, pixels their shape; with it they are scaled to that many lines of
    square pixels. A rotated film is written upright. A frame that cannot be decoded repeats the picture before it,
    marked. `begin` is called with the number of frames, `tell` with 1 after each.

    Raises UsageError for a container that cannot hold the film or its sound, or a clip without frames.
    """
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"--out: a film of the kind '{suffix}' is not written; choose {', '.join(SUFFIXES)}")
    ordinals = source.within(clip)
    if begin is not None:
        begin(len(ordinals))
    with ExitStack() as stack:
        target = _Target(source, ordinals, out, moved=clip is not None, height=height, stack=stack)
        frames = _drawn(source, drawing, ordinals, target)
        marked = dict.fromkeys(_Mark, 0)
        try:
            for frame, mark in frames:
                if mark is not None:
                    marked[mark] += 1
                target.write(frame)
                if tell is not None:
                    tell(1)
            target.finish()
        except FFmpegError as error:
            if isinstance(error, OSError) and error.errno and 0 < error.errno < 200:
                raise StorageError(f"the film cannot be written ({error.strerror}); check folder and space") from error
            raise UsageError(f"a {suffix} file cannot hold this film ({error.strerror}); try --out FILE.mkv") from error
        unseen = marked.pop(_Mark.UNSEEN)
        return Rendered(
            len(ordinals),
            sum(marked.values()),
            unseen,
            *target.sides,
            target.encoder,
            len(target.sounds),
            tuple(target.notes),
        )


class _Target:
    """The film that is written: its video stream, and the sound that is copied beside it as time goes on."""

    def __init__(
        self, source: FilmSource, ordinals: npt.NDArray[np.int64], out: Path, *, moved: bool, height: int | None,
        stack: ExitStack,
    ) -> None:  # fmt: skip
        film = source.film
        self.notes: list[str] = []
        self.scaled = height is not None
        self.sides = source.sides(height) if self.scaled else (film.width, film.height)
        self.base, stamps = film.time_base, film.pts
        if film.frames > 1 and int(np.diff(film.pts).min()) <= 0:
            self.base, stamps = 1 / film.fps, np.arange(film.frames, dtype=np.int64)
            self.notes.append("time stamps of the film do not tell its frames apart: they are written at its mean rate")
        self._first = int(stamps[ordinals[0]]) if moved else 0
        self.pts = (stamps[ordinals] - self._first).tolist()
        self._stamps, self._done = stamps, 0
        self._container: OutputContainer = stack.enter_context(
            av.open(str(out), "w", options=_muxing(out.suffix.lower(), self.base))
        )
        reader, video = stack.enter_context(open_video(film.path))
        self._begin = int(film.pts[ordinals[0]]) * film.time_base if moved else None
        last = int(ordinals[-1]) + 1
        self._end = int(film.pts[last]) * film.time_base if moved and last < film.frames else None
        self.encoder, self._video = _video_stream(self._container, source, video, self.sides, self.scaled, self.base)
        self.format = str(self._video.pix_fmt)
        self.sounds = self._sound_streams(reader, out)
        self._packets = self._sound_packets(reader, video)
        self._next = next(self._packets, None)
        if source.attribution:
            self._container.metadata["copyright"] = source.attribution
        self._container.metadata["comment"] = "labels drawn by insideout"

    def write(self, frame: VideoFrame) -> None:
        """Encode the next frame, and copy the sound up to it."""
        place = self._done
        frame.pts, frame.time_base = self.pts[place], self.base
        following = self.pts[place + 1] if place + 1 < len(self.pts) else None
        if following is not None:
            frame.duration = following - self.pts[place]
        frame.pict_type = 0  # the encoder's choice, not the source's
        self._copy_sound(self.pts[place] * self.base)
        self._container.mux(self._video.encode(frame))
        self._done += 1

    def finish(self) -> None:
        """Write what the encoder and the sound still hold."""
        self._container.mux(self._video.encode())
        self._copy_sound(None)

    def _sound_streams(self, reader: InputContainer, out: Path) -> dict[int, Any]:
        found = {}
        for stream in reader.streams.audio:
            try:
                found[stream.index] = self._container.add_stream_from_template(stream)
            except ValueError as error:
                codec = stream.codec_context.name
                raise UsageError(
                    f"a {out.suffix} file cannot hold sound of the codec {codec}; --out FILE.mkv can"
                ) from error
            for key in ("language", "title"):
                if key in stream.metadata:
                    found[stream.index].metadata[key] = stream.metadata[key]
        return found

    def _sound_packets(self, reader: InputContainer, video: VideoStream) -> Iterator[tuple[Fraction, Packet[Any]]]:
        """Packets of sound within the clip, each with the time at which it is due in the output."""
        if not self.sounds:
            return
        streams = [reader.streams[index] for index in self.sounds]
        if self._begin is not None and self._begin > 2:
            reader.seek(int((self._begin - 2) / Fraction(video.time_base or 1)), stream=video, backward=True)
        over: set[int] = set()
        for packet in reader.demux(streams):
            if not packet.size or packet.dts is None or packet.pts is None:
                continue
            base, index = Fraction(packet.time_base), packet.stream.index
            start, end = packet.pts * base, (packet.pts + (packet.duration or 0)) * base
            if self._end is not None and start >= self._end:
                over.add(index)
                if len(over) == len(streams):
                    return
                continue
            if self._begin is not None:
                if end <= self._begin:
                    continue
                shift = round(self._begin / base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                start -= self._begin
            packet.stream = self.sounds[index]
            yield start, packet

    def _copy_sound(self, until: Fraction | None) -> None:
        while self._next is not None and (until is None or self._next[0] <= until):
            self._container.mux(self._next[1])
            self._next = next(self._packets, None)


def _muxing(suffix: str, base: Fraction) -> dict[str, str]:
    if suffix == ".mkv":
        return {}
    # Else MP4 rounds the start of a film to milliseconds, and time stamps to a base of its own.
    scale = str(base.denominator)
    return {"movflags": "+faststart", "video_track_timescale": scale, "movie_timescale": scale}


def _video_stream(
    container: OutputContainer,
    source: FilmSource,
    video: VideoStream,
    sides: tuple[int, int],
    scaled: bool,
    base: Fraction,
) -> tuple[str, VideoStream]:
    for name in ENCODERS:
        try:
            codec = av.codec.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        stream = container.add_stream(name, rate=source.film.fps.limit_denominator(100_000), options=_OPTIONS[name])
        assert isinstance(stream, VideoStream)
        context, given = stream.codec_context, video.codec_context
        stream.width, stream.height = sides
        wanted = given.pix_fmt or "yuv420p"
        formats = [format.name for format in codec.video_formats or ()]
        odd = sides[0] % 2 or sides[1] % 2
        stream.pix_fmt = (
            wanted if wanted in formats and not (odd and "420" in wanted) else "yuv444p" if odd else "yuv420p"
        )
        context.time_base = base
        context.sample_aspect_ratio = Fraction(1) if scaled else source.pixel
        context.color_range, context.colorspace = given.color_range, given.colorspace
        context.color_primaries, context.color_trc = given.color_primaries, given.color_trc
        context.thread_count = len(os.sched_getaffinity(0))
        return name, stream
    raise UsageError(f"this FFmpeg has none of the encoders {', '.join(ENCODERS)}; install PyAV from PyPI")


def _drawn(
    source: FilmSource, drawing: Drawing, ordinals: npt.NDArray[np.int64], target: _Target
) -> Iterator[tuple[VideoFrame, _Mark | None]]:
    """Yield each frame, drawn, and how it is marked, None where it is not."""
    film, shown = source.film, source.shown
    reel = reel_of(film, ordinals.astype(np.int32))
    sources = shown.source_of(ordinals).tolist()
    painter = _Painter(source, target)
    first, at = int(ordinals[0]), UNSEEN
    figures: list[Figure] = []
    before: VideoFrame | None = None
    for ordinal, frame, failure in pictures(reel, threads=len(os.sched_getaffinity(0))):
        if ordinal < first:
            continue
        labelled = sources[ordinal - first]
        if labelled != at:
            at, figures = labelled, shown.rows(labelled, labelled) if labelled >= 0 else []
        if frame is not None and frame.width and (frame.width, frame.height) != reel.stored:
            frame = None
        mark = {FAILED: _Mark.FAILED, UNSEEN: _Mark.UNSEEN}.get(labelled)
        if frame is None:
            mark = _Mark.LOST
        elif failure is not None:
            mark = _Mark.DAMAGED
        if frame is not None and not (figures or mark or drawing.shows_time) and painter.fits(frame):
            before = frame
            yield frame, None
            continue
        before = frame or before
        if before is None:
            picture = np.zeros((target.sides[1], target.sides[0], 3), np.uint8)
        else:
            picture = painter.picture(before)
        drawn = drawing.draw(picture, figures, note=mark and mark.value, time=timecode(film.time_s(ordinal)))
        yield painter.frame(drawn), mark


class _Painter:
    """From frames of the film to upright pictures of the size wanted, and back in the film's colours."""

    def __init__(self, source: FilmSource, target: _Target) -> None:
        self._turns, self._sides, self._format = source.film.rotation // 90, target.sides, target.format
        self._in, self._out = VideoReformatter(), VideoReformatter()
        self._colours: tuple[int, int, int, int] = (2, 0, 2, 2)

    def fits(self, frame: VideoFrame) -> bool:
        """Whether a frame can be encoded as it is."""
        return not self._turns and (frame.width, frame.height) == self._sides and frame.format.name == self._format

    def picture(self, frame: VideoFrame) -> Picture:
        """Upright, blue, green, red: uint8 [H,W,3]."""
        self._colours = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        sides = self._sides if self._turns % 2 == 0 else self._sides[::-1]
        found = self._in.reformat(frame, *sides, "bgr24", interpolation=_EXACT).to_ndarray()
        return np.ascontiguousarray(np.rot90(found, self._turns)).astype(np.uint8, copy=False)

    def frame(self, picture: Picture) -> VideoFrame:
        """As the encoder wants it."""
        space, extent, primaries, transfer = self._colours
        drawn = VideoFrame.from_ndarray(picture, format="bgr24")
        found = self._out.reformat(
            drawn,
            format=self._format,
            dst_colorspace=space,
            dst_color_range=_JPEG if extent == _JPEG else _MPEG,
            interpolation=_EXACT,
        )
        found.colorspace, found.color_range = space, extent
        found.color_primaries, found.color_trc = primaries, transfer
        return found
