from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.errors import DataError, PackError
from insideout.evaluation.predictions import Predictions
from insideout.packing import PackRecipe, add_errors, build_pack, read_segmenter
from insideout.packs import Pack, describe, load_pack, verify_pack
from insideout.recipes.base import Recipe
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.scores import scores
from insideout.recipes.segmenter_recipe import SegmenterRecipe
from insideout.stats.confusion import read_errors, support
from pipelines.cli import app

RECIPE = PackRecipe(
    name="test",
    parts=("head",),
    crop="head",
    uncertain_below=0.35,
    data="Drawn by a test.",
    limits=("Knows nothing.",),
    commands=("make test",),
)


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory, ultralytics_settings: Path) -> Path:
    """A checkpoint as ultralytics writes it, of a network that was never trained."""
    from ultralytics.nn.tasks import SegmentationModel

    torch.manual_seed(0)
    model = SegmentationModel("yolov8n-seg.yaml", nc=3, verbose=False)
    model.names = {0: "Bunny", 1: "Frank", 2: "head"}
    path = tmp_path_factory.mktemp("segmenter") / "best.pt"
    torch.save(
        {
            "ema": model.half(),
            "model": None,
            "train_args": {"imgsz": 320, "epochs": 2, "lr0": 0.01},
            "train_metrics": {"metrics/mAP50(M)": 0.5, "metrics/mAP50-95(M)": 0.25, "fitness": 1.0},
        },
        path,
    )
    return path


@pytest.fixture(scope="session")
def emotion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder as training writes it, of a network that was never trained."""
    folder = tmp_path_factory.mktemp("emotion")
    classes = ["Angry", "Happy"]
    save_file(torchvision.models.resnet50(num_classes=2).state_dict(), folder / "model.safetensors")
    figures = scores(np.array([0, 0, 1]), np.eye(2)[[0, 1, 1]], classes)
    meta = {
        "architecture": "resnet50", "classes": classes, "size": 64, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2],
        "temperature": 1.5, "temperature_fitted_on": "4 crops of elsewhere",
        "unseen_nll": {"before": 2.0, "after": 1.0}, "epoch": 3, "pretrained": None,
        "recipe": {"batch": 32, "face": {"hue": 0}},
        "valid": figures | {"nll_at_temperature": 0.5},
        "data": {"train": {"Angry": 5, "Happy": 6}, "valid": {"Angry": 2, "Happy": 1},
                 "shots": {"train": 4, "valid": 2}, "shots_in_both": 0, "left_out": {"train": {"Sad": 3}}},
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, segmenter: Path, emotion: Path) -> Pack:
    out = tmp_path_factory.mktemp("packs") / "test"
    return build_pack(out, segmenter, emotion, RECIPE, metrics={"segmenter": {"by_class": {"Bunny": {"map50": 0.5}}}})


@pytest.fixture
def copy(built: Pack, tmp_path: Path) -> Path:
    """A pack of one's own to spoil."""
    return shutil.copytree(built.path, tmp_path / "pack")


def _edit(pack: Path, change: dict[str, Any], part: str | None = None) -> None:
    file = pack / "pack.json"
    content = json.loads(file.read_text())
    (content[part] if part else content).update(change)
    file.write_text(json.dumps(content))


def test_a_pack_holds_what_the_checkpoints_said(built: Pack) -> None:
    pack = load_pack(str(built.path))
    assert pack == built
    assert pack.characters == ("Bunny", "Frank")
    assert pack.segmenter.architecture == "yolov8n-seg"
    assert pack.segmenter.imgsz == 320
    assert pack.segmenter.parts == ("head",)
    assert pack.emotion.classes == ("Angry", "Happy")
    assert pack.emotion.temperature == 1.5
    assert pack.emotion.uncertain_below == 0.35
    assert pack.metrics["segmenter"] == {
        "mask_map50": 0.5,
        "mask_map50_95": 0.25,
        "by_class": {"Bunny": {"map50": 0.5}},
    }
    assert sorted(p.name for p in pack.path.iterdir()) == [
        "MODEL_CARD.md", "emotion.safetensors", "pack.json", "segmenter.safetensors",
    ]  # fmt: skip
    assert verify_pack(pack.path) == pack


def test_an_older_pack_stays_where_the_new_one_cannot_be_scored(
    copy: Path, segmenter: Path, emotion: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in copy.iterdir()}
    RECIPE.model_copy(update={"name": "newer"}).write(tmp_path / "recipe.yaml")
    words = ["--segmenter", segmenter, "--emotion", emotion, "--recipe", tmp_path / "recipe.yaml", "--out", copy]
    done = CliRunner().invoke(app, ["pack", "build", *map(str, words), "--data", str(tmp_path / "nothing-here")])
    assert isinstance(done.exception, DataError)
    assert "nothing-here" in str(done.exception)
    assert {path: path.read_bytes() for path in copy.iterdir()} == before
    done = CliRunner().invoke(app, ["pack", "build", *map(str, words)])
    assert done.exit_code == 0, done.output
    assert load_pack(copy).name == "newer"


