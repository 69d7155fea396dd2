"""Augmentation presets for crops of faces, for whole batches at once.

`auto` is torchvision's AutoAugment with the ImageNet policy (the student project's choice). `face`
keeps mouth and eyes: mirror, slight turn, zoom and shift in one resampling, then light and colour,
with hue and grey against the shortcut from a character's colour to its emotion.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from insideout.recipes.base import Recipe

Preset = Literal["none", "auto", "face"]

#: How much larger than the network's input crops are loaded, so that zooming in keeps detail.
HEADROOM = {"none": 1.0, "auto": 1.0, "face": 1.25}

_GREY = (0.299, 0.587, 0.114)
# RGB to YIQ and back: a turn of the I-Q plane is a turn of the hue.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


class FaceAugmentation(Recipe):
    """Strengths of the preset `face`; ranges are symmetric and uniform."""

    mirror: float = 0.5
    degrees: float = 12.0
    zoom: float = 0.7
    """Smallest part of the crop's area that is shown; 1 is no zoom."""
    shift: float = 0.06
    """Largest shift, in sides of the crop."""
    stretch: float = 0.1
    light: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.5
    hue: float = 0.08
    """Largest turn of the hue, in full turns; 0.5 is any hue."""
    grey: float = 0.15
    erase: float = 0.2
    """Probability of one erased patch of at most a tenth of the area."""


def augment(pictures: Tensor, size: int, preset: Preset, face: FaceAugmentation) -> Tensor:
    """Augment uint8 [n, 3, s, s] to float32 [n, 3, size, size] in 0..1, with torch's global random state."""
    if preset == "auto":
        policy = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
        return torch.stack([policy(picture) for picture in pictures]).float() / 255
    floats = pictures.float() / 255
    if preset == "none":
        return floats
    return _erase(_recolour(_move(floats, size, face), face), face)


def _uniform(n: int, low: float, high: float) -> Tensor:
    return torch.empty(n).uniform_(low, high)


def _move(pictures: Tensor, size: int, face: FaceAugmentation) -> Tensor:
    n = len(pictures)
    angle = _uniform(n, -face.degrees, face.degrees) * (math.pi / 180)
    scale = _uniform(n, face.zoom, 1).sqrt()
    stretch = _uniform(n, -face.stretch, face.stretch).exp().sqrt()
    mirror = torch.where(torch.rand(n) < face.mirror, -1.0, 1.0)
    # Zooming in leaves room to move the view about; a little beyond the edge is allowed.
    room = 1 - scale + 2 * face.shift
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = angle.cos() * scale * stretch * mirror
    theta[:, 0, 1] = -angle.sin() * scale / stretch
    theta[:, 1, 0] = angle.sin() * scale * stretch * mirror
    theta[:, 1, 1] = angle.cos() * scale / stretch
    theta[:, :, 2] = torch.empty(n, 2).uniform_(-1, 1) * room[:, None]
    grid = torch.nn.functional.affine_grid(theta.to(pictures.device), [n, 3, size, size], align_corners=False)
    return torch.nn.functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _recolour(pictures: Tensor, face: FaceAugmentation) -> Tensor:
    n = len(pictures)
    turn = _uniform(n, -face.hue, face.hue) * (2 * math.pi)
    colour = _uniform(n, -face.saturation, face.saturation).exp()
    colour = torch.where(torch.rand(n) < face.grey, 0.0, colour)
    light = _uniform(n, -face.light, face.light).exp()
    contrast = _uniform(n, -face.contrast, face.contrast).exp()
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


def _erase(pictures: Tensor, face: FaceAugmentation) -> Tensor:
    _, _, height, width = pictures.shape
    for picture in pictures:
        if torch.rand(()) >= face.erase:
            continue
        area = float(torch.empty(()).uniform_(0.02, 0.1)) * height * width
        tall = float(torch.empty(()).uniform_(-0.7, 0.7).exp())
        h, w = min(height, round(math.sqrt(area * tall))), min(width, round(math.sqrt(area / tall)))
        top, left = int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ()))
        picture[:, top : top + h, left : left + w] = torch.rand(3, 1, 1, device=picture.device)
    return pictures
