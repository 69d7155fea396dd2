"""Finished runs with the rows that a test asks for, over a film that is there or made up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pycocotools import mask as coco

from insideout import schema
from insideout.film import open_film

EMOTIONS = ("Angry", "Happy", "Sad")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Row:
    """A character in a frame: its mask fills its box unless given, its probabilities follow from the rest."""

    ordinal: int
    character: str
    emotion: str
    box: Box = (0, 0, 16, 16)
    track: int = 0
    certainty: float = 0.9
    fused: str | None = None
    mask: NDArray[np.uint8] | None = None
    probabilities: Mapping[str, float] | None = None


@dataclass
class Table:
    """A film's tables before they are written; `status` of sampled frames that are not labelled."""

    path: str
    sha256: str
    pts: Sequence[int]
    end: int
    time_base: Fraction
    size: tuple[int, int]
    bytes: int = 1000
    fps: Fraction = Fraction(24)
    cuts: Sequence[int] = ()
    every: int = 4
    status: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    rows: Sequence[Row] = ()

    @property
    def film(self) -> str:
        return self.sha256[:16]


def table_of(path: Path, **given: Any) -> Table:
    """The table of a film file, with whatever rows and cuts are given."""
    film = open_film(str(path))
    pts = film.pts.tolist()
    step = pts[-1] - pts[-2] if len(pts) > 1 else 1
    return Table(
        str(path),
        film.sha256,
        pts,
        pts[-1] + step,
        film.time_base,
        (film.width, film.height),
        film.bytes,
        film.fps,
        **given,
    )


def made_up(digest: str = "a1", frames: int = 96, **given: Any) -> Table:
    """The table of a film that is nowhere: 24 frames a second, 64x36."""
    return Table(f"films/{digest}.mp4", digest * 32, range(frames), frames, Fraction(1, 24), (64, 36), **given)


def write_tables(folder: Path, *tables: Table, emotions: Sequence[str] = EMOTIONS, **manifest: Any) -> Path:
    """Write a finished run of these films; `manifest` is added to, or put in place of, what it says."""
    facts = []
    for table in tables:
        starts = [0, *table.cuts]
        ends = [*table.cuts, len(table.pts)]
        pts = [*table.pts, table.end]
        shots = [
            {
                "film": table.film,
                "shot": n,
                "start_ordinal": a,
                "end_ordinal": b,
                "start_pts": pts[a],
                "end_pts": pts[b],
            }
            for n, (a, b) in enumerate(zip(starts, ends, strict=True))
        ]

        def common(ordinal: int, table: Table = table, starts: list[int] = starts) -> dict[str, Any]:
            time = float((table.pts[ordinal] - table.pts[0]) * table.time_base)
            shot = sum(start <= ordinal for start in starts) - 1
            return {"film": table.film, "ordinal": ordinal, "pts": table.pts[ordinal], "time_s": time, "shot": shot}

        frames = []
        for ordinal in range(0, len(table.pts), table.every):
            count = sum(row.ordinal == ordinal for row in table.rows)
            usual = ("labelled", None) if count else ("dropped", "no_character")
            status, reason = table.status.get(ordinal, usual)
            frames.append(common(ordinal) | {"status": status, "reason": reason, "characters": count})
        characters = [common(row.ordinal) | _character(row, table.size, emotions) for row in table.rows]
        for kind, rows in (("frames", frames), ("shots", shots), ("characters", characters)):
            _write(folder / kind / f"film={table.film}" / "part-0.parquet", rows, getattr(schema, kind.upper()))
        length = (table.end - table.pts[0]) * table.time_base
        facts.append({
            "film": table.film, "path": table.path, "bytes": table.bytes, "sha256": table.sha256,
            "width": table.size[0], "height": table.size[1],
            "fps_num": table.fps.numerator, "fps_den": table.fps.denominator,
            "time_base_num": table.time_base.numerator, "time_base_den": table.time_base.denominator,
            "frames": len(table.pts), "duration_s": float(length), "codec": "h264", "sampling": f"every:{table.every}",
            "fingerprint": "f00d",
        })  # fmt: skip
    _write(folder / "films.parquet", facts, schema.FILMS)
    said = {
        "schema": schema.VERSION,
        "insideout": "0.1.0",
        "configuration": {"sampling": "every:4", "confidence": None},
        "pack": {"name": "made-up", "digest": "c3" * 32, "emotions": list(emotions), "uncertain_below": 0.35},
    } | manifest
    (folder / "manifest.json").write_text(json.dumps(said), encoding="utf-8")
    (folder / "_SUCCESS").touch()
    return folder


def _character(row: Row, size: tuple[int, int], emotions: Sequence[str]) -> dict[str, Any]:
    x, y, w, h = row.box
    mask = row.mask
    if mask is None:
        mask = np.zeros(size[::-1], np.uint8)
        mask[y : y + h, x : x + w] = 1
    given = row.probabilities
    if given is None:
        others = [name for name in emotions if name != row.emotion]
        given = {name: (1 - row.certainty) / len(others) for name in others}
        if row.emotion in emotions:
            given[row.emotion] = row.certainty
    return {
        "track": row.track, "character": row.character, "score": 0.8,
        "box_x": x, "box_y": y, "box_w": w, "box_h": h,
        "mask_rle": coco.encode(np.asfortranarray(mask))["counts"].decode(), "mask_h": size[1], "mask_w": size[0],
        "emotion": row.emotion, "certainty": row.certainty, "probabilities": list(given.items()),
        "track_emotion": row.fused or row.emotion,
    }  # fmt: skip


def _write(path: Path, rows: list[dict[str, Any]], kind: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.stamp(kind, "f00d")), path)
