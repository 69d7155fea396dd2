"""The recipe of an emotion classifier: network, data, optimizer, schedule, augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from insideout.backbones import BACKBONES, Backbone, layout
from insideout.precision import Precision
from insideout.recipes import schedule as schedules
from insideout.recipes.augmentation import FaceAugmentation, Preset
from insideout.recipes.base import Recipe
from insideout.recipes.crops import Balance
from insideout.recipes.schedule import Schedule
from insideout.views import View


class EmotionRecipe(Recipe):
    """How an emotion classifier is trained. The defaults are the student project's recipe."""

    classes: list[str] | None = None
    """Classes to use; without it all folders of the export."""
    backbone: Backbone = "resnet50"
    size: int = Field(224, ge=32)
    """Side of the pictures in pixels; without it what the backbone's published weights were made for."""
    views: tuple[View, ...] = Field(("whole",), min_length=1)
    """Looks at each crop, whose logits are averaged; in training each picture shows one of them, drawn at random."""
    start_size: int | None = Field(None, ge=32)
    """Pictures begin at this size and grow to `size` (progressive resizing); None is `size` throughout."""
    grown_at: float = Field(0.7, gt=0, le=1)
    """Part of the training after which pictures have their full size."""
    batch: int = Field(32, ge=2)
    """Crops in one step, over all workers together."""
    epochs: int = Field(30, ge=0)
    """0 is for a probe alone."""
    probe: Literal["none", "logistic"] = "none"
    """`logistic` starts with the last layer that a logistic regression on the pretrained features gives."""
    optimizer: Literal["sgd", "adamw", "adam", "rmsprop"] = "sgd"
    lr: float = Field(0.001, gt=0)
    head_lr: float | None = Field(None, gt=0)
    """Learning rate of the last layer; None is `lr`."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Each stage learns by this factor slower than the one after it."""
    probe_epochs: int = Field(0, ge=0)
    """Epochs at the start in which only the last layer learns: a linear probe before the fine-tuning."""
    freeze: int = Field(0, ge=0)
    """Stages from the input on that never learn."""
    norm: Literal["train", "frozen"] = "train"
    """`frozen` keeps the batch norm statistics of the pretrained weights."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Before the last layer."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth, of ConvNeXt-Tiny and EfficientNet-Lite0."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of `sgd` and `rmsprop`."""
    nesterov: bool = False
    """Of `sgd`."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the mean and of the square of the gradients, of `adam` and `adamw`."""
    smoothing: float = Field(0.99, ge=0, lt=1)
    """Decay of the square of the gradients, of `rmsprop`."""
    weight_decay: float = Field(0.0, ge=0)
    schedule: Schedule = "step"
    step_epochs: int = Field(7, ge=1)
    step_gamma: float = Field(0.1, gt=0, le=1)
    """What the rate falls by, of `step`, `multistep` and `plateau`."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    """When the rate of `multistep` falls, in shares of the training."""
    restart_epochs: int = Field(10, ge=1)
    """Length of each cosine of `restarts`."""
    peak_at: float = Field(0.3, gt=0, lt=1)
    """When the rate of `onecycle` is highest, in shares of the training."""
    patience: int = Field(3, ge=1)
    """Epochs without a lower training loss after which the rate of `plateau` falls."""
    warmup_epochs: float = Field(0.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0)
    """Alpha of the Beta distribution that pictures of a batch are mixed by (Zhang et al., ICLR 2018); 0 is none."""
    votes: bool = False
    """Learn the shares of the annotators' votes where the data has them, rather than one label."""
    class_weights: Balance | None = None
    """Weight of classes in the loss: of k crops in proportion to 1 (`none`), k^-1/2 (`sqrt`), 1/k (`equal`)."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights that is evaluated and saved; 0 is none."""
    balance: Balance = "none"
    shots_first: bool = False
    augment: Preset = "auto"
    magnitude: float = Field(1.0, ge=0, le=3)
    """Strength of `rand`, `augmix` and `face`, as a multiple of their usual one."""
    face: FaceAugmentation = FaceAugmentation()
    precision: Precision = "auto"
    keep: Literal["best", "last"] = "best"
    """Which epoch is the result: the best by macro-F1 on valid, or the last, which valid did not choose."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, given: Any) -> Any:
        if isinstance(given, dict) and "size" not in given and given.get("backbone") in BACKBONES:
            return given | {"size": layout(given["backbone"]).size}
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        plan = layout(self.backbone)
        if self.freeze > len(plan.stages):
            raise ValueError(f"freeze: {self.backbone} has {len(plan.stages)} stages, not {self.freeze}")
        if min(self.size, self.start_size or self.size) < plan.least:
            raise ValueError(f"size: {self.backbone} needs at least {plan.least} px")
        if self.drop_path and not plan.drop_path:
            have = ", ".join(name for name in BACKBONES if layout(name).drop_path)
            raise ValueError(f"drop_path: {self.backbone} has no stochastic depth; {have} have it")
        if self.start_size is not None and self.start_size > self.size:
            raise ValueError("start_size is larger than size")
        if self.epochs == 0 and self.probe == "none":
            raise ValueError("epochs: 0 trains nothing; give `probe: logistic`, or some epochs")
        if self.schedule == "onecycle" and self.warmup_epochs:
            raise ValueError("warmup_epochs: onecycle has a warm-up of its own; leave it at 0")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov: only sgd with momentum has it")
        if self.probe_epochs >= max(1, self.epochs):
            raise ValueError("probe_epochs leaves no epoch for fine-tuning; lower it or raise epochs")
        return self

    def learning_rate(self, epoch: float, losses: Sequence[float] = ()) -> float:
        """Learning rate of the last stage at a point of the training, in epochs; 0 while only the head learns.

        `losses` are the training losses of the epochs that are done, which `plateau` goes by.
        """
        epoch -= self.probe_epochs
        if epoch < 0:
            return 0.0
        if epoch < self.warmup_epochs:
            return self.lr * max(epoch, 0.01) / self.warmup_epochs
        return self.lr * self._factor(epoch, losses)

    def head_learning_rate(self, epoch: float, losses: Sequence[float] = ()) -> float:
        """Learning rate of the last layer at a point of the training, as for `learning_rate`."""
        peak = self.head_lr or self.lr
        if epoch < self.probe_epochs:
            return peak
        epoch -= self.probe_epochs
        if epoch < self.warmup_epochs and not self.probe_epochs:
            return peak * max(epoch, 0.01) / self.warmup_epochs
        return peak * self._factor(epoch, losses)

    def _factor(self, epoch: float, losses: Sequence[float]) -> float:
        length = self.epochs - self.probe_epochs
        warm, rest = epoch - self.warmup_epochs, length - self.warmup_epochs
        if self.schedule == "step":
            return schedules.step(epoch, self.step_epochs, self.step_gamma)
        if self.schedule == "multistep":
            return schedules.multistep(epoch, length, self.milestones, self.step_gamma)
        if self.schedule == "restarts":
            return schedules.restarts(max(0.0, warm), self.restart_epochs)
        if self.schedule == "onecycle":
            return schedules.onecycle(warm, rest, self.peak_at)
        if self.schedule == "plateau":
            return schedules.plateau(losses[self.probe_epochs :], self.patience, self.step_gamma)
        return schedules.cosine(warm, rest)

    def size_at(self, epoch: int) -> int:
        """Side of the training pictures in an epoch, in pixels: grows in steps of 16 to `size`."""
        if self.start_size is None or epoch >= self.grown_at * self.epochs:
            return self.size
        grown = self.start_size + (self.size - self.start_size) * epoch / (self.grown_at * self.epochs)
        return min(self.size, int(grown // 16) * 16)
