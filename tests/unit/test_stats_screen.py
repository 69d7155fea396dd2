"""How long each frame stands for, and who is on screen then: films small enough to work out by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from insideout import schema
from insideout.errors import OutputError
from insideout.stats.screen import UNCERTAIN, Screen, screen_of

EMOTIONS = ("Angry", "Happy")


def film(
    frames: list[tuple[int, int, int, str, str | None]],
    characters: list[tuple[int, int, str, str]],
    shots: list[tuple[int, int, int]],
    scenes: dict[int, int] | None = None,
) -> Screen:
    """Frames are (ordinal, pts, shot, status, reason), characters (ordinal, track, name, emotion), in 1/10 s."""

    def table(names: list[str], rows: list[tuple[Any, ...]]) -> pa.Table:
        part = pa.schema([schema.CHARACTERS.field(n) for n in names if n in schema.CHARACTERS.names])
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        kinds = [part.field(n).type if n in part.names else None for n in names]
        return pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})

    return screen_of(
        "f" * 16,
        table(["ordinal", "pts", "shot", "status", "reason"], frames),
        table(
            ["ordinal", "track", "character", "emotion", "track_emotion", "probabilities"],
            [(o, t, c, e, e, [("Angry", 0.25), ("Happy", 0.75)]) for o, t, c, e in characters],
        ),
        table(["shot", "start_pts", "end_pts"], shots),
        Fraction(1, 10),
        EMOTIONS,
        scenes,
    )


def labelled(ordinal: int, pts: int, shot: int) -> tuple[int, int, int, str, str | None]:
    return ordinal, pts, shot, "labelled", None


def test_a_frame_stands_until_the_next_and_never_beyond_a_cut() -> None:
    # The cut is at 55, between two sampled frames: the first keeps 5 units, the second gets the 5 before it too.
    frames = [labelled(0, 0, 0), labelled(4, 10, 0), labelled(8, 50, 0), labelled(12, 60, 1)]
    found = film(frames, [(o, 0 if o < 12 else 1, "Joy", "Happy") for o in (0, 4, 8, 12)], [(0, 0, 55), (1, 55, 90)])
    assert found.units.tolist() == [10, 40, 5, 35]
    assert found.begin.tolist() == [0, 10, 50, 55]
    assert found.seconds.sum() == pytest.approx(9.0)


def test_a_shot_between_two_samples_is_in_no_share() -> None:
    frames = [labelled(0, 0, 0), labelled(4, 40, 2)]
    found = film(frames, [(0, 0, "Joy", "Happy"), (4, 1, "Joy", "Angry")], [(0, 0, 10), (1, 10, 30), (2, 30, 50)])
    assert found.units.tolist() == [10, 20]


def test_a_duplicate_shows_what_it_repeats_also_at_second_hand() -> None:
    frames = [
        labelled(0, 0, 0),
        (4, 10, 0, "dropped", "duplicate_of:0"),
        (8, 20, 0, "dropped", "duplicate_of:4"),
        (12, 30, 0, "dropped", "no_character"),
        (16, 40, 0, "dropped", "duplicate_of:12"),
    ]
    found = film(frames, [(0, 7, "Joy", "Happy")], [(0, 0, 50)])
    assert found.ordinal.tolist() == [0, 4, 8]
    assert found.labelled.tolist() == [0, 0, 0]
    assert found.track.tolist() == [7, 7, 7]
    assert found.seconds.sum() == pytest.approx(3.0)


def test_failed_frames_are_unknown_time_and_black_ones_are_not() -> None:
    frames = [labelled(0, 0, 0), (4, 10, 0, "failed", "decode: lost"), (8, 25, 0, "dropped", "black")]
    found = film(frames, [(0, 0, "Joy", "Happy")], [(0, 0, 40)])
    assert found.unknown == 15
    assert found.seconds.tolist() == [1.0]


def test_two_of_one_name_share_the_frame() -> None:
    found = film(
        [labelled(0, 0, 0)], [(0, 0, "Joy", "Happy"), (0, 1, "Joy", "Angry"), (0, 2, "Fear", "Angry")], [(0, 0, 30)]
    )
    seconds = {
        (found.characters[c], found.readings[r]): s
        for c, r, s in zip(found.character, found.reading, found.seconds, strict=True)
    }
    assert seconds == {("Joy", "Happy"): 1.5, ("Joy", "Angry"): 1.5, ("Fear", "Angry"): 3.0}


def test_uncertain_is_a_reading_and_scenes_are_those_given() -> None:
    frames = [labelled(0, 0, 0), labelled(4, 10, 1)]
    people = [(0, 0, "Joy", UNCERTAIN), (4, 1, "Joy", "Happy")]
    found = film(frames, people, [(0, 0, 10), (1, 10, 20)], {0: 3, 1: 4})
    assert [found.readings[r] for r in found.reading] == [UNCERTAIN, "Happy"]
    assert found.scene.tolist() == [3, 4]
    assert found.has_scenes
    assert not film(frames, people, [(0, 0, 10), (1, 10, 20)]).has_scenes
    assert found.probabilities.tolist() == [[0.25, 0.75]] * 2
    assert found.table()["emotion"].to_pylist() == [UNCERTAIN, "Happy"]


def test_tables_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(OutputError, match="shot 3"):
        film([labelled(0, 0, 3)], [(0, 0, "Joy", "Happy")], [(0, 0, 10)])
    with pytest.raises(OutputError, match="frame 8"):
        film([labelled(0, 0, 0)], [(8, 0, "Joy", "Happy")], [(0, 0, 10)])


def test_rows_may_come_in_any_order() -> None:
    frames = [labelled(4, 10, 0), labelled(0, 0, 0)]
    found = film(frames, [(4, 0, "Joy", "Angry"), (0, 0, "Joy", "Happy")], [(0, 0, 30)])
    assert found.ordinal.tolist() == [0, 4]
    assert found.units.tolist() == [10, 20]
    assert np.array(found.readings)[found.reading].tolist() == ["Happy", "Angry"]
