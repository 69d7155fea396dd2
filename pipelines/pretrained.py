"""The weights a training starts from, where every worker finds them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from insideout.backbones import PUBLISHED, published_weights
from insideout.packs import file_digest
from insideout.store import Store

_MODEL, _META = "model.safetensors", "meta.json"
_FILES = (".safetensors", ".pt", ".pth")


def published(backbone: str, choice: str, store: Store) -> str:
    """Fetch a publisher's weights, and say where the workers of a run into `store` find them.

    Raises UsageError where they cannot be had.
    """
    # Never a name in the common folder of temporary files, where anyone can have put other weights.
    folder = Path(store.root) if store.local else Path(torch.hub.get_dir()) / "insideout"
    file = published_weights(backbone, choice, folder)
    if store.local:
        return str(file)
    # Workers on other machines do not see the disk of this one.
    store.write(file.name, file.read_bytes())
    return f"{store.root.rstrip('/')}/{file.name}"


@contextmanager
def fetched(pretrained: str | None) -> Iterator[Path | None]:
    """Weights as a local file or checkpoint folder; those at a URL are copied for as long as they are needed.

    Raises StorageError where they cannot be read.
    """
    if pretrained is None or "://" not in pretrained:
        yield None if pretrained is None else Path(pretrained)
        return
    where = pretrained.rstrip("/")
    folder, _, name = (where if where.endswith(_FILES) else f"{where}/{_MODEL}").rpartition("/")
    store = Store(folder)
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / name
        local.write_bytes(store.read(name))
        if name == _MODEL and store.exists(_META):  # it says of which classes the last layer is
            (Path(scratch) / _META).write_bytes(store.read(_META))
        yield local


def everywhere(pretrained: str | None) -> str | None:
    """What --pretrained names, for workers with a working folder of their own: files by their whole path."""
    if pretrained is None or pretrained in PUBLISHED or "://" in pretrained:
        return pretrained
    return str(Path(pretrained).resolve())


def weights_digest(weights: Path) -> str:
    """The sha256 of a weights file, or of that in a checkpoint folder: what a run knows its start by."""
    return file_digest(weights / _MODEL if weights.is_dir() else weights)
