"""How `insideout label` grows: with the spans of a run, with its films, with the length of a film.

    python -m benchmarks.scale spans 1000 10000 100000    (--gpu: decoders and model actors apart, on made-up GPUs)
    python -m benchmarks.scale films 100 1000 10000
    python -m benchmarks.scale length 4 40

`spans` and `films` run the real `label` (planner, Ray Data, store, ledger, assembly) on films of two
hours that do not exist: probing gives made-up time stamps, decoding black pictures, the models made-up
characters, all at no cost, and files of spans are not forced to the disk, so that what is left is the
cost of everything else. `length` runs the real models on the bundled excerpt, played so many times over.
Each size is a process of its own. Figures go into benchmarks/scale.json; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import psutil

from benchmarks.bench import ROOT, machine, write_atomically
from insideout.assemble import frames_key
from insideout.decode import SpanFrames
from insideout.film import Film
from insideout.label import SpanLabels
from insideout.manifest import run_status
from insideout.packs import load_pack
from insideout.plan import FilmPlan, LabelSettings, open_output, plan_spans
from insideout.retry import forget_failures
from insideout.spans import Reel
from insideout.store import Store
from pipelines import label as pipeline
from pipelines.cluster import Resources

PACK, RESULTS, OUT = "packs/bbb", Path("benchmarks/scale.json"), Path("out/scale")
EXCERPT = Path("data/excerpt/big_buck_bunny_excerpt.mp4")
RATE = 24
#: Characters in 100 frames; and letters of the text of a mask, as in the bundled excerpt (which has 143 characters).
CHARACTERS, MASK = 20, 1775
#: Bytes of the file of a span.
PART = 59_000
CPUS, GPUS = 2, 2
MB = 1e6


def film_of(path: str) -> Film:
    """A film in 1080p with a key frame every two to five seconds, made up from its name, `120min-…`."""
    digest = hashlib.sha256(path.encode()).hexdigest()
    frames = int(path.rsplit("/", 1)[-1].partition("min")[0]) * 60 * RATE
    steps = np.random.default_rng(int(digest[:8], 16)).integers(2 * RATE, 5 * RATE, frames // (2 * RATE))
    keys = np.concatenate([[0], np.cumsum(steps)])
    return Film(
        path=path, film=digest[:16], sha256=digest, bytes=4 << 30, width=1920, height=1080, rotation=0,
        time_base=Fraction(1, RATE * 512), fps=Fraction(RATE), codec="h264",
        pts=np.arange(frames, dtype=np.int64) * 512, keyframes=keys[keys < frames].astype(np.int32),
    )  # fmt: skip


def plan_made_up(path: str, settings: LabelSettings, fingerprint: str) -> FilmPlan:
    """In place of `plan_film`: the real plan of a made-up film."""
    return plan_spans(film_of(path), settings, fingerprint)


def made_up_spans(reel: Reel, threads: int = 1) -> Iterator[SpanFrames]:
    """In place of `decode`: small black pictures, with a cut every four seconds."""
    del threads
    for span in reel.spans:
        ordinals = reel.samples[slice(*np.searchsorted(reel.samples, (span.start, span.end)))]
        changes = np.where(np.arange(span.start, span.end) % (4 * RATE), 0.0, 1.0).astype(np.float32)
        yield SpanFrames(
            span, ordinals, reel.pts[ordinals - reel.start], np.zeros((len(ordinals), 36, 64, 3), np.uint8),
            (None,) * len(ordinals), changes, np.full((2, 36, 64, 3), 90, np.uint8),
        )  # fmt: skip


def decode_made_up(row: pipeline.Row, job: pipeline.Job) -> Iterator[pipeline.Row]:
    """In place of `decode_reel`: the real one, in whose process decoding is replaced."""
    with mock.patch.object(pipeline, "decode", made_up_spans):
        yield from pipeline.decode_reel(row, job)


class MadeUpLabel(pipeline.Label):
    """In place of `Label`: characters from nowhere, committed as ever."""

    def __init__(self, job: pipeline.Job) -> None:
        self.job, self.store = job, Store(job.out)
        # What a disk takes for it says nothing of labelling; `measure_spans` times it apart.
        os.fsync = lambda _: None
        pack = load_pack(job.pack, verify=False)
        self.names, self.emotions = pack.characters, len(pack.emotion.classes)
        self.mask = bytes(np.random.default_rng(0).integers(48, 112, MASK, dtype=np.uint8)).decode()

    def __call__(self, row: pipeline.Row) -> pipeline.Row:
        """As that of `Label`, without models."""
        frames: SpanFrames = row["frames"][0]
        rows = tuple(
            {"frame": i, "character": self.names[c], "score": 0.9, "box_x": 100.0 * c, "box_y": 100.0, "box_w": 90.0}
            | {"box_h": 200.0, "mask_rle": self.mask, "mask_h": 1080, "mask_w": 1920, "crop": None}
            | {"head_x": 100.0 * c, "head_y": 100.0, "head_w": 60.0, "head_h": 60.0}
            | {"probabilities": np.full(self.emotions, 1 / self.emotions, np.float32)}
            for i, ordinal in enumerate(frames.ordinals.tolist())
            for c in range(ordinal * 7 % 100 < CHARACTERS)
        )
        outcomes = (("labelled", None),) * len(frames.ordinals)
        labels = SpanLabels(
            frames.span, frames.ordinals, frames.pts, outcomes, frames.changes, frames.edges, rows,
            np.zeros((0, 8, 8, 3), np.uint8),
        )  # fmt: skip
        start = time.perf_counter()
        self.write(row["film"][0], labels)
        spent = row["seconds"][0] | {"write": time.perf_counter() - start}
        return pipeline._row(film=row["film"][0], frames=len(labels.ordinals), seconds=spent, error=None)


class DecodeAndLabelMadeUp(pipeline.DecodeAndLabel):
    """In place of `DecodeAndLabel`: the same with both stages made up."""

    def __init__(self, job: pipeline.Job) -> None:
        self.label = MadeUpLabel(job)
        pipeline.decode = made_up_spans


@contextmanager
def made_up(gpus: int) -> Iterator[Resources]:
    """A local Ray, with decoding and the models replaced."""
    import ray

    ray.init("local", num_cpus=CPUS, num_gpus=gpus, include_dashboard=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    others = {"plan_film": plan_made_up, "Label": MadeUpLabel, "DecodeAndLabel": DecodeAndLabelMadeUp}
    # By name, so that a worker's own `decode_reel` stays the real one.
    others |= {"decode_reel": decode_made_up} if gpus else {}
    with mock.patch.multiple(pipeline, **others):
        yield Resources(CPUS, gpus)
    ray.shutdown()


class Watch:
    """Samples the memory of this process and of all below it, by what they are, twice a second."""

    KINDS = ("gcs_server", "raylet", "ray::")

    def __init__(self, process: psutil.Process) -> None:
        self.series: list[dict[str, float]] = []
        self._process, self._end = process, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._start = time.perf_counter()
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.5):
            self.look()

    def look(self) -> dict[str, float]:
        """One sample: resident MB of the driver, of Ray's servers and of the largest and of all workers."""
        found = {"seconds": time.perf_counter() - self._start, "driver": 0.0, "gcs": 0.0, "store": 0.0}
        workers = [0.0]
        try:
            found["driver"] = self._process.memory_info().rss / MB
            for child in self._process.children(recursive=True):
                try:
                    # Without what is shared: that is the object store, counted once by `store`.
                    used, name = child.memory_info(), " ".join(child.cmdline())[:200]
                except psutil.Error:
                    continue
                if "gcs_server" in name:
                    found["gcs"] = used.rss / MB
                elif "raylet/raylet" in name:
                    found["store"] = used.shared / MB
                elif name.startswith("ray::Map"):
                    workers.append((used.rss - used.shared) / MB)
        except psutil.Error:
            pass
        found |= {"worker": max(workers), "workers": sum(workers)}
        self.series.append(found)
        return found

    def stop(self) -> dict[str, float]:
        """The peaks, in MB."""
        self._end.set()
        self._thread.join()
        return {name: round(max(s[name] for s in self.series), 1) for name in self.series[0] if name != "seconds"}


