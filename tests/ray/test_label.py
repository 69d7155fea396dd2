"""The whole way on a local Ray: the real excerpt, the real pack, real kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow.parquet as pq
import pytest
import ray

from insideout import schema
from insideout.film import Sampling, open_film
from insideout.masks import decode_rle
from insideout.packs import load_pack
from insideout.store import Store
from tests.labelling import INSIDEOUT, insideout, table


def label(film: Path, pack: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*INSIDEOUT, "label", str(film), "--pack", str(pack), "--out", str(out), *options],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, excerpt: Path, pack: Path) -> Path:
    """One undisturbed run with crops that the tests of this file read."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = label(excerpt, pack, out, "--every", "8", "--crops")
    assert done.returncode == 0, done.stderr
    (out / "stdout.txt").write_text(done.stdout)
    return out


def test_every_sampled_frame_is_in_the_ledger_once(run: Path, excerpt: Path) -> None:
    film = open_film(str(excerpt))
    frames = table(run, "frames")
    expected = Sampling.parse("every:8").ordinals(film)
    assert frames["ordinal"].to_pylist() == expected.tolist() == list(range(0, film.frames, 8))
    assert frames["pts"].to_pylist() == film.pts[expected].tolist()
    assert set(frames["status"].to_pylist()) <= {"labelled", "dropped", "failed"}
    for status, reason in zip(frames["status"].to_pylist(), frames["reason"].to_pylist(), strict=True):
        assert (reason is None) == (status == "labelled")
    counts = json.loads((run / "manifest.json").read_text())["counts"]
    assert counts["frames"] == len(expected)
    assert counts["labelled"] + sum(counts["dropped"].values()) + sum(counts["failed"].values()) == len(expected)
    assert counts["labelled"] > len(expected) // 2
    assert counts["failed"] == {}


def test_characters_agree_with_the_ledger_and_the_pack(run: Path, pack: Path) -> None:
    characters, frames, loaded = table(run, "characters"), table(run, "frames"), load_pack(pack)
    per_frame = characters.group_by("ordinal").aggregate([("track", "count")])
    found = dict(zip(per_frame["ordinal"].to_pylist(), per_frame["track_count"].to_pylist(), strict=True))
    assert {
        o: n for o, n in zip(frames["ordinal"].to_pylist(), frames["characters"].to_pylist(), strict=True) if n
    } == found
    assert sum(found.values()) == json.loads((run / "manifest.json").read_text())["counts"]["characters"]
    assert set(characters["character"].to_pylist()) <= set(loaded.characters)
    assert len(set(characters["character"].to_pylist())) >= 3
    assert not set(loaded.segmenter.parts) & set(characters["character"].to_pylist())
    assert {"Bunny", "Frank"} <= set(characters["character"].to_pylist())
    assert any(x is not None for x in characters["head_x"].to_pylist())
    for row in characters.slice(0, 50).to_pylist():
        probabilities = dict(row["probabilities"])
        assert set(probabilities) == set(loaded.emotion.classes)
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-3)
        assert row["certainty"] == pytest.approx(max(probabilities.values()), abs=1e-6)
        best = max(probabilities, key=probabilities.__getitem__)
        assert row["emotion"] == (best if row["certainty"] >= loaded.emotion.uncertain_below else "uncertain")
        mask = decode_rle(row["mask_rle"], row["mask_h"], row["mask_w"])
        ys, xs = np.nonzero(mask)
        assert mask.shape == (720, 1280)
        assert xs.min() >= row["box_x"] - 2
        assert xs.max() <= row["box_x"] + row["box_w"] + 2
        assert ys.min() >= row["box_y"] - 2
        assert ys.max() <= row["box_y"] + row["box_h"] + 2
        assert row["crop"][:4] == b"RIFF"


def test_tracks_stay_inside_one_shot_and_one_name(run: Path) -> None:
    characters, shots = table(run, "characters"), table(run, "shots")
    assert shots["start_ordinal"][0].as_py() == 0
    assert shots["start_ordinal"].to_pylist()[1:] == shots["end_ordinal"].to_pylist()[:-1]
    assert len(shots) >= 8
    seen: dict[int, tuple[int, str, str]] = {}
    for row in characters.to_pylist():
        key = (row["shot"], row["character"], row["track_emotion"])
        assert seen.setdefault(row["track"], key) == key
        shot = shots.slice(row["shot"], 1).to_pylist()[0]
        assert shot["start_ordinal"] <= row["ordinal"] < shot["end_ordinal"]


def test_the_schema_is_the_promised_one_and_spans_are_cleared_away(run: Path) -> None:
    for name, promised in (("characters", schema.CHARACTERS), ("frames", schema.FRAMES), ("shots", schema.SHOTS)):
        assert table(run, name).schema.equals(promised, check_metadata=False)
    films = pq.read_table(run / "films.parquet")
    assert films.schema.equals(schema.FILMS, check_metadata=False)
    assert (run / "_SUCCESS").exists()
    assert not (run / "spans").exists()
    assert list(run.rglob("*.tmp")) == []


