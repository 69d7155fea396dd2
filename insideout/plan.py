"""Plan a run before anything is decoded: which films, which frames, which spans, which fingerprint."""

from __future__ import annotations

import hashlib
import json
import pickle
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from insideout.errors import FilmError, OutputError
from insideout.film import Film, Sampling, open_film
from insideout.messages import without_credentials
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

    def missing(self, store: Store) -> set[int]:
        """Indices of the spans that are not committed yet."""
        return {span.index for span in self.spans} - self.finished(store)

    def samples_in(self, spans: Iterable[int]) -> int:
        """How many sampled frames the spans of these indices hold together."""
        borders = np.searchsorted(self.samples, [*(span.start for span in self.spans), self.film.frames])
        held = np.diff(borders)
        return int(held[list(spans)].sum())

    def reels(self, sampling: Sampling, wanted: set[int], *, alone: bool = False) -> list[Reel]:
        """The reels that hold the wanted spans, each span in one of its own if `alone`."""
        return plan_reels(self.film, self.samples, keyframes_only=sampling.keyframes, wanted=wanted, alone=alone)

    def fold(self) -> FoldedPlan:
        """The same plan in a few kilobytes, with what is asked of it most often beside it."""
        film = self.film
        # What is regular is small once it is differences: two hours of time stamps take 1.4 MB as they are.
        columns = (film.pts, film.keyframes, self.samples, np.array([span.end for span in self.spans], np.int32))
        empty = replace(film, pts=film.pts[:0], keyframes=film.keyframes[:0])
        data = (empty, [np.diff(column, prepend=column.dtype.type(0)) for column in columns])
        folded = zlib.compress(pickle.dumps(data))
        return FoldedPlan(_facts(film), len(self.samples), len(self.spans), self.fingerprint, folded)


@dataclass(frozen=True)
class FoldedPlan:
    """A film's plan folded up, for who holds thousands of them: time stamps and spans are packed away.

    facts: the film's row of `films.parquet`, but for sampling and fingerprint. samples, spans: how many.
    """

    facts: dict[str, Any]
    samples: int
    spans: int
    fingerprint: str
    data: bytes

    @property
    def film(self) -> str:
        """The id of the film."""
        return str(self.facts["film"])

    @property
    def path(self) -> str:
        """Where the film lies."""
        return str(self.facts["path"])

    def unfold(self) -> FilmPlan:
        """The plan as it was."""
        empty, differences = pickle.loads(zlib.decompress(self.data))
        pts, keyframes, samples, ends = (np.cumsum(column, dtype=column.dtype) for column in differences)
        starts = [0, *ends[:-1].tolist()]
        spans = tuple(Span(i, a, b) for i, (a, b) in enumerate(zip(starts, ends.tolist(), strict=True)))
        return FilmPlan(replace(empty, pts=pts, keyframes=keyframes), samples, spans, self.fingerprint)


def fingerprint(pack: Pack, settings: LabelSettings) -> str:
    """16 hex digits that change whenever pack, settings or code would give other rows."""
    facts = {"code": LABEL_VERSION, "pack": pack.digest, "settings": settings.model_dump()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def plan_film(path: str, settings: LabelSettings, fingerprint: str) -> FilmPlan:
    """Probe and index one film and cut it into spans; raises FilmError."""
    return plan_spans(open_film(path), settings, fingerprint)


def plan_spans(film: Film, settings: LabelSettings, fingerprint: str) -> FilmPlan:
    """Cut a film into spans."""
    sampling = Sampling.parse(settings.sampling)
    samples = sampling.ordinals(film)
    reels = plan_reels(film, samples, keyframes_only=sampling.keyframes)
    return FilmPlan(film, samples, tuple(span for reel in reels for span in reel.spans), fingerprint)


def _facts(film: Film) -> dict[str, Any]:
    return {
        "film": film.film,
        "path": without_credentials(film.path),
        "bytes": film.bytes,
        "sha256": film.sha256,
        "width": film.width,
        "height": film.height,
        "fps_num": film.fps.numerator,
        "fps_den": film.fps.denominator,
        "time_base_num": film.time_base.numerator,
        "time_base_den": film.time_base.denominator,
        "frames": film.frames,
        "duration_s": film.duration_s,
        "codec": film.codec,
    }


def open_output(store: Store, pack: Pack, settings: LabelSettings, plans: Sequence[FoldedPlan]) -> dict[str, Any]:
    """Claim an output folder for this plan and write `plan.json`; returns its content.

    A folder may receive more films as long as pack and settings stay the same. Raises OutputError
    when it belongs to another plan, or holds files that are not ours.
    """
    if not plans:
        raise FilmError("no film to label")
    ours = fingerprint(pack, settings)
    films = {
        plan.film: {
            "path": plan.path,
            "frames": plan.facts["frames"],
            "samples": plan.samples,
            "spans": plan.spans,
        }
        for plan in plans
    }
    plan = {
        "schema": 1,
        "fingerprint": ours,
        "settings": settings.model_dump(),
        "pack": {"name": pack.name, "digest": pack.digest},
        "films": films,
    }

    def claim(found: bytes | None) -> bytes:
        before: dict[str, Any] = {}
        if found is not None:
            before = json.loads(found)
            if before.get("fingerprint") != ours:
                raise OutputError(
                    f"{store.root}: belongs to another plan (pack {before['pack']['name']}, settings "
                    f"{before['settings']}); give another --out, or remove the folder to label again"
                )
        elif store.list(""):
            raise OutputError(f"{store.root}: not empty and not an output of insideout; give another --out")
        # Another run may be adding films to the same folder at this moment.
        plan["films"] = before.get("films", {}) | films
        return json.dumps(plan, indent=2, ensure_ascii=False).encode()

    store.update(PLAN_KEY, claim)
    return plan
