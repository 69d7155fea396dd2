"""Train a YOLO segmentation model on any YOLO-format export.

Ultralytics does the work. Two things are added: mixed precision on CPUs that have bfloat16
(ultralytics switches it off there; measured about twice as fast on AVX512-BF16), and a data.yaml
with absolute paths, since exports of Roboflow name theirs relative to a folder they do not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from insideout.errors import DataError, TrainingError
from insideout.precision import Precision, use_bf16
from insideout.recipes.base import Recipe
from insideout.yolo import float32_boxes, set_ultralytics_environment

EpochReport = Callable[[int, dict[str, float]], None]


class SegmenterRecipe(Recipe):
    """How a segmenter is trained; field names are those of ultralytics' train mode.

    The defaults are the student project's recipe, which left everything else to ultralytics.
    """

    model: str = "yolov8n-seg"
    imgsz: int = Field(416, ge=32, multiple_of=32)
    batch: int = Field(32, ge=1)
    epochs: int = Field(300, ge=1)
    patience: int = Field(30, ge=0)
    optimizer: str = "auto"
    lr0: float = Field(0.01, gt=0)
    lrf: float = Field(0.01, gt=0)
    cos_lr: bool = False
    weight_decay: float = Field(0.0005, ge=0)
    warmup_epochs: float = Field(3.0, ge=0)
    nbs: int = Field(64, ge=1)
    seed: int = 0
    precision: Precision = "auto"
    hsv_h: float = Field(0.015, ge=0, le=1)
    hsv_s: float = Field(0.7, ge=0, le=1)
    hsv_v: float = Field(0.4, ge=0, le=1)
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    fliplr: float = 0.5
    mosaic: float = 1.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    close_mosaic: int = 10
    overlap_mask: bool = True
    """Ultralytics' default; to be switched off where a class lies inside another, as a head in a body does,
    since it cuts the smaller mask out of the larger one."""


#: The name that `pretrained` has for ultralytics' published weights.
COCO = "coco"

#: Fields that are ours; everything else goes to ultralytics as it is.
_OWN_FIELDS = {"model", "precision"}


def read_yolo_data(data: Path) -> dict[str, Any]:
    """Read a YOLO `data.yaml` and resolve its folders.

    `data` is the YAML or the folder that holds it. Returns `train`, `val` (absolute paths of image
    folders), `names` (list, class order) and, where there is one, `test`. Accepts both lists and
    index maps for `names`, and Roboflow's `../train/images`, which lies beside the YAML in the
    archives it ships. Raises DataError with what is missing.
    """
    path = data / "data.yaml" if data.is_dir() else data
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a YOLO export with a data.yaml")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML: {error}") from error
    if not isinstance(raw, dict) or "names" not in raw:
        raise DataError(f"{path}: no 'names'; a YOLO data.yaml lists its classes there")
    names = raw["names"]
    names = [names[key] for key in sorted(names)] if isinstance(names, dict) else list(names)
    if "nc" in raw and raw["nc"] != len(names):
        raise DataError(f"{path}: nc is {raw['nc']} but there are {len(names)} names")
    resolved: dict[str, Any] = {"names": names}
    for key, aliases in {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}.items():
        value = next((raw[alias] for alias in aliases if raw.get(alias)), None)
        if value is None and key == "test":
            continue
        if value is None:
            raise DataError(f"{path}: no '{key}'; name the folder of its images")
        root = (path.parent / raw.get("path", ".")).resolve()
        candidates = [root / value, root / str(value).removeprefix("../")]
        folder = next((c.resolve() for c in candidates if c.is_dir()), None)
        if folder is None and key == "test":
            continue
        if folder is None:
            raise DataError(f"{path}: '{key}: {value}' is not a folder (looked at {candidates[0]})")
        if not any(folder.iterdir()):
            raise DataError(f"{folder}: empty; '{key}' needs images")
        resolved[key] = str(folder)
    return resolved


def train_segmenter(
    data: Path,
    recipe: SegmenterRecipe,
    out: Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    pretrained: str | None = None,
    resume: bool = False,
    on_epoch: EpochReport | None = None,
) -> Path:
    """Train and return the path of the best checkpoint, `OUT/run/weights/best.pt`.

    `device` is ultralytics' (`cpu`, `0`, `0,1` …; several GPUs use its own DDP on one node).
    `pretrained` starts from a local checkpoint, or from `coco`, the weights that ultralytics
    publishes for the recipe's model (downloaded). `resume` goes on from `OUT/run/weights/last.pt` if
    there is one. `on_epoch(epoch, metrics)` is called after each epoch with ultralytics' metric
    names. Raises DataError for unusable data, TrainingError when no checkpoint comes out.
    """
    if pretrained not in (None, COCO) and not Path(str(pretrained)).is_file():
        raise DataError(f"{pretrained}: no such checkpoint; give a local .pt file, or `{COCO}`")
    resolved = read_yolo_data(data)
    set_ultralytics_environment(out / "ultralytics", online=pretrained == COCO)
    import torch

    out.mkdir(parents=True, exist_ok=True)
    data_yaml = out / "data.yaml"
    data_yaml.write_text(yaml.safe_dump(resolved, sort_keys=False))
    last = out / "run" / "weights" / "last.pt"
    overrides = {k: v for k, v in recipe.model_dump().items() if k not in _OWN_FIELDS} | {
        "model": {None: f"{recipe.model}.yaml", COCO: f"{recipe.model}.pt"}.get(pretrained, pretrained),
        "data": str(data_yaml),
        "device": device,
        "project": str(out.resolve()),
        "name": "run",
        "exist_ok": True,
        "amp": recipe.precision != "fp32" and device != "cpu",
        "cache": "ram",
        "plots": False,
        "pretrained": pretrained is not None,
        "deterministic": True,
    }
    if resume and last.is_file():
        overrides |= {"model": str(last), "resume": str(last)}
    trainer = _trainer_class(recipe, device)(overrides=overrides)
    if threads:
        # Ultralytics leaves one core idle when it selects the CPU, so ours is set after it.
        trainer.add_callback("on_train_start", lambda _: torch.set_num_threads(threads))
    if on_epoch is not None:
        report = on_epoch
        trainer.add_callback(
            "on_fit_epoch_end", lambda t: report(t.epoch + 1, {k: float(v) for k, v in t.metrics.items()})
        )
    trainer.train()
    best = Path(trainer.best)
    if not best.is_file():
        raise TrainingError(f"{best}: training ended without a checkpoint; see {out / 'run' / 'results.csv'}")
    return best


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
