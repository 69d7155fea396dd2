"""What damage in the data of a film spreads to.

A decoder conceals damage. It flags the frame whose packet was damaged, but not the frames that were
predicted from it, and some of those come out first. So frames are held back until every packet that was
decoded before them is accounted for, a delay of a few frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

DAMAGED = "decode: the frame's own data is damaged"
DEPENDS = "decode: predicted from a damaged frame"


@dataclass(frozen=True)
class _Fed:
    """A packet given to the decoder: its turn, its group in presentation and in coding order."""

    turn: int
    pts: int
    group: int
    coded_group: int
    disposable: bool


class Order:
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
        self._done: set[int] = set()
        self._damaged: dict[int, int] = {}
        self._turn = 0
        self._group = -1
        self._key_pts = 0

    def feed(self, packet: Packet[VideoStream]) -> None:
        if packet.pts is None or packet.is_discard:
            return
        if packet.is_keyframe:
            self._group += 1
            self._key_pts = packet.pts
        group = self._group if packet.pts >= self._key_pts else self._group - 1
        fed = _Fed(self._turn, packet.pts, group, self._group, self._is_disposable(packet))
        self._turn += 1
        self._fed[fed.pts] = self._waiting[fed.turn] = fed

    def refuse(self, packet: Packet[VideoStream]) -> None:
        """Note that the decoder did not take a packet; that of a frame is missed when the frame is."""
        if packet.pts not in self._fed:
            self._damaged[self._group] = min(self._turn, self._damaged.get(self._group, self._turn))

    def come_out(self, frame: VideoFrame) -> None:
        # From damaged data a frame may come out twice.
        if frame.pts is None or frame.pts in self._done:
            return
        self._done.add(frame.pts)
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
        self._done.add(fed.pts)
        self._fed.pop(fed.pts, None)
        if not fed.disposable:
            self._damage(fed)

    def _damage(self, fed: _Fed) -> None:
        self._damaged[fed.group] = min(fed.turn, self._damaged.get(fed.group, fed.turn))

    def _is_unreferenced(self, frame: VideoFrame) -> bool:
        return self._codec in {"mpeg4", "mpeg2video", "mpeg1video"} and frame.pict_type == PictureType.B

    def _is_disposable(self, packet: Packet[VideoStream]) -> bool:
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
