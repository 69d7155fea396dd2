"""The winner of a sweep, trained as any other recipe: by Ray Train, or by ultralytics for a segmenter."""

from __future__ import annotations

from pathlib import Path

from insideout.errors import UsageError
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.recipes.segmenter_recipe import SegmenterRecipe
from insideout.store import Store
from pipelines.train_segmenter import fit
from pipelines.workers import check_places
from tune.results import BEST
from tune.settings import Share, Sweep

WINNER = "winner"


def check_winner(sweep: Sweep, store: Store, share: Share) -> None:
    """Raises UsageError, before the search, where its winner could not be trained into this folder or on this Ray."""
    if sweep.of == "segmenter":
        if not store.local:
            raise UsageError(f"{store.root}: a segmenter is trained into a local folder; give one, or --no-winner")
        fit(share.workers if share.gpus else 0, None)
        return
    check_places(share.workers, 1, 1 if share.gpus else 0, "ask for fewer --workers for the winner, or --no-winner")


def train_winner(sweep: Sweep, store: Store, share: Share) -> str:
    """Train best.yaml into the folder `winner` of a sweep, or go on there, and return where its checkpoint is.

    `share.workers` work together, each with an equal share of the CPUs and, where trials had GPUs, one of its own.
    """
    text = store.read(BEST).decode()
    gpus = share.workers if share.gpus else 0
    if sweep.of == "segmenter":
        from pipelines.train_segmenter import run as train_segmenter

        segmenter = SegmenterRecipe.from_yaml(text, store.path(BEST))
        return str(
            train_segmenter(
                Path(sweep.data[0]),
                segmenter,
                Path(store.path(WINNER)),
                gpus=gpus,
                pretrained=sweep.pretrained,
                allow_leaks=sweep.allow_leaks,
            )
        )
    from pipelines.train_emotion import run as train_emotion

    emotion = EmotionRecipe.from_yaml(text, store.path(BEST))
    return train_emotion(
        sweep.data,
        emotion,
        f"{store.root.rstrip('/')}/{WINNER}",
        workers=share.workers,
        gpus=gpus,
        pretrained=sweep.pretrained,
        labels=Path(sweep.labels) if sweep.labels else None,
        allow_leaks=sweep.allow_leaks,
    )
