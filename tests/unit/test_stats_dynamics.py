"""What comes when: stretches, transitions, dwell times, arcs and company, worked out by hand or put in."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom

from insideout.stats.always import longest_without
from insideout.stats.arc import arcs
from insideout.stats.confusion import Support
from insideout.stats.screen import Screen
from insideout.stats.simulated import Population, simulated_cast, simulated_film
from insideout.stats.together import together
from insideout.stats.transitions import dwell, kaplan_meier_median, pair_counts, transitions

JOY = {"Joy": Support("Joy", True, 0.5, 0.4, 0.6, 0.7, 0.5, 100, 20, "")}


def spelled(readings: str, tracks: str | None = None, begin: list[int] | None = None) -> Screen:
    """A film of Joy, a letter a frame of 1/6 s: a, b, or ? for uncertain; a digit of `tracks` for track and shot."""
    film, _ = simulated_film(Population((0.5, 0.5)), 1, np.random.default_rng(0))
    n = len(readings)
    state = np.array(["ab?".index(letter) for letter in readings])
    track = np.array([int(d) for d in tracks or "0" * n])
    at = np.array(begin if begin is not None else range(n))
    one = np.ones(n, np.int64)
    return replace(
        film, ordinal=at * 4, labelled=at * 4, pts=at, begin=at, units=one, sharing=one, shot=track, scene=track,
        track=track, character=one * 0, reading=state, fused=state, probabilities=np.eye(3)[state][:, :2],
        shot_units={0: n},
    )  # fmt: skip


def test_the_longest_stretch_crosses_cuts_but_no_long_absence() -> None:
    found = longest_without(spelled("abb?bab?", "00011122"), 0)
    assert (found.start_ordinal, found.end_ordinal) == (4, 16)
    assert found.seconds == pytest.approx(4 / 6)
    assert found.uncertain == pytest.approx(1 / 6)
    assert (found.start_s, found.end_s) == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    # 13 frames of 1/6 s are more than two seconds: what is before and after is not one stretch.
    apart = longest_without(spelled("bbbb", "0000", [0, 1, 15, 16]), 0)
    assert apart.seconds == pytest.approx(2 / 6)
    near = longest_without(spelled("bbbb", "0000", [0, 1, 13, 14]), 0)
    assert near.seconds == pytest.approx(4 / 6)
    assert longest_without(spelled("aaaa"), 0) is None
    assert longest_without(spelled("a??a"), 0) is None


def test_pairs_are_counted_as_they_follow() -> None:
    counts = pair_counts(np.array([[0, 1, 1, 2], [2, 2, 2, 2]]), 3)
    assert counts[0].tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert counts[1][2, 2] == 3


def test_emotions_that_stay_are_told_from_shuffled_ones() -> None:
    kept = spelled("a" * 12 + "b" * 12 + "a" * 12, "".join(str(i // 4) for i in range(36)))
    rows = transitions(kept, JOY, permutations=999)
    same = next(row for row in rows if row.emotion == "*")
    assert (same.pairs, same.count) == (8, 6)
    assert same.tracks == [0, 1, 3, 4, 6, 7]
    move = next(row for row in rows if (row.emotion, row.following) == ("emotion0", "emotion1"))
    assert move.count == 1
    assert move.tracks == [2]
    # Jeffreys: one of five pairs that begin with emotion0, and two states that occur.
    assert move.probability == pytest.approx((1 + 0.5) / (5 + 1))
    assert move.expected == pytest.approx(8 * (6 / 9) * (3 / 8), abs=0.1)


def test_in_a_film_without_order_transitions_are_rarely_found() -> None:
    found = 0
    for seed in range(60):
        film, _ = simulated_film(Population((0.5, 0.3, 0.2)), 40, np.random.default_rng(seed))
        rows = transitions(film, JOY, seed, permutations=199)
        found += next(row for row in rows if row.emotion == "*").p < 0.05
    assert found <= binom.ppf(0.999, 60, 0.05)
    film, _ = simulated_film(
        Population((0.5, 0.3, 0.2), scene_shots=8, scene_spread=0.3), 120, np.random.default_rng(1)
    )
    assert next(row for row in transitions(film, JOY, 0, 999) if row.emotion == "*").p < 0.01


def test_dwell_times_know_which_runs_were_cut_off() -> None:
    rows = {row.emotion: row for row in dwell(spelled("aabbbabb?a", "0000000000"), JOY)}
    assert (rows["emotion0"].runs, rows["emotion0"].cut_off) == (3, 2)
    assert (rows["emotion1"].runs, rows["emotion1"].cut_off) == (2, 0)
    assert rows["emotion1"].longest == pytest.approx(3 / 6)
    assert rows["emotion1"].longest_from_ordinal == 8
    assert rows["uncertain"].seconds == pytest.approx(1 / 6)
    gap = {row.emotion: row for row in dwell(spelled("abba", "0000", [0, 1, 9, 10]), JOY)}
    assert (gap["emotion1"].runs, gap["emotion1"].cut_off) == (2, 2)


def test_the_median_is_that_of_kaplan_and_meier() -> None:
    # At 1 a quarter ends, 2 is cut off, at 3 half of the rest ends: .75 -> .375.
    assert kaplan_meier_median(np.array([1.0, 2, 3, 4]), np.array([False, True, False, False])) == 3
    assert kaplan_meier_median(np.array([1.0, 2]), np.array([True, True])) is None
    assert kaplan_meier_median(np.array([1.0, 5, 5, 5]), np.array([False, True, True, True])) is None


def test_an_arc_follows_the_film_and_its_band_holds_it() -> None:
    holds = points = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        film, _ = simulated_film(Population((0.5, 0.5), frames=6, shot_spread=4), 120, rng)
        for point in arcs(film, JOY, seed, points=10):
            if point.emotion == "emotion0" and point.share is not None:
                points += 1
                holds += point.low <= 0.5 <= point.high
    assert points > 150
    assert 0.88 <= holds / points <= 0.99
    rising = spelled("a" * 60 + "b" * 60, "".join(str(i * 10 // 120) for i in range(120)))
    rising = replace(rising, shot=np.arange(120) // 2, shot_units=dict.fromkeys(range(60), 2))
    curve = [point.share for point in arcs(rising, JOY, points=12) if point.emotion == "emotion1"]
    assert curve[0] == pytest.approx(0)
    assert curve[-1] == pytest.approx(1)
    assert all(b >= a - 1e-9 for a, b in pairwise(curve))


def test_an_arc_has_no_value_where_few_shots_say_anything() -> None:
    assert all(point.share is None for point in arcs(spelled("ab" * 30), JOY, points=5))


def test_an_arc_ends_where_the_character_does_and_has_no_value_in_a_long_absence() -> None:
    # 600 seconds: there from 60 to 240 and from 330 to 480; two standard deviations are 40 seconds.
    film = spelled("a" * 600, "0" * 600)
    seen = np.r_[60:240, 330:480]
    film = replace(film, time_base=Fraction(1), shot=np.arange(600) // 6, shot_units=dict.fromkeys(range(100), 6))
    units = dict.fromkeys(("begin", "pts"), np.arange(600))
    film = replace(film, **units, units=np.ones(600, np.int64), start=0).take(seen)
    points = [point for point in arcs(film, JOY, points=60) if point.emotion == "emotion0"]
    shown = [point.time_s for point in points if point.share is not None]
    assert shown == [*range(65, 240, 10), *range(335, 480, 10)]
    joined = arcs(film.take(film.begin % 100 < 70), JOY, points=60)  # absences of 30 seconds count as presence
    assert 185 in {point.time_s for point in joined if point.share is not None}


def test_company_is_that_of_the_same_frame() -> None:
    film, _ = simulated_cast(
        {"Joy": Population((0.5, 0.5)), "Fear": Population((0.5, 0.5))}, 30, np.random.default_rng(3)
    )
    both = JOY | {"Fear": JOY["Joy"]}
    rows = together(film, both, resamples=1000)
    joy, fear = (set(film.of(name).ordinal.tolist()) for name in ("Joy", "Fear"))
    with_fear = [row for row in rows if (row.character, row.other) == ("Joy", "Fear")]
    alone = [row for row in rows if (row.character, row.other) == ("Joy", "")]
    assert with_fear[0].company == pytest.approx(len(joy & fear) / 6)
    assert alone[0].company == pytest.approx(len(joy - fear) / 6)
    assert sum(row.share for row in with_fear) == pytest.approx(1)
    assert with_fear[0].of_screen + alone[0].of_screen == pytest.approx(1)
    # The same time from the other's side.
    back = next(row for row in rows if (row.character, row.other) == ("Fear", "Joy"))
    assert back.company == pytest.approx(with_fear[0].company)
