"""Films made for tests: the number of each frame is burnt into its picture as a row of big blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

BITS = 8
NTSC_FILM = Fraction(24000, 1001)

Picture = NDArray[np.uint8]
Draw = Callable[[int], Picture]


def numbered(width: int = 128, height: int = 72) -> Draw:
    """Draw frame n: n in binary as black and white blocks in the upper third, a moving pattern below."""
    moving = patterned(width, height)

    def draw(number: int) -> Picture:
        picture = moving(number)
        for bit in range(BITS):
            picture[: height // 3, _block(width, bit)] = 255 * (number >> bit & 1)
        return picture

    return draw


def patterned(width: int = 128, height: int = 72, shot: int = 0) -> Draw:
    """Draw a slowly moving pattern; after every `shot` frames it and its colours change abruptly, 0 for never."""

    def draw(number: int) -> Picture:
        picture = np.zeros((height, width, 3), np.uint8)
        scene = number // shot if shot else 0
        y, x = np.mgrid[:height, :width]
        for channel in range(3):
            wave = np.sin((x * (1 + (scene + channel) % 3) + 2 * number) / 15 + scene * 2 + y / 20)
            picture[..., channel] = 90 + 60 * ((scene >> channel) & 1) + 40 * wave
        return picture

    return draw


def held(drawings: Sequence[int], draw: Draw) -> Draw:
    """Draw frame n as drawing `drawings[n]`: a drawing held for several frames."""
    return lambda number: draw(drawings[number])


def number_in(picture: Picture) -> int:
    """Read the number burnt into a picture of `numbered`."""
    height, width = picture.shape[:2]
    number = 0
    for bit in range(BITS):
        block = picture[height // 9 : height // 4, _block(width, bit)]
        edge = block.shape[1] // 4
        number |= int(block[:, edge : block.shape[1] - edge].mean() > 128) << bit
    return number


def _block(width: int, bit: int) -> slice:
    return slice(width * bit // BITS, width * (bit + 1) // BITS)


def write_film(
    path: Path,
    frames: int,
    draw: Draw | None = None,
    *,
    codec: str = "libx264",
    rate: Fraction = NTSC_FILM,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    pixels: str = "yuv420p",
    rotation: int = 0,
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    timecode: str | None = None,
    audio: bool = False,
) -> Path:
    """Write a film of `frames` pictures; return its path.

    pts: time stamps in units of time_base, ascending; by default one unit of 1 / rate each.
    options: of the encoder; x264 gets speed and groups of 12 frames with up to 3 B-frames by default.
    muxing: options of the container. aspect: width of a stored pixel by its height. timecode: of the first frame.
    rotation: degrees counter-clockwise in the display matrix. audio: adds half a second of silence.
    """
    draw = draw or numbered()
    height, width = draw(0).shape[:2]
    x264 = {"preset": "veryfast", "g": "12", "bf": "3", "sc_threshold": "0"}
    settings = {**(x264 if codec == "libx264" else {}), **(options or {})}
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=settings)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = time_base or 1 / rate
        # One thread: the same film every time.
        stream.codec_context.thread_count = 1
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if timecode:
            stream.metadata["timecode"] = timecode
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        container.start_encoding()
        for number in range(frames):
            picture = draw(number)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.shape[2] == 3 else "rgba")
            frame.pts = pts[number] if pts is not None else number
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            container.mux([*sound.encode(_silence()), *sound.encode()])
    return path


def write_sound(path: Path) -> Path:
    """Write a file with half a second of silence and no pictures; return its path."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        container.mux([*sound.encode(_silence()), *sound.encode()])
    return path


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 8000
    return frame


def remux(source: Path, target: Path, shift: int = 0, since: int | None = None) -> Path:
    """Copy the packets of a film, moved by `shift` units of its time base: all, or those with a pts of `since` on.

    What falls below 0 is in the target, but cut away by its edit list.
    """
    with av.open(str(source)) as old, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                if since is None or packet.pts >= since:
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = stream
                new.mux(packet)
    return target


def damage(source: Path, target: Path, packet: int, *, share: float = 0.5) -> int:
    """Copy a film with the last `share` of one packet's bytes inverted; return the pts of that packet's frame.

    packet: its place in decoding order. Not every packet will do: some damage decodes to a legal picture.
    """
    with av.open(str(source)) as container:
        victim = [p for p in container.demux(video=0) if p.size][packet]
        start, size, pts = victim.pos, victim.size, victim.pts
    assert start is not None
    assert pts is not None
    data = bytearray(source.read_bytes())
    for at in range(start + max(12, int(size * (1 - share))), start + size):
        data[at] ^= 0xFF
    target.write_bytes(data)
    return pts


def plain_decode(path: Path) -> list[tuple[int, Picture]]:
    """Decode a film from the first to the last frame with nothing but PyAV: [(pts, uint8 [H,W,3] RGB)]."""
    with av.open(str(path)) as container:
        pictures = []
        moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        for frame in container.decode(moving[0]):
            assert frame.pts is not None
            turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            pictures.append((frame.pts, turned))
    return pictures
