"""An evaluation as a whole: the bundled classifier on generated crops, and what is written of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from insideout.datasets.labelled import CropList, LabelledCrop, data_digest, read_export
from insideout.errors import DataError, PackError, UsageError
from insideout.evaluation.intervals import class_intervals, confusion_interval
from insideout.evaluation.metrics import accuracy
from insideout.evaluation.predictions import Predictions
from insideout.evaluation.report import embed, evaluate, evaluate_export
from insideout.packs import load_pack
from pipelines.evaluate import evaluate as command

CLASSES = ("Afraid", "Angry", "Happy", "Neutral", "Surprised")
FEW = 40  # resamples: enough to see that they are made


def picture(random: np.random.Generator) -> np.ndarray:
    return cv2.resize(random.integers(0, 256, (4, 4, 3), np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export: 4 crops of each class in train and in valid, by shot and track; 3 Sad ones in valid only."""
    folder, random = tmp_path_factory.mktemp("export"), np.random.default_rng(0)
    for split, first in (("train", 0), ("valid", 50)):
        for c, name in enumerate((*CLASSES, "Sad")):
            for i in range(4 if name != "Sad" else 3 * (split == "valid")):
                shot, who = first + i // 2 + 2 * (c % 2), ("Bunny", "Frank")[c % 2]
                path = folder / split / name / f"{100 * first + 10 * c + i:06}_shot{shot:03}_track{c:03}_{who}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture(random))
    return folder


@pytest.fixture(scope="module")
def crops(data: Path) -> dict[str, list[LabelledCrop]]:
    return read_export(data)


