from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from insideout.errors import DataError, UsageError
from insideout.evaluation.segmenter import evaluate_segmenter, matched, operating_point
from insideout.packs import SegmenterSpec, load_pack
from insideout.recipes.yolo_data import read_yolo_export
from insideout.segment import CharacterSegmenter
from tests.drawn import figure, frame


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
    assert [share["count"] for share in precision.values()] == [2, 2, 2, 2]
    assert (precision["mask_map50"]["value"] or 0) > 0.6
    assert (precision["mask_map50_95"]["value"] or 0) > 0.4
    assert evaluate_segmenter(spec, data)["shots"] == 4
    with pytest.raises(DataError, match=r"000005\.png: its name is no frame ordinal of the shots given"):
        evaluate_segmenter(spec, data, shots={1000: "1"})


def quick(pack: Path) -> SegmenterSpec:
    """The bundled segmenter at a fraction of its size: these tests are about what is read, not what is found."""
    return replace(load_pack(pack).segmenter, imgsz=96)


def square(x: float) -> str:
    """An outline of class 0 that is a square of a tenth of the picture."""
    return f"0 {x} 0.1 {x + 0.1:.2f} 0.1 {x + 0.1:.2f} 0.2 {x} 0.2\n"


@pytest.mark.parametrize("layout", ["{split}/{kind}", "{kind}/{split}"])
def test_both_layouts_with_their_folders_and_kinds_of_pictures_are_read_as_training_reads_them(
    pack: Path, tmp_path: Path, layout: str
) -> None:
    """Roboflow writes valid/images, ultralytics' own data sets images/val; one picture is in a folder of its own."""
    spec, random = quick(pack), np.random.default_rng(0)
    for split in ("train", "val"):
        images, labels = (tmp_path / layout.format(split=split, kind=kind) for kind in ("images", "labels"))
        for i, name in enumerate(("a.jpg", "b.tif", "scene/c.avif", "scene/d.bmp")):
            for folder in (images, labels):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            # One colour each: the network finds nothing, and this is about labels.
            shade = np.full((64, 96, 3), random.integers(0, 256, 3), np.uint8)
            assert cv2.imwrite(str(images / name), shade)
            (labels / name).with_suffix(".txt").write_text(square(0.1) * i)
    named = {split: layout.format(split=split, kind="images") for split in ("train", "val")}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(named | {"names": list(spec.classes)}))
    expected = read_yolo_export(tmp_path, allow_leaks=True).val
    assert expected.outlines == (0, 1, 2, 3)
    found = evaluate_segmenter(spec, tmp_path)
    assert found["frames"] == 4
    assert found["average_precision"]["all"]["box_map50"]["count"] == 6
    assert found["screen_time_found"]["count"] == 3
    assert found["false_positives_per_1000_frames"]["count"] == 1


def test_a_split_without_label_files_is_refused_and_one_with_empty_ones_is_not(pack: Path, tmp_path: Path) -> None:
    spec = quick(pack)
    data = export(tmp_path, spec.classes)
    for ordinal in (1, 2):
        write_frame(data, ordinal, np.zeros((32, 32, 3), np.uint8), "")
    assert evaluate_segmenter(spec, data)["false_positives_per_1000_frames"]["count"] == 2
    (data / "valid/labels/000001.txt").unlink()
    notes = evaluate_segmenter(spec, data)["notes"]
    assert any("1 pictures have no label file and count as negatives" in note for note in notes)
    (data / "valid/labels/000002.txt").unlink()
    with pytest.raises(DataError, match=r"no label file.*valid/labels/000001\.txt"):
        evaluate_segmenter(spec, data)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("0 0.5 0.5 0.2 0.2\n", "5 columns are a box"),
        (f"{square(0.1)}9 0.1 0.1 0.5 0.1 0.5 0.5\n", r"000001\.txt:2: class 9; this export has the classes 0 to 4"),
        ("Bunny 0.1 0.1 0.5 0.1 0.5 0.5\n", "'Bunny .* is not all numbers"),
        ("0 0.1 0.1 0.5 0.1 nan 0.5\n", "coordinate nan"),
    ],
)
def test_bad_labels_are_named(pack: Path, tmp_path: Path, label: str, says: str) -> None:
    spec = quick(pack)
    data = export(tmp_path, spec.classes)
    write_frame(data, 1, np.zeros((32, 32, 3), np.uint8), label)
    with pytest.raises(DataError, match=says):
        evaluate_segmenter(spec, data)


