"""A small but realistic output folder, written through pyarrow with our schemas, for tests of its readers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco

from insideout import schema

EMOTIONS = ("Afraid", "Angry", "Happy", "Neutral", "Surprised")
CHARACTERS = ("Bunny", "Frank", "Gamera")
FINGERPRINT = "f00d" * 16
_WIDTH, _HEIGHT = 320, 180
_TINTS = {"Bunny": (214, 196, 170), "Frank": (120, 170, 90), "Gamera": (170, 110, 80)}
_MOUTHS = {"Afraid": (0, 360), "Angry": (200, 340), "Happy": (20, 160), "Neutral": (0, 0), "Surprised": (0, 360)}


@dataclass(frozen=True)
class FilmSpec:
    """A film to be made up: constant or varying frame rate, and how many shots of how many frames."""

    path: str
    digest: str
    time_base: Fraction = Fraction(1, 12288)
    first_pts: int = 1024
    steps: tuple[int, ...] = (512,)  # pts from frame to frame, repeated
    shots: int = 12
    shot_frames: int = 48
    every: int = 4
    size: int = 1_234_567
    sizes: tuple[int, int] = (_WIDTH, _HEIGHT)

    @property
    def film(self) -> str:
        return self.digest[:16]


FILMS = (
    FilmSpec("films/meadow.mp4", "a1" * 32),
    FilmSpec("films/varying rate.mkv", "b2" * 32, Fraction(1, 1000), 40, (33, 50, 42, 41), shots=7, shot_frames=30),
)


def write_run(
    folder: Path,
    films: tuple[FilmSpec, ...] = FILMS,
    *,
    crops: bool = True,
    characters: tuple[str, ...] = CHARACTERS,
    emotions: tuple[str, ...] = EMOTIONS,
    finished: bool = True,
    seed: int = 7,
    pictures: tuple[bytes, ...] = (),
) -> Path:
    """Write a run with characters, crops, duplicates (also of duplicates), failures and black frames.

    Crops are plain faces, or `pictures` by turns.
    """
    rng = np.random.default_rng(seed)
    counts: dict[str, Any] = {"films": len(films), "frames": 0, "labelled": 0, "characters": 0}
    kinds: dict[str, Counter[str]] = {"dropped": Counter(), "failed": Counter()}
    for spec in films:
        sightings, frames, shots = _film_rows(spec, rng, crops, characters, emotions)
        for place, row in enumerate(sightings if pictures else ()):
            row["crop"] = pictures[place % len(pictures)]
        half = len(sightings) // 2
        _write(folder, f"characters/film={spec.film}/part-0.parquet", schema.CHARACTERS, sightings[:half])
        _write(folder, f"characters/film={spec.film}/part-1.parquet", schema.CHARACTERS, sightings[half:])
        _write(folder, f"frames/film={spec.film}/part-0.parquet", schema.FRAMES, frames)
        _write(folder, f"shots/film={spec.film}/part-0.parquet", schema.SHOTS, shots)
        counts["frames"] += len(frames)
        counts["labelled"] += sum(row["status"] == "labelled" for row in frames)
        counts["characters"] += len(sightings)
        for row in frames:
            if row["status"] in kinds:
                reason = row["reason"].split(":")[0].replace("duplicate_of", "duplicate")
                kinds[row["status"]][reason] += 1
    _write(folder, "films.parquet", schema.FILMS, [_facts(spec) for spec in films])
    counts |= {kind: dict(counter) for kind, counter in kinds.items()}
    manifest = _manifest(counts, characters, emotions)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    if finished:
        (folder / "_SUCCESS").touch()
    return folder


def _manifest(counts: dict[str, Any], characters: tuple[str, ...], emotions: tuple[str, ...]) -> dict[str, Any]:
    stages = {"decode": 3.1, "segment": 40.25, "crop": 1.5, "classify": 22.0, "write": 0.4}
    return {
        "schema": schema.VERSION,
        "insideout": "0.1.0",
        "created": "2026-01-02T03:04:05Z",
        "fingerprint": FINGERPRINT,
        "configuration": {"sampling": "every:4", "confidence": 0.25, "crops": True, "batch": 16},
        "pack": {
            "name": "made-up",
            "digest": "c3" * 32,
            "classes": list(characters),
            "emotions": list(emotions),
            "crop": "head",
            "uncertain_below": 0.35,
        },
        "counts": counts,
        "timings": {"seconds": 70.2, "frames_per_second": 12.5, "stages": stages},
        "versions": {"python": "3.11.2", "ray": "2.60.0", "torch": "2.14.1"},
    }


def _pts(spec: FilmSpec) -> np.ndarray:
    frames = spec.shots * spec.shot_frames
    return spec.first_pts + np.concatenate([[0], np.cumsum(np.resize(spec.steps, frames))])  # one more: the end


def _facts(spec: FilmSpec) -> dict[str, Any]:
    pts = _pts(spec)
    frames = len(pts) - 1
    duration = (int(pts[-1]) - int(pts[0])) * spec.time_base
    fps = frames / duration
    return {
        "film": spec.film, "path": spec.path, "bytes": spec.size, "sha256": spec.digest,
        "width": spec.sizes[0], "height": spec.sizes[1],
        "fps_num": fps.numerator, "fps_den": fps.denominator,
        "time_base_num": spec.time_base.numerator, "time_base_den": spec.time_base.denominator,
        "frames": frames, "duration_s": float(duration), "codec": "h264",
        "sampling": f"every:{spec.every}", "fingerprint": FINGERPRINT,
    }  # fmt: skip


def _film_rows(
    spec: FilmSpec, rng: np.random.Generator, crops: bool, characters: tuple[str, ...], emotions: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    pts = _pts(spec)
    sightings: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    shots: list[dict[str, Any]] = []
    track = 0
    for shot in range(spec.shots):
        start, end = shot * spec.shot_frames, (shot + 1) * spec.shot_frames
        shots.append({
            "film": spec.film, "shot": shot, "start_ordinal": start, "end_ordinal": end,
            "start_pts": int(pts[start]), "end_pts": int(pts[end]),
        })  # fmt: skip
        # Shot 2 shows nobody; the last shows two of the same name, as a flock of birds would.
        cast = [] if shot == 2 else [c for c in characters if rng.random() < 0.6] or [characters[0]]
        if shot == spec.shots - 1:
            cast = [characters[0], characters[0]]
        tracks = []
        for character in cast:
            tracks.append((character, track, str(rng.choice(emotions)), rng.uniform(0.05, 0.6)))
            track += 1
        labelled: int | None = None
        for ordinal in range(start + (-start) % spec.every, end, spec.every):
            common = {
                "film": spec.film, "ordinal": ordinal, "pts": int(pts[ordinal]),
                "time_s": float((pts[ordinal] - pts[0]) * spec.time_base), "shot": shot,
            }  # fmt: skip
            status, reason, seen = "labelled", None, tracks
            roll = rng.random()
            if shot == 0 and ordinal < 3 * spec.every:
                status, reason, seen = "dropped", "black", []
            elif roll < 0.03:
                status, reason, seen = "failed", f"decode: damaged packet at {ordinal}", []
            elif not tracks:
                status, reason = "dropped", "no_character"
            elif labelled is not None and roll < 0.3:
                # Held drawings: sometimes told as a repeat of the frame before, which is one itself.
                before = frames[-1]["ordinal"] if frames[-1]["status"] == "dropped" and roll < 0.1 else labelled
                status, reason, seen = "dropped", f"duplicate_of:{before}", []
            else:
                labelled = ordinal
            frames.append(common | {"status": status, "reason": reason, "characters": len(seen)})
            for place, (character, number, emotion, doubt) in enumerate(seen):
                sightings.append(
                    common | _sighting(rng, spec, place, character, number, emotion, doubt, crops, emotions)
                )
    return sightings, frames, shots


def _sighting(
    rng: np.random.Generator, spec: FilmSpec, place: int, character: str, track: int, fused: str, doubt: float,
    crops: bool, emotions: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    width, height = spec.sizes
    weights = rng.dirichlet(np.full(len(emotions), 0.5)) * doubt
    weights[emotions.index(fused)] += 1 - doubt
    best = int(np.argmax(weights))
    x, y = width * (0.08 + 0.3 * place) + rng.normal(0, 2), height * 0.3 + rng.normal(0, 2)
    w, h = width * 0.22, height * 0.6
    pixels = np.zeros((height, width), np.uint8)
    cv2.ellipse(pixels, (int(x + w / 2), int(y + h / 2)), (int(w / 2), int(h / 2)), 0, 0, 360, 1, -1)
    head = (x + w * 0.2, y, w * 0.6, w * 0.6) if rng.random() < 0.85 else (None,) * 4
    return {
        "track": track, "character": character, "score": float(rng.uniform(0.4, 0.98)),
        "box_x": x, "box_y": y, "box_w": w, "box_h": h,
        "mask_rle": coco.encode(np.asfortranarray(pixels))["counts"].decode(), "mask_h": height, "mask_w": width,
        "head_x": head[0], "head_y": head[1], "head_w": head[2], "head_h": head[3],
        "emotion": emotions[best] if weights[best] >= 0.5 else "uncertain", "certainty": float(weights[best]),
        "probabilities": list(zip(emotions, weights.tolist(), strict=True)),
        "track_emotion": fused if doubt < 0.5 else "uncertain",
        "crop": face(character, emotions[best]) if crops else None,
    }  # fmt: skip


def face(character: str, emotion: str, size: int = 96) -> bytes:
    """Draw a plain face as WebP, so that a look at the page shows whether pictures sit where they should."""
    picture = np.full((size, size, 3), 60, np.uint8)
    middle = (size // 2, size // 2)
    tint = _TINTS.get(character, (150, 150, 190))
    cv2.circle(picture, middle, size * 2 // 5, tint, -1, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.circle(picture, (size // 2 + side * size // 7, size * 2 // 5), size // 16, (20, 20, 20), -1, cv2.LINE_AA)
    start, end = _MOUTHS.get(emotion, (0, 360))
    cv2.ellipse(
        picture, (size // 2, size * 3 // 5), (size // 7, size // 10), 0, start, end, (40, 20, 20), 3, cv2.LINE_AA
    )
    done, data = cv2.imencode(".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def _write(folder: Path, key: str, kind: pa.Schema, rows: list[dict[str, Any]]) -> None:
    target = folder / key
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.stamp(kind, FINGERPRINT)), target)
