"""Films that no encoder of PyAV writes: field-coded, packed, hidden frames, covers, patched headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from tests.media import Draw, numbered, write_film

FIELDS_SIZE = (64, 64)
_GROUP = 12


def write_fields(path: Path, frames: int, *, joined: bool) -> Path:
    """Write H.264 of which every picture is a field (PAFF), uncompressed, at 25 frames per second.

    joined: both fields of a frame in one packet, else each in a packet with a time stamp of its own.
    """
    pairs = list(_field_pairs(frames, numbered(*FIELDS_SIZE)))
    raw = BytesIO(b"".join(field for pair in pairs for field in pair))
    with av.open(raw, format="h264") as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        base = stream.time_base = Fraction(1, 90000)
        for number, pair in enumerate(pairs):
            for half, data in enumerate([b"".join(pair)] if joined else pair):
                packet = av.Packet(data)
                packet.pts = packet.dts = 3600 * number + 1800 * half
                packet.time_base, packet.duration = base, 3600 if joined else 1800
                packet.is_keyframe = number % _GROUP == 0 and half == 0
                packet.stream = stream
                target.mux(packet)
    return path


def _field_pairs(frames: int, draw: Draw) -> Iterator[tuple[bytes, bytes]]:
    """Yield the NAL units of the two fields of each frame: I slices of I_PCM macroblocks (ITU-T H.264, 7.3)."""
    width, height = FIELDS_SIZE
    # Main profile, level 3.0, order of output is that of decoding, one reference frame, frame_mbs_only_flag 0.
    size = _ue(width // 16 - 1) + _ue(height // 32 - 1)
    sps = f"{77:08b}{0:08b}{30:08b}" + _ue(0) + _ue(0) + _ue(2) + _ue(1) + "0" + size + "0" + "0" + "1" + "0" + "0"
    pps = _ue(0) + _ue(0) + "00" + _ue(0) + _ue(0) + _ue(0) + "000" + _ue(0) + _ue(0) + _ue(0) + "100"
    parameters = _nal(0x67, _bytes(sps + "1")) + _nal(0x68, _bytes(pps + "1"))
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24").reformat(format="yuv420p")
        planes = [np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1) for plane in frame.planes]
        pair = []
        for bottom in (0, 1):
            first = number % _GROUP == 0 and not bottom
            header = _ue(0) + _ue(7) + _ue(0) + f"{number % _GROUP:04b}" + "1" + str(bottom)
            header += (_ue(number // _GROUP % 2) + "00" if first else "0") + _ue(0) + _ue(1)
            field = [plane[bottom::2, : plane.shape[1]] for plane in planes]
            data = b""
            for y in range(height // 32):
                for x in range(width // 16):
                    data += _bytes(header + _ue(25))
                    header = ""
                    for plane, side in zip(field, (16, 8, 8), strict=True):
                        data += plane[y * side : (y + 1) * side, x * side : (x + 1) * side].tobytes()
            pair.append((parameters if first else b"") + _nal(0x65 if first else 0x61, data + b"\x80"))
        yield pair[0], pair[1]


def _ue(value: int) -> str:
    """Exponential Golomb code, as bits."""
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def _bytes(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _nal(header: int, data: bytes) -> bytes:
    return b"\0\0\0\1" + bytes([header]) + re.sub(rb"\0\0([\0-\3])", lambda found: b"\0\0\3" + found[1], data)


def write_packed(path: Path, frames: int) -> Path:
    """Write an AVI as DivX did: a B-frame in one packet with the frame it needs, and an empty packet after."""
    source = write_film(
        path.with_name("plain.avi"), frames, codec="mpeg4", rate=Fraction(25), options={"bf": "1", "g": "12"}
    )
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [bytes(packet) for packet in old.demux(video=0) if packet.size]
        place = 0
        while packets:
            data = packets.pop(0)
            key = _vop(data) == 0
            if key:
                at = data.index(b"\0\0\1\xb6")
                data = data[:at] + b"\0\0\1\xb2DivX503b1393p" + data[at:]
            parts = [data]
            if _vop(data) != 2 and packets and _vop(packets[0]) == 2:
                parts = [data + packets.pop(0), b"\0\0\1\xb6\x50\0\0"]
            for part in parts:
                packet = av.Packet(part)
                packet.pts = packet.dts = place
                packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 25), key and part is parts[0], stream
                new.mux(packet)
                place += 1
    return path


def _vop(data: bytes) -> int:
    """The coding type of an MPEG-4 frame: 0 I, 1 P, 2 B."""
    return data[data.index(b"\0\0\1\xb6") + 4] >> 6


def hide_frames(source: Path, target: Path, every: int) -> Path:
    """Copy a VP8 film; before every n-th frame comes one that is the same and not to be shown, as alt-refs are."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            data = bytes(packet)
            if number % every == every // 2 and not packet.is_keyframe:
                hidden = av.Packet(bytes([data[0] & ~0x10]) + data[1:])
                hidden.pts = hidden.dts = packet.pts - 7
                hidden.time_base, hidden.stream = packet.time_base, stream
                new.mux(hidden)
            packet.stream = stream
            new.mux(packet)
    return target


def write_with_cover(path: Path, film: Path, *, first: bool = False) -> Path:
    """Copy an MP4 and give it a cover picture: behind the film, or moved in front of it."""
    picture = BytesIO()
    with av.open(picture, "w", format="image2pipe") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with (
        av.open(str(film)) as old,
        av.open(BytesIO(picture.getvalue()), format="mjpeg") as cover,
        av.open(str(path), "w") as new,
    ):
        moving = new.add_stream_from_template(old.streams.video[0])
        still = new.add_stream_from_template(cover.streams.video[0])
        still.disposition = av.stream.Disposition.attached_pic
        for stream, source in ((still, cover), (moving, old)):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    new.mux(packet)
    if first:
        # The picture is in `udta`, which may stand in front of the tracks: both are in `moov`, at the end of the file.
        data = path.read_bytes()
        moov, udta = data.rindex(b"moov") + 4, data.rindex(b"udta") - 4
        track = data.index(b"trak", moov) - 4
        path.write_bytes(data[:track] + data[udta:] + data[track:udta])
    return path


def write_two(path: Path, first: Path, second: Path) -> Path:
    """Write the video streams of two films into one file."""
    with av.open(str(first)) as one, av.open(str(second)) as two, av.open(str(path), "w") as new:
        streams = [new.add_stream_from_template(film.streams.video[0]) for film in (one, two)]
        for stream, film in zip(streams, (one, two), strict=True):
            for packet in film.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    new.mux(packet)
    return path


def declare_duration(path: Path, seconds: float) -> Path:
    """Write another duration into the header of an MKV, in place."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # the element Duration, a 64-bit float in milliseconds
    data[at : at + 8] = np.array(seconds * 1000, ">f8").tobytes()
    path.write_bytes(data)
    return path


def double_stamps(source: Path, target: Path, frames: tuple[int, ...]) -> Path:
    """Copy a film; give some of its frames the time stamp of the one shown before."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stamps = sorted(packet.pts for packet in old.demux(video=0) if packet.size)
        old.seek(0)
        stream = new.add_stream_from_template(old.streams.video[0])
        before = {stamps[frame]: stamps[frame - 1] for frame in frames}
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts, packet.stream = before.get(packet.pts, packet.pts), stream
                new.mux(packet)
    return target
