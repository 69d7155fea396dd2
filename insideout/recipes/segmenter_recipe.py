"""How a segmenter is trained, and which models there are."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator

from insideout.packs import SEGMENTERS
from insideout.precision import Precision
from insideout.recipes.base import Recipe


class SegmenterRecipe(Recipe):
    """How a segmenter is trained; field names are those of ultralytics' train mode.

    The defaults are the student project's recipe, which left everything else to ultralytics.
    """

    model: str = "yolov8n-seg"
    imgsz: int = Field(416, ge=32, multiple_of=32)
    batch: int = Field(32, ge=1)
    epochs: int = Field(300, ge=1)
    patience: int = Field(30, ge=0)
    optimizer: Literal["auto", "SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSProp", "MuSGD"] = "auto"
    lr0: float = Field(0.01, gt=0, le=1)
    lrf: float = Field(0.01, gt=0, le=1)
    cos_lr: bool = False
    weight_decay: float = Field(0.0005, ge=0, le=1)
    warmup_epochs: float = Field(3.0, ge=0)
    nbs: int = Field(64, ge=1)
    seed: int = 0
    precision: Precision = "auto"
    negatives: float | None = Field(None, ge=0, lt=1)
    """Share of training pictures without a label; more of them are left out, drawn by the seed. None keeps all."""
    hsv_h: float = Field(0.015, ge=0, le=1)
    hsv_s: float = Field(0.7, ge=0, le=1)
    hsv_v: float = Field(0.4, ge=0, le=1)
    degrees: float = Field(0.0, ge=0, le=180)
    translate: float = Field(0.1, ge=0, le=1)
    scale: float = Field(0.5, ge=0, le=1)
    fliplr: float = Field(0.5, ge=0, le=1)
    mosaic: float = Field(1.0, ge=0, le=1)
    mixup: float = Field(0.0, ge=0, le=1)
    copy_paste: float = Field(0.0, ge=0, le=1)
    close_mosaic: int = Field(10, ge=0)
    overlap_mask: bool = True
    """Ultralytics' default; to be switched off where a class lies inside another, as a head in a body does,
    since it cuts the smaller mask out of the larger one."""

    @field_validator("model")
    @classmethod
    def _known(cls, name: str) -> str:
        check_model_name(name)
        return name


def check_model_name(name: str) -> None:
    """Compare the name of a model with ultralytics' own configurations, without importing it.

    Raises ValueError for an unknown name, for one of another task, for one without its size, and for
    one that no pack takes.
    """
    found = importlib.util.find_spec("ultralytics")
    if found is None or not found.submodule_search_locations:
        raise ValueError("ultralytics is not installed")
    folder = Path(found.submodule_search_locations[0]) / "cfg" / "models"
    configurations = {path.stem: path for path in folder.rglob("*.yaml")}
    # As ultralytics finds them: yolov8n-seg is yolov8-seg in the size n.
    path = configurations.get(name) or configurations.get(re.sub(r"(\d+)[nslmx](?=-|$)", r"\1", name, count=1))
    if path is None:
        known = sorted(stem for stem in configurations if re.match(SEGMENTERS, stem))
        raise ValueError(f"ultralytics has no model '{name}'; it has {', '.join(known)}, in sizes such as yolov8n-seg")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    head = str(content["head"][-1][-2])
    if not re.fullmatch(r"Segment\d*", head):
        raise ValueError(f"'{name}' is no segmentation model (it ends in {head}); take one such as yolov8n-seg")
    sizes = list(content.get("scales") or {})
    size = re.match(r"yolov?\d+([nslmx])", name)
    if sizes and (size is None or size.group(1) not in sizes):
        raise ValueError(f"'{name}' does not say its size; put one of {', '.join(sizes)} after the version")
    if not re.match(SEGMENTERS, name):
        raise ValueError(
            f"'{name}' can be trained but cannot label: it needs pictures padded to multiples of 64 px, which labelling"
            " does not do; take one such as yolov8n-seg"
        )
