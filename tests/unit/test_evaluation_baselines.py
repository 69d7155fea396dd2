from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.errors import DataError
from insideout.evaluation.baselines import baselines, colour_histogram, frozen_probe, regression_folds

CLASSES = ("Angry", "Happy", "Neutral")
#: RGB of a crop of each class where the colour gives the class away.
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def picture(colour: tuple[int, int, int], seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-30, 31, (16, 16, 3))
    rgb = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    return cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()


def crop_list(split: str, shots: int, *, telling: bool, each: int = 3, character: str = "Bunny") -> CropList:
    """Shots of one class each, `each` crops a shot; colours by class, or by chance for each shot."""
    random = np.random.default_rng(len(split))
    crops = []
    for shot in range(shots):
        label = shot % len(CLASSES)
        colour = COLOURS[label if telling else int(random.integers(3))]
        for i in range(each):
            name = f"{split}/{shot}/{i}"
            content = picture(colour, 1000 * len(split) + 10 * shot + i)
            crops.append(
                LabelledCrop(name, content, CLASSES[label], scene=str(shot // 3), shot=str(shot), character=character)
            )
    return CropList(CLASSES, tuple(crops))


def by_character(counts: dict[str, tuple[int, int, int]]) -> CropList:
    """Crops of each character with these numbers of Angry, Happy and Neutral, in a shot each."""
    crops = [
        LabelledCrop(f"{who}/{name}/{i}", picture((9, 9, 9), i), name, shot=f"{who}{name}{i}", character=who)
        for who, numbers in counts.items()
        for name, number in zip(CLASSES, numbers, strict=True)
        for i in range(number)
    ]
    return CropList(CLASSES, tuple(crops))


def test_colour_is_right_where_the_colour_gives_the_class_away() -> None:
    found = baselines(crop_list("train", 12, telling=True), crop_list("valid!", 9, telling=True))
    assert list(found) == ["majority", "identity", "colour"]
    assert (found["colour"].guesses == found["colour"].labels).all()
    assert (found["majority"].guesses == found["majority"].labels).mean() == pytest.approx(1 / 3)


def test_colour_is_near_chance_where_it_does_not() -> None:
    found = baselines(crop_list("train", 60, telling=False), crop_list("valid!", 60, telling=False))["colour"]
    assert (found.guesses == found.labels).mean() == pytest.approx(1 / 3, abs=0.15)


def test_majority_gives_the_frequencies_of_training() -> None:
    train = by_character({"Bunny": (2, 5, 3)})
    found = baselines(train, crop_list("valid", 3, telling=True))["majority"]
    assert found.temperature == 1
    np.testing.assert_allclose(found.probabilities(), np.tile([0.2, 0.5, 0.3], (9, 1)), rtol=1e-5)


def test_identity_gives_each_character_its_most_frequent_emotion() -> None:
    train = by_character({"Bunny": (1, 8, 1), "Frank": (6, 0, 4)})
    test = by_character({"Frank": (0, 1, 0), "Bunny": (1, 0, 0), "Rinky": (0, 0, 1), "": (0, 0, 1)})
    found = baselines(train, test)["identity"]
    assert [CLASSES[i] for i in found.guesses] == ["Angry", "Happy", "Happy", "Happy"]
    overall = np.array([7, 8, 5]) / 20
    expected = [(np.array([6, 0, 4]) + overall) / 11, (np.array([1, 8, 1]) + overall) / 11, overall, overall]
    np.testing.assert_allclose(found.probabilities(), expected, rtol=1e-5)


def test_the_colour_histogram_holds_shares_of_hue_saturation_and_value() -> None:
    half = np.zeros((10, 20, 3), np.uint8)
    half[:, 10:] = (0, 255, 0)  # green: hue 60 of 180 is bin 2, full saturation bin 7
    found = colour_histogram(half)
    expected = np.zeros(72)
    expected[[0, 2 * 8 + 7, 64, 71]] = 0.5
    np.testing.assert_allclose(found**2, expected, atol=1e-6)


def features(crops: CropList, telling: bool, seed: int) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(seed)
    found = random.normal(size=(len(crops), 12)) * np.logspace(-3, 3, 12)
    if telling:
        found[:, 0] += 0.02 * crops.labels  # ten times its deviation, and tiny beside the other features
    return found.astype(np.float32)


def test_a_probe_finds_what_the_features_hold_whatever_their_scale() -> None:
    train, test = crop_list("train", 18, telling=False), crop_list("valid!", 12, telling=False)
    found = frozen_probe(features(train, True, 0), features(test, True, 1), train, test)
    assert (found.guesses == found.labels).mean() > 0.95
    np.testing.assert_allclose(found.probabilities().sum(1), 1)
    blind = frozen_probe(features(train, False, 0), features(test, False, 1), train, test)
    assert (blind.guesses == blind.labels).mean() < 0.6


def test_folds_keep_scenes_and_copies_of_a_picture_together() -> None:
    train = crop_list("train", 24, telling=False)
    copies = CropList(CLASSES, tuple(
        LabelledCrop(f"{i}", crop.picture, crop.emotion, source=f"{crop.emotion}{i // 9}")
        for i, crop in enumerate(train.crops)
    ))  # fmt: skip
    for crops, group in ((train, "scene"), (copies, "source")):
        names = np.array([getattr(crop, group) for crop in crops.crops])
        folds = regression_folds(crops, lambda crop: crop.scene_key, 0)
        assert len(folds) == 5
        assert sorted(i for _, held in folds for i in held) == list(range(72))
        for inside, held in folds:
            assert not set(names[inside]) & set(names[held])


def test_the_same_seed_gives_the_same_answer() -> None:
    train, test = crop_list("train", 12, telling=False), crop_list("valid!", 6, telling=False)
    a, b = (baselines(train, test, seed=3)["colour"].logits for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_unusable_input_is_named() -> None:
    train = crop_list("train", 6, telling=True)
    with pytest.raises(DataError, match=r"training has the classes Angry, Happy, Neutral; testing Angry$"):
        baselines(train, CropList(("Angry",), ()))
    with pytest.raises(DataError, match="Neutral: fewer than two crops in train"):
        baselines(by_character({"Bunny": (5, 5, 1)}), train)
    with pytest.raises(DataError, match="no test crops"):
        baselines(train, CropList(CLASSES, ()))
    alone = CropList(CLASSES, tuple(LabelledCrop(c.name, c.picture, c.emotion, shot="1") for c in train.crops))
    with pytest.raises(DataError, match="18 training crops of 1 shots"):
        baselines(alone, train)
    with pytest.raises(DataError, match=r"test features \[3, 2\] for 18 crops"):
        frozen_probe(np.zeros((18, 2), np.float32), np.zeros((3, 2), np.float32), train, train)
    with pytest.raises(DataError, match="NaN"):
        frozen_probe(np.full((18, 2), np.nan, np.float32), np.zeros((18, 2), np.float32), train, train)
    two = CropList(("Angry", "Happy"), tuple(
        LabelledCrop(str(i), picture((9, 9, 9), i), "Angry" if i < 3 else "Happy", shot=str(i // 3)) for i in range(6)
    ))  # fmt: skip
    with pytest.raises(DataError, match="are of one class"):
        baselines(two, two)
