"""Race the student project's way against `insideout label` on the same two minutes of film.

    make bench        (or: python benchmarks/bench.py --repeats 3)

Both run as whole processes, start-up included, one after the other and in turn, so that a machine
that slows down slows both. Prints sampled frames a second (medians), their ratio and the peak
memory of each process tree, and writes benchmarks/results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow.dataset as ds

from insideout.datasets.excerpt import cut_excerpt

ROOT = Path(__file__).resolve().parents[1]
FILM, CLIP, OUT = Path("films/big_buck_bunny.mp4"), Path("films/bench.mp4"), Path("out/bench")
#: Two minutes with all four characters; the first frame is a key frame.
START, FRAMES = 3513, 120 * 24
LIBRARIES = ("ray", "torch", "torchvision", "ultralytics", "opencv-python", "av", "numpy", "pyarrow")
SAMPLE_S = 0.25


def run(command: Sequence[str]) -> tuple[str, dict[str, float]]:
    """Run a command to its end; its standard output, and wall seconds with peak memory in MB.

    `peak_rss_mb` is the largest sum of resident memory over the process and all below it; pages that
    they share count once for each. `peak_pss_mb` divides those pages among them (Linux only).
    """
    start = time.perf_counter()
    log = OUT / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        tree, peaks = psutil.Process(process.pid), {"peak_rss_mb": 0.0, "peak_pss_mb": 0.0}
        while process.poll() is None:
            for name, amount in zip(peaks, memory(tree), strict=True):
                peaks[name] = max(peaks[name], round(amount / 1e6, 1))
            time.sleep(SAMPLE_S)
        seconds = time.perf_counter() - start
        file.seek(0)
        printed = file.read()
    if process.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {process.returncode}:\n{printed[-2000:]}")
    return printed, {"seconds": round(seconds, 3)} | peaks


def memory(process: psutil.Process) -> tuple[int, int]:
    """Resident and proportional bytes of a process and all below it."""
    rss = pss = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0, 0
    for member in family:
        try:
            full = member.memory_full_info()
        except (psutil.Error, FileNotFoundError):  # it has just ended
            continue
        rss += full.rss
        pss += getattr(full, "pss", 0)
    return rss, pss


def run_student(pack: Path) -> tuple[list[str], dict[str, Any]]:
    """One run of student.py: its command, and frames, seconds and memory."""
    command = ["benchmarks/student.py", str(CLIP), "--pack", str(pack)]
    printed, measured = run([sys.executable, *command])
    said = json.loads(printed.strip().splitlines()[-1])
    inner = {"frames": said["frames"], "characters": said["characters"], "without_start_up_s": said["seconds"]}
    return ["python", *command], inner | measured


def run_insideout(pack: Path) -> tuple[list[str], dict[str, Any]]:
    """One run of `insideout label` into an empty folder: its command, and frames, seconds and memory."""
    out = OUT / "labels"
    shutil.rmtree(out, ignore_errors=True)
    command = ["label", str(CLIP), "--pack", str(pack), "--out", str(out), "--no-report"]
    _, measured = run([sys.executable, "-m", "pipelines.cli", *command])
    frames = ds.dataset(out / "frames", format="parquet").count_rows()
    characters = ds.dataset(out / "characters", format="parquet").count_rows()
    return ["insideout", *command], {"frames": frames, "characters": characters} | measured


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        lines = [line.partition(":")[2].strip() for line in facts.read_text().splitlines() if "model name" in line]
        model = lines[0] if lines else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(psutil.getloadavg()[0], 2),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def summary(command: Sequence[str], runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of one contestant's runs."""
    return {
        "command": shlex.join(command),
        "frames": runs[0]["frames"],
        "frames_per_second": round(median(r["frames"] / r["seconds"] for r in runs), 3),
        "peak_rss_mb": max(r["peak_rss_mb"] for r in runs),
        "peak_pss_mb": max(r["peak_pss_mb"] for r in runs),
        "runs": list(runs),
    }


def write_atomically(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def main() -> None:
    """Cut the clip, run both in turn, print and write the result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pack", type=Path, default=Path("packs/bbb"))
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--results", type=Path, default=Path("benchmarks/results.json"))
    chosen = arguments.parse_args()
    os.chdir(ROOT)
    if not FILM.is_file():
        raise SystemExit(f"{FILM}: no such film; `make film` fetches it")
    clip = cut_excerpt(FILM, START, START + FRAMES, CLIP)
    facts = machine()
    runs: dict[str, list[dict[str, Any]]] = {"student": [], "insideout": []}
    commands: dict[str, list[str]] = {}
    for repeat in range(chosen.repeats):
        for name, contestant in (("student", run_student), ("insideout", run_insideout)):
            commands[name], result = contestant(chosen.pack)
            runs[name].append(result)
            rate = result["frames"] / result["seconds"]
            print(
                f"{repeat + 1}/{chosen.repeats} {name:>9}: {rate:6.2f} frames/s, {result['peak_rss_mb']:.0f} MB",
                flush=True,
            )
    results = {name: summary(commands[name], runs[name]) for name in runs}
    if results["student"]["frames"] != results["insideout"]["frames"]:
        raise SystemExit("the two did not look at the same number of frames; their rates cannot be compared")
    ratio = results["insideout"]["frames_per_second"] / results["student"]["frames_per_second"]
    for name, result in results.items():
        print(
            f"{name:>9}: {result['frames_per_second']:6.2f} sampled frames/s"
            f"  peak {result['peak_rss_mb']:.0f} MB resident, {result['peak_pss_mb']:.0f} MB proportional"
        )
    print(f"    ratio: {ratio:.2f}")
    film = {"start_ordinal": clip.start, "end_ordinal": clip.end, "frames": clip.end - clip.start}
    write_atomically(chosen.results, {"ratio": round(ratio, 3), "film": film, "machine": facts, **results})
    print(f"written to {chosen.results}")


if __name__ == "__main__":
    main()
