from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from insideout.errors import DataError
from insideout.recipes.crops import CropList, CropLoader, draw_weights, epoch_order, load_square, read_crops
from tests.exports import write_export


def _crops(labels: list[int], shots: list[str]) -> CropList:
    names = tuple(Path(f"{i}.jpg") for i in range(len(labels)))
    return CropList(("a", "b"), names, np.array(labels, np.int64), tuple(shots))


def test_classes_come_from_the_folders_and_counts_from_the_files(tmp_path: Path) -> None:
    data = read_crops(write_export(tmp_path))
    assert data.classes == ("Angry", "Happy")
    assert data.summary() == {
        "train": {"Angry": 10, "Happy": 6},
        "valid": {"Angry": 4, "Happy": 4},
        "shots": {"train": 2, "valid": 2},
        "shots_in_both": 0,
        "left_out": {},
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
        ({"train": {"A": 1, "B": 1}}, None, "valid: no such folder"),
        ({"train": {"A": 1, "B": 0}, "valid": {"A": 1, "B": 1}}, None, "B: no pictures"),
        ({"train": {"A": 2}, "valid": {"A": 2}}, None, "at least two"),
        ({"train": {"A": 1, "B": 1}, "valid": {"A": 1, "C": 1}}, None, r"\(B, C\)"),
        ({"train": {"A": 1, "B": 1}, "valid": {"A": 1, "B": 1}}, ["A", "Joy"], "no folder for Joy"),
        ({"train": {}, "valid": {"A": 1}}, None, "train"),
    ],
)
def test_unusable_exports_say_what_is_wrong(
    tmp_path: Path, counts: dict[str, dict[str, int]], keep: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_crops(write_export(tmp_path, counts), keep)


def test_the_shot_is_read_from_names_of_the_project_and_of_roboflow(tmp_path: Path) -> None:
    write_export(tmp_path, {"train": {"A": 1, "B": 1}, "valid": {"A": 1, "B": 1}})
    folder = tmp_path / "train" / "A"
    picture = next(folder.iterdir())
    names = ["000012_shot019_more2_Rinky_jpg.rf.0a1b2c.jpg", "snapshot12_left.jpg", "frame-7.jpg"]
    for name in names:
        (folder / name).write_bytes(picture.read_bytes())
    crops = read_crops(tmp_path).train
    assert {p.name: s for p, s in zip(crops.paths, crops.shots, strict=True) if p.name in names} == {
        names[0]: "shot019",
        names[1]: "",
        names[2]: "",
    }


def test_draws_balance_classes_and_shots() -> None:
    crops = _crops([0] * 8 + [1] * 2, ["s1"] * 7 + ["s2", "s3", ""])
    shares = {b: draw_weights(crops, b, False)[:8].sum() for b in ("none", "sqrt", "equal")}  # type: ignore[arg-type]
    assert shares == pytest.approx({"none": 0.8, "sqrt": 2 / 3, "equal": 0.5})
    by_shot = draw_weights(crops, "equal", True)
    assert by_shot[:7].sum() == pytest.approx(0.25)
    assert by_shot[7] == pytest.approx(0.25)
    assert by_shot[8:] == pytest.approx([0.25, 0.25])


def test_an_epoch_is_the_same_in_every_run_and_shared_out_between_workers() -> None:
    crops = _crops([0, 1] * 10, [""] * 20)
    whole = epoch_order(crops, "none", False, 3, 5)
    assert sorted(whole) == list(range(20))
    assert np.array_equal(whole, epoch_order(crops, "none", False, 3, 5))
    assert not np.array_equal(whole, epoch_order(crops, "none", False, 3, 6))
    parts = [epoch_order(crops, "none", False, 3, 5, rank, 3) for rank in range(3)]
    assert [len(p) for p in parts] == [6, 6, 6]  # equally many, or a worker would wait for ever
    assert len(set(np.concatenate(parts))) == 18


def test_pictures_are_rgb_and_padded_to_a_square_with_black(tmp_path: Path) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, :] = (0, 0, 255)  # red, as OpenCV orders it
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), picture)
    square = load_square(path, 20)
    assert square.shape == (20, 20, 3)
    assert square[10, 10].tolist() == [255, 0, 0]
    assert square[:5].max() == 0
    assert square[15:].max() == 0


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    for name, content in (("cut.jpg", b"\xff\xd8\xff"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            load_square(tmp_path / name, 8)


def test_a_loader_gives_the_same_whether_it_keeps_pictures_or_not(tmp_path: Path) -> None:
    crops = read_crops(write_export(tmp_path)).train
    keeping, forgetting = CropLoader(crops, 24), CropLoader(crops, 24, cache_bytes=0)
    for _ in range(2):
        pictures, labels = keeping.load([5, 0, 12])
        again, _ = forgetting.load([5, 0, 12])
        assert pictures.shape == (3, 24, 24, 3)
        assert np.array_equal(pictures, again)
        assert labels.tolist() == [0, 0, 1]
