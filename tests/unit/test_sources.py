"""What a user means by a file, a folder, a glob or a URL."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from insideout.errors import FilmError
from insideout.sources import find_films


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "notes.txt", ".hidden.mp4", "part/c.webm", "part/deep/d.mov", "part/cover.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def test_a_file_is_taken_as_it_is(folder: Path) -> None:
    assert find_films([str(folder / "notes.txt")]) == [str(folder / "notes.txt")]


def test_a_folder_is_searched_to_the_bottom_and_sorted(folder: Path) -> None:
    expected = [folder / name for name in ("a.MKV", "b.mp4", "part/c.webm", "part/deep/d.mov")]
    assert find_films([str(folder)]) == [str(path) for path in expected]


def test_a_glob_takes_films_only(folder: Path) -> None:
    assert find_films([str(folder / "*")]) == [str(folder / "a.MKV"), str(folder / "b.mp4")]
    assert find_films([str(folder / "**" / "d.*")]) == [str(folder / "part/deep/d.mov")]


def test_relative_paths_stay_relative(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_films(["b.mp4", "part"]) == ["b.mp4", "part/c.webm", "part/deep/d.mov"]


def test_the_order_asked_for_is_kept_and_nothing_comes_twice(folder: Path) -> None:
    b, a = str(folder / "b.mp4"), str(folder / "a.MKV")
    assert find_films([b, str(folder / "*.m*"), str(folder / "*.MKV"), b]) == [b, a]


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    path = tmp_path / "film [2008].mp4"
    path.write_bytes(b"")
    assert find_films([str(path)]) == [str(path)]


def test_urls_of_all_kinds() -> None:
    for name in ("two.mp4", "one.mp4", "readme.txt"):
        with fsspec.open(f"memory://sources/{name}", "wb") as file:
            file.write(b"x")
    both = ["memory:///sources/one.mp4", "memory:///sources/two.mp4"]
    assert find_films(["memory://sources/two.mp4"]) == ["memory://sources/two.mp4"]
    assert [url.replace(":///", "://") for url in find_films(["memory://sources"])] == [
        url.replace(":///", "://") for url in both
    ]
    assert len(find_films(["memory://sources/*.mp4"])) == 2


@pytest.mark.parametrize("name", ["missing.mp4", "*.avi", "empty"])
def test_what_matches_nothing_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FilmError, match=name.replace("*", r"\*")):
        find_films([str(tmp_path / name)])


def test_nothing_asked_for_is_refused() -> None:
    with pytest.raises(FilmError, match="no film given"):
        find_films([])
