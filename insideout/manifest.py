"""The last things written: `films.parquet`, `manifest.json`, `_SUCCESS`; and what a run looks like meanwhile."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from insideout import __version__, schema
from insideout.assemble import FilmSummary, frames_key, read_summaries
from insideout.errors import OutputError
from insideout.faults import fault
from insideout.packs import ERRORS, Pack
from insideout.plan import PLAN_KEY, FoldedPlan, spans_folder
from insideout.store import Store, table_bytes

_LIBRARIES = ("ray", "torch", "torchvision", "ultralytics", "av", "opencv-python", "pyarrow", "numpy")


def write_films(store: Store, plans: Sequence[FoldedPlan], sampling: str) -> None:
    """Write `films.parquet`, keeping the films that earlier runs on this folder left in it."""
    ours = {plan.film: plan.facts | {"sampling": sampling, "fingerprint": plan.fingerprint} for plan in plans}

    def add(found: bytes | None) -> bytes:
        before = [] if found is None else schema.read_plain(pa.BufferReader(found), "films.parquet").to_pylist()
        rows = {row["film"]: row for row in before} | ours
        stamped = schema.stamp(schema.FILMS, plans[0].fingerprint)
        return table_bytes(pa.Table.from_pylist(list(rows.values()), schema=stamped))

    store.update("films.parquet", add)


def write_manifest(
    store: Store,
    pack: Pack,
    settings: dict[str, Any],
    summaries: Sequence[FilmSummary],
    timings: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    """Write the pack's table of errors, `manifest.json`, then the empty marker `_SUCCESS`; returns the manifest.

    `unfinished` in it counts the films of the folder that were planned and are not assembled, by this
    or another run; where there are any, `_SUCCESS` is not written. `device` ("cpu" or "cuda") is that of the run
    that writes it; spans of earlier runs may come from another.
    """
    plan = store.read_json(PLAN_KEY)
    assembled = set(store.list("frames", ".parquet"))
    manifest = {
        "schema": schema.VERSION,
        "insideout": __version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "fingerprint": plan["fingerprint"],
        "configuration": settings,
        "pack": {
            "name": pack.name,
            "digest": pack.digest,
            "classes": list(pack.characters),
            "emotions": list(pack.emotion.classes),
            "crop": pack.emotion.crop,
            "uncertain_below": pack.emotion.uncertain_below,
        },
        "counts": totals(summaries),
        "unfinished": sum(frames_key(film) not in assembled for film in plan["films"]),
        "device": device,
        "timings": timings,
        "versions": {"python": platform.python_version()} | _versions(),
    }
    _write_errors(store, pack)
    fault("before-manifest")
    store.write_json("manifest.json", manifest)
    fault("before-success")
    if not manifest["unfinished"]:
        store.write("_SUCCESS", b"")
    return manifest


def keep_manifest(store: Store, pack: Pack) -> dict[str, Any]:
    """Leave the manifest of a finished run as it is and return it; the pack's table of errors may be newer."""
    _write_errors(store, pack)
    manifest: dict[str, Any] = store.read_json("manifest.json")
    return manifest


def _write_errors(store: Store, pack: Pack) -> None:
    """So that the run can be analysed without its pack."""
    if pack.confusion is None:
        return
    errors = pack.confusion.read_bytes()
    if not store.exists(ERRORS) or store.read(ERRORS) != errors:
        store.write(ERRORS, errors)


def totals(summaries: Sequence[FilmSummary]) -> dict[str, Any]:
    """The ledgers of several films added up."""
    return {
        "films": len(summaries),
        "frames": sum(s.sampled for s in summaries),
        "labelled": sum(s.labelled for s in summaries),
        "dropped": dict(sum((s.dropped for s in summaries), Counter[str]())),
        "failed": dict(sum((s.failed for s in summaries), Counter[str]())),
        "characters": sum(s.characters for s in summaries),
        "shots": sum(s.shots for s in summaries),
        "tracks": sum(s.tracks for s in summaries),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run_status(store: Store) -> dict[str, Any]:
    """What a run looks like now, also while it is running.

    Returns `done` (bool) and `films`: for each film id its path, planned `samples` and `spans`,
    `spans_done`, and `summary` (FilmSummary) once it is assembled. Raises OutputError when the
    folder holds no plan.
    """
    if not store.exists(PLAN_KEY):
        raise OutputError(f"{store.root}: no plan.json, so not an output of `insideout label`")
    plan = store.read_json(PLAN_KEY)
    summaries = read_summaries(store, list(plan["films"]))
    committed = Counter(key.rpartition("/")[0] for key in store.list("spans", ".parquet"))
    films = {}
    for film, facts in plan["films"].items():
        summary = summaries.get(film)
        done = facts["spans"] if summary else committed[spans_folder(film, plan["fingerprint"])]
        films[film] = facts | {"spans_done": done, "summary": summary}
    return {"done": store.exists("_SUCCESS"), "films": films, "plan": plan}
