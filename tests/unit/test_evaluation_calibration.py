"""Calibration and selective risk on certainties whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.errors import DataError
from insideout.evaluation.calibration import (
    aurc,
    coverage_at,
    cross_fitted,
    ece,
    ece_adaptive,
    reliability,
    risk_coverage,
    threshold_for_accuracy,
)
from insideout.evaluation.predictions import Predictions
from insideout.recipes.scores import fit_temperature, nll


def sure(certainty: list[float], right: list[bool]) -> Predictions:
    """Two-class predictions with these certainties."""
    crops = tuple(LabelledCrop(f"{i}.jpg", b"", "yes" if hit else "no", shot=str(i)) for i, hit in enumerate(right))
    logits = np.array([[0, np.log(p / (1 - p))] for p in certainty], np.float32)
    return Predictions(CropList(("no", "yes"), crops), logits)


def arrays(certainty: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(certainty, np.float64), np.array(right, bool)


def test_ece_weighs_the_gap_of_each_bin() -> None:
    # Two bins: 0.6 and 0.9 sure, right half the time and always.
    certainty, right = arrays([0.6, 0.6, 0.9, 0.9, 0.9, 0.9], [True, False, True, True, True, True])
    assert ece(certainty, right) == pytest.approx(2 / 6 * 0.1 + 4 / 6 * 0.1)
    assert ece(certainty, certainty > 2) == pytest.approx(certainty.mean())


def test_ece_of_calibrated_answers_vanishes() -> None:
    random = np.random.default_rng(0)
    certainty = random.uniform(0.4, 1, 200_000)
    right = random.uniform(size=len(certainty)) < certainty
    assert ece(certainty, right) < 0.01
    assert ece_adaptive(certainty, right) < 0.01
    assert ece(certainty**3, right) > 0.1
    assert ece_adaptive(certainty**3, right) > 0.1


def test_bins_of_equal_mass_are_finer_where_the_crops_are() -> None:
    # All in one equal-width bin, (14/15, 1]: its mean hides that the surer half is the wrong half.
    certainty = np.linspace(0.94, 0.999, 300)
    right = np.arange(300) < 150
    assert ece(certainty, right) == pytest.approx(abs(certainty.mean() - 0.5))
    apart = zip(np.split(certainty, 15), np.split(right, 15), strict=True)
    expected = np.mean([abs(c.mean() - r.mean()) for c, r in apart])
    assert ece_adaptive(certainty, right) == pytest.approx(expected)
    assert expected > ece(certainty, right) + 0.03


def test_the_order_of_crops_of_equal_certainty_does_not_matter() -> None:
    random = np.random.default_rng(1)
    certainty = random.choice([0.5, 0.7, 0.9], 90)
    right = random.uniform(size=90) < 0.6
    for figure in (ece, ece_adaptive, aurc):
        values = {round(figure(certainty[o], right[o]), 12) for o in (random.permutation(90) for _ in range(20))}
        assert len(values) == 1


def test_risk_coverage_curve_and_its_area() -> None:
    certainty, right = arrays([0.9, 0.8, 0.7, 0.6], [True, True, False, True])
    curve = risk_coverage(certainty[[2, 0, 3, 1]], right[[2, 0, 3, 1]])
    assert curve.threshold.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert aurc(certainty, right) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
    # All equally sure: at every coverage the expected risk is the error rate.
    assert aurc(np.full(4, 0.7), right) == pytest.approx(0.25)
    assert coverage_at(certainty, right, 0.9) == 0.5
    assert coverage_at(certainty, right, 0.75) == 1.0
    assert coverage_at(certainty, ~right, 0.9) == 0.0


def test_threshold_is_the_least_certainty_that_keeps_the_rate() -> None:
    predictions = sure([0.9, 0.8, 0.7, 0.6], [True, True, False, True])
    assert threshold_for_accuracy(predictions, 0.9) == pytest.approx(0.8)
    # 2/3 right from 0.7 on, but 3/4 from 0.6 on.
    assert threshold_for_accuracy(predictions, 0.75) == pytest.approx(0.6)
    assert threshold_for_accuracy(sure([0.9, 0.8], [False, True]), 0.9) is None
    # The threshold is one of probabilities at the temperature that is asked for.
    at_two = threshold_for_accuracy(predictions, 0.9, 2.0)
    assert at_two == pytest.approx(1 / (1 + 0.25**0.5))


def test_reliability_bins() -> None:
    found = reliability(sure([0.62, 0.58, 0.99], [True, False, True]), bins=5)
    assert found.edges == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert found.crops.tolist() == [0, 0, 1, 1, 1]
    assert found.accuracy[2:].tolist() == [0, 1, 1]
    assert found.certainty[2:] == pytest.approx([0.58, 0.62, 0.99], abs=1e-6)
    assert np.isnan(found.accuracy[:2]).all()


def test_a_cross_fitted_temperature_never_saw_its_crops() -> None:
    random = np.random.default_rng(2)
    certainty = random.uniform(0.5, 0.99, 400)
    predictions = sure(certainty.tolist(), (random.uniform(size=400) < certainty).tolist())
    shots = np.arange(400) // 10
    spoilt = Predictions(predictions.crops, predictions.logits * 3)
    found = cross_fitted(spoilt, shots, folds=4, seed=3)
    # Three times too sure: dividing by about 3 mends it.
    assert nll(found.labels, found.logits) == pytest.approx(nll(predictions.labels, predictions.logits), abs=0.01)
    factors = (spoilt.logits[:, 1] / found.logits[:, 1]).round(4)
    assert 2 <= len(set(factors.tolist())) <= 4
    for shot in range(40):
        assert len(set(factors[shots == shot].tolist())) == 1
    for factor in set(factors.tolist()):
        others = factors != factor
        assert factor == pytest.approx(fit_temperature(spoilt.labels[others], spoilt.logits[others]), rel=1e-3)
    with pytest.raises(DataError, match="two shots"):
        cross_fitted(spoilt, np.zeros(400, np.int64))
