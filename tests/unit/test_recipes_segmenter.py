from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from insideout.errors import DataError, OutputError, RecipeError
from insideout.recipes.segmenter import (
    SegmenterRecipe,
    is_over,
    prepare_segmenter,
    read_yolo_data,
    run_segmenter,
    train_segmenter,
)
from insideout.recipes.segmenter_run import take_amp
from insideout.recipes.yolo_data import read_yolo_export, thin_negatives

OUTLINE = "0 0.1 0.1 0.5 0.1 0.5 0.5"


def export(folder: Path, negatives: int = 1, pictures: int = 4, **changes: object) -> Path:
    """A YOLO export as Roboflow writes it: folders beside a data.yaml that points one level up."""
    random = np.random.default_rng(0)
    for split, count in (("train", pictures), ("valid", 2)):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(count):
            picture = random.integers(0, 255, (16, 24, 3), np.uint8)
            cv2.imwrite(str(folder / split / "images" / f"{split}{i:03d}.jpg"), picture)
            empty = split == "train" and i < negatives
            (folder / split / "labels" / f"{split}{i:03d}.txt").write_text("" if empty else f"{OUTLINE}\n")
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
        ({"names": {0: "Joy", 2: "Anger"}}, "must be 0 to 1"),
        ({"names": ["Joy", "Joy"]}, "has a class twice"),
        ({"val": None}, "no 'val'"),
        ({"train": "../pictures"}, "is not a folder"),
        ({"train": ["a", "b"]}, "name one folder"),
    ],
)
def test_bad_exports_are_named(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_yolo_data(export(tmp_path, **changes))


def test_an_empty_split_and_a_missing_file_are_named(tmp_path: Path) -> None:
    folder = export(tmp_path)
    (folder / "valid/images/valid000.jpg").unlink()
    (folder / "valid/images/valid001.jpg").rename(folder / "valid/images/notes.md")
    with pytest.raises(DataError, match=r"valid/images: no pictures; 'val' needs images"):
        read_yolo_export(folder)
    (folder / "valid/images/notes.md").unlink()
    with pytest.raises(DataError, match="empty; 'val' needs images"):
        read_yolo_export(folder)
    with pytest.raises(DataError, match="no such file"):
        read_yolo_data(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 0.1 0.1 0.5 0.5", "5 columns are a box"),
        ("0 0.1 0.1 0.5 0.1 0.5", "6 columns"),
        ("0 0.1 0.1 0.5 0.1", "5 columns"),
        (f"{OUTLINE} 0.3", "8 columns"),
        ("2 0.1 0.1 0.5 0.1 0.5 0.5", r"class 2; this export has the classes 0 to 1"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "class -1"),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.5", r"class 0\.5"),
        ("0 0.1 0.1 0.5 0.1 0.5 1.002", r"coordinate 1\.002 is outside"),
        ("0 -0.002 0.1 0.5 0.1 0.5 0.5", r"coordinate -0\.002 is outside"),
        ("0 nan 0.1 0.5 0.1 0.5 0.5", "coordinate nan is outside"),
        ("Joy 0.1 0.1 0.5 0.1 0.5 0.5", "is not all numbers"),
    ],
)
def test_a_wrong_label_line_is_named_with_its_file(tmp_path: Path, line: str, says: str) -> None:
    folder = export(tmp_path)
    (folder / "train/labels/train002.txt").write_text(f"{OUTLINE}\n\n{line}\n")
    with pytest.raises(DataError, match=rf"train/labels/train002\.txt:3: .*{says}"):
        read_yolo_export(folder)


def test_coordinates_that_rounding_put_outside_are_fine_here_and_for_ultralytics(tmp_path: Path) -> None:
    from ultralytics.data.utils import verify_image_label

    folder = export(tmp_path)
    label = folder / "train/labels/train002.txt"
    label.write_text("0 -0.0009 0.1 0.5 0.1 0.5 1.0009\n")
    assert read_yolo_export(folder).train.outlines == (0, 1, 1, 1)
    picture = folder / "train/images/train002.jpg"
    found = verify_image_label((str(picture), str(label), "", False, 2, 0, 0, False))
    assert found[0] == str(picture), found[-1]


