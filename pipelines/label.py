"""Label films: plan -> decode -> segment -> crop -> classify -> write, on Ray Data with actor pools.

    python -m pipelines.label FILM... --pack PACK --out DIR     (for `ray job submit`)

On CPUs an actor decodes and labels, so that no frame crosses the object store; with GPUs spans are
streamed from CPU decoders to GPU actors. Every span is committed under its own name, so running again
does the missing ones only.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext

from insideout.assemble import FilmSummary, assemble, is_assembled, read_summary
from insideout.decode import decode
from insideout.emotion import EmotionClassifier
from insideout.errors import FilmError, IncompleteError, InsideoutError, StorageError
from insideout.faults import fault
from insideout.film import Sampling
from insideout.isolate import isolate, quarantine
from insideout.label import SpanLabels, classify_span, crop_span, segment_span, timed
from insideout.manifest import write_films, write_manifest
from insideout.packs import Pack, load_pack
from insideout.parts import part_bytes
from insideout.plan import FilmPlan, LabelSettings, distinct, fingerprint, open_output, plan_film, span_key
from insideout.retry import clear_spans
from insideout.segment import CharacterSegmenter
from insideout.spans import Reel
from insideout.store import Store
from pipelines.cluster import Resources

#: Below any span of frames, so that Ray never waits to put two spans into one block.
_BLOCK_BYTES = 1024 * 1024
#: A span whose process died is tried again so often in company, before it is labelled alone.
_RETRIES = 1
#: A process that works on one span for longer than this, in seconds, is taken to hang and ended.
_PATIENCE = float(os.environ.get("INSIDEOUT_SPAN_SECONDS", "900"))
Row = dict[str, Any]
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What every stage needs to know; small, so that it travels with the code."""

    pack: str
    out: str
    settings: LabelSettings
    fingerprint: str
    device: str


def decode_reel(row: Row) -> Iterator[Row]:
    """A reel becomes its spans, one row each, pictures included."""
    reel: Reel = pickle.loads(row["reel"][0])
    spans = decode(reel, threads=1)
    while True:
        seconds: dict[str, float] = {}
        # Ends this process even where a library hangs without giving up Python's lock.
        faulthandler.dump_traceback_later(_PATIENCE, exit=True)
        with timed(seconds, "decode"):
            frames = next(spans, None)
        faulthandler.cancel_dump_traceback_later()
        if frames is None:
            return
        fault("after-decode", frames.ordinals)
        empty = replace(frames, pictures=frames.pictures[:0])
        yield _row(film=reel.film, frames=empty, seconds=seconds) | {"pictures": frames.pictures[None]}


class Label:
    """Holds both models: finds the characters of a span, cuts and classifies their crops, commits it."""

    def __init__(self, job: Job) -> None:
        pack = _pack_of(job)
        self.job, self.store, self.emotion = job, Store(job.out), pack.emotion
        self.segmenter = CharacterSegmenter(pack.segmenter, job.device, threads=1)
        self.classifier = EmotionClassifier(pack.emotion, job.device, threads=1)

    def __call__(self, row: Row) -> Row:
        """One span in; what comes out is its line for the progress display."""
        film, seconds = row["film"][0], row["seconds"][0]
        frames = replace(row["frames"][0], pictures=np.asarray(row["pictures"][0]))
        faulthandler.dump_traceback_later(_PATIENCE, exit=True)
        with timed(seconds, "segment"):
            characters, outcomes = segment_span(frames, self.segmenter)
        fault("after-segment", frames.ordinals)
        with timed(seconds, "crop"):
            labels = crop_span(frames, characters, outcomes, self.emotion, self.job.settings.crop_size)
        with timed(seconds, "classify"):
            labels = classify_span(labels, self.classifier)
        faulthandler.cancel_dump_traceback_later()
        fault("before-write", frames.ordinals)
        error: StorageError | None = None
        with timed(seconds, "write"):
            try:
                self.write(film, replace(labels, seconds=seconds))
            except StorageError as refused:  # raised again by the driver: trying again would not help
                error = refused
        return _row(film=film, frames=len(labels.ordinals), seconds=seconds, error=error)

    def write(self, film: str, labels: SpanLabels) -> None:
        """Commit a span under the one name it can have."""
        fingerprint = self.job.fingerprint
        self.store.write(span_key(film, fingerprint, labels.span), part_bytes(labels, fingerprint))


