"""What the frame oracle compares: the frames of a film, decoded in one pass and in any other division."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from insideout import shots
from insideout.decode import SpanFrames, decode
from insideout.film import Film, Sampling
from insideout.spans import Reel, plan_reels, reel_of

Row = tuple[int, str, str | None]
"""pts, digest of the picture, reason."""

TABLE = Path(__file__).parents[1] / "docs" / "oracle.md"


def digest(picture: np.ndarray) -> str:
    """A digest of the pixels of a picture."""
    return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()


def digests(spans: Iterable[SpanFrames]) -> dict[int, Row]:
    """The sampled frames of spans by ordinal; none may come twice."""
    rows: dict[int, Row] = {}
    for span in spans:
        for ordinal, pts, picture, reason in zip(span.ordinals, span.pts, span.pictures, span.reasons, strict=True):
            assert int(ordinal) not in rows
            rows[int(ordinal)] = (int(pts), digest(picture), reason)
    return rows


def changes(spans: list[SpanFrames]) -> np.ndarray:
    """Join the changes; where a reel begins the edges of the spans on both sides give the value."""
    for before, after in pairwise(spans):
        if np.isnan(after.changes[0]):
            after.changes[0] = shots.change(before.edges[1], after.edges[0])
    return np.concatenate([span.changes for span in spans])


def run(film: Film, sampling: Sampling, *, threads: int = 1, **plan: int) -> list[SpanFrames]:
    """Decode a film as planned; the spans are those of the plan and begin where they should."""
    spans = []
    for reel in plan_reels(film, sampling.ordinals(film), keyframes_only=sampling.keyframes, **plan):
        decoded = list(decode(reel, threads=threads))
        assert [span.span for span in decoded] == list(reel.spans)
        # Only at the start of a reel is there nothing to compare with.
        starts = [i for span in decoded for i in np.flatnonzero(np.isnan(span.changes)) + span.span.start]
        assert starts[:1] == [reel.spans[0].start]
        assert all(not decoded[0].edges[0].any() for _ in starts[1:])
        spans += decoded
    return spans


def whole(film: Film, every: int = 1) -> dict[int, Row]:
    """The frames of a single pass."""
    return digests(run(film, Sampling(every=every), span_bytes=1 << 40, reel_samples=film.frames))


def divisions(film: Film, sampling: Sampling) -> Iterator[tuple[int, dict[int, Row]]]:
    """Decode a film cut into reels of at least 1, 2, 3 ... N samples; yield (reels, frames) of each division."""
    samples = sampling.ordinals(film)
    known: dict[tuple[int, int], dict[int, Row]] = {}
    for least in range(1, len(samples) + 1):
        rows: dict[int, Row] = {}
        reels = plan_reels(film, samples, span_bytes=1, reel_samples=least)
        for reel in reels:
            if (reel.start, reel.end) not in known:
                known[reel.start, reel.end] = digests(decode(reel))
            rows |= known[reel.start, reel.end]
        yield len(reels), rows


def runs_of_groups(film: Film) -> Iterator[Reel]:
    """Every run of groups of pictures: all 2^(groups - 1) ways to cut a film at its key frames are made of them."""
    borders = [*film.gops.tolist(), film.frames]
    for i, start in enumerate(borders):
        for end in borders[i + 1 :]:
            yield reel_of(film, np.arange(start, end, dtype=np.int32))


def is_lost(reason: str | None) -> bool:
    """Say whether a reason is that of a failed frame; `black` and duplicates are dropped, not lost."""
    return reason is not None and reason.startswith("decode: ")


def account(film: Film, rows: Mapping[int, Row]) -> str:
    """Say in one line how many frames a film has and which of them are lost for what reason."""
    reasons: dict[str, list[int]] = {}
    for ordinal, (_, _, reason) in rows.items():
        if reason is not None and is_lost(reason):
            reasons.setdefault(reason.removeprefix("decode: "), []).append(ordinal)
    lost = "; ".join(f"{_ranges(ordinals)} {reason}" for reason, ordinals in reasons.items())
    return f"{film.frames} frames; lost: {lost or 'none'}"


def _ranges(ordinals: list[int]) -> str:
    runs = [[o for _, o in run] for _, run in groupby(enumerate(ordinals), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def table(heading: str) -> dict[str, str]:
    """Read a table of docs/oracle.md: the last cell of each row by the kind in its first."""
    text = TABLE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert rows, f"no table under '{heading}'"
    assert len({cells[0] for cells in rows}) == len(rows)
    return {cells[0].strip("`"): cells[-1].strip("` ") for cells in rows}
