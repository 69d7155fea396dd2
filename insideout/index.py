"""The index of a film: the time stamps of its frames and its key frames, from packets wherever that will do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from insideout.errors import FilmError, StorageError
from insideout.objects import RangedFile, is_url, said

_Packet: TypeAlias = "Packet[VideoStream]"

_PROGRESSIVE = 1  # libavcodec's AV_FIELD_PROGRESSIVE


@dataclass(frozen=True, eq=False)
class Index:
    """pts: int64 [frames], ascending, by ordinal. keyframes, gaps: int32 ordinals. See `Film` for each."""

    pts: NDArray[np.int64]
    keyframes: NDArray[np.int32]
    gaps: NDArray[np.int32]
    counted: bool = False


class _Gaps:
    """Finds the frames that may lack their reference, from packets in coding order.

    The demuxer marks the packet it was at when it noticed that data is missing, or the one before. If a
    whole packet is missing no decoder notices: the frames after it are predicted from another one than
    they were coded for. That holds to the next key frame, and for the frames coded after that and shown
    before it. The packet behind the marked one may be the one that is cut short, be it a key frame.
    """

    def __init__(self) -> None:
        self.pts: list[int] = []
        self.any = False
        self._broken = self._broken_before = self._marked = False
        self._key: int | None = None

    def feed(self, packet: _Packet) -> None:
        self.any = self.any or packet.is_corrupt
        if packet.pts is None:
            return
        if packet.is_keyframe:
            self._broken_before, self._broken, self._key = self._broken, False, packet.pts
        leading = self._key is not None and packet.pts < self._key
        if self._broken or self._marked or (self._broken_before and leading):
            self.pts.append(packet.pts)
        self._broken = self._broken or packet.is_corrupt or self._marked
        self._marked = packet.is_corrupt

    def ordinals(self, stamps: NDArray[np.int64]) -> NDArray[np.int32]:
        return np.flatnonzero(np.isin(stamps, self.pts)).astype(np.int32)


@dataclass(frozen=True)
class _Shown:
    """A frame that came out of the decoder: its time stamp, whether it is a key frame, whether damage was seen."""

    pts: int
    key: bool
    damaged: bool


def read_index(container: InputContainer, stream: VideoStream, path: str, *, size: int) -> Index | None:
    """Index a film from its packets; None where they do not tell, and only decoding does.

    size: bytes of the file. A file that ends before the last frame its own index names is indexed to
    that frame. Raises FilmError: nothing can be read, time stamps begin anew in the middle.
    """
    if has_half_frames(stream):
        return None
    end = 0
    if "mov" in container.format.name.split(","):
        end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > size:
        return _read_padded(path, container.streams.video.index(stream), end)
    return _read(container, stream, path)


def _read_padded(path: str, stream: int, end: int) -> Index | None:
    """Index a file that was cut off as if it had its end, so that every frame in it and behind is known."""
    file: RangedFile | IO[bytes]
    with RangedFile(path) if is_url(path) else open(path, "rb") as file, av.open(_Padded(file, end)) as container:
        index = _read(container, container.streams.video[stream], path)  # type: ignore[arg-type]
        if isinstance(file, RangedFile) and file.failure is not None:
            raise StorageError(f"{path}: cannot be read ({said(file.failure)}); check it and run again")
        return index


class _Padded(io.RawIOBase):
    """A file with zeros behind its end."""

    def __init__(self, file: RangedFile | IO[bytes], size: int) -> None:
        super().__init__()
        self._file, self._size, self._at = file, size, 0

    def read(self, size: int = -1) -> bytes:
        size = self._size - self._at if size < 0 else min(size, self._size - self._at)
        self._file.seek(self._at)
        data = self._file.read(size) if size > 0 else b""
        data += bytes(size - len(data))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _read(container: InputContainer, stream: VideoStream, path: str) -> Index | None:
    codec = stream.codec_context.name
    pts: list[int] = []
    keys: list[int] = []
    latest: int | None = None
    delays: set[int | None] = set()
    dts: int | None = None
    gaps = _Gaps()
    try:
        for packet in container.demux(stream):
            if not is_shown(packet, codec):
                continue
            if packet.pts is None:
                return None
            if packet.is_keyframe:
                # All that comes before a key frame is shown before it.
                if latest is not None and packet.pts < latest:
                    if dts is not None and packet.dts is not None and packet.dts < dts:
                        raise _joined(path, stream, latest, packet.pts)
                    return None
                keys.append(packet.pts)
            latest = packet.pts if latest is None else max(latest, packet.pts)
            dts = packet.dts
            delays.add(None if dts is None else packet.pts - dts)
            pts.append(packet.pts)
            gaps.feed(packet)
    except FFmpegError as error:
        if not pts:
            raise FilmError(f"{path}: not a video that can be read ({said(error)})") from error
        # A file cut off in the middle: what was there before the end is a film.
    # Where frames are shown in another order than they are coded, time stamps that only count packets (AVI) lie.
    counting = stream.codec_context.has_b_frames and len(delays) == 1 and len(pts) > 1
    if counting or len(set(pts)) != len(pts):
        return None
    stamps = np.array(sorted(pts), np.int64)
    return Index(stamps, np.searchsorted(stamps, sorted(keys)).astype(np.int32), gaps.ordinals(stamps))


def decode_index(container: InputContainer, stream: VideoStream, path: str, *, threads: int = 0) -> Index | None:
    """Index a film by decoding all of it; None if it has to be done with one thread, from the start.

    threads: 0 for as many as there are processors. Raises FilmError: no time stamps, time stamps begin
    anew in the middle.
    """
    stream.thread_type = "NONE" if threads == 1 else "AUTO"
    stream.codec_context.thread_count = threads
    refused: list[_Packet] = []
    gaps, unstamped = _Gaps(), False
    shown: list[_Shown] = []
    before = 0
    for frame in decoded(container, stream, refused, gaps):
        if frame.pts is None:
            unstamped = True
            continue
        shown.append(_Shown(frame.pts, bool(frame.key_frame), frame.is_corrupt or len(refused) > before))
        before = len(refused)
    # Where data is missing that of a time stamp may be, too.
    if unstamped and not (gaps.any and shown):
        raise FilmError(
            f"{path}: the stream has no time stamps; put it into a container first: ffmpeg -i FILM -c copy FILM.mkv"
        )
    stamps = np.array([one.pts for one in shown], np.int64)
    keys = np.array([i for i, one in enumerate(shown) if one.key], np.int32)
    back = np.flatnonzero(np.diff(stamps) <= 0) + 1
    # With several threads a packet may be refused when a later one is given.
    if threads != 1 and (refused or len(back)):
        return None
    if len(back):
        _check_joined(path, stream, shown)
        groups = np.cumsum([one.key for one in shown])
        hurt = np.unique(groups[[one.damaged for one in shown]])
        # From damaged data frames come out in any order; that says nothing about the time stamps.
        if np.setdiff1d(groups[back], [hurt - 1, hurt, hurt + 1]).size:
            return Index(np.sort(stamps), keys, np.flatnonzero(np.isin(groups, hurt)).astype(np.int32), counted=True)
    key_pts = np.sort(stamps[keys])
    lost = [packet.pts for packet in refused if packet.pts is not None]
    stamps = np.union1d(stamps, np.array(lost, np.int64))
    return Index(stamps, np.searchsorted(stamps, key_pts).astype(np.int32), gaps.ordinals(stamps))


def has_half_frames(stream: VideoStream) -> bool:
    """Say whether a packet may hold one field, half a frame, so that packets do not tell the frames."""
    return stream.codec_context.name == "h264" and stream.codec_context.field_order != _PROGRESSIVE


def is_shown(packet: _Packet, codec: str) -> bool:
    """Say whether a packet holds a frame that is shown, as far as it tells itself.

    The demuxer ends with an empty packet to flush. Edit lists mark what is never shown. VP8 and VP9 have
    frames that only others are predicted from; their headers begin as RFC 6386, section 9.1, and the VP9
    bitstream specification, section 6.2, say.
    """
    if packet.size == 0 or packet.is_discard:
        return False
    if codec == "vp8":
        return bool(memoryview(packet)[0] & 0x10)
    if codec == "vp9":
        data = memoryview(packet)
        # A packet of several frames ends with their sizes between two equal markers; one of them is shown.
        sizes = 2 + ((data[-1] >> 3 & 3) + 1) * ((data[-1] & 7) + 1)
        if data[-1] & 0xE0 == 0xC0 and len(data) >= sizes and data[-sizes] == data[-1]:
            return True
        bits = int.from_bytes(bytes(data[:2]).ljust(2, b"\0"), "big")
        profile = (bits >> 13 & 1) | (bits >> 12 & 1) << 1
        at = 11 if profile < 3 else 10
        return bool(bits >> at & 1 or bits >> at - 2 & 1)
    return True


def decoded(
    container: InputContainer,
    stream: VideoStream,
    refused: list[_Packet] | None = None,
    gaps: _Gaps | None = None,
) -> Iterator[VideoFrame]:
    """Yield what comes out of the decoder, in its order; what it refuses is added to `refused`."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        if gaps is not None and packet.size:
            gaps.feed(packet)
        try:
            yield from stream.codec_context.decode(packet if packet.size else None)
        except FFmpegError:
            if refused is not None and packet.size:
                refused.append(packet)


def _check_joined(path: str, stream: VideoStream, shown: list[_Shown]) -> None:
    """Raise FilmError where frames go back in time for good, and not just out of order within a group."""
    group_start = latest = shown[0].pts
    for one in shown:
        if one.pts < group_start and not one.damaged:
            raise _joined(path, stream, latest, one.pts)
        if one.key:
            group_start = max(one.pts, group_start)
        latest = max(latest, one.pts)


def _joined(path: str, stream: VideoStream, before: int, after: int) -> FilmError:
    base = stream.time_base or 0
    return FilmError(
        f"{path}: the time stamps go back from {float(before * base):.3f} s to {float(after * base):.3f} s in the"
        " middle of the film, as in files that were joined; make them go on first: ffmpeg -i FILM -c copy WHOLE.mkv"
    )
