"""Recipes of every network: what each can be asked for, and one step of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from insideout.backbones import BACKBONES, layout
from insideout.errors import RecipeError
from insideout.packing import PackRecipe
from insideout.recipes.base import Recipe
from insideout.recipes.crops import read_crops
from insideout.recipes.emotion import EmotionTraining
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.segmenter_recipe import SegmenterRecipe
from tests.exports import write_export
from tune.space import Space

KINDS: dict[str, type[Recipe] | type[Space]] = {
    "emotion": EmotionRecipe, "segmenter": SegmenterRecipe, "pack": PackRecipe, "space": Space,
}  # fmt: skip


def test_every_recipe_in_configs_can_be_read(root: Path) -> None:
    files = {path.stem: path for path in (root / "configs").glob("*.yaml") if path.stem.split("-")[0] in KINDS}
    assert {"emotion-modern", "emotion-student", "segmenter-bbb", "pack-bbb", "space-emotion"} <= set(files)
    found = {name: KINDS[name.split("-")[0]].read(path) for name, path in files.items()}
    modern = found["emotion-modern"]
    assert isinstance(modern, EmotionRecipe)
    assert (modern.backbone, modern.probe_epochs, modern.augment, modern.face.grey) == ("resnet50", 2, "trivial", 0.2)
    for path in files.values():
        command = path.read_text().splitlines()[0]
        assert command.startswith("# insideout ")
        assert f"configs/{path.name}" in command


@pytest.mark.parametrize("name", BACKBONES)
def test_pictures_have_the_size_that_the_published_weights_were_made_for(name: str) -> None:
    expected = 299 if name == "inception_v3" else 224
    assert EmotionRecipe.from_yaml(f"backbone: {name}", "x").size == expected
    assert EmotionRecipe.from_yaml(f"backbone: {name}\nsize: 96", "x").size == 96


@pytest.mark.parametrize("name", BACKBONES)
def test_stochastic_depth_is_refused_where_a_network_has_none(name: str) -> None:
    text = f"backbone: {name}\ndropout: 0.2\ndrop_path: 0.1"
    if name in ("convnext_tiny", "efficientnet_lite0"):
        assert EmotionRecipe.from_yaml(text, "x").drop_path == 0.1
    else:
        with pytest.raises(RecipeError, match=rf"drop_path: {name} has no .*; convnext_tiny, efficientnet_lite0 have"):
            EmotionRecipe.from_yaml(text, "x")


@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_learns_from_its_first_step(name: str, tmp_path: Path) -> None:
    data = read_crops(write_export(tmp_path, {"train": {"A": 1, "B": 1}, "valid": {"A": 1, "B": 1}}))
    least = layout(name).least
    recipe = EmotionRecipe(
        backbone=name, size=max(32, least), batch=2, epochs=1, lr=0.01, momentum=0, dropout=0.1, augment="none",
        precision="fp32",
    )  # fmt: skip
    training = EmotionTraining(recipe, data)
    names = [key for key, _ in training.network.named_parameters()]
    first, last = (training.network.get_parameter(names[i]) for i in (0, -2))
    before = first.detach().clone(), last.detach().clone()
    assert np.isfinite(training.train_epoch())
    for parameter, old in zip((first, last), before, strict=True):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0
        assert not torch.equal(parameter, old)
    assert training.layout.stage_of(names[0]) == 0
    assert training.layout.stage_of(names[-2]) == len(training.layout.stages)
    assert training.evaluate()["crops"] == 2
