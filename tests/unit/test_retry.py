from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from insideout.errors import OutputError, UsageError
from insideout.packs import load_pack
from insideout.plan import LabelSettings
from insideout.retry import clear_spans, forget_failures
from insideout.store import Store


def test_a_folder_without_a_run_and_another_pack_are_refused(tmp_path: Path, pack: Path) -> None:
    loaded, store = load_pack(pack), Store(tmp_path)
    with pytest.raises(OutputError, match="no plan"):
        forget_failures(store, loaded)
    plan = {
        "fingerprint": "f" * 16,
        "settings": LabelSettings(sampling="every:9").model_dump(),
        "pack": {"name": "bbb", "digest": loaded.digest},
        "films": {"a" * 16: {"path": "/films/a.mp4"}},
    }
    store.write_json("plan.json", plan)
    with pytest.raises(UsageError, match="was labelled with another pack"):
        forget_failures(store, dataclasses.replace(loaded, digest="0" * 64))
    found = forget_failures(store, loaded)
    assert (found.films, found.failed, found.settings.sampling) == (("/films/a.mp4",), 0, "every:9")


def test_spans_are_kept_only_where_a_frame_failed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for film in ("good", "bad"):
        store.write(f"spans/film={film}/x/000000.parquet", b"rows")
    clear_spans(store, {"good": False, "bad": True})
    assert store.list("spans") == ["spans/film=bad/x/000000.parquet"]
    store.write("spans/film=begun/x/000000.parquet", b"rows")
    clear_spans(store, {"good": False, "bad": False})
    assert store.list("spans") == ["spans/film=begun/x/000000.parquet"]
    clear_spans(store, {"begun": False})
    assert not store.exists("spans")
