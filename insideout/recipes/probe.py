"""The linear probe: the last layer as a logistic regression on what the pretrained network sees.

Fitted in closed form rather than by gradient steps, it is the best last layer for these features, and
a start for fine-tuning that does not spoil them (Kumar et al., Fine-Tuning can Distort Pretrained
Features and Underperform Out-of-Distribution, ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from insideout.backbones import Layout
from insideout.datasets.labelled import CropList
from insideout.evaluation.baselines import fit_regression, regression_folds

_BATCH = 32


def last_layer(network: nn.Module, layout: Layout) -> nn.Linear:
    """The layer whose outputs are the logits."""
    found = [module for name, module in network.named_modules() if f"{name}.".startswith(layout.head)]
    (linear,) = (module for module in found if isinstance(module, nn.Linear))
    return linear


def check_probe(crops: CropList, seed: int = 0) -> None:
    """Raise DataError where `fit_last_layer` would, for too few scenes or crops of a class."""
    regression_folds(crops, lambda crop: crop.scene_key, seed)


def fit_last_layer(
    network: nn.Module,
    layout: Layout,
    crops: CropList,
    load: Callable[[npt.NDArray[np.int64]], Tensor],
    block: int = 0,
    seed: int = 0,
) -> None:
    """Set one block of the last layer's outputs to the logistic regression that fits the crops best.

    A block has one output for each class, and there is one for each view. `load` gives normalised
    pictures of that view, float32 [n, 3, size, size], by index. Crops and their mirror images are
    fitted; the penalty is chosen by the loss on folds over scenes. Raises DataError where there are
    too few scenes or crops of a class for that.
    """
    linear = last_layer(network, layout)
    seen: list[Tensor] = []
    hook = linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    network.eval()
    plain: list[Tensor] = []
    mirrored: list[Tensor] = []
    try:
        with torch.inference_mode():
            for start in range(0, len(crops), _BATCH):
                pictures = load(np.arange(start, min(start + _BATCH, len(crops)), dtype=np.int64))
                for into, inputs in ((plain, pictures), (mirrored, pictures.flip(-1))):
                    seen.clear()
                    network(inputs)
                    into.append(seen[0])
    finally:
        hook.remove()
    features = torch.cat(plain + mirrored).numpy()
    twice = crops.take(np.tile(np.arange(len(crops), dtype=np.int64), 2))
    model = fit_regression(twice, features, lambda crop: crop.scene_key, by="log_loss", seed=seed)
    scaler, regression = model[0], model[-1]
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes scikit-learn keeps the second's only
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    # The scaling of the features goes into the layer.
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    with torch.no_grad():
        outputs = slice(block * len(crops.classes), (block + 1) * len(crops.classes))
        linear.weight[outputs] = torch.from_numpy(weight).to(linear.weight)
        linear.bias[outputs] = torch.from_numpy(bias).to(linear.bias)
