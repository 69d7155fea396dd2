from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from pycocotools import mask as coco

from insideout.errors import DataError, UsageError
from insideout.evaluation.segmenter import (
    Instance,
    ScoredFrame,
    average_precision,
    evaluate_segmenter,
    matched,
    operating_point,
)
from insideout.packs import load_pack
from insideout.segment import CharacterSegmenter

CLASSES = ("Bunny", "Frank", "head")
HEIGHT, WIDTH = 200, 320


def figure(name: str, x: int, y: int, w: int, h: int, score: float = 1.0) -> Instance:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    return Instance(name, (x, y, w, h), coco.encode(pixels), score)


def frame(truth: list[Instance], detections: list[Instance], characters: list[Instance] | None = None) -> ScoredFrame:
    return ScoredFrame("0", tuple(truth), tuple(detections), tuple(detections if characters is None else characters))


def test_average_precision_of_known_detections() -> None:
    bunny, frank = figure("Bunny", 10, 10, 50, 50), figure("Frank", 100, 10, 50, 50)
    perfect = average_precision([frame([bunny], [bunny]), frame([frank], [frank]), frame([], [])], CLASSES)
    assert list(perfect) == ["Bunny", "Frank", "all"]  # no head is labelled
    assert perfect["all"] == pytest.approx(
        {"instances": 2, "mask_map50": 1, "mask_map50_95": 1, "box_map50": 1, "box_map50_95": 1}
    )
    # One of two found: precision 1 up to recall .5, the first 51 of 101 levels, and 0 after that.
    half = average_precision([frame([bunny], [bunny]), frame([bunny], [])], CLASSES)["Bunny"]
    assert half["mask_map50"] == pytest.approx(51 / 101)
    # A better-scored mistake halves the precision, a worse-scored one costs nothing.
    right, wrong = replace(bunny, score=0.5), figure("Bunny", 200, 100, 50, 50, 0.9)
    assert average_precision([frame([bunny], [right, wrong])], CLASSES)["Bunny"]["mask_map50"] == pytest.approx(0.5)
    wrong = replace(wrong, score=0.1)
    assert average_precision([frame([bunny], [right, wrong])], CLASSES)["Bunny"]["mask_map50"] == pytest.approx(1)
    # Masks of IoU 40/60 = .67 pass four of the ten thresholds, whatever the box says.
    shifted = replace(figure("Bunny", 20, 10, 50, 50), box=bunny.box)
    found = average_precision([frame([bunny], [shifted])], CLASSES)["Bunny"]
    assert (found["mask_map50"], found["mask_map50_95"]) == pytest.approx((1, 0.4))
    assert (found["box_map50"], found["box_map50_95"]) == pytest.approx((1, 1))
    # Right place, wrong name; and the mean is over the classes that are labelled.
    named = average_precision([frame([bunny, frank], [bunny, replace(frank, name="head")])], CLASSES)
    assert (named["Frank"]["mask_map50"], named["all"]["mask_map50"]) == pytest.approx((0, 0.5))
    assert average_precision([frame([bunny], [])], CLASSES)["all"]["box_map50_95"] == 0
    assert average_precision([frame([], [bunny])], CLASSES) == {"all": {"instances": 0}}


def test_each_figure_is_found_once_under_its_name_by_the_best_score() -> None:
    left, right = figure("Bunny", 0, 0, 100, 100), figure("Bunny", 20, 0, 100, 100)
    one = figure("Bunny", 10, 0, 100, 100, 0.9)  # overlaps both
    assert sorted(matched([left, right], [one])) == [False, True]
    assert matched([left, right], [one, replace(one, score=0.8)]) == [True, True]
    assert matched([left], [replace(left, name="Frank")]) == [False]
    assert matched([left], [figure("Bunny", 0, 0, 100, 49)]) == [False]
    assert matched([left], [figure("Bunny", 0, 0, 100, 51)]) == [True]
    # The better score takes what it overlaps most, the other has to be content with the rest.
    assert matched([left, right], [replace(left, score=0.3), replace(left, score=0.9)]) == [True, True]
    assert matched([], [one]) == matched([], []) == []


def test_recall_by_size_false_positives_and_screen_time() -> None:
    small, medium = figure("Bunny", 0, 0, 19, 19), figure("Frank", 50, 50, 20, 20)  # 9.5 and 10 % of the height
    large, head = figure("Bunny", 100, 60, 100, 100), figure("head", 100, 60, 30, 30)
    frames = [
        frame([small, medium], [], [small]),
        frame([large, head], [], [large]),
        frame([large, small], [], [large]),  # Bunny is named once in this frame, though he is there twice
        frame([medium], [], [replace(medium, name="Bunny")]),
        frame([], [], [medium, small]),
        frame([], [], []),
        frame([], [], []),
        frame([head], [], [large]),  # a part is labelled: neither free of characters nor screen time
    ]
    found = operating_point(frames, ["a", "a", "b", "b", "c", "d", "d", "e"], ["Bunny", "Frank"])
    sizes = {size: (share["value"], share["count"]) for size, share in found["recall_by_size"].items()}
    assert sizes == {"small": (0.5, 2), "medium": (0.0, 2), "large": (1.0, 2)}
    strangers = found["false_positives_per_1000_frames"]
    assert (strangers["value"], strangers["count"]) == (pytest.approx(2000 / 3), 3)
    assert (strangers["low"], strangers["high"]) == (0, 2000)
    named = {name: (share["value"], share["count"]) for name, share in found["screen_time_found_by_character"].items()}
    assert named == {"Bunny": (1.0, 3), "Frank": (0.0, 2)}
    assert (found["screen_time_found"]["value"], found["screen_time_found"]["count"]) == (pytest.approx(0.6), 5)


