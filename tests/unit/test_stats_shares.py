"""Shares and their intervals on films whose truth is known: what they hold, and that corrections remove the bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from insideout.stats.always import always
from insideout.stats.answers import said_of
from insideout.stats.clusters import LEAST, draws, generator, jackknife, share_interval, sums
from insideout.stats.confusion import Support, error_rates, support
from insideout.stats.correction import adjusted_count, adjusted_shares, prediction_powered
from insideout.stats.shares import shares
from insideout.stats.simulated import Population, simulated_errors, simulated_film, symmetric_rates

SHARES = (0.5, 0.3, 0.2)
RATES = symmetric_rates(3, 0.7, 0.1)
SURE = Support("Joy", True, 0.5, 0.4, 0.6, 0.7, 0.5, 100, 20, "")


def acceptable(holds: int, of: int) -> bool:
    """Whether so many intervals of 95 % can hold the truth by chance if 93 to 97 % do."""
    return bool(binom.ppf(0.01, of, 0.93) <= holds <= binom.ppf(0.99, of, 0.97))


def test_the_tolerance_of_the_coverage_test_cannot_be_passed_by_luck() -> None:
    passing = [holds for holds in range(601) if acceptable(holds, 600)]
    assert binom.pmf(passing, 600, 0.87).sum() < 0.005
    assert binom.pmf(passing, 600, 0.995).sum() < 0.01


def test_intervals_over_shots_hold_the_truth_in_95_of_100_films() -> None:
    holds = percentile = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        film, _ = simulated_film(Population(SHARES), 20, rng)
        top, bottom = sums(film.shot, film.seconds * (film.reading == 2)), sums(film.shot, film.seconds)
        counts = draws(len(bottom), rng, 300)
        found = share_interval(top, bottom, counts)
        holds += found.low <= SHARES[2] <= found.high
        low, high = np.quantile(counts @ top / (counts @ bottom), [0.025, 0.975])
        percentile += low <= SHARES[2] <= high
    assert acceptable(holds, 600), holds / 600
    assert not acceptable(percentile, 600), "the plain percentile interval would do as well"


def test_shots_of_one_scene_are_not_many_shots() -> None:
    """Where shots of a scene are alike, intervals over shots hold the truth too rarely, over scenes they do."""
    by_shots = by_scenes = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        film, _ = simulated_film(Population(SHARES, scene_shots=5, scene_spread=0.5, shot_spread=8), 80, rng)
        for cluster in (film.shot, film.scene):
            top, bottom = sums(cluster, film.seconds * (film.reading == 0)), sums(cluster, film.seconds)
            found = share_interval(top, bottom, draws(len(bottom), rng, 300))
            holds = found.low <= SHARES[0] <= found.high
            by_shots, by_scenes = (
                (by_shots + holds, by_scenes) if cluster is film.shot else (by_shots, by_scenes + holds)
            )
    assert by_shots < 0.85 * 200
    assert acceptable(by_scenes, 200), by_scenes / 200


def test_the_jackknife_is_that_of_explicit_leaving_out() -> None:
    rng = np.random.default_rng(0)
    bottom = rng.random(7) + 0.5
    top = bottom * rng.random(7)
    counts = draws(7, rng, 5)
    for row, found in zip(counts, jackknife(top, bottom, counts), strict=True):
        picked = np.repeat(np.arange(7), row.astype(int))
        left = np.array([np.delete(top[picked], i).sum() / np.delete(bottom[picked], i).sum() for i in range(7)])
        assert found == pytest.approx(np.sqrt(6 / 7 * ((left - left.mean()) ** 2).sum()))


def test_what_is_never_seen_has_an_upper_bound_and_too_few_shots_have_none() -> None:
    bottom = np.full(20, 3.0)
    counts = draws(20, np.random.default_rng(0), 100)
    never = share_interval(np.zeros(20), bottom, counts)
    assert (never.low, never.clusters) == (0, 20)
    assert never.high == pytest.approx(1 - 0.025 ** (1 / 20))
    throughout = share_interval(bottom, bottom, counts)
    assert (throughout.low, throughout.high) == (pytest.approx(0.025 ** (1 / 20)), 1)
    rare = share_interval(np.eye(20)[0] * 2, bottom, counts)  # two seconds of one shot: no resample has many
    assert 0 < rare.low < 2 / 60 < rare.high < 0.3
    few = share_interval(bottom[: LEAST - 1] / 2, bottom[: LEAST - 1], np.ones((1, LEAST - 1)))
    assert (few.low, few.high) == (None, None)


def test_the_adjusted_count_solves_the_equations() -> None:
    rates = np.array(RATES)
    truth = np.array([0.6, 0.4, 0.0])
    assert adjusted_shares(truth @ rates, rates) == pytest.approx(truth, abs=1e-5)
    outside = adjusted_shares(np.array([0.95, 0.0, 0.0, 0.05]), rates)  # more than any mixture can give
    assert outside == pytest.approx([1, 0, 0], abs=1e-5)
    assert outside.sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def corrected() -> dict[str, np.ndarray]:
    """Estimates and intervals of 150 films of 40 shots in which 30 % is misread or not answered."""
    population = Population(SHARES, rates=RATES)
    found: dict[str, list[object]] = {
        name: [] for name in ("raw", "adjusted", "adjusted_ends", "powered", "powered_ends")
    }
    for seed in range(150):
        rng = np.random.default_rng(seed)
        film, truth = simulated_film(population, 40, rng)
        found["raw"].append([film.seconds[film.reading == i].sum() / film.seconds.sum() for i in range(3)])
        adjusted = adjusted_count(
            film.shot, film.reading, film.seconds, simulated_errors(population, 40, 8, rng), "Joy", rng, 200
        )
        labels = np.where(rng.random(len(truth)) < 0.2, truth, -1)
        powered = prediction_powered(film.shot, film.reading, labels, film.seconds, 3, rng, 400)
        for name, one in (("adjusted", adjusted), ("powered", powered)):
            found[name].append(one.shares)
            found[f"{name}_ends"].append([(i.low, i.high) for i in one.intervals])
    return {name: np.array(values, float) for name, values in found.items()}


@pytest.mark.parametrize("method", ["adjusted", "powered"])
def test_a_correction_removes_the_bias_of_misreading(corrected: dict[str, np.ndarray], method: str) -> None:
    truth = np.array(SHARES)
    raw_bias = corrected["raw"].mean(0) - truth
    assert raw_bias[0] < -0.08
    estimates = corrected[method]
    error = estimates.std(0) / np.sqrt(len(estimates))
    assert (np.abs(estimates.mean(0) - truth) < 4 * error).all()
    assert np.abs(estimates.mean(0) - truth).max() < 0.025
    ends = corrected[f"{method}_ends"]
    holds = (ends[..., 0] <= truth) & (truth <= ends[..., 1])
    for emotion in range(3):
        assert acceptable(int(holds[:, emotion].sum()), len(holds)), holds.mean(0)


def test_a_row_with_few_crops_leans_on_the_other_characters() -> None:
    own = np.array([[8.0, 0, 0], [0, 0, 0]])
    pooled = np.array([[10.0, 10, 0], [1, 3, 0]])
    rates = error_rates(own, pooled)
    assert rates.sum(1) == pytest.approx([1, 1])
    assert rates[0] == pytest.approx([0.9, 0.1, 0])
    assert rates[1] == pytest.approx([0.25, 0.75, 0])
    assert np.isnan(error_rates(own[:, :], np.array([[1.0, 0, 0], [0, 0, 0]]))[1]).all()


def test_an_emotion_without_labelled_crops_cannot_be_corrected_for() -> None:
    rng = np.random.default_rng(0)
    film, _ = simulated_film(Population(SHARES, rates=RATES), 20, rng)
    errors = simulated_errors(Population(SHARES, rates=RATES), 40, 8, rng)
    kept = errors.emotion != 2
    partial = type(errors)(
        errors.emotions,
        errors.characters,
        *(getattr(errors, n)[kept] for n in ("shot", "character", "emotion", "guess", "reading", "crops")),
    )
    found = adjusted_count(film.shot, film.reading, film.seconds, partial, "Joy", rng, 100)
    assert found.shares is None
    assert "emotion2" in found.why


def test_a_classifier_that_goes_by_the_character_is_not_supported() -> None:
    rng = np.random.default_rng(0)
    good = simulated_errors(Population(SHARES, rates=RATES), 40, 8, rng)
    assert support(good, "Joy").supported is True
    one_answer = ((1.0, 0, 0, 0),) * 3
    by_identity = support(simulated_errors(Population(SHARES, rates=one_answer), 40, 8, rng), "Joy")
    assert by_identity.supported is False
    assert by_identity.kappa == pytest.approx(0)
    assert support(good, "Fear").supported is None
    assert support(None, "Joy").supported is None


def test_no_correction_is_shown_where_it_is_not_supported() -> None:
    rng = np.random.default_rng(1)
    film, _ = simulated_film(Population(SHARES, rates=RATES), 20, rng)
    errors = simulated_errors(Population(SHARES, rates=RATES), 40, 8, rng)
    doubtful = Support("Joy", False, 0.0, -0.1, 0.1, 0.3, 0.5, 100, 20, "does no better")
    rows = shares(film, {"Joy": doubtful}, errors, resamples=1000)
    assert all(row.corrected is None and row.supported is False for row in rows)
    rows = shares(film, {"Joy": SURE}, errors, resamples=1000)
    assert sum(row.corrected for row in rows if row.emotion != "uncertain") == pytest.approx(1)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert sum(row.seconds for row in rows) == pytest.approx(film.seconds.sum())
    assert rows == shares(film, {"Joy": SURE}, errors, resamples=1000)


def test_always_is_refuted_of_a_mixed_character_and_rarely_of_a_true_one() -> None:
    wrong = right = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        errors = simulated_errors(Population(SHARES, rates=RATES), 40, 8, rng)
        true, _ = simulated_film(Population((1.0, 0.0, 0.0), rates=RATES), 30, rng)
        mixed, _ = simulated_film(Population((0.3, 0.4, 0.3), rates=RATES), 30, rng)
        wrong += always(true, "Joy", "emotion0", SURE, errors, seed, 500).refuted
        right += always(mixed, "Joy", "emotion0", SURE, errors, seed, 500).refuted
    assert wrong <= binom.ppf(0.999, 60, 0.07)
    assert right >= 48


def test_always_is_never_said_to_be_possible_of_what_is_seldom_read() -> None:
    rng = np.random.default_rng(0)
    errors = simulated_errors(Population(SHARES, rates=RATES), 40, 8, rng)
    film, _ = simulated_film(Population((1.0, 0.0, 0.0), rates=RATES), 30, rng)
    test = replace(always(film, "Joy", "emotion0", SURE, errors, 0, 200), p=0.4, refuted=False, recall=0.58)
    often, seldom = said_of(replace(test, share=0.61)), said_of(replace(test, share=0.31))
    assert often.startswith("that does not rule out \u201calways\u201d, p = .4")
    assert "errors are too large: it reads 58\u00a0% of labelled emotion0 crops as emotion0" in seldom
    assert "rule out" not in seldom
    refuted = said_of(replace(test, p=0.01, refuted=True))
    assert refuted.startswith("\u201calways\u201d is refuted, p = .01: the classifier reads 58")
    assert "cannot be told" in said_of(replace(test, supported=False))


def test_a_figure_has_random_numbers_of_its_own() -> None:
    assert generator(0, "a").random() == generator(0, "a").random()
    assert generator(0, "a").random() != generator(0, "b").random()
    assert generator(0, "a").random() != generator(1, "a").random()
