"""The batches of an epoch: which crops, in which view, augmented, mixed, and what they should be told as.

Everything that is random about a picture comes from its place in the epoch, so that a batch is the
same whether one worker has all of it or several have a share each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from insideout.datasets.labelled import CropList
from insideout.recipes.augment import HEADROOM, augment
from insideout.recipes.crops import CropLoader, epoch_order
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.views import draw, show_each

#: A last batch of fewer crops than this, over all workers, is left out: batch norm would mean nothing.
_LEAST_BATCH = 8


@dataclass(frozen=True)
class Batch:
    """A worker's share of one batch.

    `pictures` float32 [n, 3, size, size] in 0..1; `views` int64 [n], the view each one shows;
    `targets` int64 [n] labels or float32 [n, classes] shares; `of` is the number of crops that all
    workers have together, `at` the part of the epoch that is done before it.
    """

    pictures: Tensor
    views: Tensor
    targets: Tensor
    of: int
    at: float


class Batches:
    """Makes the batches of any epoch for worker `rank` of `world`."""

    def __init__(
        self, recipe: EmotionRecipe, crops: CropList, *, rank: int = 0, world: int = 1, threads: int = 2
    ) -> None:
        self.recipe, self.crops, self.rank, self.world = recipe, crops, rank, world
        self._loader = CropLoader(crops, round(recipe.size * HEADROOM[recipe.augment]), threads=threads)

    def starts(self, epoch: int) -> tuple[npt.NDArray[np.int64], list[int]]:
        """The crops of an epoch in their order, int64 [n], and where its batches begin."""
        recipe = self.recipe
        order = epoch_order(self.crops, recipe.balance, recipe.shots_first, recipe.seed, epoch)
        least = min(len(order), max(_LEAST_BATCH, self.world))
        return order, [i for i in range(0, len(order), recipe.batch) if len(order) - i >= least]

    def epoch(self, epoch: int, device: str) -> Iterator[Batch]:
        """The batches of an epoch, in order, on the device."""
        recipe = self.recipe
        order, starts = self.starts(epoch)
        size = recipe.size_at(epoch)
        for step, start in enumerate(starts):
            batch = order[start : start + recipe.batch]
            places = np.arange(start, start + len(batch))
            seeds = [(recipe.seed * 10_007 + epoch) * 1_000_003 + int(place) for place in places]
            mine = np.arange(len(batch))[self.rank :: self.world]
            views = draw(len(recipe.views), [seeds[i] for i in mine])
            pictures = self._augmented(batch[mine], [seeds[i] for i in mine], views, size, device)
            targets = self._targets(batch[mine], device)
            if recipe.mixup:
                other = (mine + 1) % len(batch)
                shares = torch.tensor(
                    [np.random.default_rng((3, seeds[i])).beta(recipe.mixup, recipe.mixup) for i in mine],
                    dtype=torch.float32,
                    device=device,
                )
                others = self._augmented(batch[other], [seeds[i] for i in other], views, size, device)
                pictures = torch.lerp(others, pictures, shares[:, None, None, None])
                targets = torch.lerp(self._targets(batch[other], device), targets, shares[:, None])
            yield Batch(pictures, torch.tensor(views, device=device), targets, len(batch), step / len(starts))

    def _augmented(
        self, crops: npt.NDArray[np.int64], seeds: list[int], views: list[int], size: int, device: str
    ) -> Tensor:
        recipe = self.recipe
        pictures = torch.from_numpy(self._loader.load(crops)).permute(0, 3, 1, 2).to(device)
        pictures = show_each(pictures, recipe.views, views)
        return augment(pictures, size, recipe.augment, recipe.face, seeds, recipe.magnitude)

    def _targets(self, crops: npt.NDArray[np.int64], device: str) -> Tensor:
        if self.recipe.votes:
            return torch.from_numpy(self.crops.votes[crops]).to(device)
        labels = torch.from_numpy(self.crops.labels[crops]).to(device)
        if not self.recipe.mixup:
            return labels
        return torch.nn.functional.one_hot(labels, len(self.crops.classes)).float()
