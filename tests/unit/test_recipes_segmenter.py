from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from insideout.errors import DataError, RecipeError
from insideout.recipes.segmenter import SegmenterRecipe, read_yolo_data, train_segmenter


def export(folder: Path, **changes: object) -> Path:
    """A YOLO export as Roboflow writes it: folders beside a data.yaml that points one level up."""
    for split in ("train", "valid"):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "images" / "0.jpg").write_bytes(b"x")
    content = {"train": "../train/images", "val": "../valid/images", "nc": 2, "names": ["Joy", "Anger"]} | changes
    (folder / "data.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return folder


def test_roboflow_paths_and_class_maps_are_resolved(tmp_path: Path) -> None:
    data = read_yolo_data(export(tmp_path / "a"))
    assert data["names"] == ["Joy", "Anger"]
    assert data["train"] == str((tmp_path / "a/train/images").resolve())
    assert data["val"] == str((tmp_path / "a/valid/images").resolve())
    data = read_yolo_data(export(tmp_path / "b", names={1: "Anger", 0: "Joy"}, train="train/images") / "data.yaml")
    assert data["names"] == ["Joy", "Anger"]
    assert data["train"] == str((tmp_path / "b/train/images").resolve())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nc": 3}, "nc is 3 but there are 2 names"),
        ({"names": None, "nc": None}, "no 'names'"),
        ({"val": None}, "no 'val'"),
        ({"train": "../pictures"}, "is not a folder"),
    ],
)
def test_bad_exports_are_named(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_yolo_data(export(tmp_path, **changes))


def test_an_empty_split_and_a_missing_file_are_named(tmp_path: Path) -> None:
    folder = export(tmp_path)
    (folder / "valid/images/0.jpg").unlink()
    with pytest.raises(DataError, match="empty; 'val' needs images"):
        read_yolo_data(folder)
    with pytest.raises(DataError, match="no such file"):
        read_yolo_data(tmp_path / "nowhere")


def test_recipes_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("epochs: 3\nlearning_rate: 0.1\n")
    with pytest.raises(RecipeError, match="learning_rate"):
        SegmenterRecipe.read(path)
    path.write_text("imgsz: 100\n")
    with pytest.raises(RecipeError, match="imgsz"):
        SegmenterRecipe.read(path)
    path.write_text("epochs: 3\n")
    assert SegmenterRecipe.read(path, seed=7) == SegmenterRecipe(epochs=3, seed=7)
    SegmenterRecipe(epochs=3).write(path)
    assert SegmenterRecipe.read(path) == SegmenterRecipe(epochs=3)


def test_the_default_is_the_student_recipe_and_ours_keeps_heads_in_bodies(root: Path) -> None:
    assert SegmenterRecipe.read(root / "configs/segmenter-student.yaml") == SegmenterRecipe()
    assert not SegmenterRecipe.read(root / "configs/segmenter-bbb.yaml").overlap_mask


def test_a_checkpoint_that_is_not_there_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.pt: no such checkpoint"):
        train_segmenter(export(tmp_path), SegmenterRecipe(), tmp_path / "out", pretrained="none.pt")
