"""Train the emotion classifier with Ray Train, on one CPU or many GPUs.

crops -> workers (DDP) -> a checkpoint each epoch -> the best by macro-F1 on valid

python -m pipelines.train_emotion EXPORT configs/emotion-student.yaml DIR
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model

from insideout.errors import OutputError, TrainingError
from insideout.recipes.crops import read_crops
from insideout.recipes.emotion import TORCHVISION_WEIGHTS, EmotionRecipe, EmotionTraining, fetch_torchvision_weights


def run(
    data: Path,
    recipe: EmotionRecipe,
    out: Path,
    *,
    workers: int = 1,
    gpus: int = 0,
    cpus: int | None = None,
    pretrained: Path | str | None = None,
    name: str = "run",
) -> Path:
    """Train on a started Ray cluster and return the folder of the best checkpoint, `OUT/best`.

    It holds model.safetensors and meta.json (classes, recipe, scores on valid, counts). `workers`
    train together, each on `cpus` (default: an equal share of the cluster) and, with `gpus` > 0, on
    a GPU of its own. `pretrained` is a local file, a checkpoint folder, or `imagenet`, which fetches
    torchvision's weights. Running again with the same `out` and `name` goes on after the last
    finished epoch; another recipe or other data there is an OutputError. `data` and `out` must be
    absolute and seen by every node. Raises DataError for unusable data, TrainingError when no
    checkpoint comes out.
    """
    crops = read_crops(data, recipe.classes)
    for split, classes in crops.left_out.items():
        print(f"{split}: left out " + ", ".join(f"{n} {name}" for name, n in classes.items()), flush=True)
    _claim(out, recipe, crops.digest())
    if str(pretrained) in TORCHVISION_WEIGHTS:
        pretrained = fetch_torchvision_weights(str(pretrained), out)
    workers = max(workers, gpus)
    threads = cpus or max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "data": str(data),
            "recipe": recipe.model_dump(),
            "threads": threads,
            "pretrained": str(pretrained) if pretrained else None,
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": threads} | ({"GPU": 1} if gpus else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(out),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="macro_f1", checkpoint_score_order="max"
            ),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(f"{out / name}: {_first_line(error)}; run again to go on from the last epoch") from error
    best = result.get_best_checkpoint("macro_f1", "max")
    if best is None:
        raise TrainingError(f"{out / name}: training ended without a checkpoint")
    return _publish(best, out / "best")


def train_worker(config: dict[str, Any]) -> None:
    """What every worker does: its share of each epoch; worker 0 evaluates and saves."""
    torch.set_num_threads(config["threads"])
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # it tells of each checkpoint, by its path
    context = ray.train.get_context()
    rank = context.get_world_rank()
    recipe = EmotionRecipe(**config["recipe"])
    training = EmotionTraining(
        recipe,
        read_crops(Path(config["data"]), recipe.classes),
        device=str(get_device()),
        wrap=prepare_model,
        rank=rank,
        world=context.get_world_size(),
        pretrained=Path(config["pretrained"]) if config["pretrained"] else None,
        threads=config["threads"],
    )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            training.restore(Path(folder))
    while training.epoch < recipe.epochs:
        began = time.monotonic()
        loss = training.train_epoch()
        if rank != 0:
            ray.train.report({"loss": loss})
            continue
        figures = training.evaluate()
        with tempfile.TemporaryDirectory() as folder:
            training.save(Path(folder), figures)
            numbers = {key: value for key, value in figures.items() if isinstance(value, float)}
            ray.train.report({"epoch": training.epoch, "loss": loss} | numbers, Checkpoint.from_directory(folder))
        # Not print: Ray Train logs what is printed, so that it would come twice.
        sys.stdout.write(
            f"epoch {training.epoch}/{recipe.epochs}  loss {loss:.3f}  valid macro-F1 {figures['macro_f1']:.3f}"
            f"  balanced accuracy {figures['balanced_accuracy']:.3f}  nll {figures['nll']:.3f}"
            f"  {time.monotonic() - began:.1f} s\n"
        )
        sys.stdout.flush()


def _claim(out: Path, recipe: EmotionRecipe, digest: str) -> None:
    """Write what this folder is for, or refuse a folder that is for something else."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "recipe.yaml"
    with tempfile.TemporaryDirectory(dir=out) as folder:
        fresh = Path(folder) / "recipe.yaml"
        recipe.write(fresh)
        text = f"# data {digest}\n{fresh.read_text()}"
        if not path.exists():
            fresh.write_text(text)
            fresh.replace(path)
    if path.read_text() != text:
        raise OutputError(f"{path}: this folder has a training with another recipe or other data; choose another --out")


def _publish(checkpoint: Checkpoint, target: Path) -> Path:
    with checkpoint.as_directory() as folder, tempfile.TemporaryDirectory(dir=target.parent) as fresh:
        staged = Path(fresh) / target.name
        staged.mkdir()
        for name in ("model.safetensors", "meta.json"):
            shutil.copyfile(Path(folder) / name, staged / name)
        if target.exists():
            target.rename(Path(fresh) / "before")
        staged.rename(target)
    return target


def _first_line(error: BaseException) -> str:
    """The last line of the deepest cause: what went wrong, without the traceback around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


if __name__ == "__main__":
    import typer

    # Functions of __main__ travel to the workers by value, with all they touch; of a module by name.
    from pipelines.cluster import connected
    from pipelines.train_emotion import run

    def main(
        data: Path,
        recipe: Path,
        out: Path,
        workers: int = 1,
        gpus: int = 0,
        cpus: int | None = None,
        pretrained: str | None = None,
        name: str = "run",
        address: str | None = None,
    ) -> None:
        """Train on the classification export DATA by RECIPE and write the best checkpoint to OUT/best."""
        settings = EmotionRecipe.read(recipe)
        with connected(address, training=True):
            best = run(
                data.resolve(), settings, out.resolve(),
                workers=workers, gpus=gpus, cpus=cpus, pretrained=pretrained, name=name,
            )  # fmt: skip
        print(best)

    typer.run(main)
