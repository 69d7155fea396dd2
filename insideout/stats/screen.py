"""Who is on screen when: the label table of one film with the length of time that each row stands for.

A sampled frame stands for the time until the next sampled frame of its shot, and to the end of the
shot where there is none; the first sampled frame of a shot also stands for what precedes it in the
shot. So no frame stands for time beyond a cut, and the frames of a shot together stand for all of it.
Lengths are differences of time stamps, so they are right at a variable frame rate too.

What the ledger says of a frame decides what it shows:

    labelled            the characters of its own rows
    duplicate_of:N      those of frame N, since it shows the same picture
    no_character, black nobody
    failed              unknown: in no share, and told apart

Several rows of one character in one frame (a flock, or a figure found twice) share the frame's time,
so the emotions of a character add up to the time it is in view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from insideout.errors import OutputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNCERTAIN = "uncertain"
NO_SCENE = -1
_DUPLICATE = "duplicate_of:"
_ROWS = (
    "ordinal", "labelled", "pts", "begin", "units", "sharing", "shot", "scene", "track", "character", "reading",
    "fused", "probabilities",
)  # fmt: skip


@dataclass(frozen=True)
class Screen:
    """One row per character and frame on screen, in order of time; arrays of length n.

    `ordinal` is the frame on screen, `labelled` the frame whose row of the label table it shows
    (another one for a duplicate); `pts` is its time stamp, `begin` and `units` are start and length of
    the time it stands for, in units of `time_base`; `sharing` counts the rows of the same character in
    the frame. `shot` and `scene` are numbers (scene -1 where unknown), `character` an index into
    `characters`; `reading` and `fused` (the frame's emotion and its track's) are indices into
    `readings`, whose last is `uncertain`. `probabilities` is float64 [n, emotions].

    `shot_units` is the length of every shot of the film, `unknown` the time of failed frames, `start`
    the first time stamp of the film.
    """

    film: str
    time_base: Fraction
    start: int
    characters: tuple[str, ...]
    emotions: tuple[str, ...]
    ordinal: Ints
    labelled: Ints
    pts: Ints
    begin: Ints
    units: Ints
    sharing: Ints
    shot: Ints
    scene: Ints
    track: Ints
    character: Ints
    reading: Ints
    fused: Ints
    probabilities: Floats
    shot_units: dict[int, int]
    unknown: int

    @property
    def readings(self) -> tuple[str, ...]:
        """The emotions, then `uncertain`."""
        return (*self.emotions, UNCERTAIN)

    @property
    def has_scenes(self) -> bool:
        """Whether every shot on screen is in a scene."""
        return len(self.scene) > 0 and bool((self.scene != NO_SCENE).all())

    @property
    def seconds(self) -> Floats:
        """The time of each row, float64 [n]: its share of the frame's time, in seconds."""
        found: Floats = self.units * float(self.time_base) / self.sharing
        return found

    def time(self, pts: int | np.int64) -> float:
        """Seconds from the first frame to a time stamp, for display."""
        return float((int(pts) - self.start) * self.time_base)

    def of(self, character: str) -> Screen:
        """The rows of one character."""
        return self.take(self.character == self.characters.index(character))

    def take(self, chosen: npt.NDArray[np.bool_] | Ints) -> Screen:
        """The rows at these indices, or where this is true, in order."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _ROWS})

    def table(self) -> pa.Table:
        """The rows with names instead of numbers: what every figure is computed from."""
        return pa.table(
            {
                "film": [self.film] * len(self.ordinal),
                "character": np.array(self.characters, object)[self.character],
                "track": self.track,
                "shot": self.shot.astype(np.int32),
                "scene": pa.array(self.scene, pa.int32(), mask=self.scene == NO_SCENE),
                "ordinal": self.ordinal.astype(np.int32),
                "labelled_ordinal": self.labelled.astype(np.int32),
                "pts": self.pts,
                "begin_pts": self.begin,
                "units": self.units,
                "sharing": self.sharing.astype(np.int32),
                "seconds": self.seconds,
                "emotion": np.array(self.readings, object)[self.reading],
                "track_emotion": np.array(self.readings, object)[self.fused],
            }
        )


def screen_of(
    film: str,
    frames: pa.Table,
    characters: pa.Table,
    shots: pa.Table,
    time_base: Fraction,
    emotions: Sequence[str],
    scenes: dict[int, int] | None = None,
) -> Screen:
    """Work out who is on screen when from the tables of one film.

    `frames` (ordinal, pts, shot, status, reason), `characters` (ordinal, track, character, emotion,
    track_emotion, probabilities) and `shots` (shot, start_pts, end_pts) are those of the label table;
    `emotions` the pack's, in its order; `scenes` maps a shot to its scene. Emotions of the table that
    the pack does not name come after those, by name. Raises OutputError where the tables contradict
    each other: a frame in a shot that is not there, a character in a frame that is not in the ledger.
    """
    ledger = frames.sort_by("ordinal")
    ordinals, pts = ledger["ordinal"].to_numpy().astype(np.int64), ledger["pts"].to_numpy().astype(np.int64)
    shot = ledger["shot"].to_numpy().astype(np.int64)
    bounds = {
        int(number): (int(start), int(end))
        for number, start, end in zip(*(shots[c].to_pylist() for c in ("shot", "start_pts", "end_pts")), strict=True)
    }
    if lost := sorted(set(shot.tolist()) - set(bounds)):
        raise OutputError(f"film {film}: shot {lost[0]} of the ledger is not in shots/; label again into a new folder")
    begin, units = standing(pts, shot, bounds)
    frame_sources = sources(ordinals.tolist(), ledger["status"].to_pylist(), ledger["reason"].to_pylist())
    place = {ordinal: i for i, ordinal in enumerate(ordinals.tolist())}
    shown: dict[int, list[int]] = {}
    for i, source in enumerate(frame_sources):
        if source is not None:
            shown.setdefault(source, []).append(i)
    rows = characters.sort_by([("ordinal", "ascending"), ("track", "ascending")])
    at = rows["ordinal"].to_numpy().astype(np.int64)
    if strange := sorted(set(at.tolist()) - set(place)):
        raise OutputError(f"film {film}: frame {strange[0]} has characters but is not in the ledger; label again")
    pairs = sorted((frame, row) for row, ordinal in enumerate(at.tolist()) for frame in shown.get(ordinal, ()))
    frame_of = np.array([frame for frame, _ in pairs], np.int64)
    row_of = np.array([row for _, row in pairs], np.int64)
    names = tuple(sorted(set(rows["character"].to_pylist())))
    readings = [[value or UNCERTAIN for value in rows[c].to_pylist()] for c in ("emotion", "track_emotion")]
    known = [name for name in dict.fromkeys(emotions) if name != UNCERTAIN]
    known += sorted(set(readings[0] + readings[1]) - set(known) - {UNCERTAIN})
    index = {name: i for i, name in enumerate((*known, UNCERTAIN))}
    character = _index(rows["character"].to_pylist(), {name: i for i, name in enumerate(names)})[row_of]
    _, group, count = np.unique(frame_of * max(1, len(names)) + character, return_inverse=True, return_counts=True)
    scene = np.array([(scenes or {}).get(number, NO_SCENE) for number in shot.tolist()], np.int64)
    failed = np.array([status == "failed" for status in ledger["status"].to_pylist()], bool)
    return Screen(
        film=film,
        time_base=time_base,
        start=min([int(pts[0])] + [start for start, _ in bounds.values()]) if len(pts) else 0,
        characters=names,
        emotions=tuple(known),
        ordinal=ordinals[frame_of],
        labelled=at[row_of],
        pts=pts[frame_of],
        begin=begin[frame_of],
        units=units[frame_of],
        sharing=count[group].astype(np.int64),
        shot=shot[frame_of],
        scene=scene[frame_of],
        track=rows["track"].to_numpy().astype(np.int64)[row_of],
        character=character,
        reading=_index(readings[0], index)[row_of],
        fused=_index(readings[1], index)[row_of],
        probabilities=_probabilities(rows["probabilities"].to_pylist(), known)[row_of],
        shot_units={number: end - start for number, (start, end) in bounds.items()},
        unknown=int(units[failed].sum()),
    )


def standing(pts: Ints, shot: Ints, bounds: dict[int, tuple[int, int]]) -> tuple[Ints, Ints]:
    """Start and length of the time each sampled frame stands for, int64 [n] each, as said at the top.

    `pts` ascending and the `shot` of each frame, int64 [n]; `bounds` are start and end of each shot.
    """
    begin, units = pts.copy(), np.zeros(len(pts), np.int64)
    for number in np.unique(shot).tolist():
        inside = np.flatnonzero(shot == number)
        start, end = bounds[number]
        begin[inside[0]] = min(start, pts[inside[0]])
        units[inside] = np.diff(np.append(begin[inside], max(end, pts[inside[-1]])))
    return begin, units


def sources(ordinals: list[int], statuses: list[str], reasons: list[str | None]) -> list[int | None]:
    """The frame whose rows each frame shows; None where it shows nobody or it is not known."""
    found: dict[int, int | None] = {}
    for ordinal, status, reason in zip(ordinals, statuses, reasons, strict=True):
        if status == "labelled":
            found[ordinal] = ordinal
        elif status == "dropped" and (reason or "").startswith(_DUPLICATE):
            # A frame repeats an earlier one, which may itself be a repeat.
            digits = (reason or "").removeprefix(_DUPLICATE)
            found[ordinal] = found.get(int(digits)) if digits.isdigit() else None
        else:
            found[ordinal] = None
    return [found[ordinal] for ordinal in ordinals]


def _index(values: list[str], places: dict[str, int]) -> Ints:
    return np.array([places[value] for value in values], np.int64)


def _probabilities(rows: list[list[tuple[str, float]] | None], emotions: list[str]) -> Floats:
    found = np.zeros((len(rows), len(emotions)))
    places = {name: i for i, name in enumerate(emotions)}
    for values, pairs in zip(found, rows, strict=True):
        for name, probability in pairs or ():
            if name in places:
                values[places[name]] = probability
    return found
