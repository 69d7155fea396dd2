"""Fuse what a classifier says of the crops of a track, and what that gains and costs.

A track is the same character through one shot. Its crops are fused in order of their ordinals, never
across the border of a track; a crop without a track stays alone.

    frame     every crop as it is
    majority  the guess that most crops of the track have
    mean_log  the mean of the log-probabilities, as labelling a film fuses a track
    hmm       the posterior of each crop in a hidden Markov model over the track

Smoothing repairs flicker and can wipe out real expressions that are short, so both are measured.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from statistics import median_low
from typing import Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from insideout.datasets.labelled import CropList
from insideout.errors import DataError, UsageError
from insideout.evaluation.intervals import RESAMPLES, Interval, confusion_interval, intervals
from insideout.evaluation.metrics import accuracy
from insideout.evaluation.predictions import Predictions
from insideout.tracks import fuse

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Method = Literal["frame", "majority", "mean_log", "hmm"]
METHODS: tuple[Method, ...] = get_args(Method)


#: Frames of a second where nothing is known of the times of the crops.
ASSUMED_RATE = 24


class FusionScores(TypedDict):
    """Figures of one method, with intervals over shots.

    `nll` in nats; `tracks` counts those with two crops or more; `short_recall` is the recall on the
    crops of the `short_segments`, None where there is none.
    """

    macro_f1: Interval
    accuracy: Interval
    nll: Interval
    crops: int
    tracks: int
    short_recall: Interval | None
    short_segments: int


def fuse_tracks(
    predictions: Predictions,
    temperature: float | None = None,
    method: Method = "mean_log",
    stay: float | None = None,
    prior: Floats | None = None,
) -> Predictions:
    """Fuse the predictions of each track; same crops, same order.

    Probabilities are taken at `temperature` (without one at that of the predictions). `frame` gives
    the logits back as they are; those of the other methods are log-probabilities at temperature 1,
    and a crop that is alone keeps its probabilities.
    In a `majority` one more vote is spread half evenly and half as `mean_log` would have it: no class
    is impossible, and ties go to the more probable class. `hmm` needs `stay`, the probability that
    the next crop shows the same emotion (`learn_stay`); `prior` is the share of each class that the
    classifier expects, float [classes], uniform where it was trained on balanced classes (default).

    Raises UsageError for an unknown method and for `stay` or `prior` out of range, DataError for a
    crop with a track but without an ordinal.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    at = predictions.temperature if temperature is None else temperature
    if method == "frame":
        return replace(predictions, temperature=at)
    logs: Floats = log_softmax(predictions.logits.astype(np.float64) / at, axis=1)
    start, change = _chain(len(predictions.classes), stay, prior) if method == "hmm" else (None, None)
    fused = logs.copy()
    for track in tracks(predictions.crops):
        if len(track) == 1:
            continue
        if start is not None and change is not None:
            fused[track] = forward_backward(logs[track] - start, start, change)
        else:
            mean = fuse(np.exp(logs[track]).astype(np.float32))
            fused[track] = np.log(np.maximum(mean, 1e-9) if method == "mean_log" else _majority(logs[track], mean))
    return Predictions(predictions.crops, fused.astype(np.float32))


def tracks(crops: CropList) -> Iterator[Ints]:
    """Indices of the crops of each track, int64, in order of ordinals; a crop without a track is one by itself.

    Raises DataError for a crop that has a track but no ordinal.
    """
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, crop in enumerate(crops.crops):
        if not crop.track_key:
            yield np.array([i], np.int64)
            continue
        if crop.ordinal is None:
            raise DataError(f"{crop.name}: is in track {crop.track_key} but has no ordinal; add it to crops.csv")
        found[crop.track_key].append((crop.ordinal, i))
    for rows in found.values():
        yield np.array([i for _, i in sorted(rows)], np.int64)


def learn_stay(train: CropList) -> float:
    """Share of neighbouring labelled crops of a track that have the same label, in training data.

    Copies of one crop (same ordinal) are no neighbours. It belongs to the distance in time that the
    labelled crops have. Raises DataError where no track has two crops.
    """
    same = [
        train.labels[a] == train.labels[b]
        for track in tracks(train)
        for a, b in pairwise(track)
        if train.crops[a].ordinal != train.crops[b].ordinal
    ]
    if not same:
        raise DataError("no track has two labelled crops in training; give crops.csv with track and ordinal")
    return float(np.mean(same))


def forward_backward(emissions: Floats, start: Floats, change: Floats) -> Floats:
    """Log posterior of the state of each crop given all crops of the track; float64 [crops, classes].

    All in logarithms: `emissions` [crops, classes], up to a constant per row, `start` [classes],
    `change` [from, to] (Rabiner 1989, doi 10.1109/5.18626). hmmlearn gives the same through a
    subclass of `hmmlearn.base.BaseHMM`, but is in limited maintenance and compiled for some Python
    versions only, which is much to ask for these lines.
    """
    forward, backward = np.zeros_like(emissions), np.zeros_like(emissions)
    forward[0] = start + emissions[0]
    for t in range(1, len(emissions)):
        forward[t] = emissions[t] + logsumexp(forward[t - 1][:, None] + change, axis=0)
    for t in range(len(emissions) - 2, -1, -1):
        backward[t] = logsumexp(change + emissions[t + 1] + backward[t + 1], axis=1)
    posterior: Floats = log_softmax(forward + backward, axis=1)
    return posterior


