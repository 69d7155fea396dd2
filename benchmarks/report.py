"""How large the report of a feature film is, how long it takes to write, and until a browser has drawn it.

    python -m benchmarks.report

makes up a run of two hours (2,000 shots, 8 characters, 75,000 rows in 9,600 tracks, with crops cut at random from the
bundled excerpt), writes its report, opens it in Chromium, and writes `benchmarks/report.json`. A path keeps the page.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
from playwright.sync_api import sync_playwright

from insideout.crops import encode_webp
from insideout.decode import read_frames
from insideout.film import open_film
from insideout.report import write_report
from tests.runs import EMOTIONS, FilmSpec, write_run

EXCERPT = "data/excerpt/big_buck_bunny_excerpt.mp4"
CAST = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hope")
FILM = FilmSpec("two hours.mp4", "77" * 32, shots=2000, shot_frames=86, every=8)

_UNTIL_CHANGED = """async ([selector, shows]) => {
    const text = () => document.querySelector(shows).textContent, before = text(), start = performance.now();
    document.querySelector(selector).click();
    while (text() === before) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return performance.now() - start;
}"""


def patches(count: int = 400, side: int = 160, seed: int = 0) -> tuple[bytes, ...]:
    """Squares cut at random from the bundled excerpt, so that their bytes are those of real pictures."""
    rng = np.random.default_rng(seed)
    film = open_film(EXCERPT)
    ordinals = np.linspace(0, film.frames - 1, 40).astype(int).tolist()
    pictures = [picture for _, picture in read_frames(EXCERPT, ordinals, film=film)]
    found = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        top, left = (int(rng.integers(0, size - 2 * side)) for size in picture.shape[:2])
        cut = np.ascontiguousarray(picture[top : top + 2 * side, left : left + 2 * side])
        found.append(encode_webp(cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)))
    return tuple(found)


def opened(path: Path) -> dict[str, float]:
    """Seconds in Chromium until the page is loaded, until its charts are drawn, and that a zoom and a click take."""
    sandbox = os.geteuid() != 0
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=shutil.which("chromium"), chromium_sandbox=sandbox, args=[] if sandbox else ["--no-sandbox"]
        ) as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        found: dict[str, float] = {}
        start = time.monotonic()

        def said(name: str) -> None:
            found[name] = round(time.monotonic() - start, 2)

        page.goto(path.absolute().as_uri())
        said("loaded")
        page.wait_for_selector("html[data-drawn]", timeout=120_000)
        said("drawn")
        page.locator(".timeline").scroll_into_view_if_needed()
        for name, selector, shows in (
            ("zoom", "[data-move=closer]", "[data-chart=timeline] .role-axis-label"),
            ("whole film", "[data-move=all]", "[data-chart=timeline] .role-axis-label"),
            ("cell", ".cell", "#frames-body"),
        ):
            found[name] = round(page.evaluate(_UNTIL_CHANGED, [selector, shows]) / 1000, 2)
        found["images in the window"] = page.locator("#frames-body img").count()
    return found


def main() -> None:
    """Measure, print and keep."""
    found: dict[str, Any] = {
        "command": "python -m benchmarks.report",
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "load_before": round(os.getloadavg()[0], 1),
        "shots": FILM.shots,
        "characters": len(CAST),
    }
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", (FILM,), characters=CAST, emotions=EMOTIONS, pictures=patches())
        rows = sum(pq.read_metadata(path).num_rows for path in run.glob("characters/**/*.parquet"))
        found |= {"rows": rows}
        begin, spent = time.monotonic(), time.process_time()
        steps: dict[str, float] = {}

        def said(what: str) -> None:
            steps[what] = round(time.process_time() - spent, 1)
            print(f"{steps[what]:6.1f} {what}", file=sys.stderr, flush=True)

        report = Path(write_report(run, say=said))
        found |= {
            "written_cpu_s": round(time.process_time() - spent, 1),
            "written_s": round(time.monotonic() - begin, 1),
            "step_begins_cpu_s": steps,
            "bytes": report.stat().st_size,
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "chromium_s": opened(report),
        }
        if len(sys.argv) > 1:
            Path(sys.argv[1]).write_bytes(report.read_bytes())
    print(json.dumps(found, indent=2))
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
