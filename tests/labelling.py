"""Runs of the real command line for tests, and their tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from insideout.faults import ENVIRONMENT
from insideout.store import Store

INSIDEOUT = [sys.executable, "-m", "pipelines.cli"]
TABLES = ("characters", "frames", "shots")
ORDER = [("ordinal", "ascending"), ("track", "ascending"), ("score", "descending")]


def insideout(*arguments: object, timeout: float = 280, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with more in its environment."""
    command = [*INSIDEOUT, *map(str, arguments)]
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)


def label(
    film: Path | str, pack: Path, out: Path | str, fault: str = "", timeout: float = 280, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Label every 24th frame without a report, hit by a fault if one is named."""
    hit = {ENVIRONMENT: fault} if fault else {}
    return insideout(
        "label", film, "--pack", pack, "--out", out, "--every", "24", "--no-report",
        timeout=timeout, **hit, **environment,
    )  # fmt: skip


def table(out: Path | str, name: str) -> pa.Table:
    """All rows of one table, in the order of their key, without the hive column."""
    store = Store(out)
    keys = store.list(name, ".parquet")
    assert keys, f"no {name} in {out}"
    whole = pa.concat_tables([pq.ParquetFile(pa.BufferReader(store.read(key))).read() for key in keys])
    order = [key for key in ORDER if key[0] in whole.column_names] or [("shot", "ascending")]
    return whole.sort_by(order)


def busy(run: Path) -> int:
    """A frame with characters, in the middle of the film."""
    frames = table(run, "frames").to_pylist()
    return next(row["ordinal"] for row in frames[20:] if row["characters"] >= 1)
