"""Augmentation presets for crops of faces.

`auto` is torchvision's AutoAugment with the ImageNet policy (the student project's choice), `rand`
its RandAugment and `augmix` its AugMix; `trivial` is its TrivialAugment, followed by a mirror, a zoom
and a change of hue. `flip` mirrors and zooms, nothing else. `face` keeps mouth and eyes: mirror,
slight turn, zoom and shift in one resampling, then light and colour. Hue and grey work against the
shortcut from a character's colour to its emotion.

Every picture draws from a random state of its own, given by its seed: the result does not depend on
which pictures share its batch, nor on how many workers share the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from insideout.recipes.augmentation import FaceAugmentation, Preset

#: How much larger than the network's input crops are loaded, so that zooming in keeps detail.
HEADROOM = {
    "none": 1.0,
    "flip": 1.25,
    "auto": 1.0,
    "rand": 1.0,
    "trivial": 1.25,
    "augmix": 1.0,
    "face": 1.25,
}

_GREY = (0.299, 0.587, 0.114)
# RGB to YIQ and back: a turn of the I-Q plane is a turn of the hue.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)

_PLAIN = {"degrees": 0.0, "stretch": 0.0, "light": 0.0, "contrast": 0.0, "saturation": 0.0, "erase": 0.0}
#: Uniform numbers that one picture needs.
_DRAWS = 20


def augment(
    pictures: Tensor,
    size: int,
    preset: Preset,
    face: FaceAugmentation,
    seeds: Sequence[int],
    magnitude: float = 1.0,
) -> Tensor:
    """Augment uint8 [n, 3, s, s] to float32 [n, 3, size, size] in 0..1, each picture by its seed.

    `magnitude` is the strength of `rand`, `augmix` and `face` as a multiple of their usual one.
    """
    policy = _policy(preset, magnitude)
    if policy is not None:
        pictures = torch.stack([_seeded(policy, picture, seed) for picture, seed in zip(pictures, seeds, strict=True)])
    floats = pictures.float() / 255
    if preset in ("none", "auto", "rand", "augmix"):
        return _resized(floats, size)
    if preset == "trivial":
        face = face.model_copy(update=_PLAIN)
    elif preset == "flip":
        face = face.model_copy(update=_PLAIN | {"hue": 0.0, "grey": 0.0})
    else:
        face = face.scaled(magnitude)
    draws = torch.from_numpy(np.stack([np.random.default_rng((1, seed)).random(_DRAWS, np.float32) for seed in seeds]))
    return _erase(_recolour(_move(floats, size, face, draws[:, :8]), face, draws[:, 8:13]), face, draws[:, 13:])


def _policy(preset: Preset, magnitude: float) -> v2.Transform | None:
    """torchvision's part of a preset, with its own strengths at magnitude 1."""
    if preset == "auto":
        return v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
    if preset == "trivial":
        return v2.TrivialAugmentWide()
    if preset == "rand":
        return v2.RandAugment(magnitude=min(30, round(9 * magnitude)))
    if preset == "augmix":
        return v2.AugMix(severity=min(10, max(1, round(3 * magnitude))))
    return None


def _resized(pictures: Tensor, size: int) -> Tensor:
    if pictures.shape[-1] == size:
        return pictures
    return torch.nn.functional.interpolate(pictures, (size, size), mode="bilinear", antialias=True)


def _seeded(policy: v2.Transform, picture: Tensor, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed: Tensor = policy(picture)
    return changed


def _between(draws: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * draws


def _move(pictures: Tensor, size: int, face: FaceAugmentation, draws: Tensor) -> Tensor:
    n = len(pictures)
    angle = _between(draws[:, 0], -face.degrees, face.degrees) * (math.pi / 180)
    scale = _between(draws[:, 1], face.zoom, 1).sqrt()
    stretch = _between(draws[:, 2], -face.stretch, face.stretch).exp().sqrt()
    mirror = torch.where(draws[:, 3] < face.mirror, -1.0, 1.0)
    # Zooming in leaves room to move the view about; a little beyond the edge is allowed.
    room = 1 - scale + 2 * face.shift
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = angle.cos() * scale * stretch * mirror
    theta[:, 0, 1] = -angle.sin() * scale / stretch
    theta[:, 1, 0] = angle.sin() * scale * stretch * mirror
    theta[:, 1, 1] = angle.cos() * scale / stretch
    theta[:, :, 2] = _between(draws[:, 4:6], -1, 1) * room[:, None]
    # Sampling point by point would alias where pictures shrink by much.
    pictures = _resized(pictures, min(pictures.shape[-1], round(1.25 * size)))
    grid = torch.nn.functional.affine_grid(theta.to(pictures.device), [n, 3, size, size], align_corners=False)
    return torch.nn.functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _recolour(pictures: Tensor, face: FaceAugmentation, draws: Tensor) -> Tensor:
    n = len(pictures)
    turn = _between(draws[:, 0], -face.hue, face.hue) * (2 * math.pi)
    colour = _between(draws[:, 1], -face.saturation, face.saturation).exp()
    colour = torch.where(draws[:, 2] < face.grey, 0.0, colour)
    light = _between(draws[:, 3], -face.light, face.light).exp()
    contrast = _between(draws[:, 4], -face.contrast, face.contrast).exp()
    hue = torch.zeros(n, 3, 3)
    hue[:, 0, 0] = 1
    hue[:, 1, 1] = hue[:, 2, 2] = turn.cos() * colour
    hue[:, 1, 2] = -turn.sin() * colour
    hue[:, 2, 1] = turn.sin() * colour
    matrix = (_FROM_YIQ @ hue @ _TO_YIQ * (light * contrast)[:, None, None]).to(pictures.device)
    grey = torch.tensor(_GREY, device=pictures.device)
    mean = (pictures.mean(dim=(2, 3)) * grey).sum(1) * light.to(pictures.device)
    offset = mean * (1 - contrast.to(pictures.device))
    mixed = torch.einsum("nij,njhw->nihw", matrix, pictures) + offset[:, None, None, None]
    return mixed.clamp_(0, 1)


def _erase(pictures: Tensor, face: FaceAugmentation, draws: Tensor) -> Tensor:
    _, _, height, width = pictures.shape
    for picture, (chance, share, shape, y, x, shade, _) in zip(pictures, draws.tolist(), strict=True):
        if chance >= face.erase:
            continue
        area = (0.02 + 0.08 * share) * height * width
        tall = math.exp(1.4 * shape - 0.7)
        h, w = min(height, round(math.sqrt(area * tall))), min(width, round(math.sqrt(area / tall)))
        top, left = int(y * (height - h + 1)), int(x * (width - w + 1))
        picture[:, top : top + h, left : left + w] = shade
    return pictures
