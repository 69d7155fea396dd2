"""Ultralytics as we use it: offline, without telemetry, and exact where mixed precision would not be."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from insideout.errors import PackError


def set_ultralytics_environment(settings: Path | None = None, *, online: bool = False) -> None:
    """Switch off ultralytics' downloads, telemetry, auto-install and unsafe pickles.

    Should run before the first import of ultralytics in a process: where it was imported before, what
    it loads is made safe all the same, but downloads and telemetry stay as they were. `settings` is a
    writable folder for its settings.json, one of this user by default; `online` lets it download, for
    weights that were asked for by name.
    """
    settings = settings or _own_folder()
    settings.mkdir(parents=True, exist_ok=True)
    if tasks := sys.modules.get("ultralytics.nn.tasks"):
        tasks.SAFE_LOAD = True  # type: ignore[attr-defined]
    if utils := sys.modules.get("ultralytics.utils"):
        utils.SAFE_LOAD = True  # type: ignore[attr-defined]
    os.environ.update(
        YOLO_OFFLINE="" if online else "1",
        YOLO_AUTOINSTALL="0",
        YOLO_CONFIG_DIR=str(settings),
        ULTRALYTICS_SAFE_LOAD="1",
    )
    os.environ.setdefault("YOLO_VERBOSE", "0")


def _own_folder() -> Path:
    """A folder that only this user writes to, the same in all processes where that can be."""
    folder = Path(tempfile.gettempdir()) / f"insideout-ultralytics-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Anyone can have made a folder of that name, or a link, in a place where all may write.
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.getuid(), 0o700)
    return folder if ours else Path(tempfile.mkdtemp(prefix="insideout-ultralytics-"))


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
