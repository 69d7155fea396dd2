"""Train a YOLO segmentation model on any YOLO-format export.

Ultralytics does the work. Added are: checks of the data before it starts, a run folder that survives
a kill at any moment, and mixed precision on CPUs that have bfloat16 (ultralytics switches it off
there; measured about twice as fast on AVX512-BF16).
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from insideout.errors import DataError, InsideoutError, PackError, RecipeError, StorageError, TrainingError
from insideout.packs import file_digest
from insideout.precision import use_bf16
from insideout.recipes.segmenter_recipe import SegmenterRecipe as SegmenterRecipe
from insideout.recipes.segmenter_run import (
    EpochRecorder,
    EpochReport,
    Tell,
    alone,
    claim,
    finish,
    read_result,
    result_line,
    rewind,
    take_amp,
    write_whole,
)
from insideout.recipes.yolo_data import read_yolo_data as read_yolo_data
from insideout.recipes.yolo_data import read_yolo_export, shot_of, thin_negatives
from insideout.yolo import float32_boxes, set_ultralytics_environment


def say(line: str) -> None:
    """Print a line at once.

    Not `partial(print)`: Ray puts another `print` in place of the built-in one, and what holds the
    built-in can then not be sent to the processes that ultralytics starts for several GPUs.
    """
    print(line, flush=True)


#: The name that `pretrained` has for ultralytics' published weights.
COCO = "coco"

#: Fields that are ours; everything else goes to ultralytics as it is.
_OWN_FIELDS = {"model", "precision", "negatives"}
_TRACKERS = {"clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "sync", "tensorboard", "wandb"}

#: Colour tells characters apart; ultralytics turns the hue by up to this share of the circle either way.
_MUCH_HUE = 0.03


@dataclass(frozen=True)
class SegmenterJob:
    """A training that was checked and may begin: its folder, its recipe, its starting weights."""

    out: Path
    recipe: SegmenterRecipe
    weights: str | None
    notes: tuple[str, ...]
    """What the user should know of the data and the weights."""


def prepare_segmenter(
    data: Path,
    recipe: SegmenterRecipe,
    out: Path,
    *,
    pretrained: str | None = None,
    resume: bool = False,
    allow_leaks: bool = False,
    shots: Path | None = None,
    gpus: int = 0,
) -> SegmenterJob:
    """Check everything a training needs and write its lists of pictures to the run folder.

    `pretrained` starts from a local checkpoint, or from `coco`, the weights that ultralytics
    publishes for the recipe's model (downloaded to OUT). `resume` accepts a run folder that does not
    say what it is for. `shots` is a CSV (`read_shots`) by which a shot on both sides is found where
    pictures are named by their ordinal. `gpus` are to share each batch. Raises RecipeError for a batch
    that they cannot share, DataError for unusable data or weights, OutputError for a folder with
    another training, StorageError when weights cannot be fetched.
    """
    _check_batch(recipe, gpus)
    check_start(pretrained)
    table = None
    if shots is not None:
        from insideout.evaluation.segmenter_report import read_shots

        table = read_shots(shots)
    export = read_yolo_export(data, allow_leaks=allow_leaks, shots=table)
    pictures = (*export.train.pictures, *export.val.pictures)
    notes = list(export.notes)
    if unknown := sum(not shot_of(picture, table) for picture in pictures):
        notes.append(
            f"the names of {unknown} of {len(pictures)} pictures do not say their shot, so that a shot on both sides"
            " would go unseen there; give the shots of the film with --shots, or put them into the names"
            " (000123_shot012.jpg)"
        )
    train, line = thin_negatives(export.train, recipe.negatives, recipe.seed)
    notes.append(line)
    if recipe.hsv_h > _MUCH_HUE:
        notes.append(f"hsv_h {recipe.hsv_h:g} turns the hue far enough to make one character look like another")
    start, weights = "random", None
    if pretrained == COCO:
        start = COCO
    elif pretrained is not None:
        notes += _check_checkpoint(Path(pretrained), recipe, export.names)
        start, weights = hashlib.sha256(Path(pretrained).read_bytes()).hexdigest(), str(Path(pretrained).resolve())
    out.mkdir(parents=True, exist_ok=True)
    claim(out, recipe, export.digest, start, resume=resume)
    if pretrained == COCO:
        weights = _fetch_weights(recipe.model, out)
        notes.append(f"{weights}: sha256 {file_digest(Path(weights))}")
    content: dict[str, Any] = {"names": list(export.names)}
    for key, split in (("train", train), ("val", export.val)):
        content[key] = str((out / f"{key}.txt").resolve())
        write_whole(out / f"{key}.txt", "".join(f"{path}\n" for path in split.pictures))
    write_whole(out / "data.yaml", yaml.safe_dump(content, sort_keys=False))
    return SegmenterJob(out, recipe, weights, tuple(notes))


def run_segmenter(
    job: SegmenterJob,
    *,
    device: str = "cpu",
    threads: int | None = None,
    on_epoch: EpochReport | None = None,
    tell: Tell = say,
) -> Path:
    """Train, or go on after the last whole checkpoint, and return `OUT/run/weights/best.pt`.

    `device` is ultralytics' (`cpu`, `0`, `0,1` …; several GPUs use its own DDP on one node).
    `threads` compute on a CPU and load pictures for GPUs. Each epoch is added to OUT/metrics.jsonl,
    and `on_epoch(epoch, figures)` is called with the same names; with several GPUs it and `tell` run
    in other processes and must be importable. A finished run returns at once. Raises TrainingError
    when training breaks off or a batch does not fit into memory, OutputError when another training
    runs in the folder, RecipeError for a batch that the GPUs cannot share.
    """
    out, recipe = job.out, job.recipe
    _check_batch(recipe, _gpus(device))
    set_ultralytics_environment(out / "ultralytics")
    import torch

    with alone(out, tell):
        result = read_result(out)
        if result is not None:
            return out / str(result["best"])
        checkpoint = rewind(out, tell)
        if checkpoint is None or not is_over(checkpoint, recipe):
            settings = overrides(job, device, threads)
            if checkpoint is not None:
                tell(f"going on after epoch {checkpoint['epoch'] + 1} of {recipe.epochs}")
                take_amp(out, checkpoint, settings["amp"], tell)
                last = str(out / "run" / "weights" / "last.pt")
                settings |= {"model": last, "resume": last, "save_dir": str((out / "run").resolve())}
            try:
                trainer = make_trainer(recipe, device, settings, EpochRecorder(out, on_epoch, tell))
                if threads and device == "cpu":
                    # Ultralytics leaves one core idle when it selects the CPU, so ours is set after it.
                    trainer.add_callback("on_train_start", lambda _: torch.set_num_threads(threads))
                trainer.train()
            except InsideoutError:
                raise
            except subprocess.CalledProcessError as error:
                raise TrainingError(f"{out}: a process of GPUs {device} ended, see its messages above") from error
            except Exception as error:  # ultralytics raises whatever it comes across
                raise TrainingError(f"{out}: training broke off: {' '.join(str(error).split())}") from error
        result = finish(out, recipe.epochs)
    tell(result_line(result))
    return out / str(result["best"])


def train_segmenter(
    data: Path,
    recipe: SegmenterRecipe,
    out: Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    pretrained: str | None = None,
    resume: bool = False,
    allow_leaks: bool = False,
    on_epoch: EpochReport | None = None,
    tell: Tell = say,
) -> Path:
    """Train in this process: `prepare_segmenter`, then `run_segmenter`. Raises what they raise.

    Running again with the same `out`, recipe and data goes on after the last finished epoch.
    """
    job = prepare_segmenter(
        data, recipe, out, pretrained=pretrained, resume=resume, allow_leaks=allow_leaks, gpus=_gpus(device)
    )
    for note in job.notes:
        tell(note)
    return run_segmenter(job, device=device, threads=threads, on_epoch=on_epoch, tell=tell)


def check_start(pretrained: str | None) -> None:
    """Raises DataError for starting weights that are neither a local file nor `coco`."""
    if pretrained not in (None, COCO) and not Path(str(pretrained)).is_file():
        raise DataError(f"{pretrained}: no such checkpoint; give a local .pt file, or `{COCO}`")


def is_over(checkpoint: dict[str, Any], recipe: SegmenterRecipe) -> bool:
    """Whether a checkpoint is of the last epoch, or of one that `patience` ended the training at."""
    done, best = checkpoint["epoch"] + 1, (checkpoint.get("stopper") or {}).get("best_epoch", 0)
    return bool(done >= recipe.epochs or (recipe.patience and done - best >= recipe.patience))


def _gpus(device: str) -> int:
    return 0 if device == "cpu" else len(device.split(","))


def _check_batch(recipe: SegmenterRecipe, gpus: int) -> None:
    # Ultralytics would give each GPU the whole part, and train with less than the recipe says.
    if gpus and recipe.batch % gpus:
        raise RecipeError(f"a batch of {recipe.batch} cannot be shared by {gpus} GPUs; make it a multiple")


def _check_checkpoint(path: Path, recipe: SegmenterRecipe, names: tuple[str, ...]) -> list[str]:
    """Refuse a checkpoint of another task or model; tell which classes it does not know."""
    from insideout.packing import read_segmenter

    try:
        found = read_segmenter(path)
    except PackError as error:
        raise DataError(str(error)) from error
    if found["architecture"] != recipe.model:
        raise DataError(f"{path}: is a {found['architecture']}, the recipe says {recipe.model}; set 'model' to match")
    if found["classes"] == names:
        return []
    unknown = [name for name in names if name not in found["classes"]]
    what = f"{', '.join(unknown)} are new to it" if unknown else "the same in another order, matched by name"
    return [f"{path}: has {len(found['classes'])} classes, this export {len(names)}: {what}"]


def _fetch_weights(model: str, out: Path) -> str:
    target = out / "ultralytics" / f"{model}.pt"
    set_ultralytics_environment(target.parent)
    from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS, attempt_download_asset

    if model not in GITHUB_ASSETS_STEMS:
        raise DataError(f"ultralytics publishes no weights of {model}; leave out --pretrained {COCO}")
    try:
        attempt_download_asset(str(target))
    except Exception as error:  # of requests, of the file system, or ultralytics' own
        raise StorageError(f"{target}: could not be fetched: {error}; fetch it by hand, give its path") from error
    if not target.is_file():
        raise StorageError(f"{target}: could not be fetched; fetch it by hand, give its path")
    return str(target)


def overrides(job: SegmenterJob, device: str, threads: int | None) -> dict[str, Any]:
    """What ultralytics is told: the recipe's fields, and how the job runs."""
    recipe = job.recipe
    gpus = _gpus(device)
    bf16 = gpus and use_bf16(recipe.precision, "cuda")
    return {k: v for k, v in recipe.model_dump().items() if k not in _OWN_FIELDS} | {
        "model": job.weights or f"{recipe.model}.yaml",
        "data": str(job.out / "data.yaml"),
        "device": device,
        "project": str(job.out.resolve()),
        "name": "run",
        "exist_ok": True,
        "amp": "bf16" if bf16 else bool(gpus) and recipe.precision != "fp32",
        "workers": max(1, min(8, (threads or 8) // gpus)) if gpus else 0,
        "cache": "ram",
        "plots": False,
        "pretrained": job.weights is not None,
        "deterministic": True,
    }


def make_trainer(recipe: SegmenterRecipe, device: str, settings: dict[str, Any], recorder: EpochRecorder) -> Any:
    """Ultralytics' trainer with the callbacks of the run folder and with no tracker."""
    from ultralytics.utils import SETTINGS, callbacks

    # Ultralytics reports to every tracker that is installed, to Ray Tune among them. Kept in its
    # settings file, where processes of several GPUs read it.
    SETTINGS.update({name: False for name in _TRACKERS & SETTINGS.keys()})
    hooks = callbacks.get_default_callbacks()
    for event, hook in recorder.callbacks().items():
        hooks[event].append(hook)
    return _trainer_class(recipe, device)(overrides=settings, _callbacks=hooks)


def _trainer_class(recipe: SegmenterRecipe, device: str) -> Any:
    """Ultralytics' trainer as it is for several GPUs, whose processes must import it; else ours."""
    import torch
    from ultralytics.models.yolo.segment import SegmentationTrainer
    from ultralytics.nn.tasks import SegmentationModel

    if "," in device:
        return SegmentationTrainer
    bf16 = device == "cpu" and use_bf16(recipe.precision, device)

    class CpuBf16Model(SegmentationModel):  # type: ignore[misc]
        """The same network with its layers in bfloat16 autocast and its outputs in float32."""

        def _predict_once(self, x: Any, *args: Any, **kwargs: Any) -> Any:
            with float32_boxes(self.model[-1]), torch.autocast("cpu", torch.bfloat16):
                y = super()._predict_once(x.contiguous(memory_format=torch.channels_last), *args, **kwargs)
            return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.float(), y)

    class Trainer(SegmentationTrainer):  # type: ignore[misc]
        def get_model(self, *args: Any, **kwargs: Any) -> Any:
            model = super().get_model(*args, **kwargs)
            if bf16:
                model.__class__ = CpuBf16Model
                model = model.to(memory_format=torch.channels_last)
            return model

        def save_model(self) -> bool:
            # Checkpoints must load without this class, and weights-only.
            with _as_class(self.ema.ema, SegmentationModel):
                return bool(super().save_model())

        def final_eval(self) -> None:
            # Its figures are those of the best epoch, which results.csv holds; it would load a
            # pickle that weights-only loading refuses.
            return

    return Trainer


@contextmanager
def _as_class(module: Any, cls: type) -> Iterator[None]:
    before = module.__class__
    module.__class__ = cls
    try:
        yield
    finally:
        module.__class__ = before