def timed(work: Callable[[], Any]) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 3)


def cpu_seconds() -> float:
    """Processor seconds that this process has used."""
    used = psutil.Process().cpu_times()
    return float(used.user + used.system)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def readers(out: Path, settings: LabelSettings) -> dict[str, float]:
    """Seconds that it takes to ask about a run that is done."""
    store, pack = Store(out), load_pack(PACK)
    return {
        "status_s": timed(lambda: run_status(store)),
        "retry_listing_s": timed(lambda: forget_failures(store, pack)),
    }


def measure_spans(spans: int, gpus: int) -> dict[str, Any]:
    """Label about so many spans."""
    settings, each = LabelSettings(), len(plan_made_up("120min", LabelSettings(), "").spans)
    minutes = min(120, round(120 * spans / each))
    films = [f"/films/{minutes}min-{i:05d}.mkv" for i in range(max(1, round(spans / each)))]
    out = OUT / f"spans-{spans}"
    shutil.rmtree(out, ignore_errors=True)
    with made_up(gpus) as resources:
        watch, start, cpu = Watch(psutil.Process()), time.perf_counter(), cpu_seconds()
        before, marks, state = watch.look(), {}, {"frames": 0, "all": 0, "spans": 0, "said": start, "write": 0.0}

        def on_plan(outlook: dict[str, Any]) -> None:
            state.update(all=outlook["frames"], spans=outlook["spans"])
            marks["plan"] = (time.perf_counter(), cpu_seconds(), watch.look()["driver"])

        def on_span(line: dict[str, Any]) -> None:
            now = time.perf_counter()
            marks.setdefault("first", (now, cpu_seconds(), watch.look()["driver"]))
            state["frames"] += line["frames"]
            state["write"] += line["seconds"]["write"]
            if now - state["said"] > 20:
                state["said"] = now
                say(f"  {state['frames']}/{state['all']} frames in {now - marks['first'][0]:.0f} s")
            if state["frames"] == state["all"]:
                marks["last"] = (now, cpu_seconds(), watch.look()["driver"])
                marks["status"] = (timed(lambda: run_status(Store(out))),)

        pipeline.label(films, PACK, str(out.resolve()), settings, resources, on_plan=on_plan, on_span=on_span)
        end = time.perf_counter()
        peaks, count = watch.stop(), state["spans"]
        wall, used = (marks["last"][i] - marks["first"][i] for i in (0, 1))
        again = timed(lambda: pipeline.label(films, PACK, str(out.resolve()), settings, resources))
    store, part = Store(OUT / "synced"), b"x" * PART
    synced = [timed(lambda: store.write("part", part)) for _ in range(99)]
    return {
        "synced_write_ms": round(1e3 * float(np.median(synced)), 2),
        "spans": count, "films": len(films), "frames": state["all"],
        "plan_s": round(marks["plan"][0] - start, 2),
        "to_first_reel_s": round(marks["first"][0] - marks["plan"][0], 2),
        "label_s": round(wall, 2), "label_ms_per_span": round(1e3 * wall / count, 3),
        "driver_cpu_ms_per_span": round(1e3 * used / count, 3),
        "write_ms_per_span": round(1e3 * state["write"] / count, 3),
        "assemble_s": round(end - marks["last"][0] - marks["status"][0], 2),
        "driver_cpu_s": round(cpu_seconds() - cpu, 2),
        "driver_before_mb": round(before["driver"], 1), "peaks_mb": peaks,
        "driver_kb_per_span_while_labelling": round(1e3 * (marks["last"][2] - marks["first"][2]) / count, 3),
        "status_while_labelling_s": marks["status"][0], "label_again_s": again,
    } | readers(out, settings)  # fmt: skip