def test_intervals_are_over_shots_not_frames() -> None:
    bunny = figure("Bunny", 0, 0, 100, 100)
    frames = [frame([bunny], [], [bunny])] * 30 + [frame([bunny], [], [])] * 30
    apart = operating_point(frames, [str(i) for i in range(60)], ["Bunny"])["screen_time_found"]
    assert apart["value"] == 0.5
    assert apart["low"] == pytest.approx(0.5 - 1.96 * np.sqrt(0.25 / 60), abs=0.02)
    assert apart["high"] == pytest.approx(0.5 + 1.96 * np.sqrt(0.25 / 60), abs=0.02)
    shots = operating_point(frames, ["1"] * 30 + ["2"] * 30, ["Bunny"])["screen_time_found"]
    assert shots == {"value": 0.5, "low": 0.0, "high": 1.0, "count": 60}
    one = operating_point(frames, ["1"] * 60, ["Bunny"])
    assert one["screen_time_found"] == {"value": 0.5, "low": None, "high": None, "count": 60}
    assert one["false_positives_per_1000_frames"] == {"value": None, "low": None, "high": None, "count": 0}


def write_frame(folder: Path, ordinal: int, picture: np.ndarray, label: str) -> None:
    for name in ("images", "labels"):
        (folder / "valid" / name).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "valid/images" / f"{ordinal:06d}.png"), picture)
    (folder / "valid/labels" / f"{ordinal:06d}.txt").write_text(label)


def export(folder: Path, classes: tuple[str, ...]) -> Path:
    """A YOLO export with an empty valid split."""
    for split in ("train", "valid"):
        (folder / split / "images").mkdir(parents=True)
    (folder / "train/images/0.jpg").write_bytes(b"x")
    content = {"train": "../train/images", "val": "../valid/images", "names": list(classes)}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_a_segmenter_that_is_compared_with_its_own_outlines_finds_everything(
    pack: Path, excerpt: Path, tmp_path: Path
) -> None:
    spec = load_pack(pack).segmenter
    segmenter, film, data = CharacterSegmenter(spec), cv2.VideoCapture(str(excerpt)), export(tmp_path, spec.classes)
    for ordinal in range(261):
        film.grab()
        if ordinal not in (80, 240, 260):
            continue
        picture = film.retrieve()[1]
        height, width = picture.shape[:2]
        (character,) = segmenter.segment(np.ascontiguousarray(picture[None, :, :, ::-1]))[0]
        mask = character.mask
        outlines = cv2.findContours(mask.pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        outline = (max(outlines, key=cv2.contourArea)[:, 0] + (mask.left + 0.5, mask.top + 0.5)) / (width, height)
        points = " ".join(f"{value:.6f}" for value in outline.ravel())
        # The label of the third is empty: there the segmenter sees what is not there.
        write_frame(data, ordinal, picture, f"{spec.classes.index(character.name)} {points}\n" if ordinal < 260 else "")
    write_frame(data, 5, np.zeros((64, 64, 3), np.uint8), "")  # another size, and nothing on it
    found = evaluate_segmenter(spec, data, shots={5: "1", 80: "1", 240: "2", 260: "2"})
    assert (found["split"], found["frames"], found["shots"]) == ("valid", 4, 2)
    assert (found["screen_time_found"]["value"], found["screen_time_found"]["count"]) == (1, 2)
    strangers = found["false_positives_per_1000_frames"]
    assert (strangers["value"], strangers["low"], strangers["high"], strangers["count"]) == (500, 0, 1000, 2)
    precision = found["average_precision"]["all"]
    assert precision["instances"] == 2
    assert precision["mask_map50"] > 0.6
    assert precision["mask_map50_95"] > 0.4
    assert evaluate_segmenter(spec, data)["shots"] == 4
    with pytest.raises(DataError, match=r"000005\.png: its name is no frame ordinal of the shots given"):
        evaluate_segmenter(spec, data, shots={1000: "1"})


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("0 0.5 0.5 0.2 0.2\n", "line 1: 4 numbers are no outline; export as segmentation"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5\n9 0.1 0.1 0.5 0.1 0.5 0.5\n", "line 2: class 9, but data.yaml names 5 classes"),
        ("Bunny 0.1 0.1 0.5 0.1 0.5 0.5\n", "line 1: expected a class and numbers, found 'Bunny"),
        ("0 0.1 0.1 0.5 0.1 nan 0.5\n", "are no outline"),
    ],
)
def test_bad_labels_are_named(pack: Path, tmp_path: Path, label: str, says: str) -> None:
    spec = load_pack(pack).segmenter
    data = export(tmp_path, spec.classes)
    write_frame(data, 1, np.zeros((32, 32, 3), np.uint8), label)
    with pytest.raises(DataError, match=says):
        evaluate_segmenter(spec, data)


def test_bad_exports_are_named(pack: Path, tmp_path: Path) -> None:
    spec = load_pack(pack).segmenter
    data = export(tmp_path / "a", ("Joy", "Anger"))
    write_frame(data, 1, np.zeros((32, 32, 3), np.uint8), "")
    with pytest.raises(DataError, match=r"\['Joy', 'Anger'\] are not those of the segmenter"):
        evaluate_segmenter(spec, data)
    with pytest.raises(UsageError, match="unknown split 'dev'; choose train, valid or test"):
        evaluate_segmenter(spec, data, "dev")
    with pytest.raises(DataError, match="has no split 'test'"):
        evaluate_segmenter(spec, data, "test")
    broken = export(tmp_path / "b", spec.classes)
    (broken / "valid/images/7.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"7\.jpg: not a readable picture"):
        evaluate_segmenter(spec, broken)
