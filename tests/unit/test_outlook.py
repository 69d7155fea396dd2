"""Plans folded small, and what is left to do of each film of many."""

from __future__ import annotations

import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from insideout.film import Film, Sampling
from insideout.outlook import Outlook, distinct, look_out, waves
from insideout.plan import FilmPlan, LabelSettings, plan_spans
from insideout.store import Store


def film_of(name: str, pts: np.ndarray, key_every: int = 48) -> Film:
    return Film(
        path=f"/films/{name}.mkv", film=name * 16, sha256=name * 64, bytes=7, width=1920, height=1080, rotation=90,
        time_base=Fraction(1, 24000), fps=Fraction(24000, 1001), codec="h264", pts=pts,
        keyframes=np.arange(0, len(pts), key_every, dtype=np.int32),
    )  # fmt: skip


def plan_of(film: Film, sampling: str = "every:4") -> FilmPlan:
    return plan_spans(film, LabelSettings(sampling=sampling), "f" * 16)


def steady(frames: int) -> np.ndarray:
    return np.arange(frames, dtype=np.int64) * 1001 + 3003


@pytest.mark.parametrize("sampling", ["every:4", "fps:2", "keyframes"])
@pytest.mark.parametrize("first", [0, -1001, 10**12])
def test_a_folded_plan_unfolds_to_the_same_plan(sampling: str, first: int) -> None:
    uneven = first + np.cumsum(np.random.default_rng(0).integers(1, 3000, 2000)).astype(np.int64)
    plan = plan_of(film_of("a", uneven), sampling)
    again = pickle.loads(pickle.dumps(plan.fold())).unfold()
    for old, new in ((plan.film.pts, again.film.pts), (plan.samples, again.samples)):
        assert np.array_equal(old, new)
        assert old.dtype == new.dtype
    assert np.array_equal(plan.film.keyframes, again.film.keyframes)
    assert plan.film.keyframes.dtype == again.film.keyframes.dtype
    assert (plan.spans, plan.fingerprint) == (again.spans, again.fingerprint)
    empty = np.zeros(0)
    assert pickle.dumps(replace(plan.film, pts=empty)) == pickle.dumps(replace(again.film, pts=empty))
    reels = [pickle.dumps(reel) for reel in plan.reels(Sampling.parse(sampling), {1, 2})]
    assert [pickle.dumps(reel) for reel in again.reels(Sampling.parse(sampling), {1, 2})] == reels


def test_two_hours_of_film_fold_into_a_few_kilobytes() -> None:
    plan = plan_of(film_of("a", steady(2 * 3600 * 24)))
    assert len(pickle.dumps(plan)) > 1_400_000
    assert len(pickle.dumps(plan.fold())) < 10_000


def test_samples_are_counted_by_span() -> None:
    plan = plan_of(film_of("a", steady(500)))
    assert plan.samples_in({span.index for span in plan.spans}) == 125
    assert plan.samples_in(set()) == 0
    for span in plan.spans:
        assert plan.samples_in({span.index}) == len([o for o in range(0, 500, 4) if span.start <= o < span.end])


def test_wanted_spans_can_have_a_reel_each() -> None:
    plan = plan_of(film_of("a", steady(500)))
    together = plan.reels(Sampling(), {1, 2, 5})
    alone = plan.reels(Sampling(), {1, 2, 5}, alone=True)
    assert [span.index for reel in together for span in reel.spans] == [1, 2, 5]
    assert [[span.index for span in reel.spans] for reel in alone] == [[1], [2], [5]]
    assert {span for reel in alone for span in reel.spans} == {span for reel in together for span in reel.spans}


def test_the_outlook_counts_what_is_missing(tmp_path: Path) -> None:
    store, plan = Store(tmp_path / "out"), plan_of(film_of("a", steady(500)))
    untouched = look_out(plan, store)
    assert (untouched.spans, untouched.frames, untouched.summary) == (len(plan.spans), 125, None)
    store.write(plan.span_key(plan.spans[1]), b"rows")
    begun = look_out(plan, store)
    assert begun.spans == len(plan.spans) - 1
    assert begun.frames == 125 - plan.samples_in({1})


def test_waves_hold_all_unfinished_films_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    films = [look_out(plan_of(film_of(name, steady(500))), store) for name in "abcde"]
    each = films[0].spans
    assembled = replace(films[1], spans=0, summary=object())  # type: ignore[arg-type]
    planned = [films[0], assembled, *films[2:]]

    def names(most: int) -> list[list[str]]:
        return [[film.plan.film[0] for film in wave] for wave in waves(planned, most)]

    assert names(1) == [["a"], ["c"], ["d"], ["e"]]
    assert names(each + 1) == [["a", "c"], ["d", "e"]]
    assert names(10**9) == [["a", "c", "d", "e"]]
    assert list(waves([assembled], 1)) == []


def test_a_film_given_twice_is_kept_once() -> None:
    one, two = (Outlook(plan_of(film_of(name, steady(50))).fold(), 1, 1, None) for name in "ab")
    copy = replace(one, plan=replace(one.plan, facts=one.plan.facts | {"path": "/elsewhere.mkv"}))
    assert distinct([one, two, copy]) == [one, two]