def test_pictures_without_a_label_file_are_told(tmp_path: Path) -> None:
    folder = export(tmp_path)
    (folder / "train/labels/train003.txt").unlink()
    found = read_yolo_export(folder)
    assert [p.name for p in found.train.negatives] == ["train000.jpg", "train003.jpg"]
    (note,) = found.notes
    assert note.startswith("train: 1 pictures have no label file")
    assert note.endswith("train003.jpg")
    for path in (folder / "valid/labels").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no outline for any picture"):
        read_yolo_export(folder)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda whole: b"this is not a picture", "not readable as a picture"),
        (lambda whole: b"", "not readable as a picture"),
        (lambda whole: whole[:-40], "cut off"),
    ],
)
def test_unreadable_pictures_are_left_out_if_few_and_refused_if_many(
    tmp_path: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    folder = export(tmp_path, pictures=100)
    broken = [folder / f"train/images/train{i:03d}.jpg" for i in (50, 51)]
    damaged = damage(broken[0].read_bytes())
    broken[0].write_bytes(damaged)
    found = read_yolo_export(folder)
    assert len(found.train.pictures) == 99
    assert broken[0] not in found.train.pictures
    (note,) = found.notes
    assert "left out as unreadable" in note
    assert f"{broken[0]}: " in note
    assert says in note
    broken[1].write_bytes(damaged)
    with pytest.raises(DataError, match=r"train050\.jpg.*train051\.jpg.*more than 1 %"):
        read_yolo_export(folder)
    assert broken[0].read_bytes() == damaged


@pytest.mark.parametrize(
    ("train", "val", "says"),
    [
        ("f7_jpg.rf.0a1b2c3d.jpg", "f7_jpg.rf.99ffee00.jpg", "names of pictures"),
        ("a_shot012_b.jpg", "c_shot012.jpg", "shots: shot012"),
    ],
)
def test_what_train_and_val_share_is_refused(tmp_path: Path, train: str, val: str, says: str) -> None:
    folder = export(tmp_path)
    assert not read_yolo_export(folder).notes
    for split, name in (("train", train), ("valid", val)):
        for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
            (folder / split / kind / f"{split}001{suffix}").rename((folder / split / kind / name).with_suffix(suffix))
    with pytest.raises(DataError, match=says):
        read_yolo_export(folder)
    (note,) = read_yolo_export(folder, allow_leaks=True).notes
    assert "too good" in note


def test_the_same_picture_under_another_name_is_refused(tmp_path: Path) -> None:
    folder = export(tmp_path)
    (folder / "valid/images/valid001.jpg").write_bytes((folder / "train/images/train002.jpg").read_bytes())
    with pytest.raises(DataError, match=r"the same picture: .*train002\.jpg and .*valid001\.jpg"):
        read_yolo_export(folder)


def test_shots_that_no_name_tells_are_told_and_looked_for_in_a_table(tmp_path: Path) -> None:
    """Our own export names its pictures by ordinal."""
    folder, out = export(tmp_path / "export"), tmp_path / "out"
    for split, first in (("train", 0), ("valid", 40)):
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            for i, path in enumerate(sorted((folder / split / kind).iterdir())):
                path.rename(path.with_name(f"{first + 12 * i:06d}.{suffix}"))
    notes = prepare_segmenter(folder, SegmenterRecipe(), out).notes
    assert [note for note in notes if "shot" in note] == [
        "the names of 6 of 6 pictures do not say their shot, so that a shot on both sides would go unseen there;"
        " give the shots of the film with --shots, or put them into the names (000123_shot012.jpg)"
    ]
    shots = tmp_path / "shots.csv"
    shots.write_text("shot,start_ordinal,end_ordinal\n7,0,40\n8,40,60\n")
    notes = prepare_segmenter(folder, SegmenterRecipe(), out, shots=shots).notes
    assert not [note for note in notes if "shot" in note]
    shots.write_text("shot,start_ordinal,end_ordinal\n7,0,30\n8,30,50\n9,50,60\n")
    with pytest.raises(DataError, match=r"train and val share shots: 8; split by shot"):
        prepare_segmenter(folder, SegmenterRecipe(), out, shots=shots)
    allowed = prepare_segmenter(folder, SegmenterRecipe(), out, shots=shots, allow_leaks=True)
    assert "train and val share shots: 8: the scores on val are too good" in allowed.notes
    shots.write_text("shot,start_ordinal,end_ordinal\n7,0,50\n")
    with pytest.raises(DataError, match=r"000052\.jpg: its name is no frame ordinal of the shots given"):
        prepare_segmenter(folder, SegmenterRecipe(), out, shots=shots)


def test_negatives_are_thinned_by_seed_and_their_number_is_told(tmp_path: Path) -> None:
    split = read_yolo_export(export(tmp_path / "a", negatives=40, pictures=100)).train
    thinned, line = thin_negatives(split, 0.1, seed=3)
    assert len(thinned.negatives) == 7  # of 67, with the 60 that have a label
    assert sum(thinned.outlines) == 60
    assert "40 of them without a label (40.0%); 7 of these are used, 10.0% of 67" in line
    assert set(thinned.pictures) < set(split.pictures)
    assert thin_negatives(split, 0.1, seed=3)[0] == thinned
    assert thin_negatives(split, 0.1, seed=4)[0] != thinned
    assert thin_negatives(split, None, seed=3)[0] == split
    same, line = thin_negatives(split, 0.5, seed=3)
    assert same == split
    assert "40 of them without a label (40.0%), fewer than the 50.0%" in line
    none, line = thin_negatives(read_yolo_export(export(tmp_path / "b", negatives=0)).train, 0.1, seed=3)
    assert len(none.pictures) == 4
    assert "0 of them without a label" in line
    assert "teach the network to stay silent" in line


def test_preparing_writes_the_lists_and_touches_nothing_else(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", negatives=40, pictures=100)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    job = prepare_segmenter(folder, SegmenterRecipe(negatives=0.1, seed=3), tmp_path / "out")
    lines = (tmp_path / "out/train.txt").read_text().splitlines()
    assert len(lines) == 67
    assert sum("valid" in line for line in (tmp_path / "out/val.txt").read_text().splitlines()) == 2
    assert all(Path(line).is_file() for line in lines)
    assert "40.0%" in job.notes[-1]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_recipes_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("epochs: 3\nlearning_rate: 0.1\n")
    with pytest.raises(RecipeError, match="learning_rate"):
        SegmenterRecipe.read(path)
    path.write_text("imgsz: 100\n")
    with pytest.raises(RecipeError, match="imgsz"):
        SegmenterRecipe.read(path)
    for line in ("negatives: 1.0", "lr0: 1.5", "optimizer: sgdd", "mosaic: -1"):
        path.write_text(f"{line}\n")
        with pytest.raises(RecipeError, match=line.split(":")[0]):
            SegmenterRecipe.read(path)
    path.write_text("epochs: 3\n")
    assert SegmenterRecipe.read(path, seed=7) == SegmenterRecipe(epochs=3, seed=7)
    SegmenterRecipe(epochs=3).write(path)
    assert SegmenterRecipe.read(path) == SegmenterRecipe(epochs=3)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("yolov8n", "'yolov8n' is no segmentation model"),
        ("yolo26n-pose", "is no segmentation model"),
        ("yolo26n-sem", "is no segmentation model"),
        ("yolo99n-seg", "ultralytics has no model 'yolo99n-seg'; it has .*yolov8-seg"),
        ("yolov8q-seg", "ultralytics has no model"),
        ("yolov8-seg", "does not say its size; put one of n, s, m, l, x"),
        ("best.pt", "ultralytics has no model"),
    ],
)
def test_an_unknown_model_or_one_of_another_task_is_refused(tmp_path: Path, model: str, says: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: {model}\n")
    with pytest.raises(RecipeError, match=says):
        SegmenterRecipe.read(path)


@pytest.mark.parametrize(
    "model",
    [*(f"yolov8{size}-seg" for size in "nsmlx"), "yolo11n-seg", "yolo12s-seg", "yolo26m-seg", "yolov9c-seg"],
)
def test_every_segmentation_model_of_ultralytics_is_known(model: str) -> None:
    assert SegmenterRecipe(model=model).model == model


def test_the_default_is_the_student_recipe_and_ours_keeps_heads_and_hues(root: Path) -> None:
    student = SegmenterRecipe.read(root / "configs/segmenter-student.yaml")
    assert student == SegmenterRecipe()
    assert student.negatives is None
    assert student.hsv_h == 0.015
    ours = SegmenterRecipe.read(root / "configs/segmenter-bbb.yaml")
    assert not ours.overlap_mask
    assert ours.negatives is not None
    assert 0.05 <= ours.negatives <= 0.1
    assert 0.01 <= ours.hsv_h <= 0.015


def test_much_hue_is_told(tmp_path: Path) -> None:
    folder = export(tmp_path / "export")
    notes = prepare_segmenter(folder, SegmenterRecipe(hsv_h=0.1), tmp_path / "out").notes
    assert any("hsv_h 0.1" in note for note in notes)


def checkpoint(path: Path, kind: str, names: list[str], **arguments: object) -> Path:
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    cls = SegmentationModel if kind.endswith("-seg") else DetectionModel
    model = cls(f"{kind}.yaml", nc=len(names), verbose=False)
    model.names = dict(enumerate(names))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model, "train_args": arguments}, path)
    return path


