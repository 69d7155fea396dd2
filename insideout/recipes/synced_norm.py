"""Batch norm whose statistics are those of the whole batch when several CPU workers share it.

torch's own SyncBatchNorm needs GPUs. Without this a training with two workers would follow another
curve than one with the same batch on one worker.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d over the pictures of all workers; plain batch norm in evaluation and when alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [n, c, h, w]; n may differ between workers."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        x = input.float()
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = torch.cat([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count])
        total = all_reduce(sums)  # type: ignore[no-untyped-call]
        channels = x.shape[1]
        number = total[-1]
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


def sync_batch_norm(network: nn.Module, device: str) -> nn.Module:
    """Make every plain batch norm of a network a synchronised one, in place on CPUs; torch's own on GPUs."""
    if device.startswith("cuda"):
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synced
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
    return network
