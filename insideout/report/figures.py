"""Aggregate the label table of one film: ledger, screen time, timelines, and the crops worth showing.

All times are summed as whole units of the film's time base and become seconds at the very end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from insideout.report.tables import UNCERTAIN, FilmTables, SampledFrame, Sighting

STATUSES = ("labelled", "dropped", "failed")
NOBODY = "labelled, but no character"
_DUPLICATE = "duplicate_of:"


@dataclass(frozen=True)
class LedgerLine:
    """How many sampled frames share a status and a reason, and how much film time they cover."""

    status: str
    reason: str | None
    frames: int
    seconds: float
    details: tuple[tuple[str, int], ...]  # full reasons behind a shortened one, most frequent first


@dataclass(frozen=True)
class Ledger:
    """What became of each sampled frame; `problems` names every sum that is off."""

    sampled: int
    totals: dict[str, int]
    seconds: dict[str, float]
    lines: tuple[LedgerLine, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Clock:
    """Film time in units of the time base, and how long each sampled frame stands on the screen.

    `spans` maps a sampled ordinal to the time until the next sampled frame (the last: until the film
    ends). `shown` maps an ordinal with labels to its own span plus those of its duplicates. `rest`
    maps a reason to the spans that carry no labels; `shown` and `rest` together are all of `spans`.
    `ends` maps an ordinal with labels to the time at which the last frame it stands for ends.
    """

    time_base: Fraction
    start: int
    end: int
    spans: dict[int, int]
    shown: dict[int, int]
    rest: dict[str, int]
    ends: dict[int, int]

    def seconds(self, units: int | Fraction) -> float:
        """Convert a length of time from time base units to seconds."""
        return float(units * self.time_base)


@dataclass(frozen=True)
class Stretch:
    """One track of one character on the timeline; times in units of the time base."""

    character: str
    track: int
    shot: int
    start: int
    end: int
    emotion: str
    shown: int
    frames: int
    lane: int


def reason_of(frame: SampledFrame) -> str | None:
    """Shorten a reason to its kind: `duplicate_of:12` to `duplicate`, `decode: text` to `decode`."""
    if frame.reason is None:
        return None
    return "duplicate" if frame.reason.startswith(_DUPLICATE) else frame.reason.split(":", 1)[0].strip()


def clock(tables: FilmTables) -> Clock:
    """Work out how long each sampled frame stands, and which frame its labels come from."""
    facts, frames = tables.facts, tables.frames
    start = min([shot.start_pts for shot in tables.shots] + [frames[0].pts])
    if tables.shots:
        end = max(shot.end_pts for shot in tables.shots)
    else:
        end = start + round(Fraction(facts.duration_s) / facts.time_base)
    end = max(end, frames[-1].pts)
    following = [frame.pts for frame in frames[1:]] + [end]
    spans = {frame.ordinal: after - frame.pts for frame, after in zip(frames, following, strict=True)}
    by_ordinal = {frame.ordinal: frame for frame in frames}
    peopled = {sighting.ordinal for sighting in tables.sightings}
    shown: dict[int, int] = defaultdict(int)
    rest: dict[str, int] = defaultdict(int)
    ends: dict[int, int] = {}
    for frame in frames:
        span = spans[frame.ordinal]
        source = _source(frame, by_ordinal)
        if source is None:
            rest["duplicate of a frame that is not in the ledger"] += span
        elif source.ordinal in peopled and source.status == "labelled":
            shown[source.ordinal] += span
            ends[source.ordinal] = max(ends.get(source.ordinal, 0), frame.pts + span)
        elif source.status == "labelled":
            rest[NOBODY] += span
        else:
            rest[f"{source.status}: {reason_of(source) or 'no reason given'}"] += span
    return Clock(facts.time_base, start, end, spans, dict(shown), dict(rest), ends)


def _source(frame: SampledFrame, by_ordinal: dict[int, SampledFrame]) -> SampledFrame | None:
    """Return the frame whose labels this one carries: itself, or what it is a duplicate of."""
    for _ in range(len(by_ordinal)):
        if frame.status != "dropped" or frame.reason is None or not frame.reason.startswith(_DUPLICATE):
            return frame
        digits = frame.reason.removeprefix(_DUPLICATE)
        found = by_ordinal.get(int(digits)) if digits.isdigit() else None
        if found is None:
            return None
        frame = found
    return None


def ledger(tables: FilmTables, clock: Clock) -> Ledger:
    """Count the sampled frames by status and reason, and check the sums."""
    frames: Counter[tuple[str, str | None]] = Counter()
    units: Counter[tuple[str, str | None]] = Counter()
    details: dict[tuple[str, str | None], Counter[str]] = defaultdict(Counter)
    for frame in tables.frames:
        line = (frame.status, reason_of(frame))
        frames[line] += 1
        units[line] += clock.spans[frame.ordinal]
        if frame.status == "failed" and frame.reason:
            details[line][frame.reason] += 1
    order = sorted(frames, key=lambda line: (_rank(line[0]), -frames[line], line[1] or ""))
    lines = tuple(
        LedgerLine(line[0], line[1], frames[line], clock.seconds(units[line]), tuple(details[line].most_common(5)))
        for line in order
    )
    totals = {status: sum(n for line, n in frames.items() if line[0] == status) for status in STATUSES}
    seconds = {status: clock.seconds(sum(n for line, n in units.items() if line[0] == status)) for status in STATUSES}
    return Ledger(len(tables.frames), totals, seconds, lines, tuple(_problems(tables, totals)))


def _rank(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else len(STATUSES)


def _problems(tables: FilmTables, totals: dict[str, int]) -> Iterable[str]:
    sampled, rows = len(tables.frames), len(tables.sightings)
    if sum(totals.values()) != sampled:
        yield f"{sampled - sum(totals.values())} sampled frames are neither labelled, dropped nor failed"
    distinct = len({frame.ordinal for frame in tables.frames})
    if distinct != sampled:
        yield f"{sampled - distinct} rows of the ledger repeat a frame"
    told = sum(frame.characters or 0 for frame in tables.frames)
    if told != rows:
        yield f"the ledger tells of {told} characters, the table has {rows}"


def screen_time(sightings: Sequence[Sighting], clock: Clock, *, fused: bool) -> dict[str, dict[str, Fraction]]:
    """Sum screen time by character and emotion, in units of the time base.

    Two sightings of one character in one frame share that frame's time, so a character's emotions
    add up to the time it is in view. `fused` takes `track_emotion`, otherwise the frame's own.
    """
    together = Counter((sighting.ordinal, sighting.character) for sighting in sightings)
    sums: dict[str, dict[str, Fraction]] = {}
    for sighting in sightings:
        share = Fraction(clock.shown.get(sighting.ordinal, 0), together[sighting.ordinal, sighting.character])
        emotion = sighting.track_emotion if fused else sighting.emotion
        row = sums.setdefault(sighting.character, {})
        row[emotion] = row.get(emotion, Fraction(0)) + share
    return dict(sorted(sums.items(), key=lambda item: (-sum(item[1].values()), item[0])))


def stretches(tables: FilmTables, clock: Clock) -> list[Stretch]:
    """Return one stretch per track, by start; overlapping tracks of one character get lanes 0, 1, 2."""
    tracks: dict[tuple[str, int], list[Sighting]] = defaultdict(list)
    for sighting in tables.sightings:
        tracks[sighting.character, sighting.track].append(sighting)
    shot_ends = {shot.shot: shot.end_pts for shot in tables.shots}
    free: dict[str, list[int]] = defaultdict(list)  # when each lane of a character is free again
    found = []
    for (character, track), seen in sorted(tracks.items(), key=lambda item: (item[1][0].pts, item[0])):
        start, shot = seen[0].pts, seen[0].shot
        end = max(clock.ends.get(sighting.ordinal, sighting.pts) for sighting in seen)
        end = max(min(end, shot_ends.get(shot, end)), seen[-1].pts)
        lanes = free[character]
        lane = next((index for index, until in enumerate(lanes) if until <= start), len(lanes))
        lanes[lane : lane + 1] = [end]
        emotion = Counter(sighting.track_emotion for sighting in seen).most_common(1)[0][0]
        shown = sum(clock.shown.get(sighting.ordinal, 0) for sighting in seen)
        found.append(Stretch(character, track, shot, start, end, emotion, shown, len(seen), lane))
    return found


def shot_pictures(sightings: Sequence[Sighting], character: str, at_most: int = 40) -> list[Sighting]:
    """Choose one sighting per shot of a character, the surest that agrees with its track.

    Of more than `at_most` shots, evenly spread ones are taken, the first and the last included.
    """
    best: dict[int, Sighting] = {}
    for sighting in sightings:
        if sighting.character == character:
            other = best.get(sighting.shot)
            if other is None or _telling(sighting) > _telling(other):
                best[sighting.shot] = sighting
    chosen = sorted(best.values(), key=lambda sighting: sighting.key)
    if len(chosen) > at_most:
        last = len(chosen) - 1
        chosen = [chosen[round(index * last / (at_most - 1))] for index in range(at_most)]
    return chosen


def _telling(sighting: Sighting) -> tuple[bool, float]:
    return (sighting.emotion == sighting.track_emotion, sighting.certainty)


def extremes(sightings: Sequence[Sighting], count: int = 12) -> tuple[list[Sighting], list[Sighting]]:
    """Return the most and the least certain sightings, at most one per track in each list."""
    surest = _one_per_track(sorted(sightings, key=lambda item: (-item.certainty, item.key)), count)
    taken = {sighting.key for sighting in surest}
    left = [sighting for sighting in sightings if sighting.key not in taken]
    return surest, _one_per_track(sorted(left, key=lambda item: (item.certainty, item.key)), count)


def _one_per_track(ranked: Iterable[Sighting], count: int) -> list[Sighting]:
    chosen: dict[int, Sighting] = {}
    for sighting in ranked:
        if len(chosen) == count:
            break
        chosen.setdefault(sighting.track, sighting)
    return list(chosen.values())


def emotion_order(known: Sequence[str], sightings: Iterable[Sighting]) -> list[str]:
    """Return the pack's emotions in its order, then any others by name, then `uncertain` if it occurs."""
    seen = {name for sighting in sightings for name in (sighting.emotion, sighting.track_emotion)}
    names = [name for name in dict.fromkeys(known) if name != UNCERTAIN]
    names += sorted(seen - set(names) - {UNCERTAIN})
    return names + [UNCERTAIN] * (UNCERTAIN in seen or UNCERTAIN in known)
