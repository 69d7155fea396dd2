"""What became of each sampled frame of a film, and how much of its time carries labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from insideout.report.tables import FilmTables
from insideout.report.words import plural
from insideout.stats.screen import Screen, sources, standing

STATUSES = ("labelled", "dropped", "failed")
NOBODY = "labelled, but no character"
_DUPLICATE = "duplicate_of:"


@dataclass(frozen=True)
class LedgerLine:
    """How many sampled frames share a status and a reason, and how much film time they stand for."""

    status: str
    reason: str | None
    frames: int
    seconds: float
    details: tuple[tuple[str, int], ...]  # full reasons behind a shortened one, most frequent first


@dataclass(frozen=True)
class Ledger:
    """The sums of one film; `problems` names every sum that is off.

    `shown` of `covered` seconds carry labels; `rest` are those that do not, by reason, the longest
    first. `held` of the frames are duplicates, for `held_shown` seconds of labels and `held_rest` without.
    `skipped` shots of `skipped_seconds` have no sampled frame at all.
    """

    sampled: int
    totals: dict[str, int]
    lines: tuple[LedgerLine, ...]
    problems: tuple[str, ...]
    covered: float
    shown: float
    rest: tuple[tuple[str, float], ...]
    skipped: int
    skipped_seconds: float
    held: int
    held_shown: float
    held_rest: float


def ledger(tables: FilmTables, screen: Screen) -> Ledger:
    """Count the sampled frames by status and reason, and check the sums."""
    names = ("ordinal", "status", "reason", "characters")
    ordinals, statuses, reasons, told = (tables.frames[name].to_pylist() for name in names)
    bounds = dict(
        zip(
            tables.shots["shot"].to_pylist(),
            zip(tables.shots["start_pts"].to_pylist(), tables.shots["end_pts"].to_pylist(), strict=True),
            strict=True,
        )
    )
    pts, shot = (tables.frames[name].to_numpy().astype(np.int64) for name in ("pts", "shot"))
    units = standing(pts, shot, bounds)[1].tolist()
    base = float(screen.time_base)
    kinds = [(status, reason_of(reason)) for status, reason in zip(statuses, reasons, strict=True)]
    frames, time = Counter(kinds), Counter[tuple[str, str | None]]()
    details: dict[tuple[str, str | None], Counter[str]] = defaultdict(Counter)
    for kind, reason, length in zip(kinds, reasons, units, strict=True):
        time[kind] += length
        if kind[0] == "failed" and reason:
            details[kind][reason] += 1
    order = sorted(frames, key=lambda kind: (_rank(kind[0]), -frames[kind], kind[1] or ""))
    lines = tuple(
        LedgerLine(kind[0], kind[1], frames[kind], time[kind] * base, tuple(details[kind].most_common(5)))
        for kind in order
    )
    shown, rest, held = 0, Counter[str](), {True: 0, False: 0}
    peopled = set(screen.ordinal.tolist())
    place = {ordinal: i for i, ordinal in enumerate(ordinals)}
    origins = sources(ordinals, statuses, reasons)
    for i, (ordinal, origin, length) in enumerate(zip(ordinals, origins, units, strict=True)):
        if kinds[i][1] == "duplicate":
            held[ordinal in peopled] += length
        if ordinal in peopled:
            shown += length
        elif origin is not None:
            rest[NOBODY] += length
        else:
            status, reason = kinds[_first(i, reasons, place)]
            rest[f"{status}: {reason or 'no reason given'}"] += length
    totals = {status: sum(n for kind, n in frames.items() if kind[0] == status) for status in STATUSES}
    skipped = set(bounds) - set(shot.tolist())
    return Ledger(
        sampled=len(ordinals),
        totals=totals,
        lines=lines,
        problems=tuple(_problems(ordinals, totals, sum(n or 0 for n in told), tables.characters.num_rows)),
        covered=sum(units) * base,
        shown=shown * base,
        rest=tuple((reason, length * base) for reason, length in sorted(rest.items(), key=lambda r: (-r[1], r[0]))),
        skipped=len(skipped),
        skipped_seconds=sum(bounds[number][1] - bounds[number][0] for number in skipped) * base,
        held=sum(line.frames for line in lines if line.reason == "duplicate"),
        held_shown=held[True] * base,
        held_rest=held[False] * base,
    )


def reason_of(reason: str | None) -> str | None:
    """Shorten a reason to its kind: `duplicate_of:12` to `duplicate`, `decode: text` to `decode`."""
    if reason is None:
        return None
    return "duplicate" if reason.startswith(_DUPLICATE) else reason.split(":", 1)[0].strip()


def _first(at: int, reasons: list[str | None], place: dict[int, int]) -> int:
    """The frame that a frame without labels repeats in the end, itself if none."""
    for _ in range(len(reasons)):
        digits = (reasons[at] or "").removeprefix(_DUPLICATE)
        if digits == reasons[at] or not digits.isdigit() or int(digits) not in place:
            return at
        at = place[int(digits)]
    return at


def _rank(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else len(STATUSES)


def _problems(ordinals: list[int], totals: dict[str, int], told: int, rows: int) -> Iterator[str]:
    sampled = len(ordinals)
    if sum(totals.values()) != sampled:
        lost = sampled - sum(totals.values())
        yield f"{plural(lost, 'sampled frame')} {'is' if lost == 1 else 'are'} neither labelled, dropped nor failed"
    if len(set(ordinals)) != sampled:
        yield f"{sampled - len(set(ordinals))} rows of the ledger repeat a frame"
    if told != rows:
        yield f"the ledger tells of {told} characters, the table has {rows}"
