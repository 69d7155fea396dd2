"""The GPUs that Ray counts: whether PyTorch can use them, and how many actors fit on them.

Ray asks the driver what is there, and counts NVIDIA's, AMD's, Intel's and Apple's alike. PyTorch needs those it was
built for, and a driver that is new enough.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import ray
from ray.exceptions import RayError

from insideout.device import why_unusable
from insideout.errors import UsageError
from insideout.messages import shown
from pipelines.cluster import Resources


def actors_on(gpus: float, per_actor: float) -> int:
    """How many actors fit on `gpus` when each takes `per_actor` (above 0, at most 1) of one; at least 1."""
    return max(1, int(gpus) * int(1 / per_actor + 1e-9))


def usable(resources: Resources, *, asked: bool) -> Resources:
    """What can be used: on a Ray of our own that counts GPUs, these only if PyTorch can compute on each.

    Where it cannot, one line says why and the CPUs are used; if GPUs were `asked` for, that is a UsageError.
    GPUs of a cluster are tried by the actors, where they are.
    """
    if not resources.local or not resources.gpus:
        return resources
    why = _refusal(int(ray.cluster_resources()["GPU"]))
    if not why:
        return resources
    if asked:
        raise UsageError(f"--gpus {resources.gpus:g}: {why}; leave it out to label on the CPUs")
    print(f"no GPU is used: {why}; labelling on the CPUs", file=sys.stderr, flush=True)
    return replace(resources, gpus=0)


def _refusal(gpus: int) -> str:
    """Why one of so many GPUs of this machine cannot be used; empty if all can."""
    try:
        return str(ray.get(ray.remote(refusal).options(num_cpus=0, num_gpus=gpus, max_retries=0).remote(gpus)))
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"trying them ended with: {shown(lines[0])}"


def refusal(gpus: int) -> str:
    """Compute something on each of so many GPUs of this process: why one of them cannot be used, or nothing."""
    return next(filter(None, (why_unusable(f"cuda:{i}") for i in range(gpus))), "")