def measure_films(films: int, gpus: int) -> dict[str, Any]:
    """Run again over so many films of which all but the last are assembled: a ledger is labelled once and copied."""
    settings, out = LabelSettings(), OUT / f"films-{films}"
    paths = [f"/films/120min-{i:05d}.mkv" for i in range(films)]
    shutil.rmtree(out, ignore_errors=True)
    plan = plan_made_up(paths[0], settings, "f" * 16)
    with made_up(gpus) as resources:
        pipeline.label(paths[:1], PACK, str(out.resolve()), settings, resources)
        store, pack = Store(out), load_pack(PACK)
        ledger = store.read(frames_key(film_of(paths[0]).film))
        for i, path in enumerate(paths[1:-1]):
            store.write(frames_key(hashlib.sha256(path.encode()).hexdigest()[:16]), ledger)
            if i % 1000 == 999:
                say(f"  {i + 1} ledgers written")
        watch, start, marks = Watch(psutil.Process()), time.perf_counter(), {}
        before = watch.look()["driver"]

        def on_plan(outlook: dict[str, Any]) -> None:
            marks.update(plan_s=round(time.perf_counter() - start, 2), planned_mb=round(watch.look()["driver"], 1))
            say(f"  planned: {outlook}")

        pipeline.label(paths, PACK, str(out.resolve()), settings, resources, on_plan=on_plan)
        whole = round(time.perf_counter() - start, 2)
        peaks = watch.stop()
    folded = [plan_made_up(path, settings, "f" * 16).fold() for path in paths[:10]]
    return {
        "films": films, "spans_each": len(plan.spans), "plan_kb": round(len(pickle.dumps(plan)) / 1e3, 1),
        "folded_plan_kb": round(len(pickle.dumps(folded[0])) / 1e3, 1),
        "plan_ms_per_film": round(1e3 * marks["plan_s"] / films, 2), "ledger_kb": round(len(ledger) / 1e3, 1),
        "driver_before_mb": round(before, 1), **marks, "whole_s": whole, "peaks_mb": peaks,
        "driver_kb_per_film": round(1e3 * (peaks["driver"] - before) / films, 2),
        "plan_json_mb": round(len(store.read("plan.json")) / MB, 2),
        "open_output_s": timed(lambda: open_output(store, pack, settings, folded)),
    } | readers(out, settings)  # fmt: skip