def test_a_calibration_that_was_cut_off_makes_no_pack(segmenter: Path, emotion: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(emotion, tmp_path / "emotion")
    crops = CropList(("Angry", "Happy"), tuple(LabelledCrop(f"{i}", b"", ("Angry", "Happy")[i % 2]) for i in range(4)))
    Predictions(crops, np.eye(2, dtype=np.float32)[[0, 1, 0, 1]], 1.25).write(folder / "unseen.parquet")
    with pytest.raises(PackError, match=r"unseen\.parquet: of temperature 1\.2500, and meta\.json .* 1\.5000"):
        build_pack(tmp_path / "pack", segmenter, folder, RECIPE)
    assert not (tmp_path / "pack").exists()


def test_a_pack_is_small_and_its_weights_are_those_of_the_checkpoints(
    built: Pack, segmenter: Path, emotion: Path
) -> None:
    assert built.segmenter.weights.stat().st_size < 8_000_000
    assert built.emotion.weights.stat().st_size < 50_000_000
    stored = load_file(built.segmenter.weights)
    source = read_segmenter(segmenter)["state"]
    assert stored.keys() == source.keys()
    assert all(torch.equal(stored[key].half(), source[key].half()) for key in stored if stored[key].ndim)
    stored, original = load_file(built.emotion.weights), load_file(emotion / "model.safetensors")
    assert stored["conv1.weight"].dtype == torch.float16
    assert torch.equal(stored["conv1.weight"], original["conv1.weight"].half())
    assert torch.equal(stored["bn1.running_var"], original["bn1.running_var"])


def test_a_pack_built_again_has_the_same_digest(built: Pack, segmenter: Path, emotion: Path, tmp_path: Path) -> None:
    metrics = {"segmenter": {"by_class": {"Bunny": {"map50": 0.5}}}}
    again = build_pack(tmp_path / "again", segmenter, emotion, RECIPE, metrics=metrics)
    assert again.digest == built.digest
    other = build_pack(tmp_path / "again", segmenter, emotion, RECIPE.model_copy(update={"iou": 0.5}), metrics=metrics)
    assert other.digest != built.digest
    assert load_pack(tmp_path / "again").segmenter.iou == 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["again"]  # nothing of the older pack is left


def test_an_altered_weight_file_is_named_with_both_digests(built: Pack, copy: Path) -> None:
    file = copy / "emotion.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(PackError, match=rf"emotion\.safetensors: sha256 is [0-9a-f]{{64}}.*{built.emotion.sha256}"):
        load_pack(copy)
    load_pack(copy, verify=False)
    file.write_bytes(content[:-1])
    with pytest.raises(PackError, match="bytes"):
        load_pack(copy, verify=False)
    file.unlink()
    with pytest.raises(PackError, match=r"emotion\.safetensors: missing"):
        load_pack(copy)


@pytest.mark.parametrize("name", ["../emotion.safetensors", "/etc/passwd", "a/b", "..", "", ".hidden", "a\\b"])
def test_a_name_that_leads_out_of_the_pack_is_refused(copy: Path, name: str) -> None:
    _edit(copy, {"weights": name}, "segmenter")
    with pytest.raises(PackError, match=r"segmenter\.weights: .*not a plain file name"):
        load_pack(copy)


def test_unreadable_packs_say_what_is_wrong(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="no such pack"):
        load_pack(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PackError, match=r"pack\.json: missing"):
        load_pack(tmp_path / "empty")
    _edit(copy, {"schema": 99})
    with pytest.raises(PackError, match="schema 99 is newer than 1; update"):
        load_pack(copy)
    _edit(copy, {"schema": 1, "colour": "blue"})
    with pytest.raises(PackError, match="colour"):
        load_pack(copy)
    for text in ("{", "[]", ""):
        (copy / "pack.json").write_text(text)
        with pytest.raises(PackError, match=r"pack\.json"):
            load_pack(copy)


def test_weights_for_other_classes_are_found_by_verify(copy: Path) -> None:
    _edit(copy, {"classes": ["Angry", "Happy", "Neutral"]}, "emotion")
    load_pack(copy)
    with pytest.raises(PackError, match=r"fc\.weight"):
        verify_pack(copy)
    _edit(copy, {"classes": ["Angry", "Happy"]}, "emotion")
    _edit(copy, {"classes": ["Bunny", "Frank", "Rinky", "head"]}, "segmenter")
    with pytest.raises(PackError, match=r"segmenter\.safetensors: tensor model\."):
        verify_pack(copy)


def test_a_folder_that_is_no_pack_is_left_alone(segmenter: Path, emotion: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(PackError, match="not a model pack"):
        build_pack(tmp_path, segmenter, emotion, RECIPE)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_part_must_be_a_class(segmenter: Path, emotion: Path, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="tail"):
        build_pack(tmp_path / "x", segmenter, emotion, RECIPE.model_copy(update={"parts": ("tail",)}))
    assert list(tmp_path.iterdir()) == []


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran.txt"),))


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(
    emotion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ultralytics_settings: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"ema": _Payload()}, tmp_path / "best.pt")
    with pytest.raises(PackError, match=r"best\.pt"):
        build_pack(tmp_path / "x", tmp_path / "best.pt", emotion, RECIPE)
    assert not (tmp_path / "ran.txt").exists()
    with pytest.raises(PackError, match="no such checkpoint"):
        build_pack(tmp_path / "x", tmp_path / "absent.pt", emotion, RECIPE)
    with pytest.raises(PackError, match=r"meta\.json"):
        build_pack(tmp_path / "x", tmp_path / "absent.pt", tmp_path, RECIPE)


def test_uncertain_is_put_where_the_answers_above_it_are_right_often_enough(
    segmenter: Path, emotion: Path, tmp_path: Path
) -> None:
    asked = RECIPE.model_copy(update={"accuracy": 0.75})
    with pytest.raises(PackError, match=r"unseen\.parquet: missing.*--calibrate 5"):
        build_pack(tmp_path / "pack", segmenter, emotion, asked)
    checkpoint = shutil.copytree(emotion, tmp_path / "emotion")
    # Ten crops, surest first; the wrong ones are the 4th, 6th, 8th and 10th: 6 of 8 are the most with 3 in 4 right.
    truth = ["Angry" if i not in (3, 5, 7, 9) else "Happy" for i in range(10)]
    crops = CropList(("Angry", "Happy"), tuple(LabelledCrop(str(i), b"", e) for i, e in enumerate(truth)))
    logits = np.array([[2.0 - 0.1 * i, 0.0] for i in range(10)], np.float32)
    Predictions(crops, logits * 1.5, 1.5).write(checkpoint / "unseen.parquet")
    built = build_pack(tmp_path / "pack", segmenter, checkpoint, asked)
    right = [0.75 if k == 4 else (k - sum(w < k for w in (3, 5, 7, 9))) / k for k in range(1, 11)]
    most = max(k for k in range(1, 11) if right[k - 1] >= 0.75)
    sure = 1 / (1 + np.exp(-logits[most - 1, 0]))
    assert built.emotion.uncertain_below == pytest.approx(sure, abs=2e-4)
    card = (built.path / "MODEL_CARD.md").read_text()
    assert f"{most * 10}% are at or above it and {right[most - 1]:.0%} of those are right" in card
    Predictions(crops, logits[::-1] * 1.5, 1.5).write(checkpoint / "unseen.parquet")
    with pytest.raises(PackError, match="no certainty gives 99% right"):
        build_pack(tmp_path / "pack", segmenter, checkpoint, RECIPE.model_copy(update={"accuracy": 0.99}))


@pytest.fixture
def unseen(tmp_path: Path) -> Path:
    """Predictions for six crops of two shots, as training keeps them; the last is below the threshold of the recipe."""
    rows = [("Bunny", "1", "Angry", 2.0), ("Bunny", "1", "Angry", 2.0), ("Bunny", "2", "Happy", 1.5)]
    rows += [("Frank", "1", "Happy", -2.0), ("Frank", "2", "Angry", 1.0), ("Frank", "2", "Angry", 0.0)]
    crops = tuple(LabelledCrop(f"{i}", b"", e, film="f", shot=s, character=c) for i, (c, s, e, _) in enumerate(rows))
    logits = np.array([[logit, 0.0] for *_, logit in rows], np.float32)
    Predictions(CropList(("Angry", "Happy"), crops), logits, 1.5).write(tmp_path / "unseen.parquet")
    return tmp_path / "unseen.parquet"


def test_a_pack_counts_the_errors_that_training_has_kept(
    segmenter: Path, emotion: Path, unseen: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(emotion, tmp_path / "emotion")
    without = build_pack(tmp_path / "pack", segmenter, checkpoint, RECIPE.model_copy(update={"uncertain_below": 0.6}))
    assert without.confusion is None
    shutil.copy(unseen, checkpoint)
    built = build_pack(tmp_path / "pack", segmenter, checkpoint, RECIPE.model_copy(update={"uncertain_below": 0.6}))
    assert built.confusion == built.path / "confusion.parquet"
    rows = pq.read_table(built.confusion).to_pylist()
    assert sum(row["crops"] for row in rows) == 6
    told = {tuple(row[k] for k in ("character", "shot", "emotion", "guess", "answered")): row["crops"] for row in rows}
    assert told["Bunny", "1", "Angry", "Angry", True] == 2
    assert told["Bunny", "2", "Happy", "Angry", True] == 1
    assert told["Frank", "1", "Happy", "Happy", True] == 1
    assert told["Frank", "2", "Angry", "Angry", False] == 1
    # It decides no row of a label table: runs of the pack without it go on.
    assert built.digest == without.digest
    assert "confusion.parquet` counts how 6 crops" in (built.path / "MODEL_CARD.md").read_text()


def test_errors_are_added_to_a_pack_and_altered_ones_are_refused(copy: Path, unseen: Path) -> None:
    before = load_pack(copy)
    found = add_errors(copy, unseen)
    assert (before.confusion, found.confusion) == (None, copy / "confusion.parquet")
    assert found.digest == before.digest
    whole = found.confusion.read_bytes()
    content = bytearray(whole)
    content[50] ^= 1
    found.confusion.write_bytes(content)
    with pytest.raises(PackError, match=r"confusion\.parquet: sha256 is"):
        load_pack(copy)
    found.confusion.unlink()
    with pytest.raises(PackError, match=r"confusion\.parquet: missing"):
        load_pack(copy)
    found.confusion.write_bytes(whole)
    crops = CropList(("Angry", "Sad"), (LabelledCrop("0", b"", "Sad"),))
    Predictions(crops, np.zeros((1, 2), np.float32), 1.5).write(unseen)
    with pytest.raises(PackError, match="other emotions"):
        add_errors(copy, unseen)


def test_the_bundled_pack_knows_its_errors(pack: Path) -> None:
    loaded = load_pack(pack)
    errors = read_errors(pq.read_table(loaded.confusion), loaded.emotion.classes)
    assert errors.crops.sum() == 528
    assert errors.characters == loaded.characters
    assert support(errors, "Bunny", resamples=1000).supported is True
    assert support(errors, "Gamera", resamples=1000).supported is False


def test_the_card_tells_data_figures_limits_and_commands(built: Pack) -> None:
    card = (built.path / "MODEL_CARD.md").read_text()
    for part in (
        "# Model card: test",
        "| segmenter | yolov8n-seg | 320 px | Bunny, Frank; part: head |",
        "displayed expression",
        "| train | 5 | 6 | 4 |",
        "Left out of train: 3 Sad.",
        "mask_map50 0.500",
        "| Bunny | 0.500 |",
        "Macro-F1 0.667, balanced accuracy 0.750",
        "| Angry | 1.00 | 0.50 | 0.67 | 2 |",
        "| Happy | 0 | 1 |",
        "Temperature 1.500, fitted on 4 crops of elsewhere: NLL 2.000 before, 1.000 after.",
        f"An emotion less probable than {RECIPE.uncertain_below:g} is called `uncertain`: chosen by hand.",
        "started from random weights",
        "    make test",
        "- Knows nothing.",
    ):
        assert part in card
    assert str(built.path.parent) not in card


def test_describe_fits_a_screen(built: Pack) -> None:
    text = describe(built)
    assert built.digest in text
    assert "Bunny, Frank" in text
    assert "uncertain below 0.35" in text
    assert "macro_f1 0.6667" in text
    assert len(text.splitlines()) < 20


def test_the_shipped_pack_recipe_can_be_read(root: Path) -> None:
    recipe = PackRecipe.read(root / "configs" / "pack-bbb.yaml")
    assert recipe.parts == ("head",)
    assert any("train emotion" in command for command in recipe.commands)


@pytest.mark.parametrize(("kind", "recipe"), [("segmenter", SegmenterRecipe), ("emotion", EmotionRecipe)])
def test_the_card_of_the_bundled_pack_names_the_recipes_that_trained_it(
    kind: str, recipe: type[Recipe], root: Path
) -> None:
    card = (root / "packs/bbb/MODEL_CARD.md").read_text()
    (settings,) = re.findall(rf"^- {kind}: (.*?)(?:; started from .*)?$", card, re.MULTILINE)
    (command,) = re.findall(rf"^    (insideout train {kind} .*)$", card, re.MULTILINE)
    named = recipe.read(root / command.split("--recipe ")[1].split()[0]).model_dump(mode="json")
    found = [f"{key} {value}" for key, value in named.items() if f", {key} " in f", {settings}"]
    assert len(found) >= 7
    assert [setting for setting in found if f", {setting}, " not in f", {settings}, "] == []
    assert command in PackRecipe.read(root / "configs/pack-bbb.yaml").commands
