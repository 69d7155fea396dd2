"""Write what is measured of a segmenter: metrics.json, and a table in Markdown."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from insideout.errors import DataError
from insideout.evaluation.average_precision import FIGURES
from insideout.evaluation.instances import Share
from insideout.evaluation.segmenter import SegmenterScores, evaluate_segmenter
from insideout.messages import in_markdown
from insideout.packs import Pack
from insideout.store import Store


def read_shots(path: Path) -> dict[int, str]:
    """The shot of each frame ordinal, from a CSV with `shot`, `start_ordinal` and `end_ordinal` (exclusive).

    Raises DataError for a table that is missing, unreadable or without these columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                ordinal: row["shot"]
                for row in csv.DictReader(file)
                for ordinal in range(int(row["start_ordinal"]), int(row["end_ordinal"]))
            }
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not a table of shots ({type(error).__name__}: {error}); it has the columns shot,"
            " start_ordinal, end_ordinal"
        ) from error


def report_segmenter(
    pack: Pack, data: Path, split: str, out: Path, *, shots: Path | None = None, device: str = "cpu"
) -> list[str]:
    """Measure a pack's segmenter on a YOLO export and write OUT/metrics.json and OUT/table.md.

    Returns the lines to print. Raises as `evaluate_segmenter` does.
    """
    found = evaluate_segmenter(pack.segmenter, data, split, shots=read_shots(shots) if shots else None, device=device)
    lines = list(_markdown(found))
    store = Store(out)
    store.write("table.md", ("\n".join(lines) + "\n").encode())
    store.write("metrics.json", json.dumps({"pack": pack.digest, **found}, indent=1).encode())
    return lines


def segmenter_figures(found: SegmenterScores) -> dict[str, Any]:
    """Average precision as a pack's card holds it: figures over all classes, and under `by_class` those of each."""
    rows = {
        name: {"instances": row[FIGURES[0]]["count"], **{key: row[key]["value"] for key in FIGURES}}
        for name, row in found["average_precision"].items()
    }
    overall = {key: value for key, value in rows.pop("all").items() if key in FIGURES and value is not None}
    return overall | {"by_class": rows}


def _markdown(found: SegmenterScores) -> Iterable[str]:
    yield f"{found['frames']} frames of {found['shots']} shots, split {found['split']}"
    yield ""
    if found["notes"]:
        yield from (*(f"- {in_markdown(note)}" for note in found["notes"]), "")
    yield "| class | instances | mask mAP50 | mask mAP50-95 | box mAP50 | box mAP50-95 |"
    yield "|---|---|---|---|---|---|"
    for name, row in found["average_precision"].items():
        figures = (_interval(row[key]) for key in FIGURES)
        yield f"| {in_markdown(name)} | {row[FIGURES[0]]['count']} | " + " | ".join(figures) + " |"
    yield ""
    yield f"| at confidence {found['confidence']:g} | | 95 % interval over shots | of |"
    yield "|---|---|---|---|"
    for name, share in found["recall_by_size"].items():
        yield _row(f"recall, {name}", share)
    yield _row("false positives per 1,000 character-free frames", found["false_positives_per_1000_frames"], ".1f")
    yield _row("screen time found", found["screen_time_found"])
    for name, share in found["screen_time_found_by_character"].items():
        yield _row(f"screen time found, {in_markdown(name)}", share)


def _interval(share: Share) -> str:
    value, low, high = share["value"], share["low"], share["high"]
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.2f}, {high:.2f}]"


def _row(name: str, share: Share, form: str = ".3f") -> str:
    value, low, high = (
        "-" if number is None else format(number, form) for number in (share["value"], share["low"], share["high"])
    )
    return f"| {name} | {value} | {low} to {high} | {share['count']} |"
