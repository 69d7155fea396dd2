"""The kinds of film of the frame oracle (docs/oracle.md), each made by a function of the folder it is written to."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.bitstreams import (
    declare_duration,
    double_stamps,
    hide_frames,
    write_fields,
    write_packed,
    write_two,
    write_with_cover,
)
from tests.media import NTSC_FILM, Picture, damage, numbered, remux, write_film, write_sound

Maker = Callable[[Path], Path]

FRAMES = 97
SHORT = 49
PAL = Fraction(25)
NTSC = Fraction(30000, 1001)

_VFR = np.cumsum(np.random.default_rng(7).integers(10, 90, FRAMES)).tolist()
_OPEN_GOP = {"x264-params": "open-gop=1"}
_HEVC = {
    "preset": "ultrafast",
    "x265-params": "keyint=12:min-keyint=12:bframes=3:open-gop=1:log-level=none:pools=none:frame-threads=1",
}
_VP9 = {"g": "24", "auto-alt-ref": "1", "lag-in-frames": "25", "deadline": "good", "cpu-used": "5", "b": "200k"}
_VP8 = {"g": "12", "deadline": "realtime", "cpu-used": "8", "b": "200k"}
_AV1 = {"g": "12", "preset": "12", "svtav1-params": "lp=1"}
_MPEG2 = {"g": "12", "bf": "2"}
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
_INDEX_FIRST = {"movflags": "faststart"}


def _veiled(number: int) -> Picture:
    """A numbered picture with alpha that grows from left to right."""
    picture = numbered()(number)
    alpha = np.broadcast_to(np.linspace(0, 255, picture.shape[1]).astype(np.uint8)[:, None], (*picture.shape[:2], 1))
    return np.concatenate([picture, alpha], axis=2)


def _ts(at: Path, name: str, start: Fraction, first: int, width: int = 128, **film: str) -> bytes:
    """36 frames of transport stream, numbered from `first` on and beginning at `start` seconds."""
    draw = numbered(width, width * 9 // 16)
    muxing = {"output_ts_offset": str(float(start))} if start else {}
    return write_film(at / name, 36, lambda n: draw(n + first), muxing=muxing, **film).read_bytes()  # type: ignore[arg-type]


def _joined(at: Path, gap: Fraction, **second: object) -> Path:
    """Two transport streams in one file; the second begins `gap` seconds after the end of the first."""
    start = 38 / NTSC_FILM + gap
    path = at / "f.ts"
    path.write_bytes(_ts(at, "a.ts", Fraction(0), 0) + _ts(at, "b.ts", start, 36, **second))  # type: ignore[arg-type]
    return path


def _jumping(source: Path, target: Path) -> Path:
    """Copy a film; from frame 24 on everything is 100 seconds later."""
    return remux(source, target, shift=100_000, since=1001)


def cut_off(source: Path, share: float) -> Path:
    """Copy a file up to this share of its bytes."""
    path = source.with_stem("cut")
    path.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])
    return path


def _flipped(source: Path, packet: int, share: float = 0.98) -> Path:
    damage(source, path := source.with_stem("flipped"), packet, share=share)
    return path


def lose_packets(source: Path, first: int, count: int) -> Path:
    """Copy a transport stream without some packets of its video, counted from the first of them."""
    path = source.with_stem("lossy")
    data = source.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    video = [i for i, packet in enumerate(packets) if int.from_bytes(packet[1:3], "big") & 0x1FFF == 256]
    gone = set(video[first : first + count])
    path.write_bytes(b"".join(packet for i, packet in enumerate(packets) if i not in gone))
    return path


EXACT: dict[str, Maker] = {
    "b-frames": lambda at: write_film(at / "f.mp4", FRAMES),
    "b-frames-mkv": lambda at: write_film(at / "f.mkv", FRAMES, audio=True),
    "transport-stream": lambda at: write_film(at / "f.ts", FRAMES),
    "25-fps": lambda at: write_film(at / "f.mp4", SHORT, rate=PAL),
    "drop-frame": lambda at: write_film(at / "f.mov", SHORT, rate=NTSC, timecode="00:00:59;20"),
    "drop-frame-mpeg": lambda at: write_film(
        at / "f.mpg", SHORT, rate=NTSC, codec="mpeg2video", options={**_MPEG2, "gop_timecode": "00:00:59;20"}
    ),
    "vfr": lambda at: write_film(at / "f.mp4", FRAMES, pts=_VFR, time_base=Fraction(1, 1000)),
    "doubled-stamps": lambda at: double_stamps(write_film(at / "whole.mp4", SHORT), at / "f.mp4", (20, 30)),
    "delayed": lambda at: write_film(at / "f.mkv", FRAMES, pts=[480 + i for i in range(FRAMES)]),
    "delayed-mp4": lambda at: write_film(at / "f.mp4", SHORT, pts=[480 + i for i in range(SHORT)]),
    "late-stream": lambda at: write_film(at / "f.ts", SHORT, muxing={"output_ts_offset": "3600"}),
    "no-edit-list": lambda at: write_film(at / "f.mp4", SHORT, muxing={"use_editlist": "0"}),
    "negative-dts": lambda at: write_film(
        at / "f.mp4", SHORT, muxing={"use_editlist": "0", "movflags": "negative_cts_offsets"}
    ),
    "clock-wraps": lambda at: write_film(at / "f.ts", SHORT, muxing={"output_ts_offset": str(2**33 / 90000 - 1)}),
    "clock-jumps": lambda at: _jumping(write_film(at / "whole.mkv", SHORT), at / "f.mkv"),
    "open-gop": lambda at: write_film(at / "f.mp4", FRAMES, options=_OPEN_GOP),
    "open-gop-mkv": lambda at: write_film(at / "f.mkv", FRAMES, options=_OPEN_GOP),
    "open-gop-ts": lambda at: write_film(at / "f.ts", FRAMES, options=_OPEN_GOP),
    "one-group": lambda at: write_film(at / "f.mp4", FRAMES, options={"g": "250"}),
    "edit-list": lambda at: remux(write_film(at / "whole.mp4", FRAMES + 5), at / "f.mp4", shift=-5 * 1001),
    "odd-size": lambda at: write_film(at / "f.mp4", FRAMES, numbered(131, 73), pixels="yuv444p"),
    "rotated": lambda at: write_film(at / "f.mp4", FRAMES, rotation=-90),
    "anamorphic": lambda at: write_film(at / "f.mp4", SHORT, aspect=Fraction(16, 11)),
    "ten-bit": lambda at: write_film(at / "f.mp4", FRAMES, pixels="yuv420p10le"),
    "full-range": lambda at: write_film(at / "f.mkv", SHORT, codec="mjpeg", pixels="yuvj420p"),
    "422": lambda at: write_film(at / "f.mp4", SHORT, pixels="yuv422p"),
    "prores": lambda at: write_film(at / "f.mov", SHORT, codec="prores_ks", pixels="yuv422p10le"),
    "alpha": lambda at: write_film(
        at / "f.mov", SHORT, _veiled, codec="prores_ks", pixels="yuva444p10le", options={"profile": "4444"}
    ),
    "interlaced": lambda at: write_film(at / "f.mp4", SHORT, numbered(128, 96), options={"x264-params": "tff=1"}),
    "interlaced-mpeg2": lambda at: write_film(
        at / "f.ts", SHORT, codec="mpeg2video", rate=PAL, options={**_MPEG2, "flags": "+ildct+ilme"}
    ),
    "fields": lambda at: write_fields(at / "f.ts", SHORT, joined=True),
    "fields-apart": lambda at: write_fields(at / "f.mkv", SHORT, joined=False),
    "fields-apart-mp4": lambda at: write_fields(at / "f.mp4", SHORT, joined=False),
    "fields-apart-ts": lambda at: write_fields(at / "f.ts", SHORT, joined=False),
    "two-streams": lambda at: write_two(
        at / "f.mp4", write_film(at / "a.mp4", SHORT), write_film(at / "b.mp4", 30, numbered(256, 144))
    ),
    "cover-first": lambda at: write_with_cover(at / "f.mp4", write_film(at / "a.mp4", SHORT), first=True),
    "cover-second": lambda at: write_with_cover(at / "f.mp4", write_film(at / "a.mp4", SHORT)),
    "no-cues": lambda at: write_film(at / "f.mkv", SHORT, muxing={"live": "1"}),
    "fragmented": lambda at: write_film(at / "f.mp4", SHORT, muxing=_FRAGMENTS),
    "mpeg4-avi": lambda at: write_film(at / "f.avi", FRAMES, codec="mpeg4", options=_MPEG2),
    "packed-avi": lambda at: write_packed(at / "f.avi", SHORT),
    "h264-avi": lambda at: write_film(at / "f.avi", SHORT),
    "mpeg2-ts": lambda at: write_film(at / "f.ts", FRAMES, codec="mpeg2video", options=_MPEG2),
    "flv": lambda at: write_film(at / "f.flv", SHORT),
    "wmv": lambda at: write_film(at / "f.wmv", SHORT, codec="wmv2", options={"g": "12"}),
    "vp8": lambda at: hide_frames(write_film(at / "a.webm", SHORT, codec="libvpx", options=_VP8), at / "f.webm", 5),
    "vp9": lambda at: write_film(at / "f.webm", FRAMES, codec="libvpx-vp9", options=_VP9),
    "hevc": lambda at: write_film(at / "f.mp4", SHORT, codec="libx265", options=_HEVC),
    "hevc-ts": lambda at: write_film(at / "f.ts", SHORT, codec="libx265", options=_HEVC),
    "av1": lambda at: write_film(at / "f.mp4", SHORT, codec="libsvtav1", options=_AV1),
    "av1-mkv": lambda at: write_film(at / "f.mkv", SHORT, codec="libsvtav1", options=_AV1),
    "huge-duration": lambda at: declare_duration(write_film(at / "f.mkv", SHORT), seconds=1e12),
}
"""Films of which every frame is the one of a single plain decode."""

DAMAGED: dict[str, Maker] = {
    "flipped-key": lambda at: _flipped(write_film(at / "whole.mp4", SHORT), 12),
    "flipped-p": lambda at: _flipped(write_film(at / "whole.mp4", SHORT), 18),
    "flipped-b": lambda at: _flipped(write_film(at / "whole.mp4", SHORT), 15),
    "flipped-open-key": lambda at: _flipped(write_film(at / "whole.mp4", SHORT, options=_OPEN_GOP), 24),
    "flipped-half-mkv": lambda at: _flipped(write_film(at / "whole.mkv", SHORT), 12, 0.5),
    "flipped-mpeg4": lambda at: _flipped(write_film(at / "whole.mkv", SHORT, codec="mpeg4", options=_MPEG2), 15),
    "flipped-mpeg2": lambda at: _flipped(write_film(at / "whole.mkv", SHORT, codec="mpeg2video", options=_MPEG2), 15),
    "flipped-mjpeg": lambda at: _flipped(
        write_film(at / "whole.avi", SHORT, codec="mjpeg", pixels="yuvj420p"), 14, share=0.5
    ),
    "flipped-prores": lambda at: _flipped(
        write_film(at / "whole.mov", SHORT, codec="prores_ks", pixels="yuv422p10le"), 14, 0.5
    ),
    "flipped-interlaced": lambda at: _flipped(
        write_film(at / "whole.mp4", SHORT, numbered(128, 96), options={"x264-params": "tff=1"}), 24
    ),
    "flipped-hevc": lambda at: _flipped(write_film(at / "whole.mp4", SHORT, codec="libx265", options=_HEVC), 15),
    "flipped-vp9": lambda at: _flipped(write_film(at / "whole.webm", SHORT, codec="libvpx-vp9", options=_VP9), 14),
    "flipped-av1": lambda at: _flipped(write_film(at / "whole.mp4", SHORT, codec="libsvtav1", options=_AV1), 15),
    "lost-packet": lambda at: lose_packets(write_film(at / "whole.ts", SHORT), 24, 1),
    "lost-packets": lambda at: lose_packets(write_film(at / "whole.ts", SHORT), 24, 3),
    "lost-packets-mpeg2": lambda at: lose_packets(
        write_film(at / "whole.ts", SHORT, codec="mpeg2video", options=_MPEG2), 24, 3
    ),
    "joined-with-a-gap": lambda at: _joined(at, Fraction(5)),
    "ten-bit-later": lambda at: _joined(at, Fraction(0), pixels="yuv420p10le"),
    "size-changes": lambda at: _joined(at, Fraction(0), width=64),
    "cut-mp4-index-first": lambda at: cut_off(write_film(at / "whole.mp4", SHORT, muxing=_INDEX_FIRST), 0.6),
    "cut-fragmented": lambda at: cut_off(write_film(at / "whole.mp4", SHORT, muxing=_FRAGMENTS), 0.6),
    "cut-mkv": lambda at: cut_off(write_film(at / "whole.mkv", SHORT), 0.6),
    "cut-ts": lambda at: cut_off(write_film(at / "whole.ts", SHORT), 0.6),
    "cut-webm": lambda at: cut_off(write_film(at / "whole.webm", SHORT, codec="libvpx-vp9", options=_VP9), 0.6),
}
"""Films of which some frames are lost, by name and with the reason; what was damaged lies beside it as `whole`."""


def _blank(path: Path) -> Path:
    path.touch()
    return path


REFUSED: dict[str, Maker] = {
    "empty": lambda at: _blank(at / "f.mp4"),
    "audio-only": lambda at: write_sound(at / "f.mp4"),
    "no-frames": lambda at: write_film(at / "f.mkv", 0, audio=True),
    "no-stamps": lambda at: write_film(at / "f.h264", SHORT),
    "cut-mp4": lambda at: cut_off(write_film(at / "f.mp4", SHORT), 0.6),
    "cut-early": lambda at: cut_off(write_film(at / "f.mkv", SHORT), 0.02),
    "joined-back": lambda at: _joined(at, Fraction(-1)),
    "joined-same": lambda at: _joined(at, -38 / NTSC_FILM + Fraction(2) / NTSC_FILM),
}
"""Films that are refused with an error that says why."""
