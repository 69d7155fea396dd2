from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from insideout.datasets.labelled import CropList
from insideout.errors import DataError, RecipeError, TrainingError, UsageError
from insideout.evaluation.predictions import Predictions
from insideout.recipes.augment import augment
from insideout.recipes.augmentation import FaceAugmentation, Preset
from insideout.recipes.calibrate import calibrate_checkpoint
from insideout.recipes.crops import CropData, read_crops
from insideout.recipes.emotion import EmotionTraining, check_start
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.optimizer import set_rates
from insideout.recipes.scores import fit_temperature, nll, scores
from tests.exports import write_export

STILL = FaceAugmentation(
    mirror=0, degrees=0, zoom=1, shift=0, stretch=0, light=0, contrast=0, saturation=0, hue=0, grey=0, erase=0
)


def _pictures(n: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_augmentation_without_strength_changes_nothing() -> None:
    found = augment(_pictures(), 32, "face", STILL, range(4))
    assert torch.allclose(found, _pictures().float() / 255, atol=1e-3)
    assert torch.equal(augment(_pictures(), 32, "none", STILL, range(4)), _pictures().float() / 255)


def test_mirror_and_grey_do_what_they_say() -> None:
    mirrored = augment(_pictures(), 32, "face", STILL.model_copy(update={"mirror": 1.0}), range(4))
    assert torch.allclose(mirrored, _pictures().flip(3).float() / 255, atol=1e-3)
    grey = augment(_pictures(), 32, "face", STILL.model_copy(update={"grey": 1.0}), range(4))
    assert (grey.amax(1) - grey.amin(1)).max() < 0.02


@pytest.mark.parametrize("preset", ["face", "auto", "trivial"])
def test_a_picture_is_augmented_by_its_seed_whatever_its_company(preset: Preset) -> None:
    pictures = _pictures(6, 40)
    found = augment(pictures, 40, preset, FaceAugmentation(), range(6))
    alone = augment(pictures[2:4], 40, preset, FaceAugmentation(), [2, 3])
    assert torch.equal(found[2:4], alone)
    assert found.shape == (6, 3, 40, 40)
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.allclose(found, pictures.float() / 255, atol=0.05)
    again = augment(pictures, 40, preset, FaceAugmentation(), range(6, 12))
    assert not torch.allclose(found, again, atol=0.05)
    assert augment(pictures, 32, preset, FaceAugmentation(), range(6)).shape == (6, 3, 32, 32)


def test_the_students_learning_rate_steps_and_the_cosine_warms_up() -> None:
    student = EmotionRecipe()
    rates = [student.learning_rate(e) for e in (0, 6.99, 7, 14, 29)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-7])
    cosine = EmotionRecipe(lr=1.0, schedule="cosine", warmup_epochs=2, epochs=12)
    assert cosine.learning_rate(1) == pytest.approx(0.5)
    assert cosine.learning_rate(2) == pytest.approx(1)
    assert cosine.learning_rate(7) == pytest.approx(0.505)
    assert cosine.learning_rate(12) == pytest.approx(0.01)


def test_the_shipped_recipes_can_be_read(root: Path, tmp_path: Path) -> None:
    student = EmotionRecipe.read(root / "configs" / "emotion-student.yaml")
    assert student == EmotionRecipe()
    bundled = EmotionRecipe.read(root / "configs" / "emotion-finetune.yaml")
    assert bundled.classes == ["Afraid", "Angry", "Happy", "Neutral", "Surprised"]
    bundled.write(tmp_path / "again.yaml")
    assert EmotionRecipe.read(tmp_path / "again.yaml") == bundled
    (tmp_path / "odd.yaml").write_text("epoch: 3\n")
    with pytest.raises(RecipeError, match="epoch"):
        EmotionRecipe.read(tmp_path / "odd.yaml")
    with pytest.raises(ValidationError):
        EmotionRecipe(face={"blur": 1})  # type: ignore[arg-type]


def test_scores_are_those_computed_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    guess = np.array([0, 0, 1, 1, 1, 0])
    found = scores(labels, np.eye(3)[guess] * 9, ["a", "b", "c"])
    assert found["by_class"]["a"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3})
    assert found["by_class"]["c"]["f1"] == 0
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["confusion"] == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert found["majority_macro_f1"] == pytest.approx((2 / 3) / 3)
    json.dumps(found)


