"""Backbones: built by name, filled from pretrained weights, folded without a change of what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from insideout.backbones import (
    BACKBONES,
    build,
    fold_batch_norm,
    layout,
    published_weights,
    read_weights,
    start_from,
)  # fmt: skip
from insideout.errors import UsageError


@pytest.mark.parametrize("name", BACKBONES)
def test_folding_batch_norm_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 5).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # As if trained: a fresh batch norm is the identity, which any mistake would keep.
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    pictures = torch.randn(2, 3, max(64, layout(name).least), max(64, layout(name).least))
    with torch.inference_mode():
        expected = network(pictures)
        found = fold_batch_norm(network)(pictures)
    assert expected.shape == (2, 5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_tensor_has_its_stage_in_the_order_of_the_network(name: str) -> None:
    plan = layout(name)
    stages = [plan.stage_of(key) for key, _ in build(name, 5).named_parameters()]
    assert set(stages) == set(range(len(plan.stages) + 1))
    assert stages == sorted(stages)


def test_pretrained_weights_fill_all_but_a_last_layer_of_another_size(tmp_path: Path) -> None:
    source = build("resnet50", 7)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "plain.pt"):
        network = build("resnet50", 5)
        assert start_from(network, "resnet50", read_weights(path), "x") == ["fc.weight", "fc.bias"]
        assert torch.equal(network.layer3[0].conv1.weight, source.layer3[0].conv1.weight)
    assert start_from(build("resnet50", 7), "resnet50", read_weights(tmp_path), "x") == []


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    network = build("resnet50", 5)
    with pytest.raises(UsageError, match=r"conv1\.weight is \[1\]"):
        start_from(network, "resnet50", {"conv1.weight": torch.zeros(1)}, "x.pt")
    with pytest.raises(UsageError, match="tensors are missing"):
        start_from(network, "resnet50", {"fc.bias": torch.zeros(5)}, "x.pt")
    with pytest.raises(UsageError, match="not weights of mobilenet_v2"):
        start_from(build("mobilenet_v2", 5), "mobilenet_v2", network.state_dict(), "x.pt")
    with pytest.raises(UsageError, match="no such file"):
        read_weights(tmp_path / "absent.pt")
    torch.save(build("mobilenet_v2", 2), tmp_path / "pickled.pt")  # a whole object: would run code when loaded
    with pytest.raises(UsageError, match="plain weights"):
        read_weights(tmp_path / "pickled.pt")
    with pytest.raises(UsageError, match="unknown backbone 'resnet51'; choose from resnet50"):
        build("resnet51", 5)


def test_the_installed_imagenet_weights_know_a_picture(tmp_path: Path) -> None:
    path = published_weights("efficientnet_lite0", "imagenet", tmp_path)
    network = build("efficientnet_lite0", 1000).eval()
    assert start_from(network, "efficientnet_lite0", read_weights(path), str(path)) == []
    from sklearn.datasets import load_sample_image

    picture = torch.from_numpy(load_sample_image("flower.jpg").copy())[100:324, 200:424].permute(2, 0, 1)[None]
    with torch.inference_mode():
        best = network(picture / 127.5 - 1).softmax(1)[0].topk(3).indices.tolist()
    assert 985 in best or 308 in best or 986 in best  # daisy, fly on a flower, lady's slipper
    assert start_from(build("efficientnet_lite0", 5), "efficientnet_lite0", read_weights(path), "x") == [
        "classifier.weight", "classifier.bias",
    ]  # fmt: skip