def test_starting_weights_are_checked(tmp_path: Path) -> None:
    folder, out = export(tmp_path / "export"), tmp_path / "out"
    with pytest.raises(DataError, match=r"none\.pt: no such checkpoint"):
        train_segmenter(folder, SegmenterRecipe(), out, pretrained="none.pt")
    detector = checkpoint(tmp_path / "detector.pt", "yolov8n", ["Joy", "Anger"])
    with pytest.raises(DataError, match=r"detector\.pt: holds DetectionModel; a segmentation model"):
        prepare_segmenter(folder, SegmenterRecipe(), out, pretrained=str(detector))
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match=r"broken\.pt: not readable as an ultralytics checkpoint"):
        prepare_segmenter(folder, SegmenterRecipe(), out, pretrained=str(tmp_path / "broken.pt"))
    assert not out.exists()

    same = checkpoint(tmp_path / "same.pt", "yolov8n-seg", ["Joy", "Anger"])
    with pytest.raises(DataError, match=r"same\.pt: is a yolov8n-seg, the recipe says yolov8s-seg"):
        prepare_segmenter(folder, SegmenterRecipe(model="yolov8s-seg"), out, pretrained=str(same))
    job = prepare_segmenter(folder, SegmenterRecipe(), out, pretrained=str(same))
    assert job.weights == str(same)
    assert not any("same.pt" in note for note in job.notes)
    with pytest.raises(OutputError, match=r"other settings \(start\)"):
        prepare_segmenter(folder, SegmenterRecipe(), out)

    turned = checkpoint(tmp_path / "turned.pt", "yolov8n-seg", ["Anger", "Joy"])
    notes = prepare_segmenter(folder, SegmenterRecipe(), tmp_path / "turned", pretrained=str(turned)).notes
    assert any("matched by name" in note for note in notes)
    other = checkpoint(tmp_path / "other.pt", "yolov8n-seg", ["Joy", "Fear", "Disgust"])
    notes = prepare_segmenter(folder, SegmenterRecipe(), tmp_path / "other", pretrained=str(other)).notes
    assert any("has 3 classes, this export 2: Anger are new to it" in note for note in notes)


