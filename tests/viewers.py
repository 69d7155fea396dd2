"""A viewer to be tested: films with their frame numbers burnt in, a run that labels them, a server on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn
from fastapi.testclient import TestClient

from insideout import schema
from insideout.film import Film, open_film
from insideout.masks import Mask
from insideout.view.serve import open_viewer
from tests.runs import FINGERPRINT

EMOTIONS = ("Afraid", "Angry", "Happy")
MASK_TOP = 28
TOKEN = "the-token-of-the-test"


def label_film(
    folder: Path,
    path: Path,
    *,
    every: int = 4,
    names: Sequence[str] = ("Bunny", "Frank"),
    empty: Collection[int] = (),
) -> Film:
    """Write a run that labels a film as if every frame told its own number.

    The first name is in every labelled frame, at a place that tells the frame (`left_of`), the second
    in the second half of the film. Shots have 24 frames. The third sampled frame is a duplicate of the second,
    the fourth failed, the fifth shows nobody; so do those whose ordinals are `empty`.
    """
    film = open_film(str(path))
    step = int(film.pts[-1] - film.pts[-2]) if film.frames > 1 else 1
    ends = [*film.pts.tolist(), int(film.pts[-1]) + step]
    frames, figures, shots = [], [], []
    for shot, start in enumerate(range(0, film.frames, 24)):
        end = min(start + 24, film.frames)
        shots.append(
            {"film": film.film, "shot": shot, "start_ordinal": start, "end_ordinal": end}
            | {"start_pts": ends[start], "end_pts": ends[end]}
        )
    for place, ordinal in enumerate(range(0, film.frames, every)):
        common = {"film": film.film, "ordinal": ordinal, "pts": int(film.pts[ordinal]), "shot": ordinal // 24}
        common["time_s"] = film.time_s(ordinal)
        status, reason = {
            2: ("dropped", f"duplicate_of:{every}"), 3: ("failed", "decode: torn"), 4: ("dropped", "no_character")
        }.get(place, ("labelled", None))  # fmt: skip
        if ordinal in empty:
            status, reason = "dropped", "no_character"
        here = [] if status != "labelled" else list(names[: 1 + (2 * ordinal >= film.frames)])
        frames.append(common | {"status": status, "reason": reason, "characters": len(here)})
        for number, name in enumerate(here):
            figures.append(common | _figure(film, name, number, ordinal))
    for kind, table, rows in (
        ("characters", schema.CHARACTERS, figures), ("frames", schema.FRAMES, frames), ("shots", schema.SHOTS, shots)
    ):  # fmt: skip
        target = folder / kind / f"film={film.film}" / "part-00000.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema.stamp(table, FINGERPRINT)), target, row_group_size=16)
    _add_film(folder, film, every)
    told = {"emotions": list(EMOTIONS), "classes": list(names), "name": "made-up"}
    (folder / "manifest.json").write_text(
        json.dumps({"schema": schema.VERSION, "pack": told, "configuration": {"crop_size": None}}), encoding="utf-8"
    )
    (folder / "_SUCCESS").touch()
    return film


def left_of(ordinal: int, width: int) -> int:
    """The left edge of the first character in a labelled frame, in a picture of this width: it tells the frame."""
    return ordinal % (width - 28)


def _figure(film: Film, name: str, number: int, ordinal: int) -> dict[str, object]:
    x, y, w, h = left_of(ordinal, film.width) if number == 0 else 8, MASK_TOP + 20 * number, 24, 16
    pixels = np.ones((h, w), bool)
    pixels[4:8, 6:10] = False
    rng = np.random.default_rng(ordinal * 7 + number)
    emotion = int(rng.integers(len(EMOTIONS)))
    certainty = float(rng.uniform(0.4, 0.99))
    rest = (1 - certainty) / (len(EMOTIONS) - 1)
    return {
        "track": 2 * (ordinal // 24) + number, "character": name, "score": 0.9,
        "box_x": x, "box_y": y, "box_w": w, "box_h": h,
        "mask_rle": Mask(pixels, x, y, film.width, film.height).rle(),
        "mask_h": film.height, "mask_w": film.width,
        "emotion": EMOTIONS[emotion], "certainty": certainty, "track_emotion": EMOTIONS[emotion],
        "probabilities": [(e, certainty if i == emotion else rest) for i, e in enumerate(EMOTIONS)],
    }  # fmt: skip


def _add_film(folder: Path, film: Film, every: int) -> None:
    row = {
        "film": film.film, "path": film.path, "bytes": film.bytes, "sha256": film.sha256,
        "width": film.width, "height": film.height, "fps_num": film.fps.numerator, "fps_den": film.fps.denominator,
        "time_base_num": film.time_base.numerator, "time_base_den": film.time_base.denominator,
        "frames": film.frames, "duration_s": film.duration_s, "codec": film.codec, "sampling": f"every:{every}",
        "fingerprint": FINGERPRINT,
    }  # fmt: skip
    table = pa.Table.from_pylist([row], schema=schema.stamp(schema.FILMS, FINGERPRINT))
    target = folder / "films.parquet"
    if target.exists():
        table = pa.concat_tables([pq.read_table(target, schema=table.schema), table])
    pq.write_table(table, target)


def opened(run: Path | str, *, films: Sequence[Path] = (), annotations: Path | None = None) -> TestClient:
    """A client without a browser that has opened the page."""
    app, _ = open_viewer(
        str(run), films=[str(f) for f in films], annotations=str(annotations) if annotations else None,
        annotator="Ada", token=TOKEN,
    )  # fmt: skip
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    page = client.get(f"/?token={TOKEN}")
    assert page.status_code == 200
    client.headers["x-insideout-token"] = page.text.partition('name="token" content="')[2].partition('"')[0]
    return client


@contextmanager
def served(run: Path, *, annotations: Path | None = None, films: Sequence[Path] = ()) -> Iterator[str]:
    """Serve a run on loopback; yields the address that opens the page."""
    app, _ = open_viewer(
        str(run), films=[str(film) for film in films], annotations=str(annotations) if annotations else None,
        annotator="Ada", token=TOKEN,
    )  # fmt: skip
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/?token={TOKEN}"
        finally:
            server.should_exit = True
            thread.join(10)
