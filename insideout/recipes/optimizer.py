"""The optimizer of a recipe, with a learning rate for each stage of the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from insideout.backbones import Layout
from insideout.recipes.emotion_recipe import EmotionRecipe


def build_optimizer(recipe: EmotionRecipe, layout: Layout, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over the parameters that learn; `set_rates` gives each stage its rate."""
    last = len(layout.stages)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            # Scales and biases are not decayed by AdamW: they hold no capacity to rein in.
            decayed = recipe.optimizer != "adamw" or parameter.ndim >= 2
            groups.setdefault((layout.stage_of(name), decayed), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
            "head": stage == last,
            "scale": recipe.layer_decay ** max(0, last - 1 - stage),
        }
        for (stage, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(settings, lr=recipe.lr, alpha=recipe.smoothing, momentum=recipe.momentum)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(settings, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))


def set_rates(optimizer: torch.optim.Optimizer, recipe: EmotionRecipe, epoch: float, losses: Sequence[float]) -> None:
    """Set the learning rates for a point of the training, in epochs, after epochs of these losses."""
    rate, head = recipe.learning_rate(epoch, losses), recipe.head_learning_rate(epoch, losses)
    for group in optimizer.param_groups:
        group["lr"] = head if group["head"] else rate * group["scale"]
