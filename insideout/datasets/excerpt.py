"""Cut a run of frames out of a film without encoding anything again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from insideout.errors import FilmError, UsageError


@dataclass(frozen=True)
class Excerpt:
    """A written excerpt: frame `i` of `path` is frame `start + i` of the film, for `i < end - start`."""

    path: Path
    start: int
    end: int


def cut_excerpt(film: Path, start: int, end: int, out: Path) -> Excerpt:
    """Copy the frames [start, end) of a local film, with its sound, into `out` (a new MP4).

    Packets are copied as they are, so the pictures are those of the film, bit for bit. `start` and
    `end` are ordinals (0-based, presentation order, end exclusive). A copy can only begin at a key
    frame and end where no later frame is needed, so it begins at the key frame at or before `start`
    and may end a few frames before `end`: the returned Excerpt says which frames it holds. Time
    stamps begin at zero; the sound is cut to the same stretch of time, good to one audio packet.

    Raises FilmError for a film that cannot be read, UsageError for an empty or impossible range.
    """
    try:
        return _cut(film, start, end, out)
    except av.FFmpegError as error:
        raise FilmError(f"{film}: cannot be copied: {error}; is it a video?") from error


def _cut(film: Path, start: int, end: int, out: Path) -> Excerpt:
    with av.open(str(film)) as container:
        if not container.streams.video:
            raise FilmError(f"{film}: no video stream; give a film")
        stream = container.streams.video[0]
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None and p.size]
    decode_order = np.array([pts for pts, _ in packets], dtype=np.int64)
    pts = np.sort(decode_order)
    if not 0 <= start < end <= len(pts):
        raise UsageError(f"{film}: no frames [{start}, {end}); the film has the frames [0, {len(pts)})")
    keys = np.searchsorted(pts, [p for p, key in packets if key])
    first = int(keys[keys <= start].max(initial=-1))
    if first < 0:
        raise FilmError(f"{film}: no key frame at or before frame {start}; its beginning is missing")
    begin = int(np.flatnonzero(decode_order == pts[first])[0])
    count = _complete_prefix(np.searchsorted(pts, decode_order[begin:]) - first, end - first)
    if count <= start - first:
        raise UsageError(f"{film}: no place to end between the frames {start} and {end}; choose a later end")

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    try:
        _copy(film, part, int(pts[first]), int(pts[first + count]) if first + count < len(pts) else None)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return Excerpt(out, first, first + count)


def _complete_prefix(order: np.ndarray[Any, Any], limit: int) -> int:
    """Longest n <= limit such that the frames 0..n-1 are decoded before any later frame.

    `order` is the presentation position of each packet, relative to the first, in decode order;
    negative positions (leading pictures of an open group) do not count, they are not copied.
    """
    order = order[order >= 0]
    reach = np.maximum.accumulate(order) + 1
    complete = reach[reach == np.arange(1, len(order) + 1)]
    return int(complete[complete <= limit].max(initial=0))


def _copy(film: Path, out: Path, first_pts: int, end_pts: int | None) -> None:
    """Copy the video packets with first_pts <= pts < end_pts (None: to the end) and the sound between."""
    with av.open(str(film)) as source, av.open(str(out), "w", format="mp4") as target:
        video = source.streams.video[0]
        sound = source.streams.audio[0] if source.streams.audio else None
        chosen = [video] if sound is None else [video, sound]
        copies = {s.index: target.add_stream_from_template(s) for s in chosen}
        assert video.time_base is not None
        zero = first_pts * video.time_base
        stop = None if end_pts is None else end_pts * video.time_base
        source.seek(first_pts, stream=video)
        for packet in _wanted(source, chosen, zero, stop):
            shift = round(zero / packet.time_base)
            packet.pts -= shift
            packet.dts = packet.dts - shift if packet.dts is not None else None
            packet.stream = copies[packet.stream.index]
            target.mux(packet)


def _wanted(source: Any, streams: list[Any], zero: Any, stop: Any) -> Iterator[Any]:
    past = {s.index: False for s in streams}
    for packet in source.demux(*streams):
        if packet.pts is None or not packet.size:
            continue
        time = packet.pts * packet.time_base
        if stop is not None and packet.dts is not None and packet.dts * packet.time_base >= stop:
            past[packet.stream.index] = True
            if all(past.values()):
                return
        if time >= zero and (stop is None or time < stop):
            yield packet
