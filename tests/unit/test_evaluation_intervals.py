"""The bootstrap over shots: the same values as scikit-learn on explicit resamples, and honest coverage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    precision_recall_fscore_support,
)

from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.errors import DataError
from insideout.evaluation.intervals import (
    LOOPED,
    LOOPED_RESAMPLES,
    Interval,
    class_intervals,
    confusion_interval,
    differences,
    draw,
    intervals,
    percentiles,
    resampled,
    shot_index,
)
from insideout.evaluation.metrics import METRICS, confusion_metrics, macro_f1, per_class, point_metrics
from insideout.evaluation.predictions import Predictions

CLASSES = ("Angry", "Happy", "Sad")


def noisy(shots: int = 12, signal: float = 1.5, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    shot = np.repeat(np.arange(shots), random.integers(1, 9, shots))
    truth = random.integers(0, 3, len(shot))
    crops = tuple(
        LabelledCrop(f"{i}.jpg", b"", CLASSES[t], film="f", shot=str(s))
        for i, (t, s) in enumerate(zip(truth, shot, strict=True))
    )
    logits = random.normal(0, 1, (len(shot), 3)) + signal * np.eye(3)[truth]
    return Predictions(CropList(CLASSES, crops), logits.astype(np.float32), 0.8)


def test_resamples_are_of_whole_shots() -> None:
    counts = draw(9, 500, seed=1)
    assert counts.shape == (500, 9)
    assert (counts.sum(1) == 9).all()
    assert (counts == draw(9, 500, seed=1)).all()
    assert not (counts == draw(9, 500, seed=2)).all()
    with pytest.raises(DataError, match="two shots"):
        draw(1)


def test_a_crop_without_a_shot_is_one_by_itself() -> None:
    crops = tuple(
        LabelledCrop(str(i), b"", "Sad", film=film, shot=shot)
        for i, (film, shot) in enumerate([("a", "1"), ("", ""), ("a", "1"), ("b", "1"), ("", "")])
    )
    index = shot_index(Predictions(CropList(CLASSES, crops), np.zeros((5, 3), np.float32)))
    assert index[0] == index[2]
    assert len(set(index.tolist())) == 4
    assert sorted(set(index.tolist())) == [0, 1, 2, 3]


def test_every_resample_has_the_values_of_its_crops() -> None:
    predictions = noisy()
    index = shot_index(predictions)
    counts = draw(12, 40, seed=5)
    found = resampled(predictions, 0.8, counts)
    assert set(found) == set(METRICS)
    for i, row in enumerate(counts):
        drawn = np.concatenate([np.flatnonzero(index == s) for s in range(12) for _ in range(row[s])])
        truth, guess = predictions.labels[drawn], predictions.guesses[drawn]
        assert found["macro_f1"][i] == pytest.approx(f1_score(truth, guess, average="macro"))
        assert found["accuracy"][i] == pytest.approx(accuracy_score(truth, guess))
        assert found["kappa"][i] == pytest.approx(cohen_kappa_score(truth, guess))
        if set(guess) <= set(truth):  # else sklearn warns
            assert found["balanced_accuracy"][i] == pytest.approx(balanced_accuracy_score(truth, guess))
        whole = point_metrics(predictions.take(drawn), 0.8)
        for name in METRICS:
            assert found[name][i] == pytest.approx(whole[name]), name


def test_intervals_are_percentiles_of_the_resamples() -> None:
    predictions = noisy(20)
    found = intervals(predictions, resamples=600, seed=4)
    spread = resampled(predictions, 0.8, draw(20, 600, seed=4))
    assert len(spread["aurc"]) == LOOPED_RESAMPLES
    for name in METRICS:
        ordered = np.sort(spread[name])
        assert len(ordered) == (LOOPED_RESAMPLES if name in LOOPED else 600)
        assert found[name].low == pytest.approx(np.quantile(ordered, 0.025, method="inverted_cdf"))
        assert found[name].high == pytest.approx(np.quantile(ordered, 0.975, method="inverted_cdf"))
    assert found["macro_f1"].low < found["macro_f1"].value < found["macro_f1"].high
    assert found["macro_f1"].value == point_metrics(predictions, 0.8)["macro_f1"]
    only = confusion_interval(predictions, lambda c: confusion_metrics(c)["macro_f1"], resamples=600, seed=4)
    assert only == found["macro_f1"]
    assert confusion_interval(predictions, macro_f1, resamples=600, seed=4) == found["macro_f1"]


def test_each_class_has_the_interval_of_its_resamples_less_those_in_which_it_is_undefined() -> None:
    predictions = noisy(12)
    rare = np.flatnonzero(predictions.labels == 2)
    predictions = predictions.take(np.setdiff1d(np.arange(len(predictions)), rare[2:]))
    found = class_intervals(predictions, resamples=300, seed=4)
    assert list(found) == list(CLASSES)
    index = shot_index(predictions)
    shots = int(index.max()) + 1
    spread: dict[tuple[str, str], list[float]] = {(name, key): [] for name in CLASSES for key in found[name]}
    for row in draw(shots, 300, seed=4):
        drawn = np.concatenate([np.flatnonzero(index == s) for s in range(shots) for _ in range(row[s])])
        truth, guess = predictions.labels[drawn], predictions.guesses[drawn]
        scores = precision_recall_fscore_support(truth, guess, labels=range(3), zero_division=np.nan)
        for key, values in zip(("precision", "recall", "f1"), scores, strict=False):
            for name, value in zip(CLASSES, values, strict=True):
                spread[name, key].append(value)
    assert np.isnan(spread["Sad", "recall"]).any()
    for (name, key), values in spread.items():
        assert (found[name][key].low, found[name][key].high) == pytest.approx(percentiles(np.array(values)))
        assert found[name][key].value == getattr(per_class(predictions)[name], key)


def test_one_shot_has_values_without_ends() -> None:
    one = noisy(1)
    values = point_metrics(one, 0.8)
    assert intervals(one) == {name: Interval(values[name], None, None) for name in METRICS}
    assert confusion_interval(one, macro_f1) == Interval(values["macro_f1"], None, None)
    assert {found.low for of in class_intervals(one).values() for found in of.values()} == {None}


def test_percentiles_of_what_is_infinite_or_undefined() -> None:
    assert percentiles(np.array([np.nan] * 10)) == (None, None)
    assert percentiles(np.r_[np.full(50, np.inf), np.zeros(50), np.nan]) == (0, np.inf)
    values = np.random.default_rng(0).permutation(1000) + 1.0
    assert percentiles(values) == (25, 975)


def test_infinite_nll_spreads_to_the_resamples_that_hold_it() -> None:
    predictions = noisy(4)
    predictions.logits[0, predictions.labels[0]] = -np.inf
    counts = draw(4, 200)
    found = resampled(predictions, 1.0, counts)["nll"]
    assert (np.isinf(found) == (counts[:, shot_index(predictions)[0]] > 0)).all()
    assert intervals(predictions, 1.0, 200)["nll"].high == np.inf


def _coverage(by_shot: bool, times: int = 120) -> float:
    """How often the interval of the accuracy holds the true one, 0.65; shots differ much from each other."""
    shot = np.repeat(np.arange(40), 8)
    crops = CropList(
        ("no", "yes"),
        tuple(LabelledCrop(str(i), b"", "yes", shot=str(s) if by_shot else "") for i, s in enumerate(shot)),
    )
    held = 0
    for seed in range(times):
        random = np.random.default_rng(seed)
        rate = random.choice([0.1, 0.5, 0.8, 1.0], 40, p=[0.2, 0.2, 0.35, 0.25])
        right = random.uniform(size=len(shot)) < rate[shot]
        predictions = Predictions(crops, np.stack([~right, right], 1).astype(np.float32))
        found = confusion_interval(predictions, lambda c: confusion_metrics(c)["accuracy"], resamples=300, seed=seed)
        held += found.low <= 0.65 <= found.high
    return held / times


def test_shots_are_what_is_drawn_or_intervals_are_too_narrow() -> None:
    assert 0.88 <= _coverage(by_shot=True) <= 0.99
    assert _coverage(by_shot=False) < 0.8


def test_paired_differences() -> None:
    better, worse = noisy(30, signal=3.0), noisy(30, signal=0.5)
    found = differences(better, worse, resamples=400)
    own = point_metrics(better, 0.8), point_metrics(worse, 0.8)
    for name in METRICS:
        assert found[name].value == pytest.approx(own[0][name] - own[1][name])
    assert found["accuracy"].low > 0
    assert found["accuracy"].share_not_above == 0
    assert found["nll"].high < 0
    assert found["nll"].share_not_above == 1
    assert differences(better, worse, resamples=400, names=("nll", "ece")) == {k: found[k] for k in ("nll", "ece")}
    back = differences(worse, better, resamples=400)["accuracy"]
    assert back.value == -found["accuracy"].value
    assert back.share_not_above == 1
    same = differences(better, better, resamples=400)["macro_f1"]
    assert (same.value, same.low, same.high, same.share_not_above) == (0, 0, 0, 1)


def test_pairing_is_narrower_than_two_intervals() -> None:
    base = noisy(30, signal=1.0)
    other = Predictions(base.crops, base.logits + np.random.default_rng(1).normal(0, 0.2, base.logits.shape), 0.8)
    other = Predictions(other.crops, other.logits.astype(np.float32), 0.8)
    paired = differences(base, other, resamples=500)["accuracy"]
    single = intervals(base, resamples=500)["accuracy"]
    assert paired.high - paired.low < 0.6 * (single.high - single.low)


def test_only_the_same_crops_can_be_paired() -> None:
    predictions = noisy()
    turned = predictions.take(np.arange(len(predictions))[::-1])
    with pytest.raises(DataError, match="same crops in the same order"):
        differences(predictions, turned)