def test_a_picture_that_cannot_be_read_is_named_and_left_out_unless_there_are_many(pack: Path, tmp_path: Path) -> None:
    spec = quick(pack)
    data = export(tmp_path, spec.classes)
    for ordinal in range(1, 102):
        write_frame(data, ordinal, np.zeros((16, 320, 3), np.uint8), square(0.1) if ordinal == 1 else "")
    # Its header is whole, so only decoding it shows what is wrong.
    webp = cv2.imencode(".webp", np.random.default_rng(0).integers(0, 256, (16, 320, 3), np.uint8))[1].tobytes()
    for ordinal in (7, 8):
        picture = data / f"valid/images/{ordinal:06d}.png"
        picture.with_suffix(".webp").write_bytes(webp[:60] + bytes(len(webp) - 60))
        picture.unlink()
        if ordinal == 7:
            found = evaluate_segmenter(spec, data)
            assert found["frames"] == 100
            (note,) = [note for note in found["notes"] if "000007.webp" in note]
            assert note.startswith("valid: left out as unreadable: ")
    with pytest.raises(DataError, match=r"000007\.webp.*000008\.webp.*more than 1 %"):
        evaluate_segmenter(spec, data)


def test_frames_without_a_shot_are_told_and_a_shot_in_the_name_is_used(pack: Path, tmp_path: Path) -> None:
    spec = quick(pack)
    data = export(tmp_path, spec.classes)
    for ordinal in (1, 2, 3):
        write_frame(data, ordinal, np.zeros((32, 32, 3), np.uint8), square(0.1))
    found = evaluate_segmenter(spec, data)
    assert (found["shots"], found["frames_without_shot"]) == (3, 3)
    assert any("3 frames have no shot and count as one each" in note and "--shots" in note for note in found["notes"])
    found = evaluate_segmenter(spec, data, shots=dict.fromkeys((1, 2, 3), "1"))
    assert (found["shots"], found["frames_without_shot"], found["notes"]) == (1, 0, [])
    for kind, suffix in (("images", ".png"), ("labels", ".txt")):
        for ordinal in (1, 2):
            path = data / f"valid/{kind}/{ordinal:06d}{suffix}"
            path.rename(path.with_stem(f"{path.stem}_shot003"))
    found = evaluate_segmenter(spec, data)
    assert (found["shots"], found["frames_without_shot"]) == (2, 1)


def test_what_train_and_the_scored_frames_share_is_told(pack: Path, tmp_path: Path) -> None:
    spec = quick(pack)
    data = export(tmp_path, spec.classes)
    (data / "train/images/0.jpg").unlink()
    for ordinal in range(3):
        write_frame(data, ordinal, np.full((32, 32, 3), ordinal, np.uint8), square(0.1))
        cv2.imwrite(str(data / f"train/images/{10 + ordinal:06d}.png"), np.full((32, 32, 3), 9, np.uint8))
    shots = {**dict.fromkeys(range(3), "1"), 10: "2", 11: "3", 12: "3"}
    assert not evaluate_segmenter(spec, data, shots=shots)["notes"]
    (note,) = evaluate_segmenter(spec, data, shots=shots | {10: "1"})["notes"]
    assert note == "train and valid share shots: 1: the figures are too good"
    (data / "train/images/000011.png").rename(data / "train/images/000001.png")
    (note,) = evaluate_segmenter(spec, data, shots=shots)["notes"]
    assert "names of pictures: " in note
    (data / "train/labels").mkdir()
    (data / "train/labels/000010.txt").write_text(square(0.1))
    (note,) = [n for n in evaluate_segmenter(spec, data, "train", shots=shots)["notes"] if "no label file" not in n]
    assert note == "the training frames themselves are scored: no figure says anything of new shots"


def test_bad_exports_are_named(pack: Path, tmp_path: Path) -> None:
    spec = quick(pack)
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
    with pytest.raises(DataError, match=r"7\.jpg: not readable as a picture"):
        evaluate_segmenter(spec, broken)