def test_a_folder_is_for_one_recipe_and_one_export(tmp_path: Path) -> None:
    folder, out = export(tmp_path / "export"), tmp_path / "out"
    recipe = SegmenterRecipe(epochs=3)
    prepare_segmenter(folder, recipe, out)
    assert SegmenterRecipe.read(out / "recipe.yaml") == recipe
    prepare_segmenter(folder.rename(tmp_path / "moved"), recipe, out)
    folder = tmp_path / "moved"
    with pytest.raises(OutputError, match=r"other settings \(epochs, lr0\)"):
        prepare_segmenter(folder, recipe.model_copy(update={"epochs": 4, "lr0": 0.5}), out)
    (folder / "train/labels/train003.txt").write_text(f"1{OUTLINE[1:]}\n")
    with pytest.raises(OutputError, match=r"other settings \(data\)"):
        prepare_segmenter(folder, recipe, out)


def test_a_batch_that_the_gpus_cannot_share_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder, out = export(tmp_path / "export"), tmp_path / "out"
    for recipe, gpus in ((SegmenterRecipe(), 3), (SegmenterRecipe(batch=2), 4)):
        says = f"a batch of {recipe.batch} cannot be shared by {gpus} GPUs; make it a multiple"
        with pytest.raises(RecipeError, match=says):
            prepare_segmenter(folder, recipe, out, gpus=gpus)
        with pytest.raises(RecipeError, match=says):
            train_segmenter(folder, recipe, out, device=",".join(map(str, range(gpus))))
        assert not out.exists()
    job = prepare_segmenter(folder, SegmenterRecipe(), out, gpus=4)
    with pytest.raises(RecipeError, match="cannot be shared by 3 GPUs"):
        run_segmenter(job, device="0,1,2")


