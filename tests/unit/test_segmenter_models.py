"""Every family of models that the segmenter can be trained as also goes into a pack and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from insideout.errors import RecipeError
from insideout.packing import read_segmenter
from insideout.packs import SegmenterPart, SegmenterSpec
from insideout.recipes.segmenter_recipe import SegmenterRecipe
from insideout.segment import CharacterSegmenter

CLASSES = ("Joy", "Anger", "head")


#: The larger ones take as long as all others together.
LARGE = [pytest.param(name, marks=pytest.mark.chaos) for name in ("yolov9c-seg", "yolo12n-seg")]


@pytest.mark.parametrize("name", ["yolov8n-seg", "yolo11n-seg", "yolo26n-seg", *LARGE])
def test_what_can_be_trained_can_be_packed_and_finds_what_ultralytics_finds(
    name: str, tmp_path: Path, ultralytics_settings: Path
) -> None:
    from ultralytics import YOLO
    from ultralytics.nn.tasks import SegmentationModel

    torch.manual_seed(0)
    network = SegmentationModel(f"{SegmenterRecipe(model=name).model}.yaml", nc=len(CLASSES), verbose=False)
    network.names, network.task, network.args = dict(enumerate(CLASSES)), "segment", {}
    for key, value in network.state_dict().items():
        if "cv3" in key and value.shape == (len(CLASSES),):
            value.copy_(torch.tensor([-3.0, -4.0, -9.0]))  # no heads: they would be parts
    torch.save({"model": network, "train_args": {"imgsz": 96}}, tmp_path / "best.pt")
    found = read_segmenter(tmp_path / "best.pt")
    weights = tmp_path / "segmenter.safetensors"
    save_file({key: value.contiguous().clone() for key, value in found["state"].items()}, weights)
    part = SegmenterPart(
        architecture=found["architecture"], weights=weights.name, sha256="0" * 64, bytes=1, imgsz=found["imgsz"],
        classes=found["classes"], parts=("head",), confidence=0.01, iou=0.7,
    )  # fmt: skip
    assert part.architecture == name

    picture = np.random.default_rng(0).integers(0, 255, (72, 128, 3), np.uint8)
    spec = SegmenterSpec(name, weights, "", 96, CLASSES, ("head",), part.confidence, part.iou)
    (best, *_) = CharacterSegmenter(spec).segment(picture[None])[0]
    (theirs,) = YOLO(tmp_path / "best.pt").predict(picture[:, :, ::-1], imgsz=96, conf=0.01, verbose=False)
    scores = theirs.boxes.conf.numpy()
    assert best.name == theirs.names[int(theirs.boxes.cls[0])]
    assert best.score == pytest.approx(scores[0], rel=0.05)  # bfloat16, where the processor has it
    corners = np.array([*best.box[:2], best.box[0] + best.box[2], best.box[1] + best.box[3]])
    alike = theirs.boxes.xyxy.numpy()[scores > 0.95 * scores[0]]
    assert np.abs(alike - corners).max(1).min() < 2
    assert best.mask.area > 0


def test_a_model_that_no_pack_can_hold_is_refused_before_it_is_trained() -> None:
    with pytest.raises(RecipeError, match=r"'yolov8n-seg-p6' can be trained but cannot label: .*yolov8n-seg"):
        SegmenterRecipe.from_yaml("model: yolov8n-seg-p6", "x")
    with pytest.raises(
        RecipeError, match="it has yolo11-seg, yolo12-seg, yolo26-seg, yolov8-seg, yolov9c-seg, yolov9e"
    ):
        SegmenterRecipe.from_yaml("model: yolo99n-seg", "x")