class DecodeAndLabel:
    """Both stages in one process, for machines without GPUs: no frame crosses the object store."""

    def __init__(self, job: Job) -> None:
        self.label = Label(job)

    def __call__(self, row: Row) -> Iterator[Row]:
        """One reel in; a line for each of its spans comes out."""
        for frames in decode_reel(row):
            yield self.label(frames)


def label(
    films: list[str],
    pack_path: str,
    out: str,
    settings: LabelSettings,
    resources: Resources,
    *,
    gpus_per_actor: float = 0.5,
    on_plan: Report | None = None,
    on_span: Report | None = None,
) -> dict[str, Any]:
    """Label films into `out` and return the manifest; `ray` must be connected.

    `on_plan` gets the frames and spans to do once they are known, `on_span` a line for each span
    committed. Raises the errors of planning before anything starts, and IncompleteError when spans
    are still missing after all attempts.
    """
    start = time.monotonic()
    pack = _with_settings(load_pack(pack_path), settings)
    store = Store(out)
    plans = plan_films(films, settings, fingerprint(pack, settings))
    open_output(store, pack, settings, plans)
    store.remove("_SUCCESS")
    job = Job(pack_path, out, settings, plans[0].fingerprint, "cuda" if resources.gpus else "cpu")
    todo = [plan for plan in plans if not is_assembled(store, plan)]
    stages: dict[str, float] = {}
    frames = 0
    if on_plan:
        on_plan(_outlook(store, plans, todo))
    for line in _all_spans(job, store, todo, resources, gpus_per_actor):
        frames += line["frames"]
        for stage, spent in line["seconds"].items():
            stages[stage] = stages.get(stage, 0.0) + spent
        if on_span:
            on_span(line)
    summaries = _assemble_all(job, plans, todo)
    write_films(store, plans, settings.sampling)
    seconds = time.monotonic() - start
    timings = {
        "seconds": round(seconds, 3),
        "frames_per_second": round(frames / seconds, 3),
        "stages": {stage: round(spent, 3) for stage, spent in stages.items()},
    }
    manifest = write_manifest(store, pack, settings.model_dump(), summaries, timings)
    clear_spans(store, {summary.film: bool(summary.failed) for summary in summaries})
    return manifest | {"summaries": summaries}


def _all_spans(
    job: Job, store: Store, plans: list[FilmPlan], resources: Resources, gpus_per_actor: float
) -> Iterator[dict[str, Any]]:
    """Label what is missing: in reels; then what is left span by span; then what still is, frame by frame."""
    sampling = Sampling.parse(job.settings.sampling)
    reels = [reel for plan in plans for reel in plan.reels(sampling, _missing(store, plan))]
    if reels:
        yield from run(reels, job, resources, gpus_per_actor)
    for again in (run, isolate_all):
        # A reel that holds a span which kills its process has lost the spans behind it as well.
        reels = [
            reel for plan in plans for index in sorted(_missing(store, plan)) for reel in plan.reels(sampling, {index})
        ]
        if reels:
            how = "once more, each by itself" if again is run else "frame by frame"
            print(f"spans whose process died, labelled {how}: {len(reels)}", file=sys.stderr, flush=True)
            yield from again(reels, job, resources, gpus_per_actor)


def isolate_all(reels: list[Reel], job: Job, resources: Resources, gpus_per_actor: float) -> Iterator[dict[str, Any]]:
    """Label reels of one span each in processes of their own; yields a line for each."""
    share = {"num_gpus": gpus_per_actor} if job.device == "cuda" else {}
    task = ray.remote(isolate_span).options(num_cpus=1, max_retries=_RETRIES, **share)
    waiting = [task.remote(reel, job) for reel in reels]
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        line = ray.get(done)
        if isinstance(line, InsideoutError):
            raise line
        yield line


def isolate_span(reel: Reel, job: Job) -> dict[str, Any] | InsideoutError:
    """Label and commit one span whatever is in it; what its process did not survive goes into quarantine."""
    pack, store, seconds = _pack_of(job), Store(job.out), dict[str, float]()
    try:
        with timed(seconds, "isolate"):
            labels, troubles = isolate(reel, pack, job.device, job.settings.crop_size)
        for trouble in troubles:
            quarantine(store, trouble, reel, pack)
        store.write(span_key(reel.film, job.fingerprint, labels.span), part_bytes(labels, job.fingerprint))
    except InsideoutError as error:
        return error
    return {"film": reel.film, "frames": len(labels.ordinals), "seconds": seconds, "error": None}


