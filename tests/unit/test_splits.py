"""Splits of labelled crops: who stays together, and what is written."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from insideout.datasets.labelled import LabelledCrop, read_export
from insideout.errors import DataError, StorageError, UsageError
from insideout.leaks import fingerprints
from insideout.recipes.crops import read_crops
from insideout.splits import Part, audit_part, gather, grouping_lines, split_crops, write_split
from pipelines.split import split
from tests.exports import write_export

EMOTIONS = ("Angry", "Happy", "Sad")
CHARACTERS = ("Joy", "Fear", "Disgust", "Anger")


def crops_of_shots(shots: int = 40, per_shot: int = 5) -> list[LabelledCrop]:
    """Shots with one character and one emotion each, two shots to a scene, four scenes to a film."""
    return [
        LabelledCrop(
            f"train/{EMOTIONS[s % 3]}/{s}_{i}.jpg",
            Path(f"{s}_{i}.jpg"),
            EMOTIONS[s % 3],
            film=f"film{s // 8}",
            scene=str(s // 2),
            shot=str(s),
            character=CHARACTERS[s % 4],
            ordinal=100 * s + i,
            source=f"{s}_{i}",
        )
        for s in range(shots)
        for i in range(per_shot)
    ]


def values(crops: list[LabelledCrop], indices: object, key: str) -> set[str]:
    return {getattr(crops[int(i)], key) for i in indices}  # type: ignore[attr-defined]


def test_no_shot_is_parted_and_every_crop_is_taken_once() -> None:
    crops = crops_of_shots()
    for seed in range(5):
        (part,) = split_crops(crops, seed=seed, valid=0.2, test=0.1)
        assert sorted(np.concatenate(list(part.values()))) == list(range(200))
        sides = [values(crops, part[name], "shot_key") for name in ("train", "valid", "test")]
        assert sum(map(len, sides)) == len(set().union(*sides)) == 40
        assert len(part["valid"]) == pytest.approx(40, abs=10)
        assert len(part["test"]) == pytest.approx(20, abs=10)
        assert values(crops, part["valid"], "emotion") == set(EMOTIONS)


def test_splits_are_balanced_by_character_and_emotion() -> None:
    crops = [
        LabelledCrop(f"{c}{e}{s}{i}", b"", e, shot=f"{c}{e}{s}", character=c)
        for c in CHARACTERS
        for e in EMOTIONS
        for s in range(5)
        for i in range(3)
    ]
    for part in split_crops(crops, folds=5):
        counts = Counter((crops[i].character, crops[i].emotion) for i in part["valid"])
        assert set(counts.values()) == {3}
        assert len(counts) == 12


def test_a_seed_gives_the_same_split_and_another_one_another() -> None:
    crops = crops_of_shots()
    one, same, other = (split_crops(crops, seed=seed)[0]["valid"] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_each_crop_is_valid_in_one_fold_and_test_is_the_same_in_all() -> None:
    crops = crops_of_shots()
    parts = split_crops(crops, folds=4, test=0.2)
    assert len(parts) == 4
    counted = Counter(int(i) for part in parts for i in part["valid"])
    test = parts[0]["test"]
    assert all(np.array_equal(part["test"], test) for part in parts)
    assert set(counted) == set(range(200)) - {int(i) for i in test}
    assert set(counted.values()) == {1}
    for part in parts:
        assert sorted(np.concatenate(list(part.values()))) == list(range(200))
        assert not values(crops, part["valid"], "shot_key") & values(crops, part["train"], "shot_key")


@pytest.mark.parametrize(("by", "key"), [("scene", "scene_key"), ("character", "character"), ("film", "film")])
def test_what_is_named_is_held_out_whole(by: str, key: str) -> None:
    crops = crops_of_shots()
    for part in [*split_crops(crops, by, folds=4), *split_crops(crops, by)]:
        assert not values(crops, part["valid"], key) & values(crops, part["train"], key)
        assert len(part["valid"])
    if by == "character":
        held = [values(crops, part["valid"], key) for part in split_crops(crops, by, folds=4)]
        assert sorted(held, key=str) == sorted(({c} for c in CHARACTERS), key=str)


def test_where_no_scene_is_known_the_shot_stands_in_for_it() -> None:
    crops = [replace(c, scene="" if int(c.shot) >= 20 else c.scene) for c in crops_of_shots()]
    part = split_crops(crops, "scene")[0]
    assert not values(crops, part["valid"], "scene_key") & values(crops, part["train"], "scene_key")
    assert not values(crops, part["valid"], "shot_key") & values(crops, part["train"], "shot_key")
    said = grouping_lines(crops, "scene")
    assert said == [
        "200 crops split by scene: 30 groups that stay together",
        "100 of 200 crops have no scene: their shot stands in for it",
    ]


def test_a_split_of_frames_parts_shots_and_its_audit_says_so() -> None:
    crops = crops_of_shots(10, 10)
    (part,) = split_crops(crops, "frame")
    assert values(crops, part["valid"], "shot_key") & values(crops, part["train"], "shot_key")
    assert Counter(crops[i].emotion for i in part["valid"]) == {"Angry": 8, "Happy": 6, "Sad": 6}
    random = np.random.default_rng(0).random((100, 64)) < 0.5
    found = audit_part(crops, part, "frame", random)["train/valid"]
    assert f"{len(found.shared_shots)} shots on both sides" in found.leaks


def copies(pictures: int = 30, per_picture: int = 3) -> list[LabelledCrop]:
    return [
        LabelledCrop(f"train/Happy/{p}_jpg.rf.{p}x{i}.jpg", b"", "Happy", source=str(p))
        for p in range(pictures)
        for i in range(per_picture)
    ]


def test_augmented_copies_stay_together_except_in_a_split_of_frames() -> None:
    crops = copies()
    for part in split_crops(crops, folds=3):
        assert not values(crops, part["valid"], "source") & values(crops, part["train"], "source")
    part = split_crops(crops, "frame")[0]
    assert values(crops, part["valid"], "source") & values(crops, part["train"], "source")


def test_shots_that_show_the_same_picture_stay_together() -> None:
    crops = crops_of_shots()
    hashes = np.random.default_rng(0).random((200, 64)) < 0.5
    hashes[5 * 30 + 2] = hashes[5 * 3 + 1]
    hashes[5 * 30 + 2, :6] ^= True
    shots = {"3", "30"}
    for seed in range(4):
        for part in split_crops(crops, folds=5, seed=seed, hashes=hashes):
            assert len(shots & values(crops, part["valid"], "shot")) in (0, 2)
    apart = [len(shots & values(crops, p["valid"], "shot")) for p in split_crops(crops, folds=20)]
    assert 1 in apart, "without hashes nothing joins them"
    assert grouping_lines(crops, "shot", hashes)[0] == "200 crops split by shot: 39 groups that stay together"


@pytest.mark.parametrize(
    ("by", "options", "error", "message"),
    [
        ("film", {"folds": 6}, DataError, "of 5 films .* too few for 6 folds"),
        ("character", {"folds": 4, "test": 0.2}, DataError, "of 4 characters .* 4 folds and test"),
        ("shot", {"folds": 41}, DataError, "of 40 shots .* 41 folds"),
        ("colour", {}, UsageError, "colour is not known; choose from shot, scene"),
        ("shot", {"valid": 0.6, "test": 0.5}, UsageError, "leave something to train on"),
        ("shot", {"valid": 0.0}, UsageError, "valid 0.0"),
        ("shot", {"folds": 1}, UsageError, "at least 2"),
    ],
)
def test_what_cannot_be_split_is_told(by: str, options: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        split_crops(crops_of_shots(), by, **options)  # type: ignore[arg-type]


def test_an_unknown_character_is_named_when_characters_are_held_out() -> None:
    crops = crops_of_shots()
    crops[7] = replace(crops[7], character="")
    with pytest.raises(DataError, match=r"1 of 200 crops have no character, such as train/Happy/1_2.jpg"):
        split_crops(crops, "character")


COUNTS = {"train": {"Angry": 12, "Happy": 12}, "valid": {"Angry": 6, "Happy": 6}, "test": {"Angry": 2, "Happy": 2}}


def export(root: Path) -> Path:
    """Train and valid of 12 shots; origins, and votes for some, in crops.csv; test of other pictures."""
    write_export(root, COUNTS, shots=range(6))
    rows = []
    for path in sorted(root.glob("*/*/*.jpg")):
        name = path.relative_to(root).as_posix()
        shot = path.name.split("_")[1].removeprefix("shot")
        votes = (0.25, 0.75) if path.parent.name == "Happy" else ("", "")
        at = (int(path.name[:6]), 1001 * int(path.name[:6]), "1/24000")
        rows.append([name, "0123", str(int(shot) // 2), shot, "7", "Joy", *at, *votes])
    with (root / "crops.csv").open("w", newline="") as file:
        table = csv.writer(file)
        origin = ["film", "scene", "shot", "track", "character", "ordinal", "pts", "time_base"]
        table.writerow(["file", *origin, "p_Angry", "p_Happy"])
        table.writerows(rows)
    return root


def by_picture(crops: list[LabelledCrop]) -> dict[bytes, LabelledCrop]:
    return {Path(str(crop.picture)).read_bytes(): replace(crop, name="", picture=b"", source="") for crop in crops}


def written(crops: list[LabelledCrop], part: Part, out: Path, by: str = "shot") -> dict[str, list[LabelledCrop]]:
    hashes = fingerprints(crops)
    write_split(crops, [part], [audit_part(crops, part, by, hashes)], out, by=by, seed=0)
    return read_export(out)


def test_test_is_mixed_in_only_where_it_is_named(tmp_path: Path) -> None:
    data = export(tmp_path / "data")
    assert len(gather(data)) == 36
    assert len(gather(data, ["train", "test"])) == 28
    assert {crop.emotion for crop in gather(data, keep=["Happy"])} == {"Happy"}
    with pytest.raises(DataError, match="no crops of Joyful; it has Angry, Happy"):
        gather(data, keep=["Joyful", "Happy"])
    with pytest.raises(UsageError, match="split 'holdout' is not known"):
        gather(data, ["holdout"])
    with pytest.raises(DataError, match="has no test"):
        gather(write_export(tmp_path / "two"), ["train", "test"])


def test_what_is_written_reads_back_with_origins_and_votes(tmp_path: Path) -> None:
    crops = gather(export(tmp_path / "data"))
    (part,) = split_crops(crops, test=0.2)
    found = written(crops, part, tmp_path / "out")
    for name, indices in part.items():
        assert by_picture(found[name]) == by_picture([crops[i] for i in indices])
    happy = next(crop for crop in found["train"] if crop.emotion == "Happy")
    assert happy.votes == {"Angry": 0.25, "Happy": 0.75}
    assert (happy.film, happy.track, happy.character) == ("0123", "7", "Joy")
    assert happy.time == Fraction(1001 * happy.ordinal, 24000)
    assert read_crops(tmp_path / "out").classes == ("Angry", "Happy"), "training reads it as it is"
    told = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert told["leaks"] is False
    assert sorted(told["borders"]) == ["train/test", "train/valid", "valid/test"]
    assert told["borders"]["train/valid"]["classes"]["Angry"] == [
        sum(c.emotion == "Angry" for c in found[name]) for name in ("train", "valid")
    ]


def test_pictures_are_linked_not_copied(tmp_path: Path) -> None:
    crops = gather(export(tmp_path / "data"))
    found = written(crops, split_crops(crops)[0], tmp_path / "out")
    first = Path(str(found["valid"][0].picture))
    assert any(first.samefile(Path(str(crop.picture))) for crop in crops)


def test_pictures_of_one_name_from_two_splits_are_both_kept(tmp_path: Path) -> None:
    for split_name, shots in (("train", (1, 2, 3)), ("valid", (4, 5, 6))):
        write_export(tmp_path / split_name, {split_name: {"Angry": 6, "Happy": 6}}, shots=shots)
    data = tmp_path / "data"
    data.mkdir()
    random = np.random.default_rng(3)
    for split_name in ("train", "valid"):
        for emotion in ("Angry", "Happy"):
            (data / split_name / emotion).mkdir(parents=True)
            for i, path in enumerate(sorted((tmp_path / split_name).rglob(f"{emotion}/*.jpg"))):
                # Same names in both splits: plain ones, and a copy that Roboflow made.
                name = f"{i:04d}.jpg" if i else "eyes_jpg.rf.0a1b.jpg"
                content = path.read_bytes() + random.bytes(8)
                (data / split_name / emotion / name).write_bytes(content)
    crops = gather(data)
    (part,) = split_crops(crops, valid=0.3)
    found = written(crops, part, tmp_path / "out")
    assert len(by_picture(found["train"] + found["valid"])) == 24
    sources = Counter(crop.source for crop in found["train"] + found["valid"] if crop.emotion == "Happy")
    assert sources["eyes"] == 2, "a copy is still known as one by its name"
    assert sources["0001"] == sources["0001-2"] == 1
    both = [name for name in ("train", "valid") for c in found[name] if c.source == "eyes" and c.emotion == "Happy"]
    assert len(set(both)) == 1, "copies were kept together"


def test_a_leak_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    crops = gather(export(tmp_path / "data"))
    (part,) = split_crops(crops, "frame")
    audits = [audit_part(crops, part, "frame", fingerprints(crops))]
    with pytest.raises(DataError, match=r"(?s)the split by frame leaks .*--allow-leaks") as refused:
        write_split(crops, [part], audits, tmp_path / "out", by="frame", seed=0)
    assert "same shot" in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    write_split(crops, [part], audits, tmp_path / "out", by="frame", seed=0, allow_leaks=True)
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["leaks"] is True


def test_an_output_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    crops = gather(export(tmp_path / "data"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="already there"):
        written(crops, split_crops(crops)[0], out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert written(crops, split_crops(crops)[0], out)["train"], "an empty folder may be filled"


def test_a_picture_that_goes_missing_half_way_leaves_nothing(tmp_path: Path) -> None:
    crops = gather(export(tmp_path / "data"))
    (part,) = split_crops(crops)
    audits = [audit_part(crops, part, "shot", fingerprints(crops))]
    Path(str(crops[int(part["valid"][-1])].picture)).unlink()
    with pytest.raises(StorageError, match="nothing was left there"):
        write_split(crops, [part], audits, tmp_path / "out", by="shot", seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def insideout_split(*arguments: str) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    app.command()(split)
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output, done.exception


def test_the_command_writes_whole_exports_for_each_fold(tmp_path: Path) -> None:
    data, out = export(tmp_path / "data"), tmp_path / "cv"
    code, said, error = insideout_split(str(data), "--out", str(out), "--by", "scene", "--folds", "3", "--seed", "4")
    assert code == 0, error
    assert "36 crops split by scene: 6 groups that stay together" in said
    assert said.count("leaks: none found") == 3
    assert sorted(path.name for path in out.iterdir()) == ["fold0", "fold1", "fold2"]
    pictures = [by_picture(read_export(out / f"fold{k}")["valid"]) for k in range(3)]
    assert sum(map(len, pictures)) == len(set().union(*pictures)) == 36
    told = json.loads((out / "fold1" / "audit.json").read_text())
    assert (told["by"], told["seed"]) == ("scene", 4)


def test_the_command_refuses_a_leak_after_printing_the_audit(tmp_path: Path) -> None:
    data, out = export(tmp_path / "data"), tmp_path / "out"
    code, said, error = insideout_split(str(data), "--out", str(out), "--by", "frame", "--keep", "Happy, Angry")
    assert code == 1
    assert isinstance(error, DataError)
    assert "LEAKS: " in said
    assert not out.exists()
    code, said, _ = insideout_split(
        str(data), "--out", str(out), "--by", "frame", "--only-splits", "test", "--valid", "0.5", "--allow-leaks"
    )
    assert code == 0
    assert sum(map(len, read_export(out).values())) == 4


def test_the_command_names_a_picture_that_cannot_be_read_and_leaves_it_out(tmp_path: Path) -> None:
    counts = {"train": {"Angry": 60, "Happy": 60}, "valid": {"Angry": 10, "Happy": 10}}
    data = write_export(tmp_path / "data", counts, shots=tuple(range(1, 21)), size=8)
    first, second = sorted(path.relative_to(data) for path in (data / "train/Happy").iterdir())[:2]
    (data / first).write_bytes(b"\xff\xd8\xff")
    allowed = ("--by", "frame", "--allow-leaks")
    code, said, _ = insideout_split(str(data), "--out", str(tmp_path / "out"), *allowed)
    assert code == 0
    assert f"not readable, left out: {first}" in said
    found = read_export(tmp_path / "out")
    assert sum(map(len, found.values())) == 139
    assert all(crop.read().shape == (8, 8, 3) for crops in found.values() for crop in crops)
    (data / second).write_bytes(b"")
    code, _, error = insideout_split(str(data), "--out", str(tmp_path / "more"), *allowed)
    assert code == 1
    assert isinstance(error, DataError)
    assert f"2 of 140 crops cannot be read: {first}" in str(error)


def test_a_split_needs_no_ray() -> None:
    check = "import pipelines.split, insideout.splits, sys; print('ray' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
