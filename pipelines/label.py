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
import socket
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError

from insideout.assemble import FilmSummary, assemble, is_assembled, read_summary
from insideout.copies import local_copy
from insideout.decode import SpanFrames, decode
from insideout.device import lost_device, one_line, unusable
from insideout.emotion import EmotionClassifier
from insideout.errors import FilmError, IncompleteError, InsideoutError, StorageError, UsageError
from insideout.faults import fault
from insideout.film import Sampling
from insideout.isolate import isolate, quarantine
from insideout.label import SpanLabels, classify_span, crop_span, segment_span, timed, warm_up
from insideout.manifest import keep_manifest, write_films, write_manifest
from insideout.outlook import Outlook, distinct, look_out, waves
from insideout.packs import Pack, load_pack
from insideout.parts import part_bytes
from insideout.plan import FilmPlan, FoldedPlan, LabelSettings, fingerprint, open_output, plan_film, span_key
from insideout.retry import clear_spans
from insideout.segment import CharacterSegmenter
from insideout.spans import Reel
from insideout.store import Store
from pipelines.cluster import Resources
from pipelines.gpus import actors_on

#: Below any row, so that each is a block of its own: Ray never waits to put two spans or two reels together.
_BLOCK_BYTES = 1
#: Films are labelled and assembled in waves of about so many spans. Ray keeps account of every block until a
#: stream of them ends, some kilobytes a reel; a new stream costs a new start of the pool of actors.
_WAVE_SPANS = 250_000
#: So many films are compared with the output folder side by side.
_READERS = 16
#: A span whose process or machine was lost is tried again so often in company, before it is labelled alone.
_RETRIES = 1
#: A process that works on one span for longer than this, in seconds, is taken to hang and ended.
_PATIENCE = float(os.environ.get("INSIDEOUT_SPAN_SECONDS", "900"))
#: While films are looked at, it is said every so many seconds how far that is.
_LOOK_S = 1.0
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
    copy_films: bool = False


def missing_reels(row: Row, job: Job, alone: bool) -> Iterator[Row]:
    """A film becomes the reels that hold its missing spans, one row each; if `alone`, a reel for each span."""
    for reel in _reels_left(pickle.loads(row["film"][0]), job, alone=alone):
        yield _row(reel=pickle.dumps(reel))


def decode_reel(row: Row, job: Job) -> Iterator[Row]:
    """A reel becomes its spans, one row each, pictures included."""
    reel: Reel = pickle.loads(row["reel"][0])
    if job.copy_films:
        reel = replace(reel, path=local_copy(reel.path, reel.film))
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
        self.job = job
        #: Why nothing can be labelled here, raised by the driver: an actor that fails as it begins ends a run in
        #: Ray's words, and one that fails as it begins again is never missed.
        self.refused: InsideoutError | None = None
        try:
            pack = _pack_of(job)
            self.store, self.emotion = Store(job.out), pack.emotion
            self.segmenter = CharacterSegmenter(pack.segmenter, job.device, threads=1)
            self.classifier = EmotionClassifier(pack.emotion, job.device, threads=1)
            if job.device != "cpu":
                warm_up(self.segmenter, self.classifier)
        except InsideoutError as error:
            self.refused = error
        except (RuntimeError, AssertionError) as error:  # what PyTorch raises for a device
            if job.device == "cpu":
                raise
            self.refused = UsageError(
                f"on machine {socket.gethostname()} {unusable(job.device, error)}; give --gpus-per-actor 1 where its"
                " memory is full, or --gpus 0 to label on the CPUs"
            )

    def __call__(self, row: Row) -> Row:
        """One span in; what comes out is its line for the progress display.

        Where CUDA is lost the process ends at once: it would fail at every later span. Ray starts it again,
        and tries the span again as it does those of a process that was killed.
        """
        film, seconds = row["film"][0], row["seconds"][0]
        if self.refused:
            return _row(film=film, frames=0, seconds=seconds, error=self.refused)
        frames = replace(row["frames"][0], pictures=np.asarray(row["pictures"][0]))
        faulthandler.dump_traceback_later(_PATIENCE, exit=True)
        try:
            labels = self.look(frames, seconds)
        except Exception as error:
            if lost := lost_device(error, self.job.device):
                print(f"span {frames.span.index} of film {film}: {one_line(lost)}", file=sys.stderr, flush=True)
                os._exit(1)  # not exit_actor: Ray would not start it again
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        fault("before-write", frames.ordinals)
        error: StorageError | None = None
        with timed(seconds, "write"):
            try:
                self.write(film, replace(labels, seconds=seconds))
            except StorageError as refused:  # raised again by the driver: trying again would not help
                error = refused
        return _row(film=film, frames=len(labels.ordinals), seconds=seconds, error=error)

    def look(self, frames: SpanFrames, seconds: dict[str, float]) -> SpanLabels:
        """Find the characters and emotions of a span; adds the time of each stage to `seconds`."""
        with timed(seconds, "segment"):
            characters, outcomes = segment_span(frames, self.segmenter)
        fault("after-segment", frames.ordinals)
        with timed(seconds, "crop"):
            labels = crop_span(frames, characters, outcomes, self.emotion, self.job.settings.crop_size)
        with timed(seconds, "classify"):
            return classify_span(labels, self.classifier)

    def write(self, film: str, labels: SpanLabels) -> None:
        """Commit a span under the one name it can have."""
        fingerprint = self.job.fingerprint
        self.store.write(span_key(film, fingerprint, labels.span), part_bytes(labels, fingerprint))