@dataclass(frozen=True)
class Done:
    """What the command wrote and printed for the valid split."""

    out: Path
    found: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def done(pack: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    app, out = typer.Typer(), tmp_path_factory.mktemp("out") / "new"
    app.command()(command)
    result = CliRunner().invoke(app, [str(pack), "--data", str(data), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return Done(out, json.loads((out / "metrics.json").read_text()), result.output)


def test_every_file_is_written_and_nothing_else(done: Done) -> None:
    assert {path.name for path in done.out.iterdir()} == {
        "metrics.json", "table.md", "predictions.parquet",
        "confusion.png", "reliability.png", "risk_coverage.png", "characters.png", "worst.png",
    }  # fmt: skip
    for path in done.out.glob("*.png"):
        assert min(cv2.imread(str(path)).shape[:2]) > 200


def test_figures_are_those_of_the_predictions_beside_them(done: Done, pack: Path) -> None:
    out, found = done.out, done.found
    predictions = Predictions.read(out / "predictions.parquet")
    own = found["models"]["pack"]
    assert own["macro_f1"]["value"] == pytest.approx(
        f1_score(predictions.labels, predictions.guesses, average="macro", zero_division=0)
    )
    assert own["macro_f1"]["low"] <= own["macro_f1"]["value"] <= own["macro_f1"]["high"]
    at = np.arange(len(predictions)), predictions.labels
    for key, temperature in (("nll", predictions.temperature), ("nll_at_1", 1.0)):
        expected = -np.log(predictions.probabilities(temperature)[at]).mean()
        assert own[key]["value"] == pytest.approx(expected)
    assert own["temperature"] == load_pack(pack).emotion.temperature
    assert np.array(found["confusion"]).sum() == 20
    assert found["calibration"]["cross_fitted"]["nll"]["value"] != own["nll"]["value"]


def test_what_it_was_measured_on_is_told(done: Done, crops: dict[str, list[LabelledCrop]], pack: Path) -> None:
    found = done.found
    assert (found["crops"], found["shots"], found["train_crops"]) == (20, 4, 20)
    assert found["data"]["split"] == "valid"
    assert found["packs"]["pack"]["digest"] == load_pack(pack).digest
    assert found["left_out"] == {"Sad": 3}
    assert found["bootstrap"]["resamples"] == 2000
    assert found["weights"] == {"pack": load_pack(pack).emotion.sha256}
    assert found["data_digest"] == data_digest(crops["valid"][::-1])
    changed = [replace(crops["valid"][0], emotion="Sad"), *crops["valid"][1:]]
    assert data_digest(changed) != found["data_digest"]


def test_baselines_grey_pictures_and_tracks_stand_beside_the_pack(done: Done) -> None:
    out, found = done.out, done.found
    assert list(found["models"]) == ["pack", "pack_grey", "majority", "identity", "colour"]
    nll = {name: figures["nll"]["value"] for name, figures in found["models"].items()}
    assert len(set(nll.values())) == 5
    assert nll["majority"] == pytest.approx(np.log(5), abs=1e-6)  # training is balanced
    assert found["counter_stereotype"]["recall"]["identity"]["value"] == 0
    assert found["counter_stereotype"]["usual"] == {"Bunny": "Afraid", "Frank": "Angry"}
    assert found["counter_stereotype"]["support"] == 12
    assert found["fusion"]["methods"]["frame"]["nll"]["value"] == pytest.approx(nll["pack"])
    table = (out / "table.md").read_text()
    for told in ("| pack, pictures in grey |", "| colour histogram |", "Left out: 3 crops", "| mean_log |", "| hmm |"):
        assert told in table
    value = found["models"]["pack"]["macro_f1"]
    assert f"| {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}] |" in table


def test_classes_cells_and_ways_to_fuse_have_their_intervals(done: Done) -> None:
    table = (done.out / "table.md").read_text().splitlines()
    predictions = Predictions.read(done.out / "predictions.parquet")
    expected = class_intervals(predictions)

    def row(*names: str) -> str:
        (line,) = [line for line in table if line.startswith(f"| {' | '.join(names)} | ")]
        return line

    def told(found: dict[str, float]) -> str:
        return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"

    assert list(done.found["per_class"]) == list(CLASSES)
    for name, scores in done.found["per_class"].items():
        assert scores["support"] == 4
        for key in ("precision", "recall", "f1"):
            assert scores[key] == asdict(expected[name][key])
            if scores[key]["low"] is not None:
                assert told(scores[key]) in row(name)
    cells = {(cell["character"], cell["emotion"]): cell for cell in done.found["counter_stereotype"]["cells"]}
    assert list(cells) == [("Bunny", "Happy"), ("Bunny", "Surprised"), ("Frank", "Neutral")]
    for (character, emotion), cell in cells.items():
        mine = [i for i, c in enumerate(predictions.crops.crops) if (c.character, c.emotion) == (character, emotion)]
        part = predictions.take(np.array(mine))
        assert cell["recall"] == asdict(confusion_interval(part, accuracy))
        assert cell["recall"]["value"] == (part.guesses == part.labels).mean()
        assert f"| 4 | {told(cell['recall'])} |" in row(character, emotion)
    worst = done.found["counter_stereotype"]["worst"]
    assert worst == min(cells.values(), key=lambda cell: cell["recall"]["value"])
    for name, scores in done.found["fusion"]["methods"].items():
        assert scores["macro_f1"]["low"] <= scores["macro_f1"]["value"] <= scores["macro_f1"]["high"]
        assert any(line.startswith(f"| {name} | ") and told(scores["accuracy"]) in line for line in table)


def test_the_same_pack_against_itself_makes_no_difference(
    pack: Path, crops: dict[str, list[LabelledCrop]], tmp_path: Path
) -> None:
    spec = load_pack(pack).emotion
    other = replace(spec, classes=("Afraid", "Angry", "Happy", "Neutral", "Sad"))
    third = replace(spec, classes=("Afraid", "Angry", "Happy", "Nervous", "Surprised"))
    others = {"other": other, "third": third}
    found = evaluate(spec, crops["valid"], crops["train"], tmp_path, against=others, resamples=FEW, threads=1)
    # Only what all know is scored: neither Sad, nor Surprised, nor Neutral.
    assert found["left_out"] == {"Neutral": 4, "Sad": 3, "Surprised": 4}
    assert found["classes"] == [*CLASSES, "Sad", "Nervous"]
    assert list(found["models"])[:4] == ["pack", "pack_grey", "other", "third"]
    for paired in found["against"].values():
        assert (paired["accuracy"]["value"], paired["accuracy"]["low"], paired["accuracy"]["high"]) == (0, 0, 0)
        assert paired["nll"]["value"] == pytest.approx(0, abs=1e-6)
        assert paired["accuracy"]["share_not_above"] == 1
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    table = (tmp_path / "table.md").read_text()
    for told in ("### Pack minus other", "### Pack minus third", "| other | ", "| third | "):
        assert told in table
    with pytest.raises(UsageError, match="'identity' is a row of its own"):
        evaluate(spec, crops["valid"], crops["train"], tmp_path, against={"identity": spec})


def test_packs_that_are_compared_are_called_by_their_folders(pack: Path, data: Path, tmp_path: Path) -> None:
    for folder in ("student", "old/student", "majority"):
        shutil.copytree(pack, tmp_path / folder)
    packs = [tmp_path / folder for folder in ("student", "old/student", "majority")]
    app = typer.Typer()
    app.command()(command)
    given = [option for path in packs for option in ("--against", str(path))]
    result = CliRunner().invoke(app, [str(pack), "--data", str(data), "--out", str(tmp_path / "out"), *given])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    names = ["student", "student-2", "majority-2"]
    assert list(found["models"]) == ["pack", "pack_grey", *names, "majority", "identity", "colour"]
    assert list(found["against"]) == names
    assert {name: found["packs"][name]["path"] for name in names} == dict(zip(names, map(str, packs), strict=True))
    assert found["title"] == f"{load_pack(pack).name} on valid, against student and student-2 and majority-2"
    for name in names:
        assert f"pack minus {name}: macro-F1 0.000 [0.000, 0.000]" in result.output


def test_what_training_shares_with_the_scored_crops_is_told(
    pack: Path, crops: dict[str, list[LabelledCrop]], tmp_path: Path
) -> None:
    spec = load_pack(pack).emotion
    shared = [replace(crops["train"][0], shot=crops["valid"][0].shot), *crops["train"][1:]]
    found = evaluate(spec, crops["valid"], shared, tmp_path, resamples=FEW, threads=1)
    (note,) = [note for note in found["notes"] if "share" in note]
    assert note.startswith("train and the scored crops share: 1 shot on both sides; such as ")
    assert crops["train"][0].name in note
    assert note in (tmp_path / "table.md").read_text()
    timed = [replace(crop, pts=crop.ordinal, time_base=Fraction(1, 30)) for crop in crops["train"]]
    itself = evaluate(spec, timed, timed, tmp_path, resamples=FEW, threads=1)
    assert itself["notes"] == ["the training crops themselves are scored: no figure says anything of new shots"]
    assert itself["fusion"]["assumed_frames_per_second"] is None


def test_a_crop_that_cannot_be_read_is_named_and_left_out_unless_there_are_many(
    pack: Path, crops: dict[str, list[LabelledCrop]], tmp_path: Path
) -> None:
    spec = load_pack(pack).emotion
    train = [replace(crop, name=f"{crop.name}{i}", shot=f"{crop.shot}") for i in range(9) for crop in crops["train"]]
    broken = replace(crops["valid"][1], picture=b"\xff\xd8\xff")
    valid = [crops["valid"][0], broken, *crops["valid"][2:]]
    train[7] = replace(train[7], picture=b"")
    found = evaluate(spec, valid, train, tmp_path, resamples=FEW, threads=1)
    assert (found["crops"], found["train_crops"]) == (19, 179)
    assert found["unreadable"] == [broken.name, train[7].name]
    assert any(note == f"left out as unreadable: {broken.name}; {train[7].name}" for note in found["notes"])
    assert found["data_digest"] == data_digest([crop for crop in valid if crop is not broken])
    assert "colour" in found["models"]
    worse = [replace(crop, picture=b"") for crop in valid[:3]]
    with pytest.raises(DataError, match=rf"4 of 200 crops cannot be read: {worse[0].name}"):
        evaluate(spec, [*worse, *valid[3:]], train, tmp_path, resamples=FEW, threads=1)


def test_tracks_are_fused_without_an_hmm_where_training_has_none(
    pack: Path, crops: dict[str, list[LabelledCrop]], tmp_path: Path
) -> None:
    spec = load_pack(pack).emotion
    train = [replace(crop, track="") for crop in crops["train"]]
    found = evaluate(spec, crops["valid"], train, tmp_path, resamples=FEW, threads=1)
    assert list(found["fusion"]["methods"]) == ["frame", "majority", "mean_log"]
    assert (found["fusion"]["stay"], found["fusion"]["assumed_frames_per_second"]) == (None, 24)
    assert found["fusion"]["mean_log_minus_frame"]["nll"]["low"] is not None
    notes = " ".join(found["notes"])
    assert "no HMM over tracks: no track has two labelled crops in training" in notes
    assert "20 crops in tracks have no time (crops.csv: pts and time_base)" in notes


def test_embedding_gives_unknown_classes_no_probability() -> None:
    crops = CropList(("a", "b"), (LabelledCrop("1", b"", "b"),))
    found = embed(Predictions(crops, np.array([[0, 1]], np.float32), 2.0), ("b", "c", "a"))
    assert found.classes == ("b", "c", "a")
    assert found.labels.tolist() == [0]
    assert found.probabilities()[0] == pytest.approx([1 / (1 + np.exp(-0.5)), 0, 1 / (1 + np.exp(0.5))])


def test_what_cannot_be_had_is_said(pack: Path, crops: dict[str, list[LabelledCrop]], tmp_path: Path) -> None:
    one = [replace(crop, shot="1", track="") for crop in crops["valid"][:3]]
    found = evaluate(load_pack(pack).emotion, one, [], tmp_path, resamples=FEW, threads=1)
    assert list(found["models"]) == ["pack", "pack_grey"]
    assert found["models"]["pack"]["macro_f1"]["low"] is None
    assert (found["counter_stereotype"], found["fusion"]) == (None, None)
    notes = " ".join(found["notes"])
    for told in ("of one shot", "no training crops", "nothing to fuse"):
        assert told in notes
        assert told in (tmp_path / "table.md").read_text()
    with pytest.raises(DataError, match=r"none of the 3 crops .*Afraid, Angry"):
        evaluate(load_pack(pack).emotion, [c for c in crops["valid"] if c.emotion == "Sad"], [], tmp_path)


def test_a_split_that_is_not_there(pack: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no test folder; there is train and valid"):
        evaluate_export(pack, data, "test", tmp_path)
    with pytest.raises(UsageError, match="choose one of train, valid, test"):
        evaluate_export(pack, data, "validation", tmp_path)
    with pytest.raises(PackError, match="no such pack"):
        evaluate_export(tmp_path / "nowhere", data, "valid", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_tells_the_main_rows(done: Done) -> None:
    assert "20 crops of 4 shots" in done.printed
    assert "left out: 3 crops of classes that the model does not have (Sad 3)" in done.printed
    for name, key in (("pack", "pack"), ("identity only", "identity")):
        row = next(line for line in done.printed.splitlines() if line.startswith(f"{name}  "))
        assert f"{done.found['models'][key]['macro_f1']['value']:.2f} [" in row
    assert str(done.out) in done.printed