def test_the_summary_names_frames_characters_emotions_speed_and_report(run: Path) -> None:
    said = (run / "stdout.txt").read_text()
    assert "sampled =" in said
    assert "Bunny" in said
    assert "frames/s" in said
    assert "where the time went: decode" in said
    assert "report.html" in said
    page = (run / "report.html").read_text()
    assert "Blender Foundation" in page
    assert "data:image/" in page


def test_running_again_does_nothing_and_changes_nothing(run: Path, excerpt: Path, pack: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    before = {p: p.read_bytes() for p in again.rglob("*") if p.is_file()}
    done = label(excerpt, pack, again, "--every", "8", "--crops", "--no-report")
    assert done.returncode == 0, done.stderr
    assert "all of it was done before; nothing has changed" in done.stdout
    assert {p: p.read_bytes() for p in again.rglob("*") if p.is_file()} == before
    assert "labelling:" not in done.stderr


def test_other_settings_on_the_same_folder_are_refused(run: Path, excerpt: Path, pack: Path) -> None:
    done = label(excerpt, pack, run, "--every", "16", "--crops")
    assert done.returncode == 2
    assert "belongs to another plan" in done.stderr
    assert "Traceback" not in done.stderr


def test_temporary_files_in_a_folder_with_a_long_name_are_one_message(
    excerpt: Path, pack: Path, tmp_path: Path
) -> None:
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    done = insideout("label", excerpt, "--pack", pack, "--out", tmp_path / "out", RAY_TMPDIR=str(deep))
    assert done.returncode == 2
    assert done.stderr.startswith("insideout: Ray cannot be started: its folder for temporary files")
    assert "RAY_TMPDIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.chaos
def test_a_full_disk_is_one_message_and_the_run_goes_on_later(excerpt: Path, pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(out)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        done = label(excerpt, pack, out / "run", "--every", "24", "--crops", "--no-report")
        assert done.returncode == 1, done.stderr
        assert "disk full; free some space and run the same command again" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (out / "run" / "_SUCCESS").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
        done = label(excerpt, pack, out / "run", "--every", "24", "--crops", "--no-report")
        assert done.returncode == 0, done.stderr
        assert table(out / "run", "frames").num_rows == 49
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_killing_the_driver_half_way_changes_nothing(run: Path, excerpt: Path, pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [*INSIDEOUT, "label", str(excerpt), "--pack", str(pack), "--out", str(out), "--every", "8", "--crops"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    total = None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None:
        if total is None and (out / "plan.json").exists():
            total = sum(film["spans"] for film in json.loads((out / "plan.json").read_text())["films"].values())
        if len(Store(out).list("spans", ".parquet")) >= 2:
            break
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    committed = Store(out).list("spans", ".parquet")
    assert total is not None
    assert 0 < len(committed) < total, "the kill came too late to prove anything"
    assert not (out / "_SUCCESS").exists()
    status = subprocess.run([*INSIDEOUT, "status", str(out)], capture_output=True, text=True, timeout=60)
    assert status.returncode == 1
    assert f"of {total} spans committed" in status.stdout
    left = table(run, "frames").num_rows - sum(pq.read_metadata(out / key).num_rows for key in committed)

    done = label(excerpt, pack, out, "--every", "8", "--crops", "--no-report")
    assert done.returncode == 0, done.stderr
    # Committed spans are not done again; a worker may have committed more before it noticed the kill.
    assert 0 < int(re.findall(r"/(\d+) frames", done.stderr)[-1]) <= left
    for name in ("characters", "frames", "shots"):
        assert table(out, name).equals(table(run, name)), name
    status = subprocess.run([*INSIDEOUT, "status", str(out)], capture_output=True, text=True, timeout=60)
    assert status.returncode == 0
    assert status.stdout.rstrip().endswith("done")


def test_the_four_lines_of_the_readme_open_the_table(run: Path, ray_cluster: None) -> None:
    """Evaluates the four lines as they stand in the README, on this run instead of the demo's."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    block = next(part for part in re.findall(r"```python\n(.*?)```", readme, re.S) if "read_parquet" in part)
    lines = [line.replace("out/demo", str(run)) for line in block.strip().splitlines()]
    assert [line.split(".")[0] for line in lines] == ["pandas", "polars", "duckdb", "ray"]
    libraries = {"pandas": pandas, "polars": polars, "duckdb": duckdb, "ray": ray}
    expected = table(run, "characters").select(["film", "ordinal", "character"]).to_pylist()
    key = ("ordinal", "character")
    for line in lines:
        opened = eval(line, libraries)
        rows = opened.take_all() if hasattr(opened, "take_all") else _rows(opened)
        assert sorted(tuple(r[k] for k in key) for r in rows) == sorted(tuple(r[k] for k in key) for r in expected), (
            line
        )
        assert {str(r["film"]) for r in rows} == {expected[0]["film"]}, line


def _rows(opened: Any) -> list[dict[str, Any]]:
    if isinstance(opened, pandas.DataFrame):
        return opened.to_dict("records")
    return opened.to_dicts() if isinstance(opened, polars.DataFrame) else opened.pl().to_dicts()
