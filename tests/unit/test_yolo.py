from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from insideout.errors import PackError
from insideout.yolo import float32_boxes, load_segmentation_model


def test_ultralytics_neither_downloads_nor_reports(tmp_path: Path) -> None:
    """In a process of its own, since ultralytics decides when it is first imported."""
    code = f"""
from pathlib import Path
from insideout.yolo import set_ultralytics_environment
set_ultralytics_environment(Path({str(tmp_path)!r}))
from ultralytics.utils import AUTOINSTALL, ONLINE
from ultralytics.utils.events import events
from ultralytics.nn import tasks
import os
print(ONLINE, AUTOINSTALL, events.enabled, os.environ["ULTRALYTICS_SAFE_LOAD"])
"""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.strip() == "False False False 1", done.stderr


def test_ray_does_not_report_usage() -> None:
    code = (
        "import os; os.environ.pop('RAY_USAGE_STATS_ENABLED', None); import pipelines.cluster;"
        "print(os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0", done.stderr


def test_box_arithmetic_is_float32_only_for_as_long_as_asked() -> None:
    import torch

    class Head(torch.nn.Linear):
        def _inference(self, predictions: dict[str, torch.Tensor]) -> torch.dtype:
            return self(predictions["x"]).dtype

    head, x = Head(4, 4), {"x": torch.zeros(1, 4, dtype=torch.bfloat16)}
    with torch.autocast("cpu", torch.bfloat16):
        assert head._inference(x) == torch.bfloat16
        with float32_boxes(head):
            assert head._inference(x) == torch.float32
        assert head._inference(x) == torch.bfloat16


def test_weights_of_another_network_are_refused(pack: Path) -> None:
    with pytest.raises(PackError, match="not weights of yolov8n-seg with 9 classes"):
        load_segmentation_model("yolov8n-seg", pack / "segmenter.safetensors", 9)
