"""Intervals of the figures by bootstrap over shots.

Crops of one shot are near copies of each other, so whole shots are drawn with replacement (cluster
bootstrap: Davison & Hinkley 1997, section 3.8), 2,000 times. An interval is the 95 % percentile
interval: from the 2.5th to the 97.5th percentile of the figure over the resamples. Most figures are
functions of sums over crops, so all resamples are one matrix product of how often each shot was drawn
with the sums of each shot; the rest (`LOOPED`) is computed resample by resample, on fewer of them.

Calibration errors are biased upwards on small samples and more so on resamples of them: their
interval may lie above the value itself. It still tells how far a value can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from insideout.errors import DataError
from insideout.evaluation import calibration
from insideout.evaluation.metrics import METRICS, class_scores, confusion_metrics, losses, point_metrics
from insideout.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 2000
#: Resamples of the figures that need a pass over the crops each.
LOOPED_RESAMPLES = 500
LOOPED: dict[str, Callable[[Floats, npt.NDArray[np.bool_]], float]] = {
    "ece_adaptive": calibration.ece_adaptive,
    "aurc": calibration.aurc,
    "coverage_at_90": partial(calibration.coverage_at, accuracy=0.9),
}
#: The share of the resamples beyond each end of an interval: 95 % lie inside.
TAIL = 0.025


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % percentile interval over resampled shots.

    `low` and `high` are None where the figure is undefined on every resample, and where all crops are of
    one shot, which says nothing of how shots differ.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """First minus second, with its 95 % interval over the same resamples of both.

    `share_not_above` is the share of the resamples in which the difference is 0 or less: about 0 where
    the first has the larger figure for certain, about 1 where the second has.
    """

    value: float
    low: float | None
    high: float | None
    share_not_above: float


def shot_index(predictions: Predictions) -> Ints:
    """The number of the shot of each crop, int64 [n], in order of first appearance.

    A crop without a shot is one by itself.
    """
    numbers: dict[str, int] = {}
    keys = (shot or f"\0{i}" for i, shot in enumerate(predictions.crops.shots))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def draw(shots: int, resamples: int = RESAMPLES, seed: int = 0) -> Ints:
    """How often each shot is in each resample, int64 [resamples, shots]; every row sums to `shots`.

    Raises DataError with fewer than two shots, which say nothing of how shots differ.
    """
    if shots < 2:
        raise DataError("an interval over shots needs crops of two shots or more; label more shots")
    return np.random.default_rng(seed).multinomial(shots, np.full(shots, 1 / shots), resamples).astype(np.int64)


def resampled(
    predictions: Predictions, temperature: float, counts: Ints, names: Sequence[str] = METRICS
) -> dict[str, Floats]:
    """The named figures on every resample of `counts`, as `draw` gives them.

    Float64 [resamples] each; those of `LOOPED` on the first `LOOPED_RESAMPLES` only.
    """
    index, k = shot_index(predictions), len(predictions.classes)
    certainty, right = calibration.certainty_of(predictions, temperature)
    nll, brier = losses(predictions, temperature)
    bins = calibration.equal_width_bins(certainty)
    shots = counts.shape[1]
    weights = counts.astype(np.float64)

    def summed(column: Ints, columns: int, values: Floats | None = None) -> Floats:
        """Sum of the values (1 by default) by shot and column, weighted for each resample."""
        cells = np.bincount(index * columns + column, values, shots * columns).reshape(shots, columns)
        product: Floats = weights @ cells.astype(np.float64)
        return product

    one = np.zeros(len(predictions), np.int64)
    total = summed(one, 1)[:, 0]
    confusions = summed(predictions.labels * k + predictions.guesses, k * k).reshape(-1, k, k)
    # Infinite losses are summed apart, since 0 times infinity is not 0.
    finite = np.isfinite(nll)
    nlls = summed(one, 1, np.where(finite, nll, 0.0))[:, 0] / total
    nlls[summed(one, 1, (~finite).astype(np.float64))[:, 0] > 0] = np.inf
    gaps = summed(bins, calibration.BINS, certainty - right)
    found = confusion_metrics(confusions) | {
        "nll": nlls,
        "brier": summed(one, 1, brier)[:, 0] / total,
        "ece": np.abs(gaps).sum(1) / total,
    }
    if looped := [name for name in names if name in LOOPED]:
        drawn = [np.repeat(np.arange(len(predictions)), row[index]) for row in counts[:LOOPED_RESAMPLES]]
        for name in looped:
            found[name] = np.array([LOOPED[name](certainty[crops], right[crops]) for crops in drawn])
    return {name: found[name] for name in names}


def intervals(
    predictions: Predictions,
    temperature: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    names: Sequence[str] = METRICS,
) -> dict[str, Interval]:
    """The named figures with their intervals, at a temperature (that of the predictions by default).

    Raises DataError when there are no crops.
    """
    at = predictions.temperature if temperature is None else temperature
    values = point_metrics(predictions, at)
    spread = resampled(predictions, at, _draw(predictions, resamples, seed), names)
    return {name: Interval(values[name], *percentiles(spread[name])) for name in names}


def confusion_interval(
    predictions: Predictions, figure: Callable[[Floats], Floats], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The interval of any figure of confusion counts of one crop or more: float64 [..., k, k] -> float64 [...]."""
    total, spread = _confusions(predictions, resamples, seed)
    return Interval(float(figure(total)), *percentiles(figure(spread)))


