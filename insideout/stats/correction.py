"""Shares of screen time corrected for the errors of the classifier.

Where a classifier errs, the shares of its readings are not the shares of the emotions. Two corrections:

adjusted count  The readings are a mixture: the share read as r is the sum over emotions e of the share
    of e times how often e is read as r. With the error rates of the character known, the shares are the
    solution on the simplex, by least squares (Forman 2008, doi 10.1007/s10618-008-0097-y, for two
    classes; more classes and abstention by the same equations). It holds where an emotion is misread in
    the film as often as in the labelled crops.
prediction-powered  The share of readings plus the mean difference of label and reading on a labelled
    sample of the film (Angelopoulos et al. 2023, doi 10.1126/science.adi6000). It holds for any
    classifier, where the labelled rows are a random sample of the character's screen time. The
    published interval is for independent rows; here shots are drawn (Zrnic 2024, arXiv 2405.18379).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from insideout.stats.clusters import LEAST, Floats, Interval, Ints, draws, sums, tails
from insideout.stats.confusion import ErrorCounts, error_rates

RESAMPLES = 2000
_WEIGHT = 1e3  # of the equation that shares sum to 1, which so holds to six digits


@dataclass(frozen=True)
class Corrected:
    """Corrected shares float64 [k] with an interval for each; `why` says why there are none."""

    shares: Floats | None
    intervals: tuple[Interval, ...]
    why: str = ""


def adjusted_shares(readings: Floats, rates: Floats) -> Floats:
    """The shares of the emotions, float64 [k], sum 1, whose readings come nearest to `readings`.

    `readings` float64 [k + 1] are shares of screen time by reading, `uncertain` last; `rates`
    [k, k + 1] how often each emotion is read as each.
    """
    k = len(rates)
    matrix = np.vstack([rates.T, np.full((1, k), _WEIGHT)])
    solved: Floats = nnls(matrix, np.append(readings, _WEIGHT))[0]
    found: Floats = solved / solved.sum()
    return found


def adjusted_count(
    cluster: Ints,
    reading: Ints,
    seconds: Floats,
    errors: ErrorCounts,
    character: str,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Corrected:
    """Correct the shares of one character's readings by the error rates of that character.

    `cluster` (shot or scene), `reading` int64 [n] and `seconds` float64 [n] are the rows of the
    character. The intervals draw clusters of the film and, independently, shots of the labelled crops:
    both are uncertain. An interval is the percentile interval with the levels and width of a t
    distribution for as many clusters (Hesterberg 2015, doi 10.1080/00031305.2015.1089789).
    """
    k = len(errors.emotions)
    own, pooled = errors.by_shot(character), errors.by_shot()
    rates = error_rates(own.sum(0), pooled.sum(0))
    if np.isnan(rates).any():
        bare = ", ".join(errors.emotions[i] for i in np.flatnonzero(np.isnan(rates).any(1)))
        return Corrected(None, (), f"no labelled crop shows {bare}, so it is not known how that is read")
    by_cluster = sums(cluster, seconds[:, None] * np.eye(k + 1)[reading])
    shares = adjusted_shares(by_cluster.sum(0) / by_cluster.sum(), rates)
    clusters = len(by_cluster)
    if clusters < LEAST or errors.shots < LEAST:
        return Corrected(shares, tuple(Interval(None, None, clusters) for _ in range(k)))
    film = draws(clusters, rng, resamples) @ by_cluster
    film /= film.sum(1, keepdims=True)
    drawn = draws(errors.shots, rng, resamples)
    spread_rates = error_rates(np.tensordot(drawn, own, 1), np.tensordot(drawn, pooled, 1), _rows(pooled.sum(0)))
    spread = np.array([adjusted_shares(*pair) for pair in zip(film, spread_rates, strict=True)])
    return Corrected(shares, tuple(widened(column, clusters) for column in spread.T))


def prediction_powered(
    cluster: Ints,
    reading: Ints,
    label: Ints,
    seconds: Floats,
    emotions: int,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Corrected:
    """Correct the shares of one character's readings by labels of some of its rows.

    `label` int64 [n] is the true emotion of a row, -1 where it has no label; a number of `emotions`
    or more is an emotion that the classifier does not know. Other arguments as for `adjusted_count`.
    Intervals by the studentised bootstrap, standard errors by the jackknife, cut off at 0 and 1.
    """
    labelled = label >= 0
    clusters = len(np.unique(cluster))
    with_label = len(np.unique(cluster[labelled]))
    if with_label < LEAST:
        return Corrected(None, (), f"labels in {with_label} of the shots or scenes are too few for a correction")
    whole, known = sums(cluster, seconds), sums(cluster, seconds * labelled)
    counts = draws(clusters, rng, resamples)
    shares, intervals = [], []
    for emotion in range(emotions):
        read = seconds * (reading == emotion)
        top = sums(cluster, read)
        missed = sums(cluster, labelled * (seconds * (label == emotion) - read))
        share, interval = _powered(top, whole, missed, known, counts)
        shares.append(share)
        intervals.append(interval)
    return Corrected(np.array(shares), tuple(intervals))


def widened(spread: Floats, clusters: int) -> Interval:
    """The expanded percentile interval of resampled values for so many clusters."""
    from scipy.stats import norm, t

    level = float(norm.cdf(np.sqrt(clusters / (clusters - 1)) * t.ppf(0.025, clusters - 1)))
    low, high = np.quantile(spread, [level, 1 - level])
    return Interval(float(low), float(high), clusters)


def _rows(counts: Floats) -> Floats:
    found: Floats = counts / counts.sum(-1, keepdims=True)
    return found


def _powered(top: Floats, whole: Floats, missed: Floats, known: Floats, counts: Floats) -> tuple[float, Interval]:
    once = np.ones((1, len(top)))

    def estimate(weights: Floats) -> tuple[Floats, Floats]:
        """The estimate and its jackknife standard error on each resample."""
        a, b, c, d = (weights @ column for column in (top, whole, missed, known))
        with np.errstate(invalid="ignore", divide="ignore"):
            value = a / b + c / d
            left = (a[:, None] - top) / (b[:, None] - whole) + (c[:, None] - missed) / (d[:, None] - known)
        left = np.where(np.isfinite(left), left, value[:, None])
        n = weights.sum(1)
        mean = (weights * left).sum(1) / n
        return value, np.sqrt((n - 1) / n * (weights * (left - mean[:, None]) ** 2).sum(1))

    (value,), (error,) = estimate(once)
    spread, errors = estimate(counts)
    usable = np.isfinite(spread) & (errors > 0)
    share = float(np.clip(value, 0, 1))
    if not usable.any() or error == 0:
        return share, Interval(share, share, len(top))
    low, high = tails(np.sort((spread[usable] - value) / errors[usable]))
    step = float(error) * np.sqrt(len(top) / (len(top) - 1))
    ends: npt.NDArray[np.float64] = np.clip([value - high * step, value - low * step], 0, 1)
    return share, Interval(float(ends[0]), float(ends[1]), len(top))
