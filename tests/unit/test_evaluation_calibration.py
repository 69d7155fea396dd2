"""Calibration and selective risk on certainties whose figures are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator

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


@pytest.mark.parametrize(("strategy", "figure"), [("uniform", ece), ("quantile", ece_adaptive)])
def test_ece_is_the_weighted_gap_of_the_curve_of_scikit_learn(
    strategy: str, figure: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    random = np.random.default_rng(3)
    for n in (31, 142, 4000):
        certainty = random.uniform(0.2, 1, n)
        right = random.uniform(size=n) < certainty**2
        accuracy, mean = calibration_curve(right, certainty, n_bins=15, strategy=strategy)
        edges = np.linspace(0, 1, 16) if strategy == "uniform" else np.quantile(certainty, np.linspace(0, 1, 16))
        crops = np.histogram(certainty, edges)[0]
        expected = (np.abs(accuracy - mean) * crops[crops > 0]).sum() / n
        # A crop that is an edge itself may lie on either side of it.
        assert figure(certainty, right) == pytest.approx(expected, abs=1e-12 if strategy == "uniform" else 20 / n)


class AsItIs(ClassifierMixin, BaseEstimator):
    """A classifier whose scores are its features."""

    def fit(self, logits: np.ndarray, labels: np.ndarray) -> AsItIs:
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, logits: np.ndarray) -> np.ndarray:
        return logits

    def predict(self, logits: np.ndarray) -> np.ndarray:
        return self.classes_[logits.argmax(1)]


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_temperature_is_that_of_scikit_learn(scale: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (400, 6))
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (random.random((400, 1)) > odds.cumsum(1)).sum(1).astype(np.int64)
    model = FrozenEstimator(AsItIs().fit(logits, labels))
    theirs = CalibratedClassifierCV(model, method="temperature").fit(logits * scale, labels)
    found = fit_temperature(labels, logits * scale)
    assert found == pytest.approx(1 / theirs.calibrated_classifiers_[0].calibrators[0].beta_, rel=1e-5)
    assert nll(labels, logits * scale, found) < min(nll(labels, logits * scale, found * f) for f in (0.99, 1.01))


def test_a_temperature_stays_inside_its_bounds() -> None:
    right = np.arange(50) % 2
    logits = np.eye(2)[right] * 3
    # Below about .1 all is as sure as it can be.
    assert 0.05 <= fit_temperature(right, logits) < 0.11
    assert fit_temperature(1 - right, logits) == pytest.approx(20, rel=1e-3)


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
