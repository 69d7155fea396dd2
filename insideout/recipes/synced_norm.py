"""Batch norm whose statistics are those of the whole batch when several CPU workers share it.

torch's own SyncBatchNorm needs GPUs. Without this a training with two workers would follow another
curve than one with the same batch on one worker.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverWorkers(torch.autograd.Function):
    """The sum of a tensor over all workers, whose loss is the sum of theirs."""

    @staticmethod
    def forward(_ctx: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d over the pictures of all workers; plain batch norm in evaluation and when alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [n, c, h, w]; n may differ between workers."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        x = input.float()
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = torch.cat([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count])
        total: Tensor = _SumOverWorkers.apply(sums)
        channels = x.shape[1]
        number = total[-1].detach()
        mean = total[:channels] / number
        # By squares, in float32: activations are near zero mean, so little is cancelled.
        variance = (total[channels:-1] / number - mean.square()).clamp_min(0)
        self._follow(mean.detach(), variance.detach(), float(number))
        scale = (variance + self.eps).rsqrt() * self.weight
        y = x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]
        found: Tensor = y.to(input.dtype)
        return found

    def _follow(self, mean: Tensor, variance: Tensor, number: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * number / max(1.0, number - 1), share)


class SyncedBatchNormAct2d(SyncedBatchNorm2d):
    """The same for timm's batch norm, which holds what comes after it: `drop` and the activation `act`."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [n, c, h, w], then drop and activate."""
        found: Tensor = self.act(self.drop(super().forward(input)))
        return found


def sync_batch_norm(network: nn.Module, device: str) -> nn.Module:
    """Make every batch norm of a network a synchronised one: ours on CPUs, in place; on GPUs torch's, by timm.

    torch's own conversion would take timm's norms for plain ones and lose their activations.
    """
    # Here, since one worker needs no timm.
    from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

    if device.startswith("cuda"):
        synced: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synced
    ours = {nn.BatchNorm2d: SyncedBatchNorm2d, BatchNormAct2d: SyncedBatchNormAct2d}
    for module in network.modules():
        if type(module) in ours:
            module.__class__ = ours[type(module)]
    return network
