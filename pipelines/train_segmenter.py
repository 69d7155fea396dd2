"""Train the segmenter inside a Ray task that holds the GPUs it was asked for.

export -> checks, here -> one task -> a checkpoint and a line of metrics each epoch -> the best

python -m pipelines.train_segmenter --data EXPORT --recipe configs/segmenter-student.yaml --out DIR
"""

from __future__ import annotations

from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError

from insideout.errors import InsideoutError, TrainingError, UsageError
from insideout.recipes.segmenter import SegmenterJob, SegmenterRecipe, prepare_segmenter, run_segmenter
from insideout.recipes.segmenter_run import read_result, result_line

#: So often a task begins again, from its last checkpoint, when its worker or its node is lost.
_RETRIES = 3
#: Processes that load pictures for a GPU; ultralytics starts no more.
_LOADERS = 8


def run(
    data: Path,
    recipe: SegmenterRecipe,
    out: Path,
    *,
    gpus: int = 0,
    cpus: int | None = None,
    pretrained: str | None = None,
    resume: bool = False,
    allow_leaks: bool = False,
    shots: Path | None = None,
) -> Path:
    """Train on a started Ray cluster and return the path of the best checkpoint.

    `gpus` on one node are used through ultralytics' own DDP; 0 trains on `cpus` (default: all of the
    largest node). Data and recipe are checked before Ray is asked for anything. Running again with
    the same `out` goes on after the last finished epoch; another recipe or other data there is an
    OutputError, which `resume` spares a folder that does not say what it is for. `shots` is a CSV of
    the film's shots, by which one on both sides is found (`prepare_segmenter`). `data` and `out`
    must be absolute and seen by every node. Raises UsageError when no node has so many GPUs or
    CPUs, RecipeError for a batch that the GPUs cannot share, DataError for unusable data,
    TrainingError when training breaks off.
    """
    cpus = fit(gpus, cpus)
    job = prepare_segmenter(
        data, recipe, out, pretrained=pretrained, resume=resume, allow_leaks=allow_leaks, shots=shots, gpus=gpus
    )
    for note in job.notes:
        print(note, flush=True)
    result = read_result(out)
    if result is not None:
        print(f"already done: {result_line(result)}", flush=True)
        return out / str(result["best"])
    task = train_task.options(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)
    try:
        return Path(ray.get(task.remote(job, gpus, cpus)))
    except RayTaskError as error:
        # Ray hands an error of a worker over as a subclass whose text is the worker's traceback.
        if isinstance(error.cause, InsideoutError):
            raise error.cause from None
        raise
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TrainingError(
            f"{out}: the worker was lost {_RETRIES + 1} times ({lines[0]}); run again to go on"
        ) from error


@ray.remote
def train_task(job: SegmenterJob, gpus: int, cpus: int) -> str:
    """What the worker does. Ray shows it its own GPUs only, so that they are 0, 1 … in here."""
    device = ",".join(str(i) for i in range(gpus)) if gpus else "cpu"
    return str(run_segmenter(job, device=device, threads=cpus, on_epoch=print_epoch))


def print_epoch(epoch: int, figures: dict[str, float]) -> None:
    """One line for each epoch, as it ends."""
    print(
        f"epoch {epoch}/{figures['epochs']:.0f}  loss {figures['loss']:.3f}"
        f"  mask mAP50 {figures['mask_map50']:.3f} mAP50-95 {figures['mask_map50_95']:.3f}"
        f"  box mAP50 {figures['box_map50']:.3f} mAP50-95 {figures['box_map50_95']:.3f}"
        f"  {figures['seconds']:.1f} s",
        flush=True,
    )


def fit(gpus: int, cpus: int | None) -> int:
    """CPUs to ask for together with `gpus` of one node. Raises UsageError where no node has both."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = int(max((node.get("GPU", 0) for node in nodes), default=0))
    if gpus > most:
        raise UsageError(f"{gpus} GPUs asked for, but the largest node of this Ray cluster has {most}; ask for fewer")
    able = int(max((node.get("CPU", 0) for node in nodes if node.get("GPU", 0) >= gpus), default=0))
    if (cpus or 1) > able:
        where = f"with {gpus} GPUs " if gpus else ""
        raise UsageError(f"{cpus or 1} CPUs asked for, but the largest node {where}has {able}; ask for fewer")
    return cpus or (min(able, _LOADERS * gpus) if gpus else able)


if __name__ == "__main__":
    # Functions of __main__ travel to the workers by value, with all they touch; of a module by name.
    from pipelines.cli import train_main

    train_main("segmenter")
