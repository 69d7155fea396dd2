from __future__ import annotations

import errno
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from insideout.errors import OutputError, StorageError
from insideout.store import Store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "out") if request.param == "local" else Store(f"memory://{uuid.uuid4().hex}/out")


def test_what_is_written_is_read_listed_and_removed(store: Store) -> None:
    assert store.list("") == []
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two")
    store.write_json("c.json", {"ü": 1})
    store.write_table("t/x.parquet", pa.table({"n": [1, 2]}))
    assert store.read("a/b.bin") == b"two"
    assert store.read_json("c.json") == {"ü": 1}
    assert store.read_table("t/x.parquet").to_pydict() == {"n": [1, 2]}
    assert store.list("") == ["a/b.bin", "c.json", "t/x.parquet"]
    assert store.list("", ".parquet") == ["t/x.parquet"]
    assert store.list("nowhere") == []
    store.remove("a")
    store.remove("nowhere")
    assert not store.exists("a/b.bin")
    assert store.exists("c.json")


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.write("a.bin", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"a\.bin: disk full; free some space and run the same command again"):
        store.write("a.bin", b"new")
    assert store.read("a.bin") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_really_full_disk_is_named() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with (
        pytest.raises(StorageError, match="disk full"),
        Store("/tmp")._reported("write", "x"),
        open("/dev/full", "wb", 0) as f,
    ):
        f.write(b"x")


def test_errors_say_what_and_where(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StorageError, match=r"cannot read .*nothing\.json"):
        store.read_json("nothing.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(OutputError, match="damaged JSON"):
        store.read_json("bad.json")
    with pytest.raises(OutputError, match="gopher"):
        Store("gopher://x/y")
