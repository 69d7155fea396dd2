"""Figures of a classifier on labelled crops, each a plain function of its predictions.

Macro-F1 is the mean F1 over the classes of the model. A class that is neither in the truth nor among
the guesses has no F1 and is left out (as scikit-learn does); a class that is guessed but never true
counts with 0. Where every class occurs this is the mean over all classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix

from insideout.datasets.labelled import CropList
from insideout.evaluation import calibration
from insideout.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Names of the figures in the order in which they are told.
METRICS = (
    "macro_f1", "balanced_accuracy", "accuracy", "kappa", "nll", "brier",
    "ece", "ece_adaptive", "aurc", "coverage_at_90",
)  # fmt: skip
#: Least number of crops for a cell to be called the worst.
LEAST_SUPPORT = 3


@dataclass(frozen=True)
class ClassScore:
    """One class: precision is 0 where it is never guessed, recall 0 where it is never true."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Cell:
    """The crops of a character that show one emotion other than its `usual` one, and how many are told."""

    character: str
    emotion: str
    usual: str
    support: int
    recall: float


@dataclass(frozen=True)
class CounterStereotype:
    """Recall on the crops whose emotion is not the most frequent one of their character in training.

    `recall` None where there is no such crop; `worst` is the cell of least recall among those with at
    least `LEAST_SUPPORT` crops; `unknown` counts crops whose character is unknown or was not in
    training, which are in no cell; `crops` are the indices of the counter-stereotype crops.
    """

    recall: float | None
    support: int
    cells: tuple[Cell, ...]
    worst: Cell | None
    unknown: int
    crops: Ints


def point_metrics(predictions: Predictions, temperature: float) -> dict[str, float]:
    """All of `METRICS` at a temperature.

    Higher is better for macro_f1, balanced_accuracy (mean recall of the classes in the truth),
    accuracy, kappa (Cohen; NaN where truth and guesses are all of one class) and coverage_at_90 (largest
    share of the crops that can be answered with 90 % right); lower for nll (nats), brier (mean squared
    distance to one-hot, 0 to 2), ece and ece_adaptive (15 bins of equal width or mass) and aurc. NLL is
    infinite where a true class has no probability at all. Raises DataError when there are no crops.
    """
    certainty, right = calibration.certainty_of(predictions, temperature)
    nll, brier = losses(predictions, temperature)
    found = {name: float(value) for name, value in confusion_metrics(confusion(predictions)).items()}
    return found | {
        "nll": float(nll.mean()),
        "brier": float(brier.mean()),
        "ece": calibration.ece(certainty, right),
        "ece_adaptive": calibration.ece_adaptive(certainty, right),
        "aurc": calibration.aurc(certainty, right),
        "coverage_at_90": calibration.coverage_at(certainty, right, 0.9),
    }


def losses(predictions: Predictions, temperature: float) -> tuple[Floats, Floats]:
    """Negative log-likelihood (nats) and squared distance to one-hot of each crop, float64 [n] each."""
    probabilities = predictions.probabilities(temperature)
    at = (np.arange(len(predictions)), predictions.labels)
    scaled = predictions.logits.astype(np.float64) / temperature
    top = scaled.max(1)
    nll = np.log(np.exp(scaled - top[:, None]).sum(1)) + top - scaled[at]
    brier = (probabilities**2).sum(1) - 2 * probabilities[at] + 1
    return nll, brier


def confusion(predictions: Predictions) -> Ints:
    """Crops by true class (rows) and guessed class (columns), int64 [classes, classes]."""
    named = np.arange(len(predictions.classes))
    counts: Ints = confusion_matrix(predictions.labels, predictions.guesses, labels=named).astype(np.int64)
    return counts


def confusion_metrics(confusions: npt.NDArray[np.int64] | Floats) -> dict[str, Floats]:
    """Macro-F1, balanced accuracy, accuracy and Cohen's kappa of confusion counts [..., k, k].

    One matrix or many at once: sklearn's values, without its cost per call. Float64 [...] each.
    """
    counts = np.asarray(confusions, np.float64)
    support, hits = counts.sum(-1), np.diagonal(counts, axis1=-2, axis2=-1)
    guessed, total = counts.sum(-2), counts.sum((-2, -1))
    with np.errstate(invalid="ignore"):
        recall = np.where(support > 0, hits / support, 0.0)
        chance = (support * guessed).sum(-1) / total**2
        accuracy = hits.sum(-1) / total
        kappa = (accuracy - chance) / np.where(chance < 1, 1 - chance, np.nan)
    return {
        "macro_f1": macro_f1(counts),
        "balanced_accuracy": recall.sum(-1) / (support > 0).sum(-1),
        "accuracy": accuracy,
        "kappa": kappa,
    }


