"""How the learning rate goes over a training: a factor of its peak, by the point in epochs.

Nothing here keeps a state: a resumed training and every one of several workers find the same rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["step", "multistep", "cosine", "restarts", "onecycle", "plateau"]

#: Cosine schedules end at this part of the peak.
_LAST = 0.01
#: A one-cycle schedule starts at one part in so many of the peak, and ends at one in so many of that (Smith 2018).
_FIRST_DIVISOR, _LAST_DIVISOR = 25.0, 1e4
#: A loss has to be lower than the lowest by this share to count as progress.
_PROGRESS = 1e-4


def step(epoch: float, every: int, gamma: float) -> float:
    """Falls by `gamma` after `every` epochs, again and again."""
    return gamma ** (int(epoch) // every)


def multistep(epoch: float, length: float, milestones: Sequence[float], gamma: float) -> float:
    """Falls by `gamma` at each milestone, a share of the `length` of the training."""
    return gamma ** sum(epoch >= share * length for share in milestones)


def cosine(epoch: float, length: float) -> float:
    """Half a cosine down to a hundredth over `length` epochs."""
    done = min(1.0, max(0.0, epoch) / max(1e-9, length))
    return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * done))


def restarts(epoch: float, period: int) -> float:
    """The cosine begun anew every `period` epochs (Loshchilov and Hutter, SGDR, ICLR 2017)."""
    return cosine(epoch % period, period)


def onecycle(epoch: float, length: float, peak_at: float) -> float:
    """Up to the peak for the share `peak_at` of the training and down to almost nothing, both as half cosines."""
    done = min(1.0, max(0.0, epoch) / max(1e-9, length))
    first, last = 1 / _FIRST_DIVISOR, 1 / _FIRST_DIVISOR / _LAST_DIVISOR
    if done < peak_at:
        return first + (1 - first) * 0.5 * (1 - math.cos(math.pi * done / peak_at))
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * (done - peak_at) / max(1e-9, 1 - peak_at)))


def plateau(losses: Sequence[float], patience: int, gamma: float) -> float:
    """Falls by `gamma` each time the loss of `patience` epochs on end was no lower than the lowest before."""
    lowest, waited, factor = math.inf, 0, 1.0
    for loss in losses:
        if loss < lowest * (1 - _PROGRESS):
            lowest, waited = loss, 0
        else:
            waited += 1
        if waited >= patience:
            factor, waited = factor * gamma, 0
    return factor
