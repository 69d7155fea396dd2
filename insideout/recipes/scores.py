"""Figures of a classifier on labelled crops, and the temperature of its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def scores(labels: Labels, logits: Floats, classes: Sequence[str]) -> dict[str, Any]:
    """Macro-F1, balanced accuracy, accuracy, NLL, and by class precision, recall, F1 and support.

    `labels` [n], `logits` [n, classes]. `confusion` has a row per true class. Plain Python numbers,
    so that it can be written as JSON. `majority_macro_f1` is what naming the most frequent class
    would reach.
    """
    named = list(range(len(classes)))
    guess = logits.argmax(1)
    precision, recall, f1, support = precision_recall_fscore_support(labels, guess, labels=named, zero_division=0)
    most = int(np.bincount(labels, minlength=len(classes)).argmax())
    share = float((labels == most).mean())
    return {
        "macro_f1": float(f1.mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, guess)),
        "accuracy": float((guess == labels).mean()),
        "nll": nll(labels, logits),
        "crops": len(labels),
        "majority_macro_f1": 2 * share / (1 + share) / len(classes),
        "by_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": confusion_matrix(labels, guess, labels=named).tolist(),
    }


def nll(labels: Labels, logits: Floats, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels under softmax(logits / temperature)."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(1, keepdims=True)
    return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]).mean())


def fit_temperature(labels: Labels, logits: Floats, low: float = 0.05, high: float = 20.0) -> float:
    """The temperature in [low, high] with the least NLL on these crops.

    In 1/T the NLL is convex, so that Brent's method finds the one minimum. scikit-learn fits the same inside
    of an estimator (`CalibratedClassifierCV(method="temperature")`, against which this is tested).
    """
    found = minimize_scalar(
        lambda inverse: nll(labels, logits, 1 / inverse),
        bounds=(1 / high, 1 / low),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(1 / found.x)
