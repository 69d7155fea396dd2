"""Score a segmenter on the val split of a YOLO export, class by class."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from insideout.errors import DataError
from insideout.packs import SegmenterSpec
from insideout.recipes.segmenter import read_yolo_data
from insideout.yolo import load_segmentation_model, set_ultralytics_environment


def score_segmenter(spec: SegmenterSpec, data: Path) -> dict[str, dict[str, float | int]]:
    """Measure a pack's segmenter on the `val` pictures of `data`, in float32.

    Returns, by class name and for `all` (the mean over classes): `instances`, `mask_map50`,
    `mask_map50_95`, `box_map50`, `box_map50_95`, as ultralytics' validator computes them (COCO's
    average precision over ten IoU thresholds from .50 to .95). Classes without instances are left
    out. Raises DataError when the export cannot be read or its classes are not the pack's.
    """
    resolved = read_yolo_data(data)
    if tuple(resolved["names"]) != spec.classes:
        raise DataError(f"{data}: classes {resolved['names']} are not those of the segmenter, {list(spec.classes)}")
    with tempfile.TemporaryDirectory() as folder:
        set_ultralytics_environment(Path(folder))
        from ultralytics.models.yolo.segment import SegmentationValidator

        data_yaml = Path(folder) / "data.yaml"
        data_yaml.write_text(yaml.safe_dump(resolved))
        settings: dict[str, Any] = {
            "task": "segment", "mode": "val", "data": str(data_yaml), "imgsz": spec.imgsz, "batch": 16, "rect": True,
            "device": "cpu", "plots": False, "verbose": False, "overlap_mask": False, "iou": spec.iou,
            "project": folder, "name": "val",
        }  # fmt: skip
        model = load_segmentation_model(spec.architecture, spec.weights, len(spec.classes))
        model.names = dict(enumerate(spec.classes))
        model.args = {"imgsz": spec.imgsz}
        validator = SegmentationValidator(args=settings, save_dir=Path(folder) / "val")
        validator(model=model)
        metrics = validator.metrics
    rows: dict[str, dict[str, float | int]] = {}
    for i, index in enumerate(metrics.seg.ap_class_index):
        rows[spec.classes[int(index)]] = {
            "instances": int(metrics.nt_per_class[int(index)]),
            "mask_map50": float(metrics.seg.ap50[i]),
            "mask_map50_95": float(metrics.seg.ap[i]),
            "box_map50": float(metrics.box.ap50[i]),
            "box_map50_95": float(metrics.box.ap[i]),
        }
    figures = ("mask_map50", "mask_map50_95", "box_map50", "box_map50_95")
    rows["all"] = {"instances": sum(row["instances"] for row in rows.values())} | {
        name: sum(row[name] for row in rows.values()) / max(1, len(rows)) for name in figures
    }
    return rows