class DecodeAndLabel:
    """Both stages in one process, for machines without GPUs: no frame crosses the object store."""

    def __init__(self, job: Job) -> None:
        self.label = Label(job)

    def __call__(self, row: Row) -> Row:
        """One reel in; a line for all its spans comes out, since the driver keeps account of each line."""
        film, frames, seconds = "", 0, Counter[str]()
        for span in decode_reel(row, self.label.job):
            line = self.label(span)
            film, frames = line["film"][0], frames + line["frames"][0]
            seconds.update(line["seconds"][0])
            if line["error"][0]:
                return line
        return _row(film=film, frames=frames, seconds=dict(seconds), error=None)


def label(
    films: list[str],
    pack_path: str,
    out: str,
    settings: LabelSettings,
    resources: Resources,
    *,
    gpus_per_actor: float = 0.5,
    copy_films: bool = False,
    on_film: Callable[[int], None] | None = None,
    on_plan: Report | None = None,
    on_span: Report | None = None,
) -> dict[str, Any]:
    """Label films into `out` and return the manifest; `ray` must be connected.

    With it come `summaries`, one per film, and `changed`: False where all films were done before, and so
    the manifest is the one that was there.

    `copy_films` copies a film on storage to each machine that decodes it, instead of reading it by range.
    `on_film` is told how many more films have been looked at, `on_plan` gets the frames and spans to do
    once they are known, `on_span` a line for each span or reel committed. Raises the errors of planning
    before anything starts, and IncompleteError when spans are still missing after all attempts.
    """
    start = time.monotonic()
    pack = _with_settings(load_pack(pack_path), settings)
    store = Store(out)
    job = Job(pack_path, out, settings, fingerprint(pack, settings), "cuda" if resources.gpus else "cpu", copy_films)
    outlooks = plan_films(films, job, on_film)
    plans = [film.plan for film in outlooks]
    open_output(store, pack, settings, plans)
    done = {film.plan.film: film.summary for film in outlooks if film.summary}
    if len(done) == len(plans) and store.exists("_SUCCESS"):
        write_films(store, plans, settings.sampling)  # a film may lie elsewhere now
        clear_spans(store, {summary.film: bool(summary.failed) for summary in done.values()})
        return keep_manifest(store, pack) | {"summaries": [done[plan.film] for plan in plans], "changed": False}
    store.remove("_SUCCESS")
    stages = Counter[str]()
    frames = 0
    if on_plan:
        on_plan(
            {
                "films": len(plans),
                "spans": sum(film.spans for film in outlooks),
                "frames": sum(film.frames for film in outlooks),
            }
        )
    errors: list[InsideoutError] = []
    for wave in waves(outlooks, _WAVE_SPANS):
        for line in _all_spans(job, store, wave, resources, gpus_per_actor):
            frames += line["frames"]
            stages.update(line["seconds"])
            if on_span:
                on_span(line)
        for assembled in _assemble_all(job, [film.plan for film in wave]):
            if isinstance(assembled, FilmSummary):
                done[assembled.film] = assembled
            else:
                errors.append(assembled)
    if errors:
        kind = IncompleteError if any(isinstance(error, IncompleteError) for error in errors) else StorageError
        raise kind("\n".join(map(str, errors)))
    summaries = [done[plan.film] for plan in plans]
    write_films(store, plans, settings.sampling)
    seconds = time.monotonic() - start
    timings = {
        "seconds": round(seconds, 3),
        "frames_per_second": round(frames / seconds, 3),
        "stages": {stage: round(spent, 3) for stage, spent in stages.items()},
    }
    manifest = write_manifest(store, pack, settings.model_dump(), summaries, timings, job.device)
    clear_spans(store, {summary.film: bool(summary.failed) for summary in summaries})
    return manifest | {"summaries": summaries, "changed": True}


