"""Several looks at one crop: a classifier that reads each of them and takes the mean of what it reads.

    whole  the crop as it is
    inner  its middle, 70 % of the side: eyes, brows and mouth, hardly any background
    oval   the ellipse inside the crop, in grey: no corners, no colour

A crop of a head holds the set and the light of its scene, and a classifier learns them where few
scenes are labelled. What the looks have in common is the face.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

View = Literal["whole", "inner", "oval"]

#: Side of the middle that `inner` shows, as a share of the crop's.
INNER = 0.7
#: Width of the soft edge of `oval`, as a share of its radius.
_EDGE = 0.06
#: What is brighter than this is picture, the rest is the black that makes a crop square.
_BLACK = 8 / 255
_GREY = (0.299, 0.587, 0.114)


def show(pictures: Tensor, view: View) -> Tensor:
    """A view of crops, float [n, 3, s, s] RGB in 0..1, of the same shape."""
    if view == "inner":
        return _inner(pictures)
    return _oval(pictures) if view == "oval" else pictures


def draw(views: int, seeds: Sequence[int]) -> list[int]:
    """One of so many views for each picture, by its seed."""
    if views == 1:
        return [0] * len(seeds)
    return [int(np.random.default_rng((2, seed)).integers(views)) for seed in seeds]


def show_each(pictures: Tensor, views: Sequence[View], drawn: Sequence[int]) -> Tensor:
    """Crops, uint8 [n, 3, s, s] RGB, each in the view that was drawn for it, of the same shape."""
    if tuple(views) == ("whole",):
        return pictures
    shown = pictures.clone()
    for index, view in enumerate(views):
        which = [place for place, choice in enumerate(drawn) if choice == index]
        if which and view != "whole":
            shown[which] = (show(pictures[which].float() / 255, view) * 255).round().clamp(0, 255).byte()
    return shown


def see(network: nn.Module, pictures: Tensor, views: Sequence[View], normalise: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean logits over the views, float32 [n, classes], of crops as for `show`.

    The network has one block of outputs for each view, in the order of `views`; `normalise` makes
    its inputs of pictures in 0..1.
    """
    import torch

    # One pass for all views: on a CPU three small ones take a third longer.
    shown = torch.cat([normalise(show(pictures, view)) for view in views])
    blocks: Tensor = network(shown).float().unflatten(1, (len(views), -1)).unflatten(0, (len(views), -1))
    return blocks.diagonal(dim1=0, dim2=2).mean(-1)


def _inner(pictures: Tensor) -> Tensor:
    from torch.nn.functional import interpolate

    side = pictures.shape[-1]
    shown = max(1, round(INNER * side))
    start = (side - shown) // 2
    middle = pictures[:, :, start : start + shown, start : start + shown]
    return interpolate(middle, (side, side), mode="bilinear", antialias=True, align_corners=False)


def _oval(pictures: Tensor) -> Tensor:
    import torch

    n, _, height, width = pictures.shape
    bright = pictures.amax(1) > _BLACK
    rows, top, bottom = _extent(bright.any(2))
    columns, left, right = _extent(bright.any(1))
    y = (rows - (top + bottom) / 2) / ((bottom - top) / 2)
    x = (columns - (left + right) / 2) / ((right - left) / 2)
    radius = (y[:, :, None] ** 2 + x[:, None, :] ** 2).sqrt()
    inside = ((1 - radius) / _EDGE + 0.5).clamp(0, 1)
    weights = torch.tensor(_GREY, device=pictures.device, dtype=pictures.dtype)
    grey = torch.einsum("nchw,c->nhw", pictures, weights) * inside
    return grey[:, None].expand(n, 3, height, width)


def _extent(lit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centres of the pixels [1, s], and first and one past the last that is lit, [n, 1]; all where none is."""
    import torch

    side = lit.shape[1]
    centres = torch.arange(side, device=lit.device, dtype=torch.float32)[None] + 0.5
    lit = lit | ~lit.any(1, keepdim=True)
    first = lit.int().argmax(1, keepdim=True).float()
    last = side - lit.flip(1).int().argmax(1, keepdim=True).float()
    return centres, first, last
