"""A run that is hit at a named point, once or always: its table is that of the undisturbed run."""

from __future__ import annotations

import itertools
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.clocks import WallClock
from tests.labelling import TABLES, busy, insideout, label, table

pytestmark = pytest.mark.ray


@pytest.mark.chaos
@pytest.mark.timeout(1200)  # three rounds of starting models, and a retry
def test_a_frame_that_kills_every_process_is_the_only_one_lost(
    usual: Path, excerpt: Path, pack: Path, tmp_path: Path
) -> None:
    bad, out = busy(usual), tmp_path / "out"
    done = label(excerpt, pack, out, f"segment:kill:{bad}", timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    # A span that waited for the same process may be among them; its rows are the same either way.
    assert "spans that were not finished, labelled frame by frame: " in done.stderr
    frames = {row["ordinal"]: row for row in table(out, "frames").to_pylist()}
    assert frames[bad]["status"] == "failed"
    assert frames[bad]["reason"] == "segment: the process was ended by SIGKILL"
    expected = {row["ordinal"]: row for row in table(usual, "frames").to_pylist()}
    assert frames.keys() == expected.keys()
    assert {o: row for o, row in frames.items() if o != bad} == {o: row for o, row in expected.items() if o != bad}

    def seen(run: Path) -> list[tuple[object, ...]]:
        """Rows of the other frames; tracks are numbered anew where a frame is missing from one."""
        return [
            (row["ordinal"], row["score"], row["mask_rle"], row["emotion"], row["certainty"])
            for row in table(run, "characters").to_pylist()
            if row["ordinal"] != bad
        ]

    assert sorted(seen(out)) == sorted(seen(usual))
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert counts["failed"] == {"segment": 1}
    (bundle,) = (out / "quarantine").rglob("*.json")
    assert json.loads(bundle.read_text())["ordinal"] == bad
    assert bundle.with_suffix(".png").exists()
    assert f"`insideout retry {out}` tries them again" in done.stdout

    # Without the fault a retry does that one span and makes the run whole.
    kept = {part: pq.read_table(part)["ordinal"].to_pylist() for part in (out / "spans").rglob("*.parquet")}
    (spoilt,) = (ordinals for ordinals in kept.values() if bad in ordinals)
    again = insideout("retry", out, "--pack", pack, "--no-report")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "failed frames to try again: 1" in again.stdout
    assert len(kept) >= 2
    assert f"labelling: {len(spoilt)}/{len(spoilt)} frames" in again.stderr
    for name in TABLES:
        assert table(out, name).equals(table(usual, name)), name
    assert not (out / "spans").exists()
    assert not list((out / "quarantine").rglob("*"))


@pytest.mark.chaos
@pytest.mark.parametrize("point", ["decode", "after-decode", "segment", "after-segment", "classify", "before-write"])
def test_a_worker_that_is_killed_once_changes_nothing(
    point: str, usual: Path, excerpt: Path, pack: Path, tmp_path: Path
) -> None:
    marker, out = tmp_path / "hit", tmp_path / "out"
    done = label(excerpt, pack, out, f"{point}:kill:{busy(usual)}:{marker}")
    assert marker.exists(), "the point was never passed"
    assert done.returncode == 0, done.stderr[-3000:]
    for name in TABLES:
        assert table(out, name).equals(table(usual, name)), name
    assert not (out / "quarantine").exists()


@pytest.mark.chaos
def test_a_worker_that_loses_its_gpu_once_changes_nothing(
    usual: Path, excerpt: Path, pack: Path, tmp_path: Path
) -> None:
    marker, out = tmp_path / "hit", tmp_path / "out"
    done = label(excerpt, pack, out, f"classify:gpu:{busy(usual)}:{marker}")
    assert marker.exists(), "the point was never passed"
    assert done.returncode == 0, done.stderr[-3000:]
    assert "spans that were not finished" not in done.stderr, "the process went on with a broken GPU"
    for name in TABLES:
        assert table(out, name).equals(table(usual, name)), name
    assert not (out / "quarantine").exists()


@pytest.mark.chaos
@pytest.mark.parametrize("point", ["before-rename", "after-rename"])
def test_a_worker_that_is_killed_as_it_commits_a_span_changes_nothing(
    point: str, usual: Path, excerpt: Path, pack: Path, tmp_path: Path
) -> None:
    marker, out = tmp_path / "hit", tmp_path / "out"
    marker.touch()  # as if it had been passed, until the driver has written the plan: what follows is of workers

    def arm() -> None:
        while not (out / "plan.json").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        marker.unlink()

    threading.Thread(target=arm, daemon=True).start()
    done = label(excerpt, pack, out, f"{point}:kill::{marker}")
    assert marker.exists(), "the point was never passed"
    assert done.returncode == 0, done.stderr[-3000:]
    for name in TABLES:
        assert table(out, name).equals(table(usual, name)), name
    assert not (out / "quarantine").exists()


@pytest.mark.chaos
@pytest.mark.parametrize("point", ["before-rename", "after-rename", "before-manifest", "before-success"])
def test_a_driver_that_is_killed_goes_on(point: str, usual: Path, excerpt: Path, pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert label(excerpt, pack, out, f"{point}:kill::{tmp_path / 'hit'}").returncode != 0
    assert not (out / "_SUCCESS").exists()
    done = label(excerpt, pack, out)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in TABLES:
        assert table(out, name).equals(table(usual, name)), name


@pytest.mark.chaos
@pytest.mark.timeout(900)  # what hangs is waited for, in company, alone, and frame by frame
def test_a_frame_that_hangs_is_ended_and_named(usual: Path, excerpt: Path, pack: Path, tmp_path: Path) -> None:
    bad, out = busy(usual), tmp_path / "out"
    done = label(excerpt, pack, out, f"classify:hang:{bad}", timeout=800, INSIDEOUT_SPAN_SECONDS="25")
    assert done.returncode == 0, done.stderr[-3000:]
    frames = {row["ordinal"]: row for row in table(out, "frames").to_pylist()}
    assert frames[bad]["reason"] == "classify: crop 0: took longer than 60 s"
    assert sum(row["status"] == "failed" for row in frames.values()) == 1


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_frame_that_breaks_cuda_wherever_it_is_tried_is_the_only_one_lost(
    usual: Path, excerpt: Path, pack: Path, tmp_path: Path
) -> None:
    bad, out = busy(usual), tmp_path / "out"
    done = label(excerpt, pack, out, f"segment:gpu:{bad}", timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    frames = {row["ordinal"]: row for row in table(out, "frames").to_pylist()}
    assert frames[bad]["reason"] == "segment: AcceleratorError: CUDA error: unspecified launch failure"
    expected = {row["ordinal"]: row for row in table(usual, "frames").to_pylist()}
    assert {o: row for o, row in frames.items() if o != bad} == {o: row for o, row in expected.items() if o != bad}
    (bundle,) = (out / "quarantine").rglob("*.json")
    assert json.loads(bundle.read_text())["ordinal"] == bad


@pytest.mark.chaos
def test_a_clock_that_jumps_changes_nothing(usual: Path, excerpt: Path, pack: Path, tmp_path: Path) -> None:
    out, clock, ended = tmp_path / "out", WallClock(tmp_path), threading.Event()

    def jump() -> None:
        for hours in itertools.cycle([2, -24, 30 * 24]):
            clock.set(3600 * hours)
            if ended.wait(4):
                return

    jumper = threading.Thread(target=jump)
    jumper.start()
    try:
        done = label(excerpt, pack, out, **clock.environment)
    finally:
        ended.set()
        jumper.join()
    assert done.returncode == 0, done.stderr[-3000:]
    for name in TABLES:
        assert table(out, name).equals(table(usual, name)), name
    created = json.loads((out / "manifest.json").read_text())["created"]
    written = datetime.strptime(created, "%Y-%m-%dT%H:%M:%S%z")
    assert abs(datetime.now(UTC) - written) > timedelta(hours=1), "the clock did not jump"