@pytest.mark.parametrize(("begun", "now"), [(False, "bf16"), ("bf16", True), (True, False)])
def test_a_run_that_goes_on_elsewhere_computes_as_that_hardware_does(
    tmp_path: Path, begun: object, now: bool | str
) -> None:
    from ultralytics.nn.tasks import load_checkpoint, torch_safe_load

    last = checkpoint(tmp_path / "run/weights/last.pt", "yolov8n-seg", ["Joy", "Anger"], amp=begun, lr0=0.5)
    content, _ = torch_safe_load(str(last), safe_only=True)
    said: list[str] = []
    take_amp(tmp_path, content, begun, said.append)  # type: ignore[arg-type]
    assert not said
    written = last.stat().st_mtime_ns
    take_amp(tmp_path, content, now, said.append)
    assert said == [f"this hardware computes otherwise than what the run was begun on: amp {now} instead of {begun}"]
    assert last.stat().st_mtime_ns > written
    assert [path.name for path in last.parent.iterdir()] == ["last.pt"]
    # As a trainer of ultralytics reads it that goes on, here or in the processes of several GPUs.
    model, _ = load_checkpoint(last)
    assert (model.args["amp"], model.args["lr0"]) == (now, 0.5)
    state = content["model"].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_run_that_patience_ended_is_over_and_so_is_one_with_all_its_epochs() -> None:
    recipe = SegmenterRecipe(epochs=10, patience=3)
    for epoch, best, over in ((8, 8, False), (9, 9, True), (5, 4, False), (6, 4, True)):
        assert is_over({"epoch": epoch, "stopper": {"best_epoch": best}}, recipe) == over
    assert not is_over({"epoch": 6, "stopper": {"best_epoch": 1}}, recipe.model_copy(update={"patience": 0}))
