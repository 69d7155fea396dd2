"""An evaluation as a whole: the bundled classifier on generated crops, and what is written of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from insideout.datasets.labelled import CropList, LabelledCrop, read_export
from insideout.errors import DataError, PackError, UsageError
from insideout.evaluation.predictions import Predictions
from insideout.evaluation.report import data_digest, embed, evaluate, evaluate_export
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
    assert found["fusion"]["methods"]["frame"]["nll"] == pytest.approx(nll["pack"])
    table = (out / "table.md").read_text()
    for told in ("| pack, pictures in grey |", "| colour histogram |", "Left out: 3 crops", "| mean_log |"):
        assert told in table
    value = found["models"]["pack"]["macro_f1"]
    assert f"| {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}] |" in table


def test_the_same_pack_against_itself_makes_no_difference(
    pack: Path, crops: dict[str, list[LabelledCrop]], tmp_path: Path
) -> None:
    spec = load_pack(pack).emotion
    other = replace(spec, classes=("Afraid", "Angry", "Happy", "Neutral", "Sad"))
    found = evaluate(spec, crops["valid"], crops["train"], tmp_path, against=other, resamples=FEW, threads=1)
    # Only what both know is scored: neither Sad nor Surprised.
    assert found["left_out"] == {"Sad": 3, "Surprised": 4}
    assert found["classes"] == [*CLASSES, "Sad"]
    paired = found["against"]["pack_minus_against"]
    assert (paired["accuracy"]["value"], paired["accuracy"]["low"], paired["accuracy"]["high"]) == (0, 0, 0)
    assert paired["nll"]["value"] == pytest.approx(0, abs=1e-6)
    assert paired["accuracy"]["share_not_above"] == 1
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert "Pack minus against" in (tmp_path / "table.md").read_text()


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
