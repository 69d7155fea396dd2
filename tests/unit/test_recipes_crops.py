from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.errors import DataError
from insideout.recipes.crops import (
    CropData,
    CropLoader,
    class_weights,
    draw_weights,
    epoch_order,
    find_unreadable,
    read_crops,
)
from tests.exports import write_export


def _crops(labels: list[int], shots: list[str]) -> CropList:
    return CropList(
        ("a", "b"),
        tuple(
            LabelledCrop(f"{i}.jpg", Path(f"{i}.jpg"), "ab"[y], shot=shot)
            for i, (y, shot) in enumerate(zip(labels, shots, strict=True))
        ),
    )


def test_a_training_knows_its_data_by_labels_votes_origin_and_pictures(tmp_path: Path) -> None:
    data = read_crops(write_export(tmp_path))
    crops = data.train.crops
    same = replace(data, train=CropList(data.classes, crops[::-1]))
    assert same.digest == data.digest
    other = b"x" * crops[0].picture.stat().st_size  # of the same size
    changes = [
        {"emotion": "Happy"}, {"film": "other"}, {"scene": "7"}, {"shot": "7"}, {"track": "7"}, {"character": "Frank"},
        {"source": "7"}, {"votes": {"Angry": 0.5, "Happy": 0.5}}, {"picture": other},
    ]  # fmt: skip
    digests = {
        replace(data, train=CropList(data.classes, (replace(crops[0], **change), *crops[1:]))).digest
        for change in changes
    }
    assert len(digests - {data.digest}) == len(changes)
    swapped = replace(data, train=data.valid, valid=data.train)
    assert swapped.digest != data.digest


def test_classes_come_from_the_folders_and_counts_from_the_files(tmp_path: Path) -> None:
    data = read_crops(write_export(tmp_path))
    assert data.classes == ("Angry", "Happy")
    assert data.summary() == {
        "train": {"Angry": 10, "Happy": 6},
        "valid": {"Angry": 4, "Happy": 4},
        "shots": {"train": 2, "valid": 2},
        "shots_in_both": 0,
        "left_out": {},
        "unreadable": [],
    }


def test_classes_that_are_not_kept_are_counted(tmp_path: Path) -> None:
    counts = {"train": {"Angry": 3, "Happy": 3, "Sad": 2}, "valid": {"Angry": 3, "Happy": 3}}
    data = read_crops(write_export(tmp_path, counts), ["Happy", "Angry"])
    assert data.classes == ("Angry", "Happy")
    assert data.left_out == {"train": {"Sad": 2}}
    assert len(data.train) == 6


def test_a_shot_in_both_splits_is_told(tmp_path: Path) -> None:
    write_export(tmp_path)
    source = next((tmp_path / "train" / "Happy").iterdir())
    (tmp_path / "valid" / "Happy" / source.name).write_bytes(source.read_bytes())
    assert read_crops(tmp_path).summary()["shots_in_both"] == 1


