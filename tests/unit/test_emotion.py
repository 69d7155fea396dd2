from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from insideout.emotion import EmotionClassifier
from insideout.errors import PackError, UsageError
from insideout.packs import EmotionSpec
from insideout.views import show

CLASSES = ("Afraid", "Angry", "Happy")
SIZE = 48


def _noise(n: int) -> np.ndarray:
    """Pictures of a few colours each, so that they differ after averaging too."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (n, 3, 3, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(SIZE // 3, 1).repeat(SIZE // 3, 2))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EmotionSpec:
    torch.manual_seed(0)
    network = torchvision.models.resnet50(num_classes=len(CLASSES))
    # As if trained: batch norm knows what comes in.
    pictures = torch.from_numpy(_noise(32)).permute(0, 3, 1, 2).float() / 64 - 2
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network.train()(pictures)
        network.fc.weight *= 0.25
    path = tmp_path_factory.mktemp("weights") / "emotion.safetensors"
    save_file({k: v.half() if v.ndim >= 2 else v for k, v in network.state_dict().items()}, path)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return EmotionSpec(
        "resnet50", path, "", SIZE, ("whole",), CLASSES, "head", 0.08, mean, std, 1.0, 0.4
    )  # fmt: skip


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return _noise(21)


def test_probabilities_are_those_of_the_plain_network(spec: EmotionSpec, crops: np.ndarray) -> None:
    network = torchvision.models.resnet50(num_classes=len(CLASSES)).eval()
    network.load_state_dict({k: v.float() for k, v in load_file(spec.weights).items()}, strict=True)
    pictures = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.mean, spec.std))
    with torch.inference_mode():
        expected = network((pictures - mean) / std).softmax(1).numpy()
    found = EmotionClassifier(spec).classify(crops)
    assert found.dtype == np.float32
    assert found.shape == (21, 3)
    assert found.sum(1) == pytest.approx(np.ones(21), abs=1e-6)
    assert expected.std(0).max() > 0.02  # the crops differ, or this would show nothing
    # bfloat16 where the processor has it: eight bits of mantissa through fifty layers.
    assert np.abs(found - expected).max() < 0.08
    assert np.abs(found - expected).mean() < 0.02


@pytest.mark.parametrize("chunk", [1, 8])
def test_a_crop_does_not_depend_on_its_company(spec: EmotionSpec, crops: np.ndarray, chunk: int) -> None:
    classifier = EmotionClassifier(spec)
    assert classifier.chunk == 1
    classifier.chunk = chunk  # 8 is what a GPU takes
    together = classifier.classify(crops)
    alone = np.concatenate([classifier.classify(crop[None]) for crop in crops])
    assert np.array_equal(together, alone)
    assert np.array_equal(classifier.classify(crops[::-1])[::-1], together)


def test_no_crops_give_no_rows(spec: EmotionSpec) -> None:
    found = EmotionClassifier(spec).classify(np.zeros((0, SIZE, SIZE, 3), np.uint8))
    assert found.shape == (0, 3)
    assert found.dtype == np.float32


def test_temperature_flattens_and_keeps_the_order(spec: EmotionSpec, crops: np.ndarray) -> None:
    sharp = EmotionClassifier(spec).classify(crops)
    soft = EmotionClassifier(replace(spec, temperature=3.0)).classify(crops)
    assert np.array_equal(sharp.argmax(1), soft.argmax(1))
    assert (soft.max(1) < sharp.max(1)).all()
    expected = np.log(sharp.astype(np.float64)) / 3
    expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    assert soft == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, SIZE, SIZE + 1, 3), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((2, SIZE, SIZE, 3), np.float32),
    ],
)
def test_other_crops_are_refused(spec: EmotionSpec, wrong: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"uint8 \[n, 48, 48, 3\]"):
        EmotionClassifier(spec).classify(wrong)


def test_weights_that_do_not_fit_are_named(spec: EmotionSpec, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"fc\.weight is \[3, 2048\].*\[4, 2048\]"):
        EmotionClassifier(replace(spec, classes=(*CLASSES, "Neutral")))
    state = load_file(spec.weights)
    conv = state.pop("conv1.weight")
    save_file(state, tmp_path / "missing.safetensors")
    with pytest.raises(PackError, match=r"conv1\.weight is missing"):
        EmotionClassifier(replace(spec, weights=tmp_path / "missing.safetensors"))
    save_file({**state, "conv1.weight": conv, "more": conv.clone()}, tmp_path / "more.safetensors")
    with pytest.raises(PackError, match="such as more"):
        EmotionClassifier(replace(spec, weights=tmp_path / "more.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(spec.weights.read_bytes()[:1000])
    with pytest.raises(PackError, match="not readable"):
        EmotionClassifier(replace(spec, weights=tmp_path / "cut.safetensors"))


def test_a_pack_with_views_gives_the_mean_over_them(spec: EmotionSpec, crops: np.ndarray, tmp_path: Path) -> None:
    views = replace(spec, views=("whole", "oval"), weights=tmp_path / "views.safetensors")
    state = load_file(spec.weights)
    # The same outputs for both views, the second ones lifted for one class.
    lift = torch.tensor([0.0, 2.0, 0.0])
    state |= {"fc.weight": state["fc.weight"].repeat(2, 1), "fc.bias": torch.cat([state["fc.bias"]] * 2)}
    save_file(state | {"fc.bias": state["fc.bias"] + torch.cat([lift * 0, lift])}, views.weights)
    classifier = EmotionClassifier(views)
    found = classifier.logits(crops)
    pictures = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    ovals = (show(pictures, "oval") * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    plain = EmotionClassifier(spec)
    expected = (plain.logits(crops) + plain.logits(ovals) + lift.numpy()) / 2
    assert np.abs(found - expected).max() < 0.08
    assert np.array_equal(np.concatenate([classifier.logits(crop[None]) for crop in crops]), found)
    with pytest.raises(PackError, match=r"fc\.weight is \[3, 2048\]"):
        EmotionClassifier(replace(spec, views=("whole", "oval")))