def test_temperature_undoes_a_known_one() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20000, 4))
    odds = np.exp(logits)
    odds /= odds.sum(1, keepdims=True)
    labels = (random.random((20000, 1)) > odds.cumsum(1)).sum(1).astype(np.int64)
    assert fit_temperature(labels, logits * 3) == pytest.approx(3, rel=0.05)


def _rates(training: EmotionTraining) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in training.network.named_parameters()}
    return {names[id(p)]: group["lr"] for group in training.optimizer.param_groups for p in group["params"]}


TINY = EmotionRecipe(
    backbone="mobilenet_v2", size=32, batch=8, epochs=4, optimizer="adamw", augment="face", precision="fp32"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CropData:
    return read_crops(write_export(tmp_path_factory.mktemp("export")))


def test_a_probe_moves_the_last_layer_only_and_then_stages_learn_the_slower_the_earlier(data: CropData) -> None:
    recipe = TINY.model_copy(
        update={"probe_epochs": 1, "layer_decay": 0.5, "lr": 0.01, "head_lr": 0.1, "schedule": "cosine"}
    )
    training = EmotionTraining(recipe, data)
    before = {key: value.clone() for key, value in training.network.named_parameters()}
    training.train_epoch()
    moved = {key for key, value in training.network.named_parameters() if not torch.equal(value, before[key])}
    assert moved == {"classifier.1.weight", "classifier.1.bias"}
    set_rates(training.optimizer, recipe, 1.0, [])
    rates = _rates(training)
    assert rates["classifier.1.weight"] == pytest.approx(0.1)
    assert rates["features.18.0.weight"] == pytest.approx(0.01)
    assert rates["features.7.conv.0.0.weight"] == pytest.approx(0.005)
    assert rates["features.0.0.weight"] == pytest.approx(0.01 * 0.5**4)


@pytest.mark.parametrize("names", [("Angry", "Happy"), ("Angry", "Happy", "Sad")])
def test_a_probe_is_the_logistic_regression_on_the_features(names: tuple[str, ...], tmp_path: Path) -> None:
    counts = {"train": dict.fromkeys(names, 8), "valid": dict.fromkeys(names, 3)}
    data = read_crops(write_export(tmp_path, counts, shots=(1, 2, 3, 4)))
    training = EmotionTraining(TINY.model_copy(update={"probe": "logistic", "epochs": 0}), data)
    body = {key: value.clone() for key, value in training.network.state_dict().items() if key.startswith("features")}
    training.start()
    assert training.network.classifier[1].out_features == len(names)
    # Brighter with each class, which any features tell apart.
    assert (training.predict(data.valid).argmax(1) == data.valid.labels).all()
    assert all(torch.equal(body[key], training.network.state_dict()[key]) for key in body)
    assert training.history[0]["epoch"] == 0
    with pytest.raises(ValidationError, match="trains nothing"):
        EmotionRecipe(epochs=0)


def test_each_view_has_a_probe_of_its_own_and_learns(data: CropData, tmp_path: Path) -> None:
    views = ("whole", "oval")
    training = EmotionTraining(TINY.model_copy(update={"probe": "logistic", "views": views}), data)
    training.start()
    last = training.network.classifier[1]
    assert last.out_features == len(views) * len(data.classes)
    before = last.weight.detach().clone()
    assert not torch.equal(before[: len(data.classes)], before[len(data.classes) :])
    assert training.predict(data.valid).shape == (len(data.valid), len(data.classes))
    training.train_epoch()
    moved = (last.weight.detach() - before).abs().amax(1) > 0
    assert moved.all()  # in an epoch each view was drawn
    training.save(tmp_path, {})
    assert json.loads((tmp_path / "meta.json").read_text())["views"] == ["whole", "oval"]


def test_frozen_stages_and_norms_stay_as_they_are(data: CropData) -> None:
    recipe = TINY.model_copy(update={"freeze": 2, "lr": 0.01})
    training = EmotionTraining(recipe, data)
    before = {key: value.clone() for key, value in training.network.state_dict().items()}
    training.train_epoch()
    after = training.network.state_dict()
    same = {key.split(".")[1] for key in before if torch.equal(before[key], after[key]) and "tracked" not in key}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"0", "1", "2", "3"} <= same
    assert all(training.layout.stage_of(key) >= 2 for key in changed)
    assert any("running_mean" in key for key in changed)
    frozen = EmotionTraining(TINY.model_copy(update={"norm": "frozen", "lr": 0.01}), data)
    frozen.train_epoch()
    after = frozen.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if "running" in key)