def without_time(crops: CropList) -> int:
    """How many crops in tracks of two or more have no time: `short_segments` goes by a rate assumed there."""
    return sum(
        len(track)
        for track in tracks(crops)
        if len(track) > 1 and any(crops.crops[i].time is None for i in track.tolist())
    )


def short_segments(crops: CropList, assumed_rate: float | Fraction = ASSUMED_RATE) -> list[Ints]:
    """Indices of the crops of each label segment that lasts under one second.

    A segment is a run of equal labels inside a track, from its first crop to its last plus the
    sampling step, which is the commonest distance of neighbouring crops. It is measured by the times of
    the crops; where a crop of the track has none, by ordinals at `assumed_rate` frames a second. A segment
    that fills its track is none: how long the expression lasts beyond it is unknown, and nothing
    could wipe it out.
    """
    found = list(tracks(crops))
    gaps: Counter[int] = Counter()
    paces: defaultdict[str, list[Fraction]] = defaultdict(list)
    for track in found:
        for a, b in pairwise(crops.crops[i] for i in track.tolist()):
            gap = (b.ordinal or 0) - (a.ordinal or 0)
            if gap > 0:
                gaps[gap] += 1
                if a.time is not None and b.time is not None:
                    paces[a.film].append((b.time - a.time) / gap)
    if not gaps:
        return []
    step = min(gaps, key=lambda gap: (-gaps[gap], gap))
    # Of a film whose frames last differently long, the one in the middle.
    frames = {film: median_low(each) for film, each in paces.items()}
    short = []
    for track in found:
        rows = [crops.crops[i] for i in track.tolist()]
        frame = 1 / Fraction(assumed_rate)
        seconds = [(crop.ordinal or 0) * frame for crop in rows]
        times = [crop.time for crop in rows if crop.time is not None]
        if len(times) == len(rows):
            seconds, frame = times, frames.get(rows[0].film, frame)
        borders = [0, *(np.flatnonzero(np.diff(crops.labels[track])) + 1).tolist(), len(rows)]
        for start, end in pairwise(borders) if len(borders) > 2 else ():
            if seconds[end - 1] - seconds[start] + step * frame < 1:
                short.append(track[start:end])
    return short


def fusion_table(
    predictions: Predictions,
    stay: float | None,
    *,
    temperature: float | None = None,
    prior: Floats | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[Method, FusionScores]:
    """Figures of every method on the same crops, in the order of `METHODS`; without `stay` there is no `hmm`.

    `stay` from training data (`learn_stay`), `prior` as for `fuse_tracks`. Raises DataError when
    there are no crops.
    """
    short = short_segments(predictions.crops)
    inside = np.concatenate(short) if short else np.zeros(0, np.int64)
    lengths = [len(track) for track in tracks(predictions.crops)]
    found: dict[Method, FusionScores] = {}
    for method in METHODS:
        if method == "hmm" and stay is None:
            continue
        fused = fuse_tracks(predictions, temperature, method, stay, prior)
        figures = intervals(fused, fused.temperature, resamples, seed, ("macro_f1", "accuracy", "nll"))
        found[method] = {
            "macro_f1": figures["macro_f1"],
            "accuracy": figures["accuracy"],
            "nll": figures["nll"],
            "crops": len(fused),
            "tracks": sum(length > 1 for length in lengths),
            "short_recall": confusion_interval(fused.take(inside), accuracy, resamples, seed) if len(inside) else None,
            "short_segments": len(short),
        }
    return found


def _chain(classes: int, stay: float | None, prior: Floats | None) -> tuple[Floats, Floats]:
    """Log probabilities of the first state and of changes: another class comes in proportion to its prior."""
    if stay is None or not 0 <= stay <= 1:
        raise UsageError(f"hmm needs stay, a probability from 0 to 1, not {stay}; learn_stay finds it in train")
    shares = np.full(classes, 1 / classes) if prior is None else np.asarray(prior, np.float64)
    if shares.shape != (classes,) or not (shares > 0).all() or not np.isclose(shares.sum(), 1):
        raise UsageError(f"prior {shares.tolist()}: expected {classes} shares above 0 that sum to 1")
    change = (1 - stay) * shares / (1 - shares)[:, None]
    np.fill_diagonal(change, stay)
    with np.errstate(divide="ignore"):  # the logarithm of an impossible change is -inf, as it should be
        return np.log(shares), np.log(change)


def _majority(logs: Floats, mean: Floats) -> Floats:
    """Shares of the votes, with one more vote half even and half like the mean: a tie-breaker below a vote."""
    votes = np.bincount(logs.argmax(1), minlength=len(mean))
    shares: Floats = (votes + (mean + 1 / len(mean)) / 2) / (len(logs) + 1)
    return shares
