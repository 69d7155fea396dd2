"""Ultralytics as we use it: offline, without telemetry, and exact where mixed precision would not be."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from insideout.errors import PackError
from insideout.private import private_folder


def set_ultralytics_environment(settings: Path | None = None) -> None:
    """Switch off ultralytics' downloads, telemetry, auto-install and unsafe pickles.

    Should run before the first import of ultralytics in a process: where it was imported before, what
    it loads is made safe all the same, but downloads and telemetry stay as they were. `settings` is a
    writable folder for its settings.json, one of this user by default.
    """
    if settings is None:
        try:
            settings = private_folder("insideout-ultralytics")
        except OSError:
            settings = Path(tempfile.mkdtemp(prefix="insideout-ultralytics-"))
    settings.mkdir(parents=True, exist_ok=True)
    if tasks := sys.modules.get("ultralytics.nn.tasks"):
        tasks.SAFE_LOAD = True  # type: ignore[attr-defined]
    if utils := sys.modules.get("ultralytics.utils"):
        utils.SAFE_LOAD = True  # type: ignore[attr-defined]
    os.environ.update(
        YOLO_OFFLINE="1",
        YOLO_AUTOINSTALL="0",
        YOLO_CONFIG_DIR=str(settings),
        ULTRALYTICS_SAFE_LOAD="1",
    )
    os.environ.setdefault("YOLO_VERBOSE", "0")


def load_segmentation_model(architecture: str, weights: Path, classes: int) -> Any:
    """Build a network in float32 for inference from a safetensors file.

    Raises PackError when the weights are not of this architecture and number of classes. The
    environment must be set first.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from ultralytics.nn.tasks import SegmentationModel

    model = SegmentationModel(f"{architecture}.yaml", nc=classes, verbose=False)
    try:
        model.load_state_dict(load_file(weights))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise PackError(f"{weights}: not weights of {architecture} with {classes} classes: {error}") from error
    return model.float().eval()


@contextmanager
def float32_boxes(head: Any) -> Iterator[None]:
    """Keep the box arithmetic of a YOLO head out of autocast: bfloat16 would move edges by several pixels."""
    import torch

    decode = head._inference
    device = next(head.parameters()).device.type

    def in_float32(predictions: Any) -> Any:
        floats = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.float(), predictions)
        with torch.autocast(device, enabled=False):
            return decode(floats)

    head._inference = in_float32
    try:
        yield
    finally:
        del head._inference