def accuracy(confusions: npt.NDArray[np.int64] | Floats) -> Floats:
    """Share right of confusion counts [..., k, k], float64 [...]; over the crops of some classes it is their recall."""
    return confusion_metrics(confusions)["accuracy"]


def macro_f1(confusions: npt.NDArray[np.int64] | Floats, *, true_only: bool = False) -> Floats:
    """Macro-F1 of confusion counts [..., k, k], float64 [...].

    With `true_only` over the classes in the truth, else over those in the truth or the guesses.
    """
    counts = np.asarray(confusions, np.float64)
    support, guessed = counts.sum(-1), counts.sum(-2)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    f1 = 2 * hits / np.maximum(support + guessed, 1)
    used = support > 0 if true_only else support + guessed > 0
    mean: Floats = np.where(used, f1, 0.0).sum(-1) / used.sum(-1)
    return mean


def per_class(predictions: Predictions) -> dict[str, ClassScore]:
    """Precision, recall, F1 and support of each class, in class order."""
    counts = confusion(predictions)
    found = {key: np.nan_to_num(values) for key, values in class_scores(counts).items()}
    support = counts.sum(1)
    return {
        name: ClassScore(**{key: float(values[i]) for key, values in found.items()}, support=int(support[i]))
        for i, name in enumerate(predictions.classes)
    }


def class_scores(confusions: npt.NDArray[np.int64] | Floats) -> dict[str, Floats]:
    """`precision`, `recall` and `f1` of each class of confusion counts [..., k, k], float64 [..., k] each.

    NaN where undefined: a class that is never guessed, never true, neither.
    """
    counts = np.asarray(confusions, np.float64)
    support, guessed, hits = counts.sum(-1), counts.sum(-2), np.diagonal(counts, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return {"precision": hits / guessed, "recall": hits / support, "f1": 2 * hits / (support + guessed)}


def by_character(predictions: Predictions) -> dict[str, Predictions]:
    """The predictions of each character, by name; crops without one are under the empty name."""
    names = np.array([crop.character for crop in predictions.crops.crops], object)
    return {str(name): predictions.take(np.flatnonzero(names == name)) for name in sorted(set(names.tolist()))}


def per_character(predictions: Predictions) -> dict[str, tuple[float, int]]:
    """Macro-F1 over the emotions that occur for each character, and its number of crops."""
    return {
        name: (float(macro_f1(confusion(own), true_only=True)), len(own))
        for name, own in by_character(predictions).items()
    }


def usual_emotions(train: CropList) -> dict[str, str]:
    """The most frequent emotion of each character; among equals the first in class order."""
    found: dict[str, Counter[str]] = {}
    for crop in train.crops:
        if crop.character:
            found.setdefault(crop.character, Counter())[crop.emotion] += 1
    return {name: max(train.classes, key=counts.__getitem__) for name, counts in sorted(found.items())}


def counter_stereotype(predictions: Predictions, usual: Mapping[str, str]) -> CounterStereotype:
    """Recall where a character does not show its usual emotion, which `usual_emotions` of the training gives.

    A classifier that reads the character instead of the face fails exactly there.
    """
    right = predictions.guesses == predictions.labels
    cells: dict[tuple[str, str], list[int]] = {}
    unknown = 0
    for i, crop in enumerate(predictions.crops.crops):
        if crop.character not in usual:
            unknown += 1
        elif crop.emotion != usual[crop.character]:
            cells.setdefault((crop.character, crop.emotion), []).append(i)
    told = tuple(
        Cell(name, emotion, usual[name], len(own), float(right[own].mean()))
        for (name, emotion), own in sorted(cells.items())
    )
    crops = np.array(sorted(i for own in cells.values() for i in own), np.int64)
    large = [cell for cell in told if cell.support >= LEAST_SUPPORT]
    return CounterStereotype(
        float(right[crops].mean()) if len(crops) else None,
        len(crops),
        told,
        min(large, key=lambda cell: cell.recall, default=None),
        unknown,
        crops,
    )
