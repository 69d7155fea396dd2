"""Copies of films on the disk of a machine."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from insideout.copies import KEPT, local_copy
from insideout.errors import FilmError, StorageError


def _film(folder: Path, name: str) -> tuple[str, str]:
    data = name.encode() * 1000
    (folder / name).write_bytes(data)
    return f"file://{folder / name}", hashlib.sha256(data).hexdigest()[:16]


def test_a_film_is_copied_once_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    films = [_film(tmp_path, f"{n}.mp4") for n in range(KEPT + 2)]
    copies = tmp_path / "copies"
    for url, film in films:
        with ThreadPoolExecutor(4) as pool:
            paths = set(pool.map(lambda _, url=url, film=film: local_copy(url, film, copies), range(4)))
        (path,) = paths
        assert Path(path).read_bytes() == Path(url.removeprefix("file://")).read_bytes()
    left = sorted(p.name for p in copies.iterdir() if not p.name.startswith("."))
    assert left == sorted(film for _, film in films[-KEPT:])
    assert not list(copies.glob("*.part"))
    # A copy that is there is not made again, even where the film has gone.
    url, film = films[-1]
    Path(url.removeprefix("file://")).unlink()
    assert local_copy(url, film, copies) == str(copies / film)


def test_a_film_that_changed_or_is_gone_is_named(tmp_path: Path) -> None:
    url, film = _film(tmp_path, "a.mp4")
    Path(url.removeprefix("file://")).write_bytes(b"another")
    with pytest.raises(FilmError, match=r"a\.mp4: has changed since the run was planned"):
        local_copy(url, film, tmp_path / "copies")
    assert [p.name for p in (tmp_path / "copies").iterdir()] == [f".{film}.lock"]
    with pytest.raises(StorageError, match=r"gone\.mp4: cannot be copied"):
        local_copy(f"file://{tmp_path}/gone.mp4", film, tmp_path / "copies")


def test_a_film_on_this_machine_is_not_copied(tmp_path: Path) -> None:
    assert local_copy("films/a.mp4", "0" * 16, tmp_path) == "films/a.mp4"
    assert list(tmp_path.iterdir()) == []
