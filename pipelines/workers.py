"""How many workers the nodes of the connected Ray cluster can hold, so that nothing waits for what never comes.

Ray Train waits for ever for workers that fit into the sum of the nodes but into none of them.
"""

from __future__ import annotations

import ray

from insideout.errors import UsageError


def places(cpus: float, gpus: float = 0) -> int:
    """How many workers of `cpus` and `gpus` each the nodes hold together, were they idle."""
    found = 0
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"]:
            fits = [int(has.get("CPU", 0) // cpus)] if cpus else []
            fits += [int(has.get("GPU", 0) // gpus)] if gpus else []
            found += min(fits, default=0)
    return found


def share(workers: int, gpus: float, cpus: int | None = None) -> int:
    """CPUs of each of `workers`, which have `gpus` each: those asked for, or as many as every one can have.

    Raises UsageError where the nodes do not hold so many workers.
    """
    check_places(workers, cpus or 1, gpus, "ask for fewer --workers, --cpus or --gpus")
    if cpus:
        return cpus
    most = int(max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
    return max(n for n in range(1, most + 1) if places(n, gpus) >= workers)


def check_places(
    workers: int, cpus: float, gpus: float, advice: str = "ask for fewer --workers, --cpus or --gpus"
) -> None:
    """Raises UsageError where the nodes do not hold `workers` of so many CPUs and GPUs each."""
    room = places(cpus, gpus)
    if workers > room:
        each = f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'}" + (f" and {gpus:g} GPU" if gpus else "")
        raise UsageError(
            f"no room for {workers} {'worker' if workers == 1 else 'workers'} of {each}: the nodes of this cluster hold"
            f" {room}; {advice}"
        )