def measure_length(times: int, gpus: int) -> dict[str, Any]:
    """Label the bundled excerpt played so many times over, with the real models, in a process of its own."""
    del gpus
    film, out = OUT / f"excerpt-{times}.mp4", OUT / f"length-{times}"
    shutil.rmtree(out, ignore_errors=True)
    OUT.mkdir(parents=True, exist_ok=True)
    frames = play_over(EXCERPT, times, film)
    command = ["label", str(film), "--pack", PACK, "--out", str(out), "--every", "24", "--no-report"]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *command], cwd=ROOT)
    watch = Watch(psutil.Process(process.pid))
    if process.wait():
        raise SystemExit(f"insideout {' '.join(command)} ended with {process.returncode}")
    seconds, peaks = time.perf_counter() - start, watch.stop()
    thin = watch.series[:: len(watch.series) // 40 + 1]
    series = [{name: round(value, 1) for name, value in sample.items()} for sample in thin]
    return {
        "minutes": round(frames / RATE / 60, 2), "film_frames": frames, "command": "insideout " + " ".join(command),
        "seconds": round(seconds, 1), "peaks_mb": peaks, "growth": growth(series, frames / RATE / 60), "series": series,
    } | json.loads((out / "manifest.json").read_text())["counts"]  # fmt: skip


def growth(series: list[dict[str, float]], minutes: float) -> dict[str, dict[str, float]]:
    """While all workers label: the median in MB, and MB an hour of film with two standard errors of it.

    By a straight line; without the first quarter, in which models and buffers come into memory.
    """
    warm = [s for s in series if s["workers"] > 0.8 * max(s["workers"] for s in series)]
    hours = np.array([s["seconds"] for s in warm]) * minutes / 60 / (warm[-1]["seconds"] - warm[0]["seconds"])
    first, found = len(warm) // 4, {}
    for name in ("driver", "worker", "workers", "gcs"):
        amounts = [s[name] for s in warm]
        line, spread = np.polyfit(hours[first:], amounts[first:], 1, cov=True)
        found[name] = {
            "median_mb": round(float(np.median(amounts)), 1),
            "mb_per_film_hour": round(float(line[0]), 1),
            "plus_minus": round(2 * float(np.sqrt(spread[0, 0])), 1),
        }
    return found


def play_over(source: Path, times: int, target: Path) -> int:
    """Write the pictures of a film so many times over, without encoding anything; returns the frames."""
    count = 0
    with av.open(str(target), "w") as new:
        stream, shift = None, 0
        for _ in range(times):
            with av.open(str(source)) as old:
                video = old.streams.video[0]
                stream = stream or new.add_stream_from_template(video)
                packets = [packet for packet in old.demux(video) if packet.size]
                last = max(packet.pts for packet in packets)
                for packet in packets:
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    new.mux(packet)
                shift += last + last // (len(packets) - 1)
                count += len(packets)
    return count


MEASURES: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "spans": measure_spans,
    "films": measure_films,
    "length": measure_length,
}


def main() -> None:
    """Measure each size in a process of its own and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("sizes", type=int, nargs="+")
    parser.add_argument("--gpu", action="store_true", help="spans: as on a cluster with GPUs, which are made up too")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    name = chosen.what + ("_gpu" if chosen.gpu else "")
    for size in chosen.sizes:
        facts = machine()
        say(f"{name} {size}, load {facts['load_before']}")
        # Not the main module, so that workers can import what is made up.
        made = f"MEASURES[{chosen.what!r}]({size}, {GPUS * chosen.gpu})"
        call = f"import json; from benchmarks.scale import MEASURES; print(json.dumps({made}))"
        done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        found = {"size": size} | json.loads(done.stdout.strip().splitlines()[-1])
        say(json.dumps({key: value for key, value in found.items() if key != "series"}))
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        others = [entry for entry in kept.get(name, []) if entry["size"] != size]
        entries = sorted([*others, found | {"load_before": facts["load_before"]}], key=lambda entry: entry["size"])
        write_atomically(RESULTS, kept | {name: entries, "machine": facts})
        shutil.rmtree(OUT, ignore_errors=True)


if __name__ == "__main__":
    main()
