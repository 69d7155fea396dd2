"""What can be reached without looking at a face: the baselines that stand beside every result.

    majority  how often each emotion occurs in training, the same answer for every crop
    identity  how often each emotion occurs with the character in training
    colour    logistic regression on the colours of the crop, which know the set, the light and the figure

A classifier that reads expressions must beat all three. `frozen_probe` is the fourth, for features
of a network that was never trained on emotions of this film.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from insideout.datasets.labelled import CropList, LabelledCrop, Picture
from insideout.errors import DataError
from insideout.evaluation.predictions import Predictions

Features = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]

#: Inverse strengths of the penalty that cross-validation chooses from; ties go to the smaller.
STRENGTHS = tuple(10.0**power for power in range(-4, 4))
_FOLDS = 5
_BINS = 8
_LEAST = 1e-9  # a probability is at least this, so that its logarithm is a number


def baselines(train: CropList, test: CropList, seed: int = 0) -> dict[str, Predictions]:
    """Predictions of `majority`, `identity` and `colour`, in this order, for the crops of `test`.

    Everything is learned from `train`; logits are log-probabilities, the temperature is 1. `seed` is
    that of the folds over shots which choose the strength of the colour baseline's penalty. Raises
    DataError: other classes in `test`, a class with fewer than two crops in `train`, `train` from a
    single shot, crops that cannot be read.
    """
    _check_classes(train, test)
    return {
        "majority": _majority(train, test),
        "identity": _identity(train, test),
        "colour": _colour(train, test, seed),
    }


def frozen_probe(
    train_features: Features, test_features: Features, train: CropList, test: CropList, seed: int = 0
) -> Predictions:
    """Logistic regression on given features of the crops, in the order of the crops.

    `train_features` and `test_features` are float32 [n, d]; each feature is brought to mean 0 and
    variance 1 over `train`, classes weigh the same, and the strength of the penalty is chosen by
    cross-validation over scenes inside `train`. Logits are log-probabilities. Raises DataError as
    `baselines` does, for `train` from a single scene, and for features that do not fit the crops.
    """
    _check_classes(train, test)
    for name, features, crops in (("train", train_features, train), ("test", test_features, test)):
        if features.ndim != 2 or len(features) != len(crops):
            raise DataError(f"{name} features {list(features.shape)} for {len(crops)} crops; expected [crops, d]")
        if not np.isfinite(features).all():
            raise DataError(f"{name} features hold NaN or infinite values; compute them again in float32")
    if train_features.shape[1] != test_features.shape[1]:
        raise DataError(f"{train_features.shape[1]} train features but {test_features.shape[1]} test features")
    return _regression(train, train_features, test, test_features, lambda crop: crop.scene_key, True, seed)


def colour_histogram(picture: Picture) -> Features:
    """Colours of a picture, uint8 [h, w, 3] RGB: float32 [8 * 8 + 8].

    Joint histogram of hue and saturation, then that of value, each the square root of shares of the
    pixels: between such vectors the inner product is Bhattacharyya's coefficient, and large uniform
    areas do not drown the rest.
    """
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    joint = cv2.calcHist([hsv], [0, 1], None, [_BINS, _BINS], [0, 180, 0, 256]).ravel()
    value = cv2.calcHist([hsv], [2], None, [_BINS], [0, 256]).ravel()
    return np.sqrt(np.concatenate([joint, value]) / hsv[..., 0].size).astype(np.float32)


def _majority(train: CropList, test: CropList) -> Predictions:
    return _predictions(test, np.tile(_frequencies(train), (len(test), 1)))


def _identity(train: CropList, test: CropList) -> Predictions:
    """Frequencies by character, to which one crop is added that is spread like all of training."""
    overall = _frequencies(train)
    known: dict[str, Probabilities] = {}
    for character in {crop.character for crop in train.crops if crop.character}:
        own = [label for label, crop in zip(train.labels, train.crops, strict=True) if crop.character == character]
        known[character] = (np.bincount(own, minlength=len(train.classes)) + overall) / (len(own) + 1)
    return _predictions(test, np.array([known.get(crop.character, overall) for crop in test.crops]))


def _colour(train: CropList, test: CropList, seed: int) -> Predictions:
    histograms = [np.array([colour_histogram(crop.read()) for crop in part.crops]) for part in (train, test)]
    # Not standardised: a colour that is rare in training would weigh as much as the sky.
    return _regression(train, histograms[0], test, histograms[1], lambda crop: crop.shot_key, False, seed)


def _regression(
    train: CropList,
    train_features: Features,
    test: CropList,
    test_features: Features,
    group: Callable[[LabelledCrop], str],
    standardise: bool,
    seed: int,
) -> Predictions:
    model = fit_regression(train, train_features, group, standardise=standardise, seed=seed)
    return _predictions(test, model.predict_proba(test_features.astype(np.float64)))


def fit_regression(
    train: CropList,
    features: Features,
    group: Callable[[LabelledCrop], str],
    *,
    standardise: bool = True,
    by: Literal["macro_f1", "log_loss"] = "macro_f1",
    seed: int = 0,
) -> Pipeline:
    """Fit a logistic regression to features float32 [n, d] of the crops, classes weighing the same.

    The strength of its penalty is chosen by macro-F1, or by the loss, over all held-out folds
    together, which never part a `group`. Raises DataError for too few groups or crops of a class.
    """
    folds = regression_folds(train, group, seed)
    wide = features.astype(np.float64)

    def score(strength: float) -> float:
        model, labels = _model(strength, standardise), train.labels
        if by == "macro_f1":
            return float(f1_score(labels, cross_val_predict(model, wide, labels, cv=folds), average="macro"))
        shares = cross_val_predict(model, wide, labels, cv=folds, method="predict_proba")
        return -float(log_loss(labels, shares, labels=range(len(train.classes))))

    # Weaker penalties never have the least loss on other scenes, and take minutes to fit.
    strengths = [strength for strength in STRENGTHS if by == "macro_f1" or strength <= 1]
    return _model(max(strengths, key=score), standardise).fit(wide, train.labels)


def _model(strength: float, standardise: bool) -> Pipeline:
    return make_pipeline(
        StandardScaler() if standardise else "passthrough",
        LogisticRegression(C=strength, class_weight="balanced", max_iter=5000),
    )


def regression_folds(
    train: CropList, group: Callable[[LabelledCrop], str], seed: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Folds that keep each group together, as indices; copies of one picture always are a group. Raises DataError."""
    groups = [group(crop) or f"\0{crop.source or crop.name}" for crop in train.crops]
    count = min(_FOLDS, len(set(groups)), int(np.bincount(train.labels).min()))
    if count < 2:
        raise DataError(
            f"{len(train)} training crops of {len(set(groups))} shots or scenes; a baseline needs"
            " two of them, and two crops of each class: label more"
        )
    folder = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    folds = list(folder.split(np.zeros(len(train)), train.labels, groups))
    if any(len(np.unique(train.labels[inside])) < 2 for inside, _ in folds):
        raise DataError(
            f"all training crops outside of some shots or scenes are of one class ({len(set(groups))} shots or"
            " scenes in all); a baseline cannot be fitted there: label more shots of each class"
        )
    return folds


def _frequencies(crops: CropList) -> Probabilities:
    found: Probabilities = np.bincount(crops.labels, minlength=len(crops.classes)) / len(crops)
    return found


def _check_classes(train: CropList, test: CropList) -> None:
    if train.classes != test.classes:
        raise DataError(f"training has the classes {', '.join(train.classes)}; testing {', '.join(test.classes)}")
    for name, crops in (("train", train), ("test", test)):
        if not len(crops):
            raise DataError(f"there are no {name} crops; give labelled ones")
    if rare := [name for name, count in train.counts().items() if count < 2]:
        raise DataError(f"{', '.join(rare)}: fewer than two crops in train; label more, or leave the class out")


def _predictions(crops: CropList, probabilities: Probabilities) -> Predictions:
    return Predictions(crops, np.log(np.maximum(probabilities, _LEAST)).astype(np.float32))
