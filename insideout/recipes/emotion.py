"""Train a ResNet50 on crops sorted by emotion; the parts that know nothing of Ray.

One object, `EmotionTraining`, holds the network, its optimizer and the data; a loop around it calls
`train_epoch`, `evaluate` and `save`. Every epoch is seeded by its number, so a training that was
resumed takes the same way as one that was not.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from pydantic import Field
from torch import Tensor, nn

from insideout.errors import TrainingError, UsageError
from insideout.precision import Precision, use_bf16
from insideout.recipes.augment import HEADROOM, FaceAugmentation, Preset, augment
from insideout.recipes.base import Recipe
from insideout.recipes.crops import Balance, CropData, CropLoader, epoch_order
from insideout.recipes.scores import fit_temperature, nll, scores

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

#: Names for `--pretrained` that fetch torchvision's own weights.
TORCHVISION_WEIGHTS = {"imagenet": "IMAGENET1K_V2", "imagenet-v1": "IMAGENET1K_V1"}

Wrap = Callable[[nn.Module], nn.Module]


class EmotionRecipe(Recipe):
    """How an emotion classifier is trained. The defaults are the student project's recipe."""

    classes: list[str] | None = None
    """Classes to use; without it all folders of the export."""
    size: int = Field(224, ge=32)
    batch: int = Field(32, ge=2)
    epochs: int = Field(30, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.001, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["step", "cosine"] = "step"
    step_epochs: int = Field(7, ge=1)
    step_gamma: float = Field(0.1, gt=0, le=1)
    warmup_epochs: float = Field(0.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights that is evaluated and saved; 0 is none."""
    balance: Balance = "none"
    shots_first: bool = False
    augment: Preset = "auto"
    face: FaceAugmentation = FaceAugmentation()
    precision: Precision = "auto"
    seed: int = Field(0, ge=0)

    def learning_rate(self, epoch: float) -> float:
        """Learning rate at a point of the training, in epochs since its start."""
        if epoch < self.warmup_epochs:
            return self.lr * max(epoch, 0.01) / self.warmup_epochs
        if self.schedule == "step":
            return self.lr * self.step_gamma ** (int(epoch) // self.step_epochs)
        done = (epoch - self.warmup_epochs) / max(1e-9, self.epochs - self.warmup_epochs)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def build_resnet50(classes: int) -> nn.Module:
    """A ResNet50 with random weights; each residual branch starts as zero, which trains faster from scratch."""
    return torchvision.models.resnet50(num_classes=classes, zero_init_residual=True)  # type: ignore[no-any-return]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors, a .pt (weights only) or a checkpoint folder. Raises UsageError."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{file}: no such file; --pretrained takes weights (.safetensors, .pt) or 'imagenet'")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own
        raise UsageError(f"{file}: not readable as plain weights ({type(error).__name__}: {error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{file}: holds no state dict; save one with torch.save(model.state_dict(), ...)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def start_from(network: nn.Module, weights: dict[str, Tensor], where: str) -> list[str]:
    """Copy pretrained weights into the network; the last layer stays random where its shape differs.

    Returns the names of the tensors left out. Raises UsageError when the rest does not fit.
    """
    own = network.state_dict()
    left_out: list[str] = [
        key for key in ("fc.weight", "fc.bias") if key in weights and weights[key].shape != own[key].shape
    ]
    fitting = {key: value for key, value in weights.items() if key not in left_out}
    for key, value in fitting.items():
        if key not in own or own[key].shape != value.shape:
            expected = list(own[key].shape) if key in own else "nothing of that name"
            raise UsageError(f"{where}: not a ResNet50: {key} is {list(value.shape)}, expected {expected}")
    missing = [key for key in own if key not in fitting and not key.startswith("fc.") and "num_batches" not in key]
    if missing:
        raise UsageError(f"{where}: not a ResNet50: {len(missing)} tensors are missing, such as {missing[0]}")
    network.load_state_dict(fitting, strict=False)
    return left_out


def fetch_torchvision_weights(name: str, out: Path) -> Path:
    """Download torchvision's ImageNet weights, check their digest, and return a local file in `out`.

    Only called when the user asks by name. Raises UsageError when they cannot be fetched.
    """
    choice = torchvision.models.ResNet50_Weights[TORCHVISION_WEIGHTS[name]]
    path = out / f"{name}.pt"
    if not path.is_file():
        print(f"fetching {choice.url} (torchvision {choice.name})", flush=True)
        try:
            state = choice.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"{choice.url}: cannot be fetched ({error}); give --pretrained a local file, or train without"
            ) from error
        out.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return path


class EmotionTraining:
    """A network under training, with its optimizer and data.

    `wrap` puts the network on its device and, with several workers, into DDP. Worker `rank` of
    `world` sees its share of each epoch. `pretrained` is a local file or checkpoint folder.
    """

    def __init__(
        self,
        recipe: EmotionRecipe,
        data: CropData,
        *,
        device: str = "cpu",
        wrap: Wrap | None = None,
        rank: int = 0,
        world: int = 1,
        pretrained: Path | None = None,
        threads: int = 2,
    ) -> None:
        self.recipe, self.data, self.device, self.rank, self.world = recipe, data, device, rank, world
        self.pretrained = pretrained.name if pretrained else None
        self.epoch = 0
        self.bf16 = use_bf16(recipe.precision, device)
        _seed(recipe.seed, 0, 0)
        network = build_resnet50(len(data.classes))
        if pretrained is not None:
            start_from(network, read_weights(pretrained), str(pretrained))
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = wrap(network) if wrap else network
        self.network: nn.Module = network
        self.average = (
            torch.optim.swa_utils.AveragedModel(
                network,
                multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if recipe.average
            else None
        )
        self.optimizer = _optimizer(network, recipe)
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        headroom = HEADROOM[recipe.augment]
        self.train_loader = CropLoader(data.train, round(recipe.size * headroom), threads=threads)
        self.valid_loader = CropLoader(data.valid, recipe.size, threads=threads)

    def train_epoch(self) -> float:
        """Train one epoch and return its mean loss on this worker. Raises TrainingError when it diverges."""
        recipe = self.recipe
        _seed(recipe.seed, self.epoch + 1, self.rank)
        order = epoch_order(
            self.data.train, recipe.balance, recipe.shots_first, recipe.seed, self.epoch, self.rank, self.world
        )
        # The last batch is dropped when it is too small for batch norm to mean anything.
        starts = [i for i in range(0, len(order), recipe.batch) if len(order) - i >= min(8, len(order))]
        self.model.train()
        total = 0.0
        for step, start in enumerate(starts):
            rate = recipe.learning_rate(self.epoch + step / len(starts))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            pictures, labels = self.train_loader.load(order[start : start + recipe.batch])
            batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.device)
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
                logits = self.model(_normalise(augment(batch, recipe.size, recipe.augment, recipe.face)))
            loss = self.loss(logits.float(), torch.from_numpy(labels).to(self.device))
            if not torch.isfinite(loss):
                raise TrainingError(f"epoch {self.epoch + 1}: the loss is {loss.item()}; lower the recipe's lr")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.network)
            total += loss.item()
        self.epoch += 1
        return total / len(starts)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved: the average of the weights where there is one."""
        return self.average.module if self.average is not None else self.network

    def evaluate(self) -> dict[str, Any]:
        """Scores on the valid split, with the temperature fitted on it and the NLL at that temperature."""
        network = self.evaluated.eval()
        logits = []
        with torch.inference_mode(), torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            for start in range(0, len(self.data.valid), 32):
                pictures, _ = self.valid_loader.load(range(start, min(start + 32, len(self.data.valid))))
                batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.device)
                logits.append(network(_normalise(batch.float() / 255)).float().cpu())
        found = torch.cat(logits).numpy()
        labels = self.data.valid.labels
        temperature = fit_temperature(labels, found)
        return scores(labels, found, self.data.classes) | {
            "temperature": temperature,
            "nll_at_temperature": nll(labels, found, temperature),
        }

    def save(self, folder: Path, figures: dict[str, Any]) -> None:
        """Write model.safetensors, meta.json and state.pt (what `restore` needs) into a folder."""
        from safetensors.torch import save_file

        state = {key: value.detach().cpu().contiguous() for key, value in self.evaluated.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "meta.json").write_text(json.dumps(self.meta(figures), indent=1) + "\n")
        torch.save(
            {
                "epoch": self.epoch,
                "network": self.network.state_dict(),
                "average": self.average.state_dict() if self.average is not None else None,
                "optimizer": self.optimizer.state_dict(),
            },
            folder / "state.pt",
        )

    def restore(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote."""
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.epoch = int(state["epoch"])

    def meta(self, figures: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint says about itself; plain data for JSON."""
        return {
            "schema": 1,
            "architecture": "resnet50",
            "classes": list(self.data.classes),
            "size": self.recipe.size,
            "mean": list(MEAN),
            "std": list(STD),
            "epoch": self.epoch,
            "pretrained": self.pretrained,
            "temperature": figures["temperature"],
            "temperature_fitted_on": "valid, which also chose the epoch: not calibrated on unseen data",
            "valid": figures,
            "data": self.data.summary() | {"digest": self.data.digest()},
            "recipe": self.recipe.model_dump(mode="json"),
            "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        }


def _normalise(pictures: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN, device=pictures.device), torch.tensor(STD, device=pictures.device)
    return ((pictures - mean[:, None, None]) / std[:, None, None]).contiguous(memory_format=torch.channels_last)


def _seed(seed: int, epoch: int, rank: int) -> None:
    value = seed * 1_000_003 + epoch * 1_009 + rank
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def _optimizer(network: nn.Module, recipe: EmotionRecipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    # Scales and biases are not decayed: they hold no capacity to rein in.
    groups = [
        {"params": [p for p in network.parameters() if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr)