def run(reels: list[Reel], job: Job, resources: Resources, gpus_per_actor: float) -> Iterator[dict[str, Any]]:
    """Stream reels through the stages; yields a line for each committed span, in no order."""
    context = DataContext.get_current()
    context.target_max_block_size = _BLOCK_BYTES
    context.max_errored_blocks = -1  # a dead span must not end the run; it is missed and tried again
    one: dict[str, Any] = {"batch_size": 1, "batch_format": "numpy", "fn_constructor_args": [job]}
    with warnings.catch_warnings():
        # Ray 2.64 will have another way to say it. Unsaid, a span that kills its process is tried for ever.
        warnings.filterwarnings("ignore", ".*ray_remote_args", DeprecationWarning)
        dataset = ray.data.from_items([{"reel": pickle.dumps(reel)} for reel in reels], override_num_blocks=len(reels))
        if job.device == "cuda":
            pool = ActorPoolStrategy(size=max(1, int(resources.gpus / gpus_per_actor)))
            dataset = dataset.map_batches(
                decode_reel, batch_size=1, batch_format="numpy", num_cpus=1, max_retries=_RETRIES
            ).map_batches(
                Label, compute=pool, num_gpus=gpus_per_actor, num_cpus=0, max_task_retries=_RETRIES, **one
            )  # fmt: skip
        else:
            pool = ActorPoolStrategy(size=resources.cpus)
            dataset = dataset.map_batches(DecodeAndLabel, compute=pool, num_cpus=1, max_task_retries=_RETRIES, **one)
    for row in dataset.iter_rows():
        if row["error"]:
            raise row["error"]
        yield row


def plan_films(films: list[str], settings: LabelSettings, fingerprint: str) -> list[FilmPlan]:
    """Probe and index all films, side by side; one FilmError names every film that cannot be read."""

    @ray.remote(num_cpus=0.5)
    def plan(path: str) -> FilmPlan | FilmError:
        try:
            return plan_film(path, settings, fingerprint)
        except FilmError as error:
            return error

    if len(films) == 1:
        return [plan_film(films[0], settings, fingerprint)]
    found = ray.get([plan.remote(path) for path in films])
    errors = [str(item) for item in found if isinstance(item, FilmError)]
    if errors:
        raise FilmError("\n".join(errors))
    return distinct(found)


def _assemble_all(job: Job, plans: list[FilmPlan], todo: list[FilmPlan]) -> list[FilmSummary]:
    """Assemble the films that are not yet, side by side, and count them all."""

    @ray.remote(num_cpus=0.5)
    def task(plan: FilmPlan) -> FilmSummary | IncompleteError:
        try:
            return assemble(Store(job.out), plan, _pack_of(job))
        except IncompleteError as error:
            return error

    found = ray.get([task.remote(plan) for plan in todo])
    errors = [str(item) for item in found if isinstance(item, IncompleteError)]
    if errors:
        raise IncompleteError("\n".join(errors))
    fresh = {summary.film: summary for summary in found}
    return [fresh.get(p.film.film) or read_summary(Store(job.out), p.film.film) for p in plans]


def _missing(store: Store, plan: FilmPlan) -> set[int]:
    return {span.index for span in plan.spans} - plan.finished(store)


def _outlook(store: Store, plans: list[FilmPlan], todo: list[FilmPlan]) -> dict[str, Any]:
    missing = {plan.film.film: _missing(store, plan) for plan in todo}
    return {
        "films": len(plans),
        "spans": sum(len(m) for m in missing.values()),
        "frames": sum(
            int(np.count_nonzero((p.samples >= s.start) & (p.samples < s.end)))
            for p in todo
            for s in p.spans
            if s.index in missing[p.film.film]
        ),
    }


def _with_settings(pack: Pack, settings: LabelSettings) -> Pack:
    if settings.confidence is None:
        return pack
    return replace(pack, segmenter=replace(pack.segmenter, confidence=settings.confidence))


def _pack_of(job: Job) -> Pack:
    return _with_settings(load_pack(job.pack, verify=False), job.settings)


def _row(**fields: Any) -> Row:
    """A batch of one row; whatever is not a number or a string travels as a Python object."""
    row: Row = {}
    for name, value in fields.items():
        row[name] = np.empty(1, object)
        row[name][0] = value
    return row


if __name__ == "__main__":
    from pipelines.cli import label_main

    label_main()