def _all_spans(
    job: Job, store: Store, wave: list[Outlook], resources: Resources, gpus_per_actor: float
) -> Iterator[dict[str, Any]]:
    """Label what is missing: in reels; then what is left span by span; then what still is, frame by frame."""
    yield from run([film.plan for film in wave if film.spans], job, resources, gpus_per_actor)
    plans = [film.plan for film in wave]
    for how, again in (("once more, each by itself", partial(run, alone=True)), ("frame by frame", isolate_all)):
        # A reel that holds a span which kills its process has lost the spans behind it as well.
        found = _unfinished(store, plans)
        plans = [plan for plan, missing in found if missing]
        if plans:
            count = sum(missing for _, missing in found)
            print(f"spans that were not finished, labelled {how}: {count}", file=sys.stderr, flush=True)
            yield from again(plans, job, resources, gpus_per_actor)


def isolate_all(
    plans: Sequence[FoldedPlan], job: Job, resources: Resources, gpus_per_actor: float
) -> Iterator[dict[str, Any]]:
    """Label the missing spans of films in processes of their own; yields a line for each."""
    share = {"num_gpus": gpus_per_actor} if job.device == "cuda" else {}
    task = ray.remote(isolate_span).options(num_cpus=1, max_retries=_RETRIES, **share)
    reels = (reel for plan in plans for reel in _reels_left(plan, job, alone=True))
    waiting = [task.remote(reel, job) for reel in islice(reels, 2 * resources.cpus)]
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        line = ray.get(done)
        if isinstance(line, InsideoutError):
            raise line
        yield line
        waiting += [task.remote(reel, job) for reel in islice(reels, 1)]


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


