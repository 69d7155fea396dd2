"""Backbones: built by name, filled from pretrained weights, folded without a change of what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from insideout.backbones import (
    BACKBONES,
    build,
    fold_batch_norm,
    layout,
    load_pretrained,
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
    with torch.device("meta"):
        stages = [plan.stage_of(key) for key, _ in build(name, 5).named_parameters()]
    assert set(stages) == set(range(len(plan.stages) + 1))
    assert stages == sorted(stages)


@pytest.mark.parametrize("name", BACKBONES)
def test_dropout_is_before_the_last_layer_as_much_as_asked(name: str) -> None:
    with torch.device("meta"):
        assert not [m for m in build(name, 5).modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    torch.manual_seed(0)
    plan, network, seen = layout(name), build(name, 5, dropout=0.9), []
    weight = next(key for key in network.state_dict() if key.startswith(plan.head))
    network.get_submodule(weight.removesuffix(".weight")).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    pictures = torch.rand(2, 3, max(64, plan.least), max(64, plan.least))
    with torch.no_grad():
        network.train()(pictures)
        network.train()(pictures)
        network.eval()(pictures)
    one, other, evaluated = seen
    assert not torch.equal(one == 0, other == 0)
    assert (one == 0).float().mean() > 0.8
    assert (evaluated == 0).float().mean() < 0.8


def test_inception_sees_pictures_as_torchvision_gives_them_to_its_published_weights() -> None:
    from torchvision.models import inception_v3

    with torch.device("meta"):
        # As torchvision builds it with its weights: it takes the ImageNet statistics and turns them into its own.
        published = inception_v3(transform_input=True, init_weights=False)
        assert not build("inception_v3", 5).transform_input
    pictures = torch.rand(2, 3, 75, 75)
    mean, std = (torch.tensor(v)[:, None, None] for v in (layout("resnet50").mean, layout("resnet50").std))
    expected = published._transform_input((pictures - mean) / std)
    mean, std = (torch.tensor(v)[:, None, None] for v in (layout("inception_v3").mean, layout("inception_v3").std))
    assert torch.allclose((pictures - mean) / std, expected, atol=1e-5)


def test_the_last_layer_of_other_classes_is_not_taken_and_what_became_of_it_is_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = build("mobilenet_v2", 2)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    plain = tmp_path / "plain.pt"
    torch.save(source.state_dict(), plain)
    head, body = "classifier.1.weight", "features.3.conv.0.0.weight"

    def start(path: Path, classes: list[str], views: list[str]) -> tuple[bool, str]:
        network = build("mobilenet_v2", len(classes) * len(views))
        line = load_pretrained(network, "mobilenet_v2", path, classes, views)
        own, given = network.state_dict(), source.state_dict()
        assert torch.equal(own[body], given[body])
        same = own[head].shape == given[head].shape and torch.equal(own[head], given[head])
        return same, line

    (tmp_path / "meta.json").write_text(json.dumps({"classes": ["Angry", "Happy"]}))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert start(path, ["Angry", "Happy"], ["whole"]) == (True, "all layers, the last one too")
        assert start(path, ["Cat", "Dog"], ["whole"]) == (
            False, "all but the last layer, which is of Angry, Happy and starts at random",
        )  # fmt: skip
    assert start(tmp_path, ["Angry", "Happy"], ["whole", "oval"])[0] is False
    (tmp_path / "meta.json").write_text(json.dumps({"classes": ["Angry"], "views": ["whole", "inner"]}))
    assert start(tmp_path, ["Angry", "Happy"], ["whole"]) == (
        False, "all but the last layer, which is of Angry seen whole, inner and starts at random",
    )  # fmt: skip
    assert start(plain, ["Cat", "Dog"], ["whole"]) == (
        True, "all layers, the last one too: it has 2 outputs, and nothing says of which classes",
    )  # fmt: skip
    assert start(plain, ["Cat", "Cow", "Dog"], ["whole"]) == (
        False, "all but the last layer, which has 2 outputs, not 3, and starts at random",
    )  # fmt: skip
    torch.save({key: value for key, value in source.state_dict().items() if not key.startswith("classifier.")}, plain)
    assert start(plain, ["Cat", "Dog"], ["whole"]) == (
        False, "all but the last layer, which is not in it and starts at random",
    )  # fmt: skip
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(UsageError, match=r"meta\.json: does not say its classes"):
        start(tmp_path, ["Angry", "Happy"], ["whole"])


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
    other = build("efficientnet_lite0", 5)
    assert start_from(other, "efficientnet_lite0", read_weights(path), "x") == ["classifier.weight", "classifier.bias"]
    assert load_pretrained(other, "efficientnet_lite0", path, list("abcde")) == (
        "all but the last layer, which has 1000 outputs, not 5, and starts at random"
    )