def test_pictures_grow_and_the_last_epochs_have_full_size() -> None:
    recipe = EmotionRecipe(size=224, start_size=128, epochs=10, grown_at=0.5)
    assert [recipe.size_at(epoch) for epoch in (0, 1, 2, 3, 4, 5, 9)] == [128, 144, 160, 176, 192, 224, 224]
    assert EmotionRecipe(size=224).size_at(0) == 224


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet18"}, "backbone"),
        ({"backbone": "inception_v3", "size": 64}, "needs at least 75 px"),
        ({"freeze": 9}, "resnet50 has 5 stages, not 9"),
        ({"start_size": 256}, "start_size is larger"),
        ({"probe_epochs": 30}, "leaves no epoch"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EmotionRecipe(**settings)  # type: ignore[arg-type]


def test_votes_are_learnt_where_there_are_any(data: CropData) -> None:
    torn = replace(
        data,
        train=CropList(data.classes, tuple(replace(c, votes={"Angry": 0.5, "Happy": 0.5}) for c in data.train.crops)),
    )
    recipe = TINY.model_copy(update={"votes": True, "lr": 0.003, "epochs": 30, "augment": "none"})
    losses = [
        [training.train_epoch() for _ in range(8)] for training in map(partial(EmotionTraining, recipe), (torn, data))
    ]
    # No network can do better on torn votes than their entropy; one label each is soon learnt by heart.
    assert min(losses[0]) >= np.log(2) - 1e-4
    assert losses[1][-1] < 0.4


def test_a_loss_that_is_no_number_says_where(data: CropData) -> None:
    training = EmotionTraining(TINY.model_copy(update={"optimizer": "sgd", "lr": 1e30}), data)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch 1, step 2 of 2; lower the recipe's lr"):
        training.train_epoch()


def test_a_network_that_gives_no_numbers_is_no_checkpoint(data: CropData) -> None:
    training = EmotionTraining(TINY.model_copy(update={"optimizer": "sgd", "lr": 1e30, "batch": 16}), data)
    assert np.isfinite(training.train_epoch()), "one step, whose loss is of before it"
    with pytest.raises(TrainingError, match=r"after epoch 1 the network gives no numbers for 8 of 8 crops; lower the"):
        training.evaluate()


def test_what_a_training_cannot_start_with_is_found_before_it_does(data: CropData, tmp_path: Path) -> None:
    training = EmotionTraining(TINY, data)
    training.save(tmp_path, training.evaluate())
    check_start(TINY, data, world=2, pretrained=tmp_path)
    with pytest.raises(UsageError, match=r"not weights of resnet50"):
        check_start(TINY.model_copy(update={"backbone": "resnet50"}), data, pretrained=tmp_path)
    with pytest.raises(UsageError, match=r"no such file; --pretrained takes"):
        check_start(TINY, data, pretrained=tmp_path / "nothing.pt")
    with pytest.raises(RecipeError, match="a batch of 8 cannot be shared by 3 workers"):
        check_start(TINY, data, world=3)
    lonely = replace(data, train=data.train.take(np.flatnonzero(data.train.labels == 0)))
    with pytest.raises(DataError, match="all training crops outside of some shots or scenes are of one class"):
        check_start(TINY.model_copy(update={"probe": "logistic"}), lonely)


def test_a_checkpoint_of_another_network_is_refused(data: CropData, tmp_path: Path) -> None:
    training = EmotionTraining(TINY, data)
    training.save(tmp_path, training.evaluate())
    with pytest.raises(RecipeError, match="another network than resnet50"):
        EmotionTraining(TINY.model_copy(update={"backbone": "resnet50"}), data).restore(tmp_path)
    with pytest.raises(RecipeError, match="a batch of 8 cannot be shared by 3 workers"):
        EmotionTraining(TINY, data, world=3)


def test_the_temperature_comes_from_predictions_of_crops_that_were_not_trained_on(
    data: CropData, tmp_path: Path
) -> None:
    training = EmotionTraining(TINY, data)
    training.save(tmp_path, training.evaluate())
    random = np.random.default_rng(0)
    tables = []
    for fold in range(2):
        inner = data.inner_fold(fold, 2)
        logits = 3 * random.normal(size=(len(inner.valid), 2)).astype(np.float32)
        tables.append(tmp_path / f"{fold}.parquet")
        Predictions(inner.valid, logits).write(tables[-1])
    meta, table = calibrate_checkpoint((tmp_path / "meta.json").read_bytes(), tables, tmp_path / "unseen.parquet")
    unseen = Predictions.read(table)
    assert sorted(crop.name for crop in unseen.crops.crops) == sorted(crop.name for crop in data.train.crops)
    found = json.loads(meta)
    assert found["temperature"] == unseen.temperature == fit_temperature(unseen.labels, unseen.logits)
    assert found["unseen_nll"]["after"] == pytest.approx(nll(unseen.labels, unseen.logits, unseen.temperature))
    assert found["unseen_nll"]["after"] < found["unseen_nll"]["before"]
    assert found["temperature_fitted_on"].startswith("16 crops of 2 training shots")
    assert found["classes"] == ["Angry", "Happy"]


def test_a_resumed_training_takes_the_same_way(tmp_path: Path) -> None:
    data = read_crops(write_export(tmp_path / "data"))
    recipe = EmotionRecipe(
        size=32, batch=8, epochs=2, optimizer="adamw", augment="face", average=0.5, balance="sqrt", shots_first=True,
        precision="fp32",
    )  # fmt: skip
    straight = EmotionTraining(recipe, data)
    losses = [straight.train_epoch(), straight.train_epoch()]
    assert all(np.isfinite(losses))

    stopped = EmotionTraining(recipe, data)
    stopped.train_epoch()
    figures = stopped.evaluate()
    stopped.save(tmp_path, figures)
    resumed = EmotionTraining(recipe, data)
    resumed.restore(tmp_path)
    assert resumed.epoch == 1
    assert resumed.train_epoch() == losses[1]
    expected, found = straight.evaluated.state_dict(), resumed.evaluated.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)

    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta["classes"] == ["Angry", "Happy"]
    assert meta["epoch"] == 1
    assert meta["recipe"]["balance"] == "sqrt"
    assert meta["data"]["train"] == {"Angry": 10, "Happy": 6}
    assert meta["valid"]["macro_f1"] == figures["macro_f1"]
    assert str(tmp_path) not in json.dumps(meta)
    assert load_file(tmp_path / "model.safetensors")["fc.weight"].shape == (2, 2048)


def test_a_checkpoint_goes_on_with_the_settings_of_the_recipe_it_is_given(tmp_path: Path) -> None:
    """As in population-based training: the state of the optimizer is the checkpoint's, its settings are not."""
    data = read_crops(write_export(tmp_path / "data"))
    recipe = EmotionRecipe(
        backbone="mobilenet_v2", size=32, batch=8, epochs=2, momentum=0.9, weight_decay=0.1, augment="none",
        precision="fp32",
    )  # fmt: skip
    first = EmotionTraining(recipe, data)
    first.train_epoch()
    first.save(tmp_path, {})
    other = EmotionTraining(recipe.model_copy(update={"momentum": 0.5, "weight_decay": 0.02}), data)
    other.restore(tmp_path)
    assert {group["momentum"] for group in other.optimizer.param_groups} == {0.5}
    assert {group["weight_decay"] for group in other.optimizer.param_groups} == {0.02}
    assert len(other.optimizer.state) == len(first.optimizer.state) > 0
    kept = next(iter(first.optimizer.state.values()))["momentum_buffer"]
    assert torch.equal(next(iter(other.optimizer.state.values()))["momentum_buffer"], kept)
