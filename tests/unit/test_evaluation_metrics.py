"""The figures of a classifier against scikit-learn's and against values worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, f1_score, log_loss

from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.errors import DataError
from insideout.evaluation.metrics import (
    METRICS,
    confusion,
    counter_stereotype,
    per_character,
    per_class,
    point_metrics,
    usual_emotions,
)
from insideout.evaluation.predictions import Predictions

CLASSES = ("Angry", "Happy", "Sad")


def told(rows: list[tuple[str, str, str]], sure: float = 2.0) -> Predictions:
    """Predictions from (character, truth, guess), the guess ahead of the others by `sure`."""
    crops = tuple(
        LabelledCrop(f"{i}.jpg", b"", truth, shot=str(i), character=name) for i, (name, truth, _) in enumerate(rows)
    )
    logits = np.array([[sure * (name == guess) for name in CLASSES] for _, _, guess in rows], np.float32)
    return Predictions(CropList(CLASSES, crops), logits.reshape(len(rows), len(CLASSES)))


def noisy(n: int = 200, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, n)
    crops = tuple(LabelledCrop(f"{i}.jpg", b"", CLASSES[t], shot=str(i // 7)) for i, t in enumerate(truth))
    logits = random.normal(0, 1, (n, 3)) + 1.5 * np.eye(3)[truth]
    return Predictions(CropList(CLASSES, crops), logits.astype(np.float32))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_figures_are_those_of_scikit_learn(temperature: float) -> None:
    predictions = noisy()
    truth, guess = predictions.labels, predictions.guesses
    probabilities = predictions.probabilities(temperature)
    found = point_metrics(predictions, temperature)
    assert tuple(sorted(found)) == tuple(sorted(METRICS))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(truth, guess))
    assert found["nll"] == pytest.approx(log_loss(truth, probabilities))
    assert found["brier"] == pytest.approx(((probabilities - np.eye(3)[truth]) ** 2).sum(1).mean())


def test_a_class_that_is_nowhere_has_no_part_in_macro_f1() -> None:
    # F1 of Angry 2/3 and of Happy 4/5; Sad is neither true nor guessed.
    without = told([("", "Angry", "Angry"), ("", "Angry", "Happy"), ("", "Happy", "Happy"), ("", "Happy", "Happy")])
    assert point_metrics(without, 1.0)["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    # Guessed where it never is: it counts, with 0; Angry is found every time it is guessed.
    with_it = told([("", "Angry", "Angry"), ("", "Angry", "Sad"), ("", "Happy", "Happy"), ("", "Happy", "Happy")])
    assert point_metrics(with_it, 1.0)["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_figures_that_scikit_learn_warns_about() -> None:
    predictions = told([("", "Happy", "Happy"), ("", "Happy", "Sad")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = point_metrics(predictions, 1.0)
    assert found["balanced_accuracy"] == 0.5
    assert found["kappa"] == pytest.approx(0)
    assert np.isnan(point_metrics(told([("", "Happy", "Happy")]), 1.0)["kappa"])


def test_a_true_class_without_probability_has_infinite_nll() -> None:
    predictions = told([("", "Happy", "Happy"), ("", "Sad", "Happy")])
    predictions.logits[:, 2] = -np.inf
    found = point_metrics(predictions, 1.0)
    assert found["nll"] == np.inf
    assert np.isfinite(found["brier"])
    predictions.logits[:, 0] = -np.inf
    assert point_metrics(predictions, 1.0)["brier"] == pytest.approx(1.0)  # distances 0 and 2


def test_no_crops_is_an_error() -> None:
    with pytest.raises(DataError, match="no crops to score"):
        point_metrics(told([]), 1.0)


def test_confusion_has_a_row_per_true_class() -> None:
    predictions = told([("", "Angry", "Happy"), ("", "Angry", "Happy"), ("", "Sad", "Sad")])
    assert confusion(predictions).tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]
    scores = per_class(predictions)
    assert list(scores) == list(CLASSES)
    assert (scores["Angry"].recall, scores["Angry"].support) == (0, 2)
    assert (scores["Happy"].precision, scores["Happy"].support) == (0, 0)
    assert (scores["Sad"].precision, scores["Sad"].recall, scores["Sad"].f1) == (1, 1, 1)


def test_a_character_is_scored_over_the_emotions_it_shows() -> None:
    found = per_character(
        told(
            [
                ("Bun", "Angry", "Angry"), ("Bun", "Angry", "Sad"), ("Bun", "Happy", "Happy"),
                ("Ann", "Sad", "Happy"), ("", "Sad", "Sad"),
            ]
        )
    )  # fmt: skip
    # Bun never is Sad: the wrong guess costs recall of Angry, and Sad itself is not counted.
    assert found["Bun"] == (pytest.approx((2 / 3 + 1) / 2), 3)
    assert found["Ann"] == (0, 1)
    assert found[""] == (1, 1)


def test_usual_emotions_are_the_most_frequent() -> None:
    train = told(
        [("Bun", "Sad", ""), ("Bun", "Happy", ""), ("Bun", "Happy", ""), ("Ann", "Sad", ""), ("Ann", "Angry", "")]
    ).crops
    assert usual_emotions(train) == {"Ann": "Angry", "Bun": "Happy"}  # equal counts: class order


def test_counter_stereotype_cells() -> None:
    rows = [
        ("Bun", "Happy", "Happy"), ("Bun", "Happy", "Angry"),
        ("Bun", "Sad", "Happy"), ("Bun", "Sad", "Sad"), ("Bun", "Sad", "Happy"),
        ("Bun", "Angry", "Happy"),
        ("Ann", "Happy", "Happy"), ("Ann", "Happy", "Happy"), ("Ann", "Happy", "Sad"),
        ("New", "Sad", "Sad"), ("", "Sad", "Sad"),
    ]  # fmt: skip
    found = counter_stereotype(told(rows), {"Bun": "Happy", "Ann": "Angry"})
    assert [(c.character, c.emotion, c.usual, c.support) for c in found.cells] == [
        ("Ann", "Happy", "Angry", 3), ("Bun", "Angry", "Happy", 1), ("Bun", "Sad", "Happy", 3),
    ]  # fmt: skip
    assert [c.recall for c in found.cells] == pytest.approx([2 / 3, 0, 1 / 3])
    assert (found.recall, found.support, found.unknown) == (pytest.approx(3 / 7), 7, 2)
    assert found.worst is not None
    assert (found.worst.character, found.worst.emotion) == ("Bun", "Sad")  # one crop is too few to be the worst
    assert found.crops.tolist() == [2, 3, 4, 5, 6, 7, 8]
    usual = counter_stereotype(told(rows[:2]), {"Bun": "Happy"})
    assert (usual.recall, usual.support, usual.worst, usual.cells) == (None, 0, None, ())
