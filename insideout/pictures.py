"""From packets to pictures: every expected frame of a reel exactly once, intact or with a reason.

A frame that is damaged, or depends on damage, is a failure with a reason, and never a picture the decoder made up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import TypeAlias

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from insideout.damage import DAMAGED, Order
from insideout.faults import fault
from insideout.film import open_video
from insideout.index import has_half_frames, is_shown
from insideout.objects import check_read
from insideout.spans import Reel, Span

LOST = "decode: no picture came out of its data"
GAP = "decode: may be predicted from data that is missing or damaged"
MISSING = "decode: its data is not in the file"

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
        # Behind the end of a file that was cut off nothing needs to be decoded.
        if not _is_there(reel):
            yield from ((ordinal, None, MISSING) for ordinal in _expected(reel))
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


def _is_there(reel: Reel) -> bool:
    """Say whether the file has any packet of a reel, as far as packets tell."""
    pts = frozenset(reel.pts.tolist())
    with open_video(reel.path) as (container, stream):
        try:
            return any(packet.size and (packet.pts is None or packet.pts in pts) for packet in container.demux(stream))
        except FFmpegError:
            return False


def _outcomes(stream: VideoStream, packets: Iterator[_Packet], reel: Reel, threads: int) -> Iterator[Outcome]:
    context = stream.codec_context
    context.thread_type = "NONE" if reel.counted else "AUTO"
    context.thread_count = 1 if reel.counted else threads
    if context.name == "mjpeg":
        # Else it fills what is damaged with what happens to be in memory, and does not say so.
        context.options = {**context.options, "err_detect": "explode"}
    outcomes = _counted(stream, packets, reel) if reel.counted else _matched(stream, packets, reel)
    gaps = frozenset(reel.gaps)
    for ordinal, frame, reason in outcomes:
        if frame is not None and reason is None and ordinal in gaps:
            reason = GAP
        elif frame is not None and reason is None and (frame.width, frame.height) != reel.stored:
            reason = "decode: its picture has {}x{} pixels, the first of the film {}x{}".format(
                frame.width, frame.height, *reel.stored
            )
        yield ordinal, frame, reason


def _counted(stream: VideoStream, packets: Iterator[_Packet], reel: Reel) -> Iterator[Outcome]:
    """Yield the outcomes of a film whose frames are told by their place among all that come out.

    What depends on damage stands among the gaps of its index.
    """
    ordinals = deque(_expected(reel))
    for count, frame in enumerate(_all_frames(stream, _readable(stream, packets, reel.path, []))):
        if not ordinals:
            return
        if count == ordinals[0]:
            yield ordinals.popleft(), frame, DAMAGED if frame.is_corrupt else None
    yield from ((ordinal, None, LOST) for ordinal in ordinals)


def _all_frames(stream: VideoStream, packets: Iterator[_Packet]) -> Iterator[VideoFrame]:
    for packet in packets:
        try:
            yield from stream.codec_context.decode(packet)
        except FFmpegError:
            continue
    yield from _drained(stream)


def _matched(stream: VideoStream, packets: Iterator[_Packet], reel: Reel) -> Iterator[Outcome]:
    """Yield the outcomes of a film whose frames are told by their time stamps."""
    context = stream.codec_context
    ordinals = np.array(_expected(reel), np.int32)
    expected = _Expected(ordinals, reel.pts[ordinals - reel.start])
    order = Order(context.name, context.extradata)
    halves = has_half_frames(stream)
    listed = frozenset(reel.pts.tolist())
    trouble: list[str] = []
    readable = _readable(stream, packets, reel.path, trouble)
    steps: Iterator[tuple[list[_Packet], bool]]
    if reel.keyframes_only:
        # Key frames alone: the decoder is drained after each, so that nothing of the next one is mixed in.
        steps = ((step, True) for step in _key_packets(readable, expected.known, listed, halves))
    else:
        steps = chain((([packet], False) for packet in readable), [([], True)])
    for step, drain in steps:
        for packet in step:
            expected.arrive(packet)
            within = packet.pts is not None and reel.pts[0] <= packet.pts <= reel.pts[-1]
            # Second fields, and frames that others are predicted from and nobody sees, are no frames of the film.
            if packet.pts in listed or (not (within or halves) and is_shown(packet, context.name)):
                order.feed(packet)
            try:
                frames = stream.codec_context.decode(packet)
            except FFmpegError:
                # The frame that does not come out is missed by its pts; the next packet is tried as usual.
                order.refuse(packet)
                continue
            for frame in frames:
                order.come_out(frame)
        if drain:
            for frame in _drained(stream):
                order.come_out(frame)
            order.close()
        for frame, reason in order.settled():
            yield from expected.match(frame, reason)
        if expected.done:
            return
    yield from expected.rest("".join(trouble))


def _readable(stream: VideoStream, packets: Iterator[_Packet], path: str, trouble: list[str]) -> Iterator[_Packet]:
    """Yield packets up to the end or where the file cannot be read further, which is added to `trouble`."""
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            trouble.append(f" (the file cannot be read further: {error.strerror})")
            packet = None
        check_read(stream.container, path)
        if packet is None or packet.size == 0:
            return
        yield packet


def _key_packets(
    packets: Iterator[_Packet], wanted: frozenset[int], listed: frozenset[int], halves: bool
) -> Iterator[list[_Packet]]:
    """Yield the packet of each wanted frame, or its two where a packet is half a frame."""
    step: list[_Packet] = []
    for packet in packets:
        if step and not (halves and packet.pts not in listed):
            yield step
            step = []
        if step or packet.pts in wanted:
            step.append(packet)
    if step:
        yield step


def _drained(stream: VideoStream) -> list[VideoFrame]:
    """Return what is left in the decoder, which then begins anew."""
    try:
        return list(stream.codec_context.decode(None))
    except FFmpegError:
        return []
    finally:
        stream.codec_context.flush_buffers()


class _Expected:
    """The frames still to come, matched by exact pts."""

    def __init__(self, ordinals: NDArray[np.int32], pts: NDArray[np.int64]) -> None:
        self._ordinals: list[int] = ordinals.tolist()
        self._pts: list[int] = pts.tolist()
        self.known = frozenset(self._pts)
        self._arrived: set[int | None] = set()
        self._next = 0

    @property
    def done(self) -> bool:
        return self._next == len(self._pts)

    def arrive(self, packet: _Packet) -> None:
        if packet.pts is None or packet.pts in self.known:
            self._arrived.add(packet.pts)

    def match(self, frame: VideoFrame, reason: str | None) -> Iterator[Outcome]:
        pts = frame.pts
        if pts is None or pts not in self.known:
            return
        while not self.done and self._pts[self._next] < pts:
            yield self._take(None, LOST)
        if not self.done and self._pts[self._next] == pts:
            yield self._take(frame, reason)

    def rest(self, why: str) -> Iterator[Outcome]:
        while not self.done:
            # A packet without time stamp may be that of any frame.
            arrived = self._pts[self._next] in self._arrived or None in self._arrived
            yield self._take(None, LOST if arrived else MISSING + why)

    def _take(self, frame: VideoFrame | None, reason: str | None) -> Outcome:
        self._next += 1
        return self._ordinals[self._next - 1], frame, reason
