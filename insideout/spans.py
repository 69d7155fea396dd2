"""The plan of a film: spans, which are committed together, and reels, which are decoded in one pass."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from insideout.film import Film

SPAN_BYTES = 96 * 1024 * 1024
"""How many bytes of sampled pictures a span may hold."""

REEL_SAMPLES = 64
"""How many sampled frames a reel holds at least, but for the last of a film."""


@dataclass(frozen=True)
class Span:
    """A run of frames that is labelled and committed together: ordinals [start, end) of a film."""

    index: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Reel:
    """A run of consecutive spans that one process decodes in one pass; small, picklable, self-contained.

    Decoding begins at `start`, the ordinal of the key frame at or before the first span. The frames
    from there to the first span are looked at and not yielded, so that what is decided about a frame
    does not depend on where its span was cut off.

    width, height: pixels after rotation; rotation: degrees counter-clockwise to apply.
    pts: int64, of ordinals [start, spans[-1].end). seek_pts: pts of the key frame at `start`.
    groups: ordinals within at which a group of pictures starts, `start` first.
    samples: int32, sampled ordinals from `start` on, ascending.
    keyframes_only: only the sampled frames, all key frames, are decoded. counted: see `Film.counted`.
    gaps: those of `Film.gaps` within.
    """

    path: str
    film: str
    width: int
    height: int
    rotation: int
    time_base: Fraction
    start: int
    pts: NDArray[np.int64]
    seek_pts: int
    groups: tuple[int, ...]
    spans: tuple[Span, ...]
    samples: NDArray[np.int32]
    keyframes_only: bool = False
    counted: bool = False
    gaps: tuple[int, ...] = ()

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the pictures in the file, before rotation."""
        return (self.width, self.height) if self.rotation % 180 == 0 else (self.height, self.width)

    @property
    def end(self) -> int:
        """The ordinal after the last frame."""
        return self.start + len(self.pts)


def plan_reels(
    film: Film,
    samples: NDArray[np.int32],
    *,
    span_bytes: int = SPAN_BYTES,
    reel_samples: int = REEL_SAMPLES,
    keyframes_only: bool = False,
    wanted: Collection[int] | None = None,
    alone: bool = False,
) -> list[Reel]:
    """Divide a film into reels of spans.

    samples: int32 ordinals to look at, ascending. A reel is a run of whole groups of pictures with at
    least `reel_samples` samples. Its spans hold at most `span_bytes` of sampled pictures, in a multiple
    of 8 between 8 and 64 frames, and may be cut inside a group. All spans together are [0, frames).
    keyframes_only: whether `samples` are the key frames of `Sampling(keyframes=True)`.
    wanted: indices of the spans still to be done, None for all. It never changes where spans begin and
    end: consecutive wanted spans share a reel as they did before. alone: whether each has a reel of its own.
    """
    most = max(8, min(64, span_bytes // (film.width * film.height * 3))) // 8 * 8
    todo = None if wanted is None else frozenset(wanted)
    reels: list[Reel] = []
    index = 0
    for start, end in _stretches(film, samples, reel_samples):
        spans = _spans(index, start, end, _within(samples, start, end), most)
        index += len(spans)
        run: list[Span] = []
        for span in spans:
            taken = todo is None or span.index in todo
            if run and (alone or not taken):
                reels.append(_reel(film, samples, run, keyframes_only))
                run = []
            if taken:
                run.append(span)
        if run:
            reels.append(_reel(film, samples, run, keyframes_only))
    return reels


def reel_of(film: Film, ordinals: NDArray[np.int32]) -> Reel:
    """Return a reel of one span that holds just these ordinals, ascending and not empty."""
    span = Span(0, int(ordinals[0]), int(ordinals[-1]) + 1)
    return _reel(film, ordinals, [span], keyframes_only=False)


def _stretches(film: Film, samples: NDArray[np.int32], reel_samples: int) -> Iterator[tuple[int, int]]:
    """Yield [start, end) of runs of whole groups of pictures; none is without samples if the film has any."""
    ends = [*film.gops[1:].tolist(), film.frames]
    before = np.searchsorted(samples, ends).tolist()
    start = taken = 0
    for end, count in zip(ends, before, strict=True):
        full = count - taken >= max(1, reel_samples) and count < len(samples)
        if full or end == film.frames:
            yield start, end
            start, taken = end, count


def _spans(index: int, start: int, end: int, samples: NDArray[np.int32], most: int) -> list[Span]:
    borders = [start, *samples[most::most].tolist(), end]
    return [Span(index + i, a, b) for i, (a, b) in enumerate(pairwise(borders))]


def _reel(film: Film, samples: NDArray[np.int32], spans: list[Span], keyframes_only: bool) -> Reel:
    gops = film.gops
    start = int(gops[np.searchsorted(gops, spans[0].start, side="right") - 1])
    end = spans[-1].end
    return Reel(
        path=film.path,
        film=film.film,
        width=film.width,
        height=film.height,
        rotation=film.rotation,
        time_base=film.time_base,
        start=start,
        pts=film.pts[start:end].copy(),
        seek_pts=int(film.pts[start]),
        groups=tuple(_within(gops, start, end).tolist()),
        spans=tuple(spans),
        samples=_within(samples, start, end).copy(),
        keyframes_only=keyframes_only,
        counted=film.counted,
        gaps=tuple(_within(film.gaps, start, end).tolist()),
    )


def _within(ordinals: NDArray[np.int32], start: int, end: int) -> NDArray[np.int32]:
    low, high = np.searchsorted(ordinals, (start, end))
    return ordinals[low:high]
