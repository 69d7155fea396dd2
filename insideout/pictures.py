"""From packets to pictures: every expected frame of a reel exactly once, intact or with a reason.

A decoder conceals damage. It flags the frame whose packet was damaged, but not the frames that were
predicted from it, and some of those come out first. So frames are held back until every packet that was
decoded before them is accounted for, a delay of a few frames. A frame that depends on damage is a failure
with a reason, and never a wrong picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from insideout.faults import fault
from insideout.film import open_video
from insideout.objects import check_read
from insideout.spans import Reel, Span

DAMAGED = "decode: the frame's own data is damaged"
DEPENDS = "decode: predicted from a damaged frame"
LOST = "decode: no picture came out of its data"

_Packet: TypeAlias = "Packet[VideoStream]"

Outcome: TypeAlias = tuple[int, VideoFrame | None, str | None]
"""Ordinal, the picture unless it is lost, and why it cannot be used (None: it can)."""

# Seconds before the key frame to seek to: containers that find their place by decoding time, or by
# search, may land behind it at the first try.
_SEEK_BACK = (0, 2, 10)


def pictures(reel: Reel, *, threads: int = 1) -> Iterator[Outcome]:
    """Decode a reel; yield (ordinal, frame or None, reason or None) for every frame from `reel.start` on.

    With `reel.keyframes_only` it is every sampled frame instead. Always all of them, in order, whatever
    is wrong with the file. Raises FilmError where the file cannot be opened at all.
    """
    if reel.start > 0:
        for back in _SEEK_BACK:
            with open_video(reel.path) as (container, stream):
                packets = _packets_from(container, stream, reel, back)
                if packets is None:
                    continue
                outcomes = _outcomes(stream, packets, reel, threads)
                first = next(outcomes)
                # No intact picture at the key frame: it may need frames from before, or it is damaged.
                if first[2] is not None and back != _SEEK_BACK[-1]:
                    continue
                yield first
                yield from outcomes
                return
    with open_video(reel.path) as (container, stream):
        yield from _outcomes(stream, container.demux(stream), reel, threads)


def pictures_around(
    reel: Reel, broken: Mapping[int, str], *, threads: int = 1, tell: Callable[[int], None] | None = None
) -> Iterator[Outcome]:
    """As `pictures`, but never touch what begins at the ordinals `broken`, up to the end of their groups.

    `broken` has a reason for each; the frames left out come with it. `tell` gets the ordinal of each
    other frame before it is decoded.
    """
    at = reel.start
    for ordinal in sorted(broken):
        if at <= ordinal < reel.end:
            yield from _told(_part(reel, at, ordinal), threads, tell)
            at = next((group for group in reel.groups if group > ordinal), reel.end)
            lost = _part(reel, ordinal, at)
            yield from ((o, None, broken[ordinal]) for o in _expected(lost))
    yield from _told(reel if at == reel.start else _part(reel, at, reel.end), threads, tell)


def _told(reel: Reel, threads: int, tell: Callable[[int], None] | None) -> Iterator[Outcome]:
    outcomes = pictures(reel, threads=threads)
    for ordinal in _expected(reel):
        if tell is not None:
            tell(ordinal)
        fault("decode", [ordinal])
        yield next(outcomes)


def _expected(reel: Reel) -> list[int]:
    """The ordinals that `pictures` yields for a reel."""
    return reel.samples.tolist() if reel.keyframes_only else list(range(reel.start, reel.end))


def _part(reel: Reel, start: int, end: int) -> Reel:
    """The reel from one of its groups on and up to an ordinal."""
    low, high = np.searchsorted(reel.samples, (start, end))
    return replace(
        reel,
        start=start,
        pts=reel.pts[start - reel.start : end - reel.start],
        seek_pts=int(reel.pts[start - reel.start]) if start < reel.end else reel.seek_pts,
        groups=tuple(group for group in reel.groups if start <= group < end),
        spans=(Span(0, start, end),),
        samples=reel.samples[low:high],
    )


def _packets_from(container: InputContainer, stream: VideoStream, reel: Reel, back: int) -> Iterator[_Packet] | None:
    """Seek; return the packets from a key frame at or before the wanted one, None if it landed behind."""
    try:
        container.seek(reel.seek_pts - round(back / reel.time_base), stream=stream, backward=True)
        packets = container.demux(stream)
        for packet in packets:
            if packet.is_keyframe and packet.pts is not None:
                return _chain(packet, packets) if packet.pts <= reel.seek_pts else None
    except FFmpegError:
        pass
    return None


def _chain(first: _Packet, rest: Iterator[_Packet]) -> Iterator[_Packet]:
    yield first
    yield from rest


def _outcomes(stream: VideoStream, packets: Iterator[_Packet], reel: Reel, threads: int) -> Iterator[Outcome]:
    context = stream.codec_context
    context.thread_type = "AUTO"
    context.thread_count = threads
    ordinals = reel.samples if reel.keyframes_only else np.arange(reel.start, reel.end, dtype=np.int32)
    expected = _Expected(ordinals, reel.pts[ordinals - reel.start])
    order = _Order(context.name, context.extradata)
    unread = ""
    while not expected.done:
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            packet, unread = None, f" (the file cannot be read further: {error.strerror})"
        check_read(stream.container, reel.path)
        last = packet is None or packet.size == 0
        if packet is not None and not last:
            if reel.keyframes_only and packet.pts not in expected:
                continue
            order.feed(packet)
        decoded = _decode(stream, None if last else packet)
        if reel.keyframes_only and not last:
            # A key frame alone: drain the decoder, so that nothing of the next one is mixed in.
            decoded += _decode(stream, None)
            context.flush_buffers()
        for frame in decoded:
            order.come_out(frame)
        if last or reel.keyframes_only:
            order.close()
        for frame, reason in order.settled():
            yield from expected.match(frame, reason)
        if last:
            break
    yield from expected.rest(LOST + unread)


def _decode(stream: VideoStream, packet: _Packet | None) -> list[VideoFrame]:
    try:
        return list(stream.codec_context.decode(packet))
    except FFmpegError:
        # The frame that does not come out is missed by its pts; the next packet is tried as usual.
        return []


class _Expected:
    """The frames still to come, matched by exact pts."""

    def __init__(self, ordinals: NDArray[np.int32], pts: NDArray[np.int64]) -> None:
        self._ordinals: list[int] = ordinals.tolist()
        self._pts: list[int] = pts.tolist()
        self._known = frozenset(self._pts)
        self._next = 0

    def __contains__(self, pts: int | None) -> bool:
        return pts in self._known

    @property
    def done(self) -> bool:
        return self._next == len(self._pts)

    def match(self, frame: VideoFrame, reason: str | None) -> Iterator[Outcome]:
        pts = frame.pts
        if pts is None or pts not in self._known:
            return
        while not self.done and self._pts[self._next] < pts:
            yield self._take(None, LOST)
        if not self.done and self._pts[self._next] == pts:
            yield self._take(frame, reason)

    def rest(self, reason: str) -> Iterator[Outcome]:
        while not self.done:
            yield self._take(None, reason)

    def _take(self, frame: VideoFrame | None, reason: str | None) -> Outcome:
        self._next += 1
        return self._ordinals[self._next - 1], frame, reason


@dataclass(frozen=True)
class _Fed:
    """A packet given to the decoder: its turn, its group in presentation and in coding order."""

    turn: int
    pts: int
    group: int
    coded_group: int
    disposable: bool


class _Order:
    """Knows in which order packets were decoded, and so which frames damage can have spread to.

    Damage spreads to frames decoded later in the same group of pictures, unless the damaged frame is
    disposable, which means no other is predicted from it. The leading pictures of an open group, coded
    after a key frame and shown before it, depend on both groups.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec = codec
        # The first byte of an avcC record is 1; without a record NAL units are found by start codes.
        self._length = (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else 0
        self._fed: dict[int, _Fed] = {}
        self._waiting: dict[int, _Fed] = {}
        self._held: deque[tuple[VideoFrame, _Fed]] = deque()
        self._damaged: dict[int, int] = {}
        self._turn = 0
        self._group = -1
        self._key_pts = 0

    def feed(self, packet: _Packet) -> None:
        if packet.pts is None or packet.is_discard:
            return
        if packet.is_keyframe:
            self._group += 1
            self._key_pts = packet.pts
        group = self._group if packet.pts >= self._key_pts else self._group - 1
        fed = _Fed(self._turn, packet.pts, group, self._group, self._is_disposable(packet))
        self._turn += 1
        self._fed[fed.pts] = self._waiting[fed.turn] = fed

    def come_out(self, frame: VideoFrame) -> None:
        if frame.pts is None:
            return
        # A packet without pts has a frame with one in some containers: then it counts from now.
        fed = self._fed.pop(frame.pts, None) or _Fed(self._turn, frame.pts, self._group, self._group, False)
        self._waiting.pop(fed.turn, None)
        for missed in [w for w in self._waiting.values() if w.pts < fed.pts]:
            self._lose(missed)
        if frame.is_corrupt and not fed.disposable and not self._is_unreferenced(frame):
            self._damage(fed)
        self._held.append((frame, fed))

    def close(self) -> None:
        """No more frames come out of what was fed."""
        for missed in list(self._waiting.values()):
            self._lose(missed)

    def settled(self) -> Iterator[tuple[VideoFrame, str | None]]:
        """Yield the frames of which all that was decoded before them has come out or is lost."""
        first = next(iter(self._waiting), self._turn + 1)
        while self._held and self._held[0][1].turn < first:
            frame, fed = self._held.popleft()
            if frame.is_corrupt:
                yield frame, DAMAGED
            elif any(self._damaged.get(group, fed.turn) < fed.turn for group in (fed.group, fed.coded_group)):
                yield frame, DEPENDS
            else:
                yield frame, None

    def _lose(self, fed: _Fed) -> None:
        del self._waiting[fed.turn]
        self._fed.pop(fed.pts, None)
        if not fed.disposable:
            self._damage(fed)

    def _damage(self, fed: _Fed) -> None:
        self._damaged[fed.group] = min(fed.turn, self._damaged.get(fed.group, fed.turn))

    def _is_unreferenced(self, frame: VideoFrame) -> bool:
        return self._codec in {"mpeg4", "mpeg2video", "mpeg1video"} and frame.pict_type == PictureType.B

    def _is_disposable(self, packet: _Packet) -> bool:
        """Say whether no other frame is predicted from this one, as far as the packet tells."""
        if packet.is_disposable:
            return True
        if self._codec != "h264":
            return False
        data = memoryview(packet)
        at = 0
        for _ in range(16):
            if self._length:
                start = at + self._length
                at = start + int.from_bytes(data[at:start], "big")
            else:
                found = bytes(data[at : at + 4096]).find(b"\0\0\1")
                start = at = at + found + 3 if found >= 0 else len(data)
            if start >= len(data):
                return False
            header = data[start]
            # Slices of a picture: nal_ref_idc in bits 5 and 6 is 0 where nothing refers to it.
            if header & 31 in {1, 5}:
                return header & 0x60 == 0
        return False
