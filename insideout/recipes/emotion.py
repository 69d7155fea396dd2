"""Train an emotion classifier on labelled crops; the parts that know nothing of Ray.

One object, `EmotionTraining`, holds the network, its optimizer and the data; a loop around it calls
`train_epoch`, `evaluate` and `save`. Every epoch is seeded by its number and every picture by its
place in it, so a training takes the same way when it was resumed, and with one worker or several.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import Tensor, nn

from insideout.backbones import build, layout, load_pretrained
from insideout.datasets.labelled import CropList
from insideout.errors import DataError, RecipeError, TrainingError
from insideout.evaluation.predictions import Predictions
from insideout.precision import use_bf16
from insideout.recipes.batches import Batches
from insideout.recipes.crops import CropData, CropLoader, class_weights
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.optimizer import build_optimizer, set_rates
from insideout.recipes.probe import check_probe, fit_last_layer, last_layer
from insideout.recipes.scores import scores
from insideout.recipes.synced_norm import sync_batch_norm
from insideout.views import View, see, show

Wrap = Callable[[nn.Module], nn.Module]


def check_start(
    recipe: EmotionRecipe,
    data: CropData,
    *,
    folds: Sequence[CropData] = (),
    world: int = 1,
    pretrained: Path | None = None,
) -> str:
    """Find what a training, and those on its `folds`, cannot start with, before any worker does.

    Says in words what it starts from. Raises RecipeError for a batch that `world` workers cannot share,
    DataError where the probe has too few scenes or crops of a class, UsageError for weights that are
    not there or do not fit.
    """
    _check_batch(recipe, world)
    if recipe.probe != "none":
        for part in (data, *folds):
            check_probe(part.train, recipe.seed)
    return _build(recipe, data, pretrained)[1]


def _check_batch(recipe: EmotionRecipe, world: int) -> None:
    if recipe.batch % world:
        raise RecipeError(f"a batch of {recipe.batch} cannot be shared by {world} workers; make it a multiple")


def _build(recipe: EmotionRecipe, data: CropData, pretrained: Path | None) -> tuple[nn.Module, str]:
    outputs = len(data.classes) * len(recipe.views)
    network = build(recipe.backbone, outputs, dropout=recipe.dropout, drop_path=recipe.drop_path)
    if pretrained is None:
        return network, "all layers start at random"
    taken = load_pretrained(network, recipe.backbone, pretrained, data.classes, recipe.views)
    return network, f"{pretrained.name}: {taken}"


class EmotionTraining:
    """A network under training, with its optimizer and data.

    `wrap` puts the network on its device and, with several workers, into DDP. Worker `rank` of
    `world` sees its share of each batch. `pretrained` is a local file or checkpoint folder. Raises
    RecipeError for a batch that cannot be shared, UsageError for weights that do not fit.
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
        _check_batch(recipe, world)
        self.recipe, self.data, self.device, self.rank, self.world = recipe, data, device, rank, world
        self.pretrained = pretrained.name if pretrained else None
        self.epoch = 0
        self.layout = layout(recipe.backbone)
        self.bf16 = use_bf16(recipe.precision, device)
        _seed(recipe.seed, 0, 0)
        network, _ = _build(recipe, data, pretrained)
        if world > 1 and recipe.norm == "train":
            network = sync_batch_norm(network, device)
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(self.layout.stage_of(name) >= recipe.freeze)
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
        self.optimizer = build_optimizer(recipe, self.layout, network)
        weights = class_weights(data.train, recipe.class_weights or "none")
        self.loss = nn.CrossEntropyLoss(
            torch.from_numpy(weights).to(device) if recipe.class_weights else None,
            label_smoothing=recipe.label_smoothing,
            reduction="sum",
        )
        self.batches = Batches(recipe, data.train, rank=rank, world=world, threads=threads)
        self.threads = threads
        self.predicted: Predictions | None = None
        self.history: list[dict[str, float]] = []

    def start(self) -> None:
        """What comes before the first epoch, on every worker alike: the probe, where the recipe has one.

        Raises DataError where there are too few scenes or crops of a class for a probe.
        """
        if self.recipe.probe == "none":
            return
        loader = CropLoader(self.data.train, self.recipe.size, threads=self.threads, cache_bytes=0)

        for index, view in enumerate(self.recipe.views):

            def load(indices: npt.NDArray[np.int64], view: View = view) -> Tensor:
                pictures = torch.from_numpy(loader.load(indices)).permute(0, 3, 1, 2).to(self.device)
                return self._normalise(show(pictures.float() / 255, view))

            fit_last_layer(self.network, self.layout, self.data.train, load, index, self.recipe.seed)
        if self.world > 1:
            # Each worker has fitted for itself: where GPUs differ, so do the results, and DDP takes them as alike.
            for parameter in last_layer(self.network, self.layout).parameters():
                torch.distributed.broadcast(parameter.data, 0)
        if self.average is not None:
            self.average.module.load_state_dict(self.network.state_dict())
        if self.recipe.epochs == 0:
            votes = torch.from_numpy(self.data.train.labels)
            loss = nn.functional.cross_entropy(torch.from_numpy(self.predict(self.data.train)), votes)
            self.history.append({"epoch": 0, "loss": loss.item()})

    def train_epoch(self) -> float:
        """Train one epoch and return its mean loss over all workers.

        Raises TrainingError, which names the step, when the loss is not a finite number.
        """
        _seed(self.recipe.seed, self.epoch + 1, self.rank)
        losses = [entry["loss"] for entry in self.history]
        self._train_mode()
        total, seen = 0.0, 0
        for step, batch in enumerate(self.batches.epoch(self.epoch, self.device)):
            set_rates(self.optimizer, self.recipe, self.epoch + batch.at, losses)
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
                logits = self.model(self._normalise(batch.pictures))
            own = torch.arange(len(batch.views), device=self.device)
            logits = logits.unflatten(1, (len(self.recipe.views), -1))[own, batch.views]
            # DDP takes the mean over workers, whose shares of a batch may differ by one crop.
            summed = self.loss(logits.float(), batch.targets)
            loss = summed * (self.world / batch.of)
            if not torch.isfinite(loss):
                steps = len(self.batches.starts(self.epoch)[1])
                raise TrainingError(
                    f"the loss is {loss.item()} in epoch {self.epoch + 1}, step {step + 1} of {steps}; lower the"
                    f" recipe's lr, which is {self.optimizer.param_groups[-1]['lr']:.3g} there"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.network)
            total, seen = total + summed.item(), seen + len(batch.views)
        self.epoch += 1
        if self.world > 1:
            sums = torch.tensor([total, float(seen)], dtype=torch.float64, device=self.device)
            torch.distributed.all_reduce(sums)
            total, seen = sums.tolist()
        self.history.append({"epoch": self.epoch, "loss": total / seen})
        return total / seen

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved: the average of the weights where there is one."""
        return self.average.module if self.average is not None else self.network

    def predict(self, crops: CropList) -> npt.NDArray[np.float32]:
        """Logits of the evaluated network for crops, float32 [n, classes].

        Raises TrainingError where they are no numbers: the last step may break a network though the
        loss before it was one.
        """
        network = self.evaluated.eval()
        loader = CropLoader(crops, self.recipe.size, threads=self.threads, cache_bytes=0)
        found = []
        with torch.inference_mode(), torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            step = max(1, 32 // len(self.recipe.views))
            for start in range(0, len(crops), step):
                pictures = torch.from_numpy(loader.load(range(start, min(start + step, len(crops)))))
                shown = pictures.permute(0, 3, 1, 2).to(self.device).float() / 255
                found.append(see(network, shown, self.recipe.views, self._normalise).cpu())
        logits: npt.NDArray[np.float32] = torch.cat(found).numpy()
        if broken := int((~np.isfinite(logits)).any(1).sum()):
            rate = self.optimizer.param_groups[-1]["lr"]
            raise TrainingError(
                f"after epoch {self.epoch} the network gives no numbers for {broken} of {len(logits)} crops; lower the"
                f" recipe's lr, which is {rate:.3g} there"
            )
        return logits

    def evaluate(self) -> dict[str, Any]:
        """Scores on the valid split; they are kept in `history` with the loss of the epoch."""
        self.predicted = Predictions(self.data.valid, self.predict(self.data.valid))
        found = scores(self.data.valid.labels, self.predicted.logits, self.data.classes)
        if self.history:
            self.history[-1] |= {key: value for key, value in found.items() if isinstance(value, float)}
        return found

    def save(self, folder: Path, figures: dict[str, Any]) -> None:
        """Write model.safetensors, meta.json, valid.parquet (predictions) and state.pt (what `restore` needs)."""
        from safetensors.torch import save_file

        state = {key: value.detach().cpu().contiguous() for key, value in self.evaluated.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "meta.json").write_text(json.dumps(self.meta(figures), indent=1) + "\n")
        if self.predicted is not None:
            self.predicted.write(folder / "valid.parquet")
        torch.save(
            {
                "epoch": self.epoch,
                "history": self.history,
                "network": self.network.state_dict(),
                "average": self.average.state_dict() if self.average is not None else None,
                "optimizer": self.optimizer.state_dict(),
            },
            folder / "state.pt",
        )

    def restore(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote.

        Raises RecipeError for a checkpoint of another network, DataError for what is no plain checkpoint.
        """
        file = folder / "state.pt"
        try:
            # On the CPU first: Adam reads its count of steps in every step, and on a GPU each time waits for it.
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{file}: not readable as a checkpoint of plain tensors ({reason}); train anew") from error
        try:
            self.network.load_state_dict(state["network"])
            settings = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
            self.optimizer.load_state_dict(state["optimizer"])
            # Momentum, decay and the like are the recipe's, which may be another than that of the checkpoint.
            for group, own in zip(self.optimizer.param_groups, settings, strict=True):
                group.update(own)
            if self.average is not None:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RecipeError(
                f"{folder}: a checkpoint of another network than {self.recipe.backbone}: {reason}"
            ) from error
        self.epoch = int(state["epoch"])
        self.history = list(state["history"])

    def meta(self, figures: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint says about itself; plain data for JSON."""
        return {
            "schema": 2,
            "architecture": self.recipe.backbone,
            "classes": list(self.data.classes),
            "size": self.recipe.size,
            "views": list(self.recipe.views),
            "mean": list(self.layout.mean),
            "std": list(self.layout.std),
            "epoch": self.epoch,
            "pretrained": self.pretrained,
            "history": self.history,
            "temperature": 1.0,
            "temperature_fitted_on": None,
            "valid": figures,
            "data": self.data.summary() | {"digest": self.data.digest},
            "recipe": self.recipe.model_dump(mode="json"),
            "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        }

    def _normalise(self, pictures: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=pictures.device) for v in (self.layout.mean, self.layout.std))
        return ((pictures - mean[:, None, None]) / std[:, None, None]).contiguous(memory_format=torch.channels_last)

    def _train_mode(self) -> None:
        self.model.train()
        for name, module in self.network.named_modules():
            # The synchronised ones are of this class too.
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
                self.recipe.norm == "frozen" or self.layout.stage_of(f"{name}.") < self.recipe.freeze
            ):
                module.eval()


def _seed(seed: int, epoch: int, rank: int) -> None:
    value = seed * 1_000_003 + epoch * 1_009 + rank
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)