def class_intervals(
    predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Precision, recall and F1 of each class, by class and figure.

    A value is 0 where it is undefined, as in `per_class`. A resample in which the class is never guessed
    (never true, neither) has no precision (recall, F1) of it and is left out.
    """
    total, spread = (class_scores(counts) for counts in _confusions(predictions, resamples, seed))
    return {
        name: {
            key: Interval(float(np.nan_to_num(values[i])), *percentiles(spread[key][:, i]))
            for key, values in total.items()
        }
        for i, name in enumerate(predictions.classes)
    }


def _draw(predictions: Predictions, resamples: int, seed: int) -> Ints:
    """Resamples of the shots, as `draw`; none where there is one shot only."""
    shots = int(shot_index(predictions).max(initial=-1)) + 1
    return draw(shots, resamples, seed) if shots > 1 else np.zeros((0, shots), np.int64)


def _confusions(predictions: Predictions, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Confusion counts of all crops, float64 [k, k], and of every resample, float64 [resamples, k, k]."""
    index, k = shot_index(predictions), len(predictions.classes)
    shots = int(index.max()) + 1
    cells = np.bincount((index * k + predictions.labels) * k + predictions.guesses, minlength=shots * k * k)
    by_shot = cells.reshape(shots, k * k).astype(np.float64)
    drawn = _draw(predictions, resamples, seed).astype(np.float64) @ by_shot
    return by_shot.sum(0).reshape(k, k), drawn.reshape(-1, k, k)


def differences(
    first: Predictions,
    second: Predictions,
    resamples: int = RESAMPLES,
    seed: int = 0,
    names: Sequence[str] = METRICS,
) -> dict[str, Difference]:
    """First minus second for the named figures, each at its own temperature.

    Both are resampled with the same shots, so that what makes a shot hard for both cancels out.
    Raises DataError when they are not about the same crops in the same order, or of fewer than two shots.
    """
    crops = [[crop.name for crop in one.crops.crops] for one in (first, second)]
    if crops[0] != crops[1] or not np.array_equal(first.labels, second.labels):
        raise DataError("only predictions of the same crops in the same order can be compared crop by crop")
    counts = draw(int(shot_index(first).max()) + 1, resamples, seed)
    values = [point_metrics(one, one.temperature) for one in (first, second)]
    spreads = [resampled(one, one.temperature, counts, names) for one in (first, second)]
    found = {}
    for name in names:
        with np.errstate(invalid="ignore"):
            spread = spreads[0][name] - spreads[1][name]
            value = float(np.float64(values[0][name]) - values[1][name])
        known = spread[~np.isnan(spread)]
        share = float((known <= 0).mean()) if len(known) else float("nan")
        found[name] = Difference(value, *percentiles(spread), share)
    return found


def percentiles(spread: Floats) -> tuple[float | None, float | None]:
    """The ends of the 95 % percentile interval, values of the sample itself; NaN is left out."""
    # Not np.quantile: interpolating towards an infinite neighbour gives NaN.
    known = np.sort(spread[~np.isnan(spread)])
    if not len(known):
        return None, None
    low, high = (int(np.ceil(q * len(known))) - 1 for q in (TAIL, 1 - TAIL))
    return float(known[max(0, low)]), float(known[high])
