from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from insideout.errors import RecipeError, UsageError
from insideout.recipes.augment import FaceAugmentation, augment
from insideout.recipes.crops import read_crops
from insideout.recipes.emotion import EmotionRecipe, EmotionTraining, build_resnet50, read_weights, start_from
from insideout.recipes.scores import fit_temperature, scores
from tests.exports import write_export

STILL = FaceAugmentation(
    mirror=0, degrees=0, zoom=1, shift=0, stretch=0, light=0, contrast=0, saturation=0, hue=0, grey=0, erase=0
)


def _pictures(n: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_augmentation_without_strength_changes_nothing() -> None:
    found = augment(_pictures(), 32, "face", STILL)
    assert torch.allclose(found, _pictures().float() / 255, atol=1e-3)
    assert torch.equal(augment(_pictures(), 32, "none", STILL), _pictures().float() / 255)


def test_mirror_and_grey_do_what_they_say() -> None:
    mirrored = augment(_pictures(), 32, "face", STILL.model_copy(update={"mirror": 1.0}))
    assert torch.allclose(mirrored, _pictures().flip(3).float() / 255, atol=1e-3)
    grey = augment(_pictures(), 32, "face", STILL.model_copy(update={"grey": 1.0}))
    assert (grey.amax(1) - grey.amin(1)).max() < 0.02


@pytest.mark.parametrize("preset", ["face", "auto"])
def test_augmentation_is_seeded_and_stays_in_range(preset: str) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        found.append(augment(_pictures(6, 40), 40, preset, FaceAugmentation()))  # type: ignore[arg-type]
    assert torch.equal(found[0], found[1])
    assert found[0].shape == (6, 3, 40, 40)
    assert found[0].min() >= 0
    assert found[0].max() <= 1
    assert not torch.allclose(found[0], _pictures(6, 40).float() / 255, atol=0.05)


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
    bundled = EmotionRecipe.read(root / "configs" / "emotion-bbb.yaml")
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


def test_pretrained_weights_fill_all_but_a_last_layer_of_another_size(tmp_path: Path) -> None:
    source = build_resnet50(7)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "plain.pt"):
        network = build_resnet50(5)
        assert start_from(network, read_weights(path), "x") == ["fc.weight", "fc.bias"]
        assert torch.equal(network.layer3[0].conv1.weight, source.layer3[0].conv1.weight)
    assert start_from(build_resnet50(7), read_weights(tmp_path), "x") == []


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    network = build_resnet50(5)
    with pytest.raises(UsageError, match=r"conv1\.weight is \[1\]"):
        start_from(network, {"conv1.weight": torch.zeros(1)}, "x.pt")
    with pytest.raises(UsageError, match="tensors are missing"):
        start_from(network, {"fc.bias": torch.zeros(5)}, "x.pt")
    with pytest.raises(UsageError, match="no such file"):
        read_weights(tmp_path / "absent.pt")
    torch.save(build_resnet50(2), tmp_path / "pickled.pt")  # a whole object: would run code when loaded
    with pytest.raises(UsageError, match="plain weights"):
        read_weights(tmp_path / "pickled.pt")


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
