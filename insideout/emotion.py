"""Tell the displayed emotion of a crop: the classifier of a model pack, batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from insideout.backbones import build, fold_batch_norm
from insideout.errors import PackError, UsageError
from insideout.objects import said
from insideout.precision import use_bf16
from insideout.views import see

if TYPE_CHECKING:
    from torch import Tensor, nn

    from insideout.packs import EmotionSpec

#: Crops in one forward pass on a GPU. Always exactly so many (the last pass is filled up with black), so
#: that the probabilities of a crop do not depend on how many others it came with. A CPU takes one at a
#: time: a span has few crops, and what fills up costs as much as they do.
CHUNK = 8


class EmotionClassifier:
    """The emotion network of a pack, ready to classify.

    `device` is torch's name ("cpu", "cuda:0"); `threads` sets torch's threads in this process.
    Raises PackError when the weights cannot be read or do not fit the classes.
    """

    def __init__(self, spec: EmotionSpec, device: str = "cpu", threads: int | None = None) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.spec = spec
        self.classes: tuple[str, ...] = spec.classes
        self.device = torch.device(device)
        self.chunk = 1 if self.device.type == "cpu" else CHUNK
        self.dtype = torch.bfloat16 if use_bf16("auto", device) else torch.float32
        network = fold_batch_norm(load_network(spec).eval())
        self._network = network.to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(spec.mean, device=self.device)[:, None, None]
        self._std = torch.tensor(spec.std, device=self.device)[:, None, None]

    def classify(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return calibrated probabilities, float32 [n, classes], of RGB crops, uint8 [n, size, size, 3].

        The order of the columns is that of `classes`; each row sums to 1. Raises as `logits`.
        """
        scaled = self.logits(crops).astype(np.float64) / self.spec.temperature
        odds = np.exp(scaled - scaled.max(1, keepdims=True))
        odds /= odds.sum(1, keepdims=True)
        probabilities: npt.NDArray[np.float32] = odds.astype(np.float32)
        return probabilities

    def logits(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return logits before the temperature, float32 [n, classes], of RGB crops, uint8 [n, size, size, 3].

        Raises UsageError for crops of another size or type.
        """
        size = self.spec.size
        if crops.dtype != np.uint8 or crops.shape[1:] != (size, size, 3):
            raise UsageError(
                f"crops must be uint8 [n, {size}, {size}, 3] for this pack, got {crops.dtype} {list(crops.shape)}"
            )
        logits = np.zeros((len(crops), len(self.classes)), np.float32)
        for start in range(0, len(crops), self.chunk):
            chunk = crops[start : start + self.chunk]
            full = np.zeros((self.chunk, size, size, 3), np.uint8)
            full[: len(chunk)] = chunk
            logits[start : start + len(chunk)] = self._forward(full)[: len(chunk)]
        return logits

    def _forward(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            # A permuted NHWC array already is channels_last in memory: nothing is copied for it.
            pictures = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float()
            logits = see(self._network, pictures / 255, self.spec.views, self._normalise)
            found: npt.NDArray[np.float32] = logits.cpu().numpy()
        return found

    def _normalise(self, pictures: Tensor) -> Tensor:
        import torch

        inputs = ((pictures - self._mean) / self._std).to(self.dtype)
        return inputs.contiguous(memory_format=torch.channels_last)


def load_network(spec: EmotionSpec) -> nn.Module:
    """Build the network of a pack in float32 from its weights. Raises PackError naming what does not fit."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(spec.weights)
    except (OSError, SafetensorError) as error:
        raise PackError(f"{spec.weights}: not readable as safetensors ({said(error)}); build the pack again") from error
    with torch.device("meta"):
        network = build(spec.architecture, len(spec.classes) * len(spec.views))
    check_shapes(network.state_dict(), state, spec.weights)
    network.to_empty(device="cpu")
    network.load_state_dict({key: t.float() if t.is_floating_point() else t for key, t in state.items()})
    return network


def check_shapes(expected: dict[str, Any], found: dict[str, Any], where: Path) -> None:
    """Raise PackError naming the first tensor that is missing, of another shape, or one too many."""
    for key, tensor in expected.items():
        if key not in found:
            raise PackError(f"{where}: tensor {key} is missing; these are weights of another architecture")
        if found[key].shape != tensor.shape:
            raise PackError(
                f"{where}: tensor {key} is {list(found[key].shape)}, but pack.json asks for {list(tensor.shape)}"
                " (architecture and number of classes)"
            )
    extra = sorted(set(found) - set(expected))
    if extra:
        raise PackError(f"{where}: {len(extra)} tensors too many, such as {extra[0]}; weights of another architecture")