@pytest.mark.parametrize(
    ("counts", "keep", "message"),
    [
        ({"train": {"A": 1, "B": 1}}, None, "no valid crops"),
        ({"train": {"A": 1, "B": 0}, "valid": {"A": 1, "B": 1}}, None, "B: no pictures"),
        ({"train": {"A": 2}, "valid": {"A": 2}}, None, "at least two"),
        ({"train": {"A": 1, "B": 1}, "valid": {"A": 1, "C": 1}}, None, r"\(B, C\)"),
        ({"train": {"A": 1, "B": 1}, "valid": {"A": 1, "B": 1}}, ["A", "Joy"], "no crops of Joy"),
        ({"train": {}, "valid": {"A": 1}}, None, "train"),
    ],
)
def test_unusable_exports_say_what_is_wrong(
    tmp_path: Path, counts: dict[str, dict[str, int]], keep: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_crops(write_export(tmp_path, counts), keep)


def test_a_table_of_labels_that_no_source_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine\.csv: says what the crops of a run show, and none of .*leave out"):
        read_crops(write_export(tmp_path / "export"), labels=tmp_path / "mine.csv")


def test_draws_balance_classes_and_shots() -> None:
    crops = _crops([0] * 8 + [1] * 2, ["s1"] * 7 + ["s2", "s3", ""])
    shares = {b: draw_weights(crops, b, False)[:8].sum() for b in ("none", "sqrt", "equal")}  # type: ignore[arg-type]
    assert shares == pytest.approx({"none": 0.8, "sqrt": 2 / 3, "equal": 0.5})
    by_shot = draw_weights(crops, "equal", True)
    assert by_shot[:7].sum() == pytest.approx(0.25)
    assert by_shot[7] == pytest.approx(0.25)
    assert by_shot[8:] == pytest.approx([0.25, 0.25])


def test_class_weights_are_the_inverse_of_the_counts_and_one_in_the_mean() -> None:
    crops = _crops([0] * 8 + [1] * 2, [""] * 10)
    equal = class_weights(crops, "equal")
    assert equal[1] / equal[0] == pytest.approx(4)
    assert equal[crops.labels].mean() == pytest.approx(1)
    assert class_weights(crops, "none").tolist() == [1, 1]


def test_an_epoch_is_the_same_in_every_run_and_another_next_time() -> None:
    crops = _crops([0, 1] * 10, [""] * 20)
    whole = epoch_order(crops, "none", False, 3, 5)
    assert sorted(whole) == list(range(20))
    assert np.array_equal(whole, epoch_order(crops, "none", False, 3, 5))
    assert not np.array_equal(whole, epoch_order(crops, "none", False, 3, 6))
    drawn = epoch_order(crops, "equal", True, 3, 5)
    assert len(drawn) == 20
    assert len(set(drawn)) < 20  # with replacement


def test_inner_folds_keep_scenes_together_and_leave_valid_alone(tmp_path: Path) -> None:
    data = read_crops(write_export(tmp_path, shots=(1, 2, 3, 4)))
    seen: list[str] = []
    for fold in range(2):
        inner = data.inner_fold(fold, 2)
        assert not set(inner.train.shots) & set(inner.valid.shots)
        assert not {crop.name for crop in inner.valid.crops} & {crop.name for crop in data.valid.crops}
        seen += [crop.name for crop in inner.valid.crops]
    assert sorted(seen) == sorted(crop.name for crop in data.train.crops)
    with pytest.raises(DataError, match="4 shots in train are too few for 5 folds; ask for 4 at most"):
        data.inner_fold(0, 5)


def test_inner_folds_keep_copies_of_a_picture_together_where_no_shot_is_known() -> None:
    copies = tuple(
        LabelledCrop(f"train/{y}/{source}.rf.{copy}.jpg", Path(), y, source=f"{y}{source}")
        for y in "ab" for source in range(5) for copy in range(3)
    )  # fmt: skip
    train = CropList(("a", "b"), copies)
    data = CropData(train.classes, train, train)
    for fold in range(3):
        inner = data.inner_fold(fold, 3)
        assert {crop.emotion for crop in inner.valid.crops} == {"a", "b"}
        assert not {crop.source for crop in inner.train.crops} & {crop.source for crop in inner.valid.crops}
    with pytest.raises(DataError, match="10 pictures in train are too few for 11 folds"):
        data.inner_fold(0, 11)
    mixed = (*copies, LabelledCrop("x.jpg", Path(), "a", scene="1"), LabelledCrop("y.jpg", Path(), "a", shot="2"))
    with pytest.raises(DataError, match="12 scenes or shots or pictures in train are too few for 13 folds"):
        replace(data, train=CropList(train.classes, mixed)).inner_fold(0, 13)


def test_a_class_with_fewer_crops_than_folds_is_told_only_where_every_class_has() -> None:
    crops = _crops([0, 0, 0, 1, 1], [f"s{i}" for i in range(5)])
    data = CropData(crops.classes, crops, crops)
    assert sorted(len(data.inner_fold(fold, 3).valid) for fold in range(3)) == [1, 2, 2]
    with pytest.raises(DataError, match=r"no class has the 4 crops in train that 4 folds need \(a 3, b 2\)"):
        data.inner_fold(0, 4)


def test_unreadable_pictures_are_named_and_left_out_unless_they_are_many(tmp_path: Path) -> None:
    data = read_crops(write_export(tmp_path, {"train": {"A": 100, "B": 60}, "valid": {"A": 20, "B": 20}}, size=8))
    broken = [crop.name for crop in data.train.crops[:3]]
    for name in broken[:2]:
        (tmp_path / name).write_bytes(b"\xff\xd8\xff")
    assert find_unreadable(data) == broken[:2]
    kept = data.without(broken[:2])
    assert len(kept.train) == 158
    assert kept.summary()["unreadable"] == broken[:2]
    (tmp_path / broken[2]).write_bytes(b"")
    with pytest.raises(DataError, match=rf"3 of 200 crops cannot be read: {broken[0]}"):
        find_unreadable(data)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_class_of_which_no_picture_can_be_read_is_an_error_however_few_it_has(tmp_path: Path, split: str) -> None:
    counts = {"train": {"A": 300, "B": 2}, "valid": {"A": 20, "B": 2}}
    data = read_crops(write_export(tmp_path, counts, size=8))
    lost = [crop.name for crop in getattr(data, split).crops if crop.emotion == "B"]
    (tmp_path / lost[0]).write_bytes(b"")
    assert find_unreadable(data) == lost[:1]
    (tmp_path / lost[1]).write_bytes(b"")
    with pytest.raises(DataError, match=rf"none of the 2 crops of B can be read: {lost[0]}: not a readable picture"):
        find_unreadable(data)


def test_a_loader_pads_with_black_as_labelling_does(tmp_path: Path) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, :] = (0, 0, 255)  # red, as OpenCV orders it
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), picture)
    (square,) = CropLoader(CropList(("a",), (LabelledCrop("wide.png", path, "a"),)), 20).load([0])
    assert square.shape == (20, 20, 3)
    assert square[10, 10].tolist() == [255, 0, 0]
    assert square[:5].max() == 0
    assert square[15:].max() == 0


def test_a_loader_gives_the_same_whether_it_keeps_pictures_or_not(tmp_path: Path) -> None:
    crops = read_crops(write_export(tmp_path)).train
    keeping, forgetting = CropLoader(crops, 24), CropLoader(crops, 24, cache_bytes=0)
    for _ in range(2):
        pictures = keeping.load([5, 0, 12])
        assert pictures.shape == (3, 24, 24, 3)
        assert np.array_equal(pictures, forgetting.load([5, 0, 12]))
