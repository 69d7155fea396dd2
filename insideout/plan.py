"""Plan a run before anything is decoded: which films, which frames, which spans, which fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from insideout.errors import FilmError, OutputError
from insideout.film import Film, Sampling, open_film
from insideout.packs import Pack
from insideout.recipes.base import Recipe
from insideout.spans import Reel, Span, plan_reels
from insideout.store import Store

#: Counts up whenever the same film, pack and settings give other rows than before.
LABEL_VERSION = 1
PLAN_KEY = "plan.json"


class LabelSettings(Recipe):
    """What decides the rows of a label table, beside the film and the pack."""

    sampling: str = "every:4"
    confidence: float | None = Field(None, ge=0, le=1)
    crop_size: int | None = Field(None, ge=16)
    """Crops are stored with at most so many pixels a side; None stores none, 16 or more does."""


def spans_folder(film: str, fingerprint: str) -> str:
    """Where the finished spans of a film lie until the film is assembled."""
    return f"spans/film={film}/{fingerprint}"


def span_key(film: str, fingerprint: str, span: Span) -> str:
    """The one name that a span can have: a function of film, span and fingerprint."""
    return f"{spans_folder(film, fingerprint)}/{span.index:06d}.parquet"


@dataclass(frozen=True)
class FilmPlan:
    """One film with the frames that will be looked at, cut into spans."""

    film: Film
    samples: NDArray[np.int32]
    spans: tuple[Span, ...]
    fingerprint: str

    @property
    def folder(self) -> str:
        """Where the finished spans of this film lie until the film is assembled."""
        return spans_folder(self.film.film, self.fingerprint)

    def span_key(self, span: Span) -> str:
        """Where a span of this film is committed."""
        return span_key(self.film.film, self.fingerprint, span)

    def finished(self, store: Store) -> set[int]:
        """Indices of the spans that are already committed."""
        names = {self.span_key(span): span.index for span in self.spans}
        return {names[key] for key in store.list(self.folder, ".parquet") if key in names}

    def reels(self, sampling: Sampling, wanted: set[int]) -> list[Reel]:
        """The reels that hold the wanted spans."""
        return plan_reels(self.film, self.samples, keyframes_only=sampling.keyframes, wanted=wanted)


def fingerprint(pack: Pack, settings: LabelSettings) -> str:
    """16 hex digits that change whenever pack, settings or code would give other rows."""
    facts = {"code": LABEL_VERSION, "pack": pack.digest, "settings": settings.model_dump()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def plan_film(path: str, settings: LabelSettings, fingerprint: str) -> FilmPlan:
    """Probe and index one film and cut it into spans; raises FilmError."""
    film = open_film(path)
    sampling = Sampling.parse(settings.sampling)
    samples = sampling.ordinals(film)
    reels = plan_reels(film, samples, keyframes_only=sampling.keyframes)
    return FilmPlan(film, samples, tuple(span for reel in reels for span in reel.spans), fingerprint)


def distinct(plans: Sequence[FilmPlan]) -> list[FilmPlan]:
    """Drop films whose bytes were already given under another name, keeping the first."""
    first: dict[str, FilmPlan] = {}
    for plan in plans:
        first.setdefault(plan.film.film, plan)
    return list(first.values())


def open_output(store: Store, pack: Pack, settings: LabelSettings, plans: Sequence[FilmPlan]) -> dict[str, Any]:
    """Claim an output folder for this plan and write `plan.json`; returns its content.

    A folder may receive more films as long as pack and settings stay the same. Raises OutputError
    when it belongs to another plan, or holds files that are not ours.
    """
    if not plans:
        raise FilmError("no film to label")
    ours = fingerprint(pack, settings)
    films = {
        plan.film.film: {
            "path": plan.film.path,
            "frames": plan.film.frames,
            "samples": len(plan.samples),
            "spans": len(plan.spans),
        }
        for plan in plans
    }
    if store.exists(PLAN_KEY):
        before = store.read_json(PLAN_KEY)
        if before.get("fingerprint") != ours:
            raise OutputError(
                f"{store.root}: belongs to another plan (pack {before['pack']['name']}, settings "
                f"{before['settings']}); give another --out, or remove the folder to label again"
            )
        films = before["films"] | films
    elif store.list(""):
        raise OutputError(f"{store.root}: not empty and not an output of insideout; give another --out")
    plan = {
        "schema": 1,
        "fingerprint": ours,
        "settings": settings.model_dump(),
        "pack": {"name": pack.name, "digest": pack.digest},
        "films": films,
    }
    store.write_json(PLAN_KEY, plan)
    return plan
