"""How far the certainty of a classifier can be trusted: reliability, selective risk, thresholds.

All figures take the certainty of each crop (probability of the class it names) and whether that class
is right. Crops of equal certainty are never told apart, so no figure depends on the order of the crops.

Own code, since the bootstrap needs them as sums over shots: scikit-learn has the curve without its
weights (`calibration_curve`, against which ECE is tested), torchmetrics the ECE of a batch in bins of equal
width only, netcal brings Pyro and TensorBoard along, and none of the three has AURC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insideout.errors import DataError
from insideout.evaluation.predictions import Predictions
from insideout.recipes.scores import fit_temperature

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Bins of the calibration error, as in Guo et al. (2017), "On Calibration of Modern Neural Networks".
BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Certainty against accuracy in equal-width bins.

    `edges` float64 [bins + 1] from 0 to 1; `certainty` and `accuracy` float64 [bins], means over the
    crops of each bin, NaN in empty bins; `crops` int64 [bins].
    """

    edges: Floats
    certainty: Floats
    accuracy: Floats
    crops: Ints


@dataclass(frozen=True)
class RiskCoverage:
    """What is gained by answering only for the surest crops, a row per distinct certainty, falling.

    `threshold` float64 [m], the least certainty that is answered; `coverage` float64 [m], share of the
    crops answered; `accuracy` float64 [m], share of those that are right; `answered` int64 [m].
    """

    threshold: Floats
    coverage: Floats
    accuracy: Floats
    answered: Ints

    @property
    def risk(self) -> Floats:
        """Share of the answered crops that are wrong, float64 [m]."""
        return 1 - self.accuracy


def certainty_of(predictions: Predictions, temperature: float | None = None) -> tuple[Floats, Flags]:
    """Certainty of each crop, float64 [n], and whether its class is right, bool [n].

    Without a temperature at that of the predictions. Raises DataError when there are no crops.
    """
    if not len(predictions):
        raise DataError("no crops to score; give a split that has some of the model's classes")
    return predictions.probabilities(temperature).max(1), predictions.guesses == predictions.labels


def equal_width_bins(certainty: Floats, bins: int = BINS) -> Ints:
    """The bin of each certainty, int64 [n]: bin b holds (b / bins, (b + 1) / bins]."""
    return np.clip(np.ceil(certainty * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(predictions: Predictions, temperature: float | None = None, bins: int = BINS) -> Reliability:
    """Certainty against accuracy at a temperature, that of the predictions by default."""
    certainty, right = certainty_of(predictions, temperature)
    index = equal_width_bins(certainty, bins)
    crops = np.bincount(index, minlength=bins).astype(np.int64)
    per = np.where(crops > 0, crops, np.nan)
    return Reliability(
        np.linspace(0, 1, bins + 1),
        np.bincount(index, certainty, bins) / per,
        np.bincount(index, right.astype(np.float64), bins) / per,
        crops,
    )


def ece(certainty: Floats, right: Flags, bins: int = BINS) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017); lower is better."""
    return _gap(certainty, right, equal_width_bins(certainty, bins), bins)


def ece_adaptive(certainty: Floats, right: Flags, bins: int = BINS) -> float:
    """Expected calibration error over bins of equal mass (Nguyen & O'Connor 2015); lower is better.

    The edges are quantiles of the certainty; crops of equal certainty share a bin, so that bins may
    be uneven or empty where many are equal.
    """
    edges = np.quantile(certainty, np.arange(1, bins) / bins)
    return _gap(certainty, right, np.searchsorted(edges, certainty, side="right").astype(np.int64), bins)


def _gap(certainty: Floats, right: Flags, index: Ints, bins: int) -> float:
    gaps = np.bincount(index, certainty - right, bins)
    return float(np.abs(gaps).sum() / len(certainty))


def risk_coverage(certainty: Floats, right: Flags) -> RiskCoverage:
    """The risk-coverage curve of a classifier that answers for its surest crops only.

    El-Yaniv & Wiener (2010); Geifman & El-Yaniv (2017), "Selective Classification for Deep Neural
    Networks".
    """
    order = np.argsort(-certainty, kind="stable")
    falling, hits = certainty[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    answered = (last + 1).astype(np.int64)
    return RiskCoverage(falling[last], answered / len(certainty), hits[last] / answered, answered)


def aurc(certainty: Floats, right: Flags) -> float:
    """Area under the risk-coverage curve: the mean risk over coverages 1/n, 2/n ... 1; lower is better.

    Geifman, Uziel & El-Yaniv (2019), "Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers". Inside a group of equal certainty the expected risk over all orders is taken.
    """
    curve = risk_coverage(certainty, right)
    wrong = curve.answered * curve.risk
    # Between two thresholds the expected number of wrong answers grows evenly with each crop.
    each = np.arange(1, len(certainty) + 1)
    expected = np.interp(each, np.append(0, curve.answered), np.append(0.0, wrong))
    return float((expected / each).mean())


def coverage_at(certainty: Floats, right: Flags, accuracy: float) -> float:
    """The largest share of crops that can be answered at this accuracy or better; 0 where none can."""
    curve = risk_coverage(certainty, right)
    return float(curve.coverage[curve.accuracy >= accuracy].max(initial=0.0))


def threshold_for_accuracy(predictions: Predictions, accuracy: float, temperature: float | None = None) -> float | None:
    """The least certainty such that the crops at or above it are right at this rate, on these crops.

    None where no threshold reaches the rate. It holds for the crops it was found on; on other shots
    expect less.
    """
    curve = risk_coverage(*certainty_of(predictions, temperature))
    reached = np.flatnonzero(curve.accuracy >= accuracy)
    return float(curve.threshold[reached[-1]]) if len(reached) else None


def cross_fitted(predictions: Predictions, shots: Sequence[int] | Ints, folds: int = 5, seed: int = 0) -> Predictions:
    """The predictions with the logits of each shot divided by a temperature fitted on other shots.

    `shots` names the shot of each crop by number. The shots are dealt into `folds` at random; no crop
    has a part in its own temperature. The result has temperature 1. Raises DataError with fewer than
    two shots.
    """
    index = np.unique(np.asarray(shots), return_inverse=True)[1]
    count = int(index.max(initial=-1)) + 1
    if count < 2:
        raise DataError("a temperature that is fitted on other shots needs two shots or more")
    dealt = np.random.default_rng(seed).permutation(count) % min(folds, count)
    fold = dealt[index]
    logits = predictions.logits.astype(np.float32, copy=True)
    for i in range(int(fold.max()) + 1):
        others = fold != i
        logits[fold == i] /= fit_temperature(predictions.labels[others], predictions.logits[others])
    return Predictions(predictions.crops, logits)
