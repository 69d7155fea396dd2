"""Labelled crops: what is read of where each comes from."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from insideout.datasets.labelled import TABLE, CropList, LabelledCrop, read_export
from insideout.errors import DataError
from tests.exports import write_export


def test_origins_are_read_from_names_of_the_project_and_of_roboflow(tmp_path: Path) -> None:
    write_export(tmp_path, {"train": {"A": 1, "B": 1}, "valid": {"A": 1, "B": 1}})
    folder = tmp_path / "train" / "A"
    picture = next(folder.iterdir())
    names = [
        "000012_shot019_more2_Rinky_jpg.rf.0a1b2c.jpg", "snapshot12_left.jpg", "frame-7.jpg", "x_shot004_y.jpg",
        "000024_shot020_track007_Bunny.jpg",
    ]  # fmt: skip
    for name in names:
        (folder / name).write_bytes(picture.read_bytes())
    crops = {Path(crop.name).name: crop for crop in read_export(tmp_path)["train"]}
    one, two, three, four, five = (crops[name] for name in names)
    assert (one.source, one.ordinal, one.shot, one.track, one.character) == (
        "000012_shot019_more2_Rinky", 12, "019", "", "Rinky",
    )  # fmt: skip
    assert two.shot == three.shot == ""
    assert (four.shot, four.ordinal) == ("shot004", None)
    assert (five.shot_key, five.track_key, five.scene_key) == ("/020", "/020/track007", "/020")


def _table(export: Path, change: dict[str, str] | None = None, drop: int = 0) -> None:
    rows = [
        {"file": crop.name, "film": "f", "scene": "3", "shot": "9", "track": "4", "character": "Joy", "ordinal": "77"}
        | {"p_Angry": "0.5", "p_Happy": "0.25"}
        for crops in read_export(export).values()
        for crop in crops
    ]
    rows[0] |= change or {}
    with (export / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows[drop:])


def test_a_table_of_origins_goes_before_the_names(tmp_path: Path) -> None:
    _table(write_export(tmp_path))
    crop = read_export(tmp_path)["train"][0]
    assert (crop.film, crop.ordinal, crop.character) == ("f", 77, "Joy")
    assert (crop.shot_key, crop.scene_key, crop.track_key) == ("f/9", "f/scene 3", "f/9/4")
    votes = CropList(("Angry", "Happy"), (crop, LabelledCrop("y", b"", "Happy"))).votes
    assert votes == pytest.approx(np.array([[2 / 3, 1 / 3], [0, 1]]))


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        ({"ordinal": "7.5"}, 0, "ordinal '7.5' is not a whole number"),
        ({"pts": "soon", "time_base": "1/24"}, 0, "pts 'soon' is not a whole number"),
        (
            {"pts": "4", "time_base": "24 fps"},
            0,
            "time_base '24 fps' is no fraction of a second above 0, such as 1/24000",
        ),
        ({"pts": "4", "time_base": "1/0"}, 0, "time_base '1/0' is no fraction"),
        ({"pts": "4", "time_base": "-1/24"}, 0, "time_base '-1/24' is no fraction"),
        ({"p_Angry": "1.2"}, 0, "p_Angry is '1.2', expected a share"),
        ({"p_Angry": "much"}, 0, "expected a share"),
        ({"file": "train/Angry/gone.jpg"}, 0, "has no row for train/Angry/000000"),
        ({}, 1, "has no row for train/Angry/000000"),
    ],
)
def test_a_table_that_does_not_fit_says_where(tmp_path: Path, change: dict[str, str], drop: int, message: str) -> None:
    _table(write_export(tmp_path), change, drop)
    with pytest.raises(DataError, match=message):
        read_export(tmp_path)


def test_a_table_that_names_more_than_there_is_is_refused(tmp_path: Path) -> None:
    export = write_export(tmp_path)
    _table(export)
    next((export / "valid" / "Happy").iterdir()).unlink()
    with pytest.raises(DataError, match="names 1 pictures that are not there, such as valid/Happy"):
        read_export(export)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    for name, content in (("cut.jpg", b"\xff\xd8\xff"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            LabelledCrop(name, tmp_path / name, "a").read()
    with pytest.raises(DataError, match=r"gone\.jpg"):
        LabelledCrop("gone.jpg", tmp_path / "gone.jpg", "a").read()