def run(
    plans: Sequence[FoldedPlan], job: Job, resources: Resources, gpus_per_actor: float, *, alone: bool = False
) -> Iterator[dict[str, Any]]:
    """Stream the missing spans of films through the stages; yields a line for each reel or span, in no order.

    The rows that go in are films: their reels are made as the actors take them, so that work begins at
    once and the driver never holds them all. `alone` gives each span a reel of its own.
    """
    if not plans:
        return
    spans = sum(plan.spans for plan in plans)  # more processes than this would load the models for nothing
    context = DataContext.get_current()
    context.target_max_block_size = _BLOCK_BYTES
    context.max_errored_blocks = -1  # a dead span must not end the run; it is missed and tried again
    one: dict[str, Any] = {"batch_size": 1, "batch_format": "numpy"}
    task: dict[str, Any] = {"max_retries": _RETRIES} | one
    actor: dict[str, Any] = {"max_task_retries": _RETRIES, "fn_constructor_args": [job]} | one
    with warnings.catch_warnings():
        # Ray 2.64 will have another way to say it. Unsaid, a span that kills its process is tried for ever.
        warnings.filterwarnings("ignore", ".*ray_remote_args", DeprecationWarning)
        dataset = ray.data.from_items([{"film": pickle.dumps(plan)} for plan in plans], override_num_blocks=len(plans))
        # No CPU is asked for, since the actors may hold them all; that alone keeps Ray from fusing this with
        # the stage behind it, which would make a film one piece of work.
        few = TaskPoolStrategy(size=1 + resources.cpus // 16)
        dataset = dataset.map_batches(
            missing_reels, fn_kwargs={"job": job, "alone": alone}, compute=few, num_cpus=0, **task
        )
        if job.device == "cuda":
            pool = ActorPoolStrategy(size=min(actors_on(resources.gpus, gpus_per_actor), spans))
            decoders = TaskPoolStrategy(size=resources.most_cpus)
            dataset = dataset.map_batches(decode_reel, fn_kwargs={"job": job}, compute=decoders, num_cpus=1, **task)
            dataset = dataset.map_batches(Label, compute=pool, num_gpus=gpus_per_actor, num_cpus=0, **actor)
        else:
            pool = ActorPoolStrategy(size=min(resources.cpus, spans))
            dataset = dataset.map_batches(DecodeAndLabel, compute=pool, num_cpus=1, **actor)
    left = spans
    while True:
        try:
            for row in dataset.iter_rows():
                if row["error"]:
                    raise row["error"]
                yield row
            return
        except ExecutionTimeoutError:
            # What Ray saw move are whole reels: those of a film with few key frames may take hours.
            before, left = left, sum(missing for _, missing in _unfinished(Store(job.out), plans))
            if not left:  # another run did it; Ray waits for its actors to begin all the same
                return
            if left < before:
                continue
            idle = f"nothing has moved for {context.execution_no_progress_timeout_s / 60:g} minutes"
            kind = "GPU" if job.device == "cuda" else "CPU"
            if resources.local or ray.cluster_resources().get(kind):
                raise IncompleteError(
                    f"{job.out}: {idle}, and {left} spans are missing: no process could begin, since others hold the"
                    f" {kind}s, or it ends as it begins; what is written stays, the same command goes on"
                ) from None
            print(f"{idle}: still waiting for machines with a {kind}", file=sys.stderr, flush=True)


def plan_films(films: list[str], job: Job, on_film: Callable[[int], None] | None = None) -> list[Outlook]:
    """Probe and index all films, side by side; one FilmError names every film that cannot be read.

    `on_film` is told how many more are done.
    """

    def plan(path: str) -> Outlook | InsideoutError:
        try:
            return look_out(plan_film(path, job.settings, job.fingerprint), Store(job.out))
        except InsideoutError as error:
            return error

    if len(films) == 1:
        found = [plan(films[0])]
    else:
        task = ray.remote(num_cpus=0.5)(plan)
        started = waiting = [task.remote(path) for path in films]
        while waiting:
            few = min(len(waiting), _READERS)
            done, waiting = ray.wait(waiting, num_returns=few, timeout=_LOOK_S, fetch_local=False)
            if on_film:
                on_film(len(done))
        found = ray.get(started)
    errors = [item for item in found if isinstance(item, InsideoutError)]
    unreadable = [str(error) for error in errors if isinstance(error, FilmError)]
    if unreadable:
        raise FilmError("\n".join(unreadable))
    if errors:
        raise errors[0]
    return distinct([item for item in found if isinstance(item, Outlook)])


def _assemble_all(job: Job, plans: list[FoldedPlan]) -> list[FilmSummary | InsideoutError]:
    """Assemble films side by side, and clear away the spans of those without a failed frame."""

    @ray.remote(num_cpus=0.5)
    def task(folded: FoldedPlan) -> FilmSummary | InsideoutError:
        plan, store = folded.unfold(), Store(job.out)
        try:
            # Assembled already where Ray does this for the second time.
            done = is_assembled(store, plan)
            summary = read_summary(store, folded.film) if done else assemble(store, plan, _pack_of(job))
        except (IncompleteError, StorageError) as error:
            # Another run on this folder may have done it meanwhile, and cleared the spans away.
            if not is_assembled(store, plan):
                return error
            summary = read_summary(store, folded.film)
        if not summary.failed:
            store.remove(f"spans/film={folded.film}")
        return summary

    found: list[FilmSummary | InsideoutError] = ray.get([task.remote(plan) for plan in plans])
    return found


def _unfinished(store: Store, plans: Sequence[FoldedPlan]) -> list[tuple[FoldedPlan, int]]:
    """How many spans each film misses."""
    with ThreadPoolExecutor(_READERS) as readers:
        return list(zip(plans, readers.map(lambda plan: len(_left(plan.unfold(), store)), plans), strict=True))


def _reels_left(folded: FoldedPlan, job: Job, *, alone: bool) -> list[Reel]:
    plan = folded.unfold()
    return plan.reels(Sampling.parse(job.settings.sampling), _left(plan, Store(job.out)), alone=alone)


def _left(plan: FilmPlan, store: Store) -> set[int]:
    """Indices of the missing spans; none of a film that another run has assembled meanwhile."""
    missing = plan.missing(store)
    return set() if missing and is_assembled(store, plan) else missing


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
