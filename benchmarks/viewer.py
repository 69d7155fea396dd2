"""How fast the viewer is on a film of two hours: time to the first picture with its labels, and of a seek.

    python -m benchmarks.viewer --out /tmp/two-hours     # makes film and labels (minutes), measures, writes viewer.json

The film is made: 172,800 frames of 320x180 at 24 a second, H.264 with B-frames, a key frame every two seconds.
So is its label table, with the row groups of `insideout label`: every 4th frame, 2.3 characters in each, masks
included. The browser is the machine's Chromium without a window; times are from the start of the navigation
as the page itself tells them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Page, sync_playwright

from insideout import schema
from insideout.film import Film, open_film
from insideout.masks import Mask

HOURS, RATE, WIDTH, HEIGHT = 2, 24, 320, 180
FRAMES = HOURS * 3600 * RATE
EVERY, SHOT = 4, 84
EMOTIONS = ("Afraid", "Angry", "Happy", "Neutral", "Surprised")
NAMES = ("Bunny", "Frank", "Gamera", "Rinky")
RESULTS = Path(__file__).with_name("viewer.json")
_GROUP_ROWS = 1024  # as insideout/assemble.py


def make_film(path: Path, frames: int = FRAMES) -> None:
    """Encode a film of moving waves, 240 pictures over and over."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pictures = []
    for number in range(240):
        wave = 128 + 90 * np.sin(x / 23 + number * np.pi / 60) * np.cos(y / 31 - number * np.pi / 120)
        picture = np.stack([wave, wave[::-1], 255 - wave], 2).astype(np.uint8)
        pictures.append(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p"))
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=RATE, options={"preset": "superfast", "g": "48", "bf": "2", "crf": "34"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            frame = pictures[number % len(pictures)]
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            frame.pict_type = 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make_run(folder: Path, film: Film) -> int:
    """Write the label table of the film; return the number of its rows."""
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(300):
        pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
        x, y = int(rng.integers(30, WIDTH - 60)), int(rng.integers(30, HEIGHT - 50))
        shape = rng.normal(1, 0.12, 40).cumsum() / np.arange(1, 41)
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        points = np.stack([x + 28 * shape * np.cos(turn), y + 24 * shape * np.sin(turn)], 1).astype(np.int32)
        cv2.fillPoly(pixels, [points], 1)
        mask = Mask(pixels.astype(bool), 0, 0, WIDTH, HEIGHT)
        masks.append((mask.rle(), mask.box()))
    frames, figures, shots = [], [], []
    for shot, start in enumerate(range(0, film.frames, SHOT)):
        end = min(start + SHOT, film.frames)
        last = int(film.pts[end]) if end < film.frames else int(2 * film.pts[-1] - film.pts[-2])
        shots.append({"film": film.film, "shot": shot, "start_ordinal": start, "end_ordinal": end,
                      "start_pts": int(film.pts[start]), "end_pts": last})  # fmt: skip
        cast = rng.choice(len(NAMES), rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15]), replace=False)
        for ordinal in range(start + -start % EVERY, end, EVERY):
            common = {"film": film.film, "ordinal": ordinal, "pts": int(film.pts[ordinal]), "shot": shot}
            common["time_s"] = film.time_s(ordinal)
            frames.append(common | {"status": "labelled", "reason": None, "characters": len(cast)})
            for name in cast.tolist():
                rle, (x, y, w, h) = masks[int(rng.integers(len(masks)))]
                chances = rng.dirichlet(np.full(len(EMOTIONS), 0.4))
                best = int(chances.argmax())
                figures.append(common | {
                    "track": shot * len(NAMES) + name, "character": NAMES[name], "score": 0.9,
                    "box_x": x, "box_y": y, "box_w": w, "box_h": h, "mask_rle": rle, "mask_h": HEIGHT, "mask_w": WIDTH,
                    "emotion": EMOTIONS[best], "certainty": float(chances[best]), "track_emotion": EMOTIONS[best],
                    "probabilities": list(zip(EMOTIONS, chances.tolist(), strict=True)),
                })  # fmt: skip
    for kind, table, rows in (
        ("characters", schema.CHARACTERS, figures), ("frames", schema.FRAMES, frames), ("shots", schema.SHOTS, shots),
        ("films", schema.FILMS, [_facts(film)]),
    ):  # fmt: skip
        target = folder / ("films.parquet" if kind == "films" else f"{kind}/film={film.film}/part-00000.parquet")
        target.parent.mkdir(parents=True, exist_ok=True)
        made = pa.Table.from_pylist(rows, schema=schema.stamp(table, "b" * 16))
        pq.write_table(made, target, compression="zstd", row_group_size=_GROUP_ROWS if kind == "characters" else None)
    pack = {"name": "made-up", "emotions": list(EMOTIONS), "classes": list(NAMES)}
    (folder / "manifest.json").write_text(json.dumps({"schema": schema.VERSION, "pack": pack}))
    (folder / "_SUCCESS").touch()
    return len(figures)


