from __future__ import annotations

import numpy as np
import pytest

from insideout.tracks import Sighting, decide, fuse, link, vote


def _at(frame: int, name: str, x: float, size: float = 50.0) -> Sighting:
    return Sighting(frame, frame / 6, name, 0.9, (x, 10.0, size, size))


def test_two_figures_that_cross_keep_their_names_apart() -> None:
    sightings = []
    for frame in range(6):
        sightings += [_at(frame, "Bunny", 10 + 12 * frame), _at(frame, "Frank", 70 - 12 * frame)]
    assert link(sightings) == [0, 1] * 6


def test_a_slip_of_the_class_name_stays_in_the_track_and_is_outvoted() -> None:
    sightings = [_at(0, "Gamera", 10), _at(1, "Rinky", 12), _at(2, "Gamera", 14)]
    assert link(sightings) == [0, 0, 0]
    assert vote([s.name for s in sightings], [0.5, 0.8, 0.5]) == "Gamera"
    assert vote(["b", "a"], [0.5, 0.5]) == "a"


def test_a_new_figure_elsewhere_starts_a_track_and_absence_ends_one() -> None:
    assert link([_at(0, "Bunny", 0), _at(1, "Bunny", 400)]) == [0, 1]
    assert link([_at(0, "Bunny", 0), _at(11, "Bunny", 0)]) == [0, 0]
    assert link([_at(0, "Bunny", 0), _at(13, "Bunny", 0)]) == [0, 1]
    assert link([]) == []


def test_fuse_is_the_geometric_mean() -> None:
    rows = np.array([[0.8, 0.2], [0.5, 0.5]], np.float32)
    expected = np.sqrt([0.8 * 0.5, 0.2 * 0.5])
    assert fuse(rows) == pytest.approx(expected / expected.sum())
    assert fuse(np.array([[1.0, 0.0]], np.float32)).sum() == pytest.approx(1)


def test_decide_abstains_below_the_threshold() -> None:
    assert decide(np.array([0.45, 0.55]), ["Angry", "Happy"], 0.4) == ("Happy", pytest.approx(0.55))
    assert decide(np.array([0.45, 0.55]), ["Angry", "Happy"], 0.6) == ("uncertain", pytest.approx(0.55))
