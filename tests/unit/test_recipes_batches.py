from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from insideout.backbones import layout
from insideout.recipes.augment import augment
from insideout.recipes.augmentation import FaceAugmentation, Preset
from insideout.recipes.batches import Batches
from insideout.recipes.crops import CropData, read_crops
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.optimizer import build_optimizer, set_rates
from tests.exports import write_export


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CropData:
    names = ("Angry", "Happy", "Sad")
    counts = {"train": dict.fromkeys(names, 7), "valid": dict.fromkeys(names, 2)}
    return read_crops(write_export(tmp_path_factory.mktemp("crops"), counts))


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.4}, {"mixup": 0.4, "votes": True, "views": ["whole", "oval"]}])
def test_workers_share_the_batches_of_one(data: CropData, settings: dict[str, object]) -> None:
    recipe = EmotionRecipe(size=32, batch=8, augment="face", **settings)
    alone = list(Batches(recipe, data.train).epoch(1, "cpu"))
    shared = [list(Batches(recipe, data.train, rank=rank, world=2).epoch(1, "cpu")) for rank in (0, 1)]
    assert len(alone) == 2  # 21 crops: the last five are too few for a batch
    for whole, *parts in zip(alone, *shared, strict=True):
        assert {part.of for part in parts} == {whole.of}
        for rank, part in enumerate(parts):
            assert torch.equal(part.pictures, whole.pictures[rank::2])
            assert torch.equal(part.targets, whole.targets[rank::2])
            assert torch.equal(part.views, whole.views[rank::2])


def test_mixup_mixes_pictures_and_targets_by_the_same_share(data: CropData) -> None:
    plain = EmotionRecipe(size=32, batch=8, augment="none", epochs=1)
    before = next(Batches(plain, data.train).epoch(0, "cpu"))
    mixed = next(Batches(plain.model_copy(update={"mixup": 1.0}), data.train).epoch(0, "cpu"))
    assert mixed.targets.sum(1).tolist() == pytest.approx([1.0] * 8)
    labels = nn.functional.one_hot(before.targets, 3).float()
    shares = []
    for i in range(8):
        j = (i + 1) % 8
        apart = before.pictures[i] - before.pictures[j]
        share = ((mixed.pictures[i] - before.pictures[j]) * apart).sum() / (apart**2).sum()
        expected = torch.lerp(labels[j], labels[i], share)
        assert mixed.targets[i].tolist() == pytest.approx(expected.tolist(), abs=1e-3)
        shares.append(float(share))
    assert max(shares) - min(shares) > 0.2


@pytest.mark.parametrize("preset", get_args(Preset))
def test_every_preset_gives_pictures_and_is_repeatable(preset: Preset) -> None:
    pictures = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = augment(pictures, 32, preset, FaceAugmentation(), [4, 5, 6])
    assert found.shape == (3, 3, 32, 32)
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(found, augment(pictures, 32, preset, FaceAugmentation(), [4, 5, 6]))
    if preset != "none":
        assert not torch.equal(found, augment(pictures, 32, preset, FaceAugmentation(), [7, 8, 9]))


@pytest.mark.parametrize("preset", ["rand", "augmix", "face"])
def test_magnitude_makes_presets_stronger(preset: Preset) -> None:
    smooth = torch.linspace(40, 200, 64).byte().expand(16, 3, 64, 64)
    still = FaceAugmentation(mirror=0)
    base = augment(smooth, 64, "none", still, range(16))

    def change(magnitude: float) -> float:
        return float((augment(smooth, 64, preset, still, range(16), magnitude) - base).abs().mean())

    assert change(0.3) < change(2.0)


def test_each_optimizer_gets_its_own_settings() -> None:
    class Net(nn.Module):
        """A stem, a stage and a head, named as ResNet50 names them."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 1)
            self.layer4 = nn.Conv2d(4, 4, 1)
            self.fc = nn.Linear(4, 2)

    def groups(**settings: object) -> torch.optim.Optimizer:
        recipe = EmotionRecipe(lr=0.1, layer_decay=0.5, head_lr=0.7, weight_decay=0.01, **settings)
        optimizer = build_optimizer(recipe, layout("resnet50"), Net())
        set_rates(optimizer, recipe, 0.0, [])
        return optimizer

    sgd = groups(momentum=0.8, nesterov=True)
    assert isinstance(sgd, torch.optim.SGD)
    assert {(g["momentum"], g["nesterov"]) for g in sgd.param_groups} == {(0.8, True)}
    rms = groups(optimizer="rmsprop", smoothing=0.95, momentum=0.5)
    assert isinstance(rms, torch.optim.RMSprop)
    assert {(g["alpha"], g["momentum"]) for g in rms.param_groups} == {(0.95, 0.5)}
    adam = groups(optimizer="adam", beta1=0.8, beta2=0.9)
    assert type(adam) is torch.optim.Adam
    assert {g["betas"] for g in adam.param_groups} == {(0.8, 0.9)}
    adamw = groups(optimizer="adamw")
    assert isinstance(adamw, torch.optim.AdamW)
    # Rates: the head its own, the last stage the full one, the stem four stages earlier a sixteenth.
    assert sorted({g["lr"] for g in adamw.param_groups}) == pytest.approx([0.1 / 16, 0.1, 0.7])
    assert {g["weight_decay"] for g in adamw.param_groups} == {0.0, 0.01}