def _facts(film: Film) -> dict[str, Any]:
    return {
        "film": film.film, "path": film.path, "bytes": film.bytes, "sha256": film.sha256, "width": film.width,
        "height": film.height, "fps_num": film.fps.numerator, "fps_den": film.fps.denominator,
        "time_base_num": film.time_base.numerator, "time_base_den": film.time_base.denominator,
        "frames": film.frames, "duration_s": film.duration_s, "codec": film.codec, "sampling": f"every:{EVERY}",
        "fingerprint": "b" * 16,
    }  # fmt: skip


_SEEK = """async (share) => {
  const overview = document.querySelector('#overview'), stage = document.querySelector('#stage').dataset;
  const box = overview.getBoundingClientRect(), from = stage.ordinal, began = performance.now();
  const x = box.left + 92 + share * (box.width - 92);
  overview.setPointerCapture = () => {};
  overview.dispatchEvent(new PointerEvent('pointerdown', { clientX: x, clientY: box.top + 5, buttons: 1 }));
  while (stage.ordinal === from || stage.drawn !== stage.labelled) await new Promise((next) => setTimeout(next, 1));
  return performance.now() - began;
}"""


def measure(page: Page, address: str) -> dict[str, float]:
    """Open the page once; seconds from the start of the navigation, and the median and longest of 20 seeks."""
    page.goto(address)
    page.wait_for_selector("#stage[data-counted=yes]", timeout=120_000)
    marks = page.evaluate("Object.fromEntries(performance.getEntriesByType('mark').map((m) => [m.name, m.startTime]))")
    rng = np.random.default_rng(1)
    seeks = [page.evaluate(_SEEK, share) / 1000 for share in rng.uniform(0.02, 0.98, 20).tolist()]
    return {
        "first_picture_s": marks["picture"] / 1000,
        "first_labels_s": marks["labels"] / 1000,
        "all_frames_counted_s": marks["counted"] / 1000,
        "seek_median_s": statistics.median(seeks),
        "seek_longest_s": max(seeks),
    }


def main() -> None:
    """Make what is missing, measure five times, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where film and labels are made, and kept")
    options = parser.parse_args()
    path, run = options.out / "two-hours.mp4", options.out / "run"
    options.out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        make_film(partial := path.with_name("partial.mp4"))
        partial.replace(path)
    if not (run / "_SUCCESS").exists():
        make_run(run, open_film(str(path)))
    rows = sum(pq.read_metadata(part).num_rows for part in (run / "characters").rglob("*.parquet"))
    command = [sys.executable, "-m", "pipelines.cli", "view", str(run), "--no-open", "--annotations"]
    found, starts, memory, load = [], [], [], os.getloadavg()[0]
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    for _ in range(5):
        began = time.monotonic()
        with (
            subprocess.Popen([*command, str(options.out / "a.csv")], stdout=subprocess.PIPE, text=True) as server,
            sync_playwright() as playwright,
        ):
            assert server.stdout is not None
            address = server.stdout.readline().removeprefix("viewer: ").strip()
            starts.append(time.monotonic() - began)
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if root else [])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto("about:blank")
            found.append(measure(page, address))
            status = Path(f"/proc/{server.pid}/status").read_text()
            memory.append(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
            browser.close()
            server.terminate()
    told = {
        "command": f"python -m benchmarks.viewer --out {options.out.name}",
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load_before": round(load, 2)},
        "film": {"frames": FRAMES, "bytes": path.stat().st_size, "width": WIDTH, "height": HEIGHT, "rows": rows},
        "median": {name: round(statistics.median(one[name] for one in found), 3) for name in found[0]},
        "longest": {name: round(max(one[name] for one in found), 3) for name in found[0]},
        "server_start_s": round(statistics.median(starts), 2),
        "server_memory_mb": round(max(memory)),
        "opened": [{name: round(value, 3) for name, value in one.items()} for one in found],
    }
    RESULTS.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told["median"], indent=2))


if __name__ == "__main__":
    main()
