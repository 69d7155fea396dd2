"""Trials of a segmenter sweep: a training by ultralytics in one process that tells its score after every epoch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from insideout.errors import UsageError
from insideout.packs import file_digest
from insideout.recipes.segmenter import check_start, prepare_segmenter, run_segmenter
from insideout.recipes.segmenter_recipe import SegmenterRecipe
from insideout.recipes.segmenter_run import read_metrics
from insideout.recipes.yolo_data import read_yolo_export
from insideout.store import Store
from tune.search import trial_recipe
from tune.settings import FIGURES, Share, Sweep
from tune.space import Space

#: Not needed to go on: lists that are made anew, downloads, and copies of what is kept beside them.
_LEFT_OUT = ("*.txt", "*.lock", "ultralytics", "best.pt", "last.pt")


@dataclass(frozen=True)
class SegmenterJob:
    """What every trial is told: plain values, since they travel to other machines."""

    data: str
    space: Space
    pretrained: str | None
    metric: str
    threads: int
    device: str = "cpu"
    allow_leaks: bool = False
    digest: str = ""
    """Of the export and of weights in a file of the user's own: what the sweep is for, with its settings."""

    def recipe(self, config: Mapping[str, Any]) -> SegmenterRecipe:
        """The recipe of a trial."""
        recipe = trial_recipe(self.space, config)
        assert isinstance(recipe, SegmenterRecipe)
        return recipe


def prepare(sweep: Sweep, space: Space, share: Share, store: Store) -> SegmenterJob:
    """Check the data of a sweep and say what its trials are told.

    Raises DataError for unusable data or weights, UsageError for what a segmenter's trial cannot do.
    """
    if share.gpus > 1:
        raise UsageError(f"--gpus {share.gpus:g}: a trial is one process on one GPU; ask for 1 or a fraction")
    check_start(sweep.pretrained)
    (data,) = sweep.data
    export = read_yolo_export(Path(data), allow_leaks=sweep.allow_leaks)
    own = sweep.pretrained is not None and Path(sweep.pretrained).is_file()
    start = file_digest(Path(str(sweep.pretrained))) if own else ""
    return SegmenterJob(
        data,
        space,
        sweep.pretrained,
        sweep.judged_by,
        max(1, int(share.cpus)),
        "0" if share.gpus else "cpu",
        sweep.allow_leaks,
        f"{export.digest} {start}".rstrip(),
    )


def train(config: Mapping[str, Any], job: SegmenterJob) -> None:
    """A trial as Ray Tune calls it: trains, reports and goes on from a checkpoint, a copy of its run folder."""
    out = Path.cwd() / "run"
    # What an earlier life of this trial left here may be ahead of what it has reported.
    shutil.rmtree(out, ignore_errors=True)
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            shutil.copytree(folder, out)

    def report(epoch: int, figures: dict[str, float]) -> None:
        found = {name: figures[name] for name in FIGURES["segmenter"]}
        best = max(row[job.metric] or 0.0 for row in read_metrics(out))
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(out, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)
            tune.report({"epoch": epoch, "score": best} | found, checkpoint=tune.Checkpoint.from_directory(folder))

    prepared = prepare_segmenter(
        Path(job.data), job.recipe(config), out, pretrained=job.pretrained, allow_leaks=job.allow_leaks
    )
    run_segmenter(prepared, device=job.device, threads=job.threads, on_epoch=report, tell=lambda _: None)
