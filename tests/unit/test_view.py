"""The viewer's server: films by range, labels by window, corrections, and nobody else gets in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from insideout.errors import DataError, FilmError, UsageError
from insideout.film import Film
from insideout.report.colours import DOUBT, ON, PALETTE
from insideout.view.columns import pack, unpack
from insideout.view.serve import open_viewer
from tests.films import EXACT
from tests.media import number_in, write_film
from tests.viewers import EMOTIONS, TOKEN, label_film, left_of, opened, served


@dataclass
class Viewer:
    """A client that has opened the page, and what it looks at."""

    client: TestClient
    film: Film
    run: Path
    annotations: Path

    @property
    def video(self) -> str:
        return f"/films/{self.film.film}/video"

    def api(self, path: str = "") -> str:
        return f"/api/films/{self.film.film}{path}"

    def post(self, path: str, value: object) -> httpx.Response:
        return self.client.post(self.api(path), json=value)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Film, Path]:
    folder = tmp_path_factory.mktemp("view")
    return label_film(folder / "run", EXACT["vfr"](folder)), folder / "run"


@pytest.fixture
def viewer(made: tuple[Film, Path], tmp_path: Path) -> Iterator[Viewer]:
    film, run = made
    kept = tmp_path / "a.csv"
    with opened(run, annotations=kept) as client:
        yield Viewer(client, film, run, kept)


def test_a_film_is_sent_whole_or_in_the_part_that_is_asked_for(viewer: Viewer) -> None:
    whole = Path(viewer.film.path).read_bytes()
    size = len(whole)
    found = viewer.client.get(viewer.video)
    assert (found.status_code, found.content, found.headers["accept-ranges"]) == (200, whole, "bytes")
    assert found.headers["content-type"] == "video/mp4"
    for asked, start, end in (
        ("bytes=0-99", 0, 100), ("bytes=100-", 100, size), ("bytes=-50", size - 50, size),
        (f"bytes=10-{size + 5}", 10, size), (f"bytes=-{size + 5}", 0, size),
    ):  # fmt: skip
        part = viewer.client.get(viewer.video, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, whole[start:end]), asked
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert part.headers["content-length"] == str(end - start)


def test_ranges_that_cannot_be_sent_and_such_that_mean_nothing(viewer: Viewer) -> None:
    size = viewer.film.bytes
    for asked in (f"bytes={size}-", f"bytes={size}-{size + 9}", "bytes=5-4", "bytes=-0"):
        refused = viewer.client.get(viewer.video, headers={"Range": asked})
        assert (refused.status_code, refused.headers["content-range"]) == (416, f"bytes */{size}"), asked
    for asked in ("bytes=-", "bytes=0-1,5-6", "lines=0-4", "bytes=a-b"):
        assert viewer.client.get(viewer.video, headers={"Range": asked}).status_code == 200, asked


def test_a_film_that_shrinks_while_it_is_sent_is_one_line_of_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_film(tmp_path / "f.mp4", 8)
    with path.open("ab") as file:  # an empty box, so that it cannot be on its way as a whole
        file.write((40_000_000).to_bytes(4, "big") + b"free")
        file.truncate(path.stat().st_size + 40_000_000 - 8)
    film = label_film(tmp_path / "run", path)
    with served(tmp_path / "run") as address, httpx.Client(follow_redirects=True) as client:
        client.get(address)
        with client.stream("GET", f"{address.partition('/?')[0]}/films/{film.film}/video") as answer:
            chunks = answer.iter_raw(100_000)
            assert next(chunks)
            os.truncate(path, 1_000_000)
            with pytest.raises(httpx.RemoteProtocolError):
                list(chunks)
    assert capfd.readouterr().err == f"ERROR:    {path}: ends at byte 1,000,000; was it changed meanwhile?\n"


def test_a_part_is_sent_only_of_the_file_it_was_asked_of(viewer: Viewer) -> None:
    head = viewer.client.head(viewer.video, headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (206, b"", "10")
    etag = head.headers["etag"]
    assert viewer.client.get(viewer.video, headers={"If-None-Match": etag}).status_code == 304
    ours = viewer.client.get(viewer.video, headers={"Range": "bytes=0-9", "If-Range": etag})
    other = viewer.client.get(viewer.video, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (ours.status_code, other.status_code) == (206, 200)


def test_labels_come_by_window_with_their_outlines(viewer: Viewer) -> None:
    found = viewer.client.get(viewer.api("/labels"), params={"first": 20, "last": 31}).json()["figures"]
    assert [figure["ordinal"] for figure in found] == [20, 24, 28]
    figure = found[2]
    assert (figure["character"], figure["track"], figure["shot"]) == ("Bunny", 2, 1)
    assert figure["box"] == [left_of(28, viewer.film.width), 28, 24, 16]
    assert figure["emotion"] in EMOTIONS
    assert sum(figure["probabilities"].values()) == pytest.approx(1, abs=0.01)
    drawn = np.zeros((viewer.film.height, viewer.film.width), np.uint8)
    assert len(figure["outlines"]) == 2, "the figure and its hole"
    cv2.fillPoly(drawn, [np.array(o, np.int32).reshape(-1, 2) for o in figure["outlines"]], 1)
    assert (int(drawn.sum()), int(drawn[32:36, 34:38].sum())) == (24 * 16 - 16, 0)
    for window in ({"first": 5, "last": 4}, {"first": 0, "last": 4096}):
        assert viewer.client.get(viewer.api("/labels"), params=window).status_code == 400


def test_all_frames_have_their_time_stamps_and_what_stands_for_them(viewer: Viewer) -> None:
    index = viewer.client.get(viewer.api("/index"))
    assert index.headers["x-stamps-tell"] == "yes"
    columns = unpack(index.content)
    assert columns["pts"].tolist() == viewer.film.pts.tolist()
    assert columns["labelled"][:20].tolist() == [0] * 4 + [4] * 8 + [-2] * 4 + [-1] * 4
    table = unpack(viewer.client.get(viewer.api("/table")).content)
    assert table["begin"][1] == viewer.film.pts[4]
    assert table["end"][1] == viewer.film.pts[8]
    assert table["labelled"][:5].tolist() == [0, 4, 4, -2, -1]
    about = viewer.client.get(viewer.api()).json()
    assert about["shots"][1] == [24, 48, int(viewer.film.pts[24]), int(viewer.film.pts[48])]
    assert about["emotions"] == [*EMOTIONS, "uncertain"]


def test_columns_are_read_back_as_they_were_packed() -> None:
    columns = {"a": np.array([1.5, -2.0]), "b": np.arange(3, dtype=np.int32), "c": np.array([7], np.uint8)}
    found = unpack(pack(columns | {"d": np.zeros(0, np.float32)}))
    assert {name: values.tolist() for name, values in found.items()} == {
        "a": [1.5, -2.0], "b": [0, 1, 2], "c": [7], "d": [],
    }  # fmt: skip


def test_emotions_have_the_colours_of_the_report() -> None:
    style = (Path(__file__).parents[2] / "insideout" / "view" / "static" / "style.css").read_text()
    found = {name: value for name, value in re.findall(r"--(e\w|on\w): (#[0-9a-f]{6})", style)}
    ours = {f"e{i}": colour for i, colour in enumerate(PALETTE)} | {f"on{i}": colour for i, colour in enumerate(ON)}
    assert found == ours | {"eu": DOUBT, "onu": found["onu"]}


def test_a_film_in_which_nobody_was_seen_is_shown_too(tmp_path: Path) -> None:
    film = label_film(tmp_path / "run", write_film(tmp_path / "f.mp4", 48), names=())
    with opened(tmp_path / "run") as client:
        assert client.get(f"/api/films/{film.film}").json()["characters"] == []
        table = unpack(client.get(f"/api/films/{film.film}/table").content)
        assert (len(table["ordinal"]), len(table["seen_ordinal"])) == (12, 0)
        assert client.get(f"/api/films/{film.film}/labels?first=0&last=99").json() == {"figures": []}


@pytest.mark.parametrize("kind", ["mpeg2-ts", "prores", "rotated"])
def test_a_frame_is_decoded_exactly_also_of_films_that_browsers_do_not_play(kind: str, tmp_path: Path) -> None:
    film = label_film(tmp_path / "run", EXACT[kind](tmp_path))
    with opened(tmp_path / "run") as client:
        for ordinal in (30, 31, 29, 3, 47, film.frames - 1):
            answer = client.get(f"/films/{film.film}/frames/{ordinal}.jpg")
            picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            assert number_in(np.rot90(picture, film.rotation // -90).astype(np.uint8)) == ordinal
        refused = client.get(f"/films/{film.film}/frames/{film.frames}.jpg")
        assert (refused.status_code, "which has 0 to" in refused.json()["error"]) == (400, True)


def test_a_film_that_has_moved_is_found_by_its_new_path_and_another_file_is_refused(tmp_path: Path) -> None:
    path = write_film(tmp_path / "old.mp4", 48)
    film = label_film(tmp_path / "run", path)
    moved = path.rename(tmp_path / "new.mp4")
    with opened(tmp_path / "run") as client:
        assert "--film PATH" in client.get(f"/api/films/{film.film}").json()["problem"]
        assert client.get(f"/films/{film.film}/video").status_code == 409
    with opened(tmp_path / "run", films=(moved,)) as client:
        assert client.get(f"/api/films/{film.film}").json()["problem"] is None
        assert client.get(f"/films/{film.film}/video").content == moved.read_bytes()
        assert client.get(f"/api/films/{film.film}/check").json() == {"problem": None}
    other = tmp_path / "other.mp4"
    other.write_bytes(moved.read_bytes()[:-1])
    with pytest.raises(FilmError, match="another file than was labelled"):
        opened(tmp_path / "run", films=(other,))
    changed = bytearray(moved.read_bytes())
    changed[-200] ^= 0xFF
    other.write_bytes(changed)
    with opened(tmp_path / "run", films=(other,)) as client:
        assert "the labels do not belong to it" in client.get(f"/api/films/{film.film}/check").json()["problem"]


def test_what_is_not_in_the_run_is_not_there(viewer: Viewer) -> None:
    for path in (
        "/films/0123456789abcdef/video", "/films/..%2F..%2Fetc%2Fpasswd/video", "/api/films/x/labels?first=0&last=1",
        "/static/app.py", "/static/index.html", "/static/..%2Fapp.py", "/static/%2e%2e/app.py", "/docs",
        "/openapi.json",
    ):  # fmt: skip
        assert viewer.client.get(path).status_code == 404, path


def test_a_correction_of_a_frame_and_of_a_track(viewer: Viewer) -> None:
    said = viewer.post("/annotations", {"target": {"ordinal": 28, "track": 2}, "emotion": "Angry"}).json()
    assert said["before"] == [None]
    assert [(row["ordinal"], row["emotion"], row["split"], row["annotator"]) for row in said["after"]] == [
        (28, "Angry", "train", "Ada")
    ]
    track = {"target": {"ordinal": 32, "track": 2}, "scope": "track", "as_character": "Frank", "split": "valid"}
    assert len(viewer.post("/annotations", track).json()["after"]) == 6
    rows = viewer.client.get(viewer.api("/annotations")).json()["rows"]
    assert [(row["ordinal"], row["as_character"], row["split"]) for row in rows] == [
        (ordinal, "Frank", "valid") for ordinal in range(24, 48, 4)
    ], "all of a shot is in one split"
    assert [row["emotion"] for row in rows] == ["", "Angry", "", "", "", ""]
    viewer.post("/split", {"shot": 1, "split": "test"})
    assert {row["split"] for row in viewer.client.get(viewer.api("/annotations")).json()["rows"]} == {"test"}


def test_a_correction_is_taken_back_unless_it_was_corrected_since(viewer: Viewer) -> None:
    target = {"ordinal": 28, "track": 2}
    first = viewer.post("/annotations", {"target": target, "emotion": "Angry"}).json()
    second = viewer.post("/annotations", {"target": target, "as_character": "-"}).json()
    assert (second["after"][0]["as_character"], second["after"][0]["emotion"]) == ("-", "")
    late = viewer.post("/annotations/undo", first)
    assert (late.status_code, "corrected again since" in late.json()["error"]) == (409, True)
    assert viewer.post("/annotations/undo", second).json()["rows"] == first["after"]
    assert viewer.post("/annotations/undo", first).json()["rows"] == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"target": {"ordinal": 28, "track": 2}, "emotion": "Gloomy"}, "no emotion 'Gloomy'"),
        ({"target": {"ordinal": 28, "track": 9}, "emotion": "Angry"}, "no character with track 9"),
        ({"target": {"ordinal": 29, "track": 2}, "emotion": "Angry"}, "frame 29 has no character"),
        ({"target": {"ordinal": 28, "track": 2}, "as_character": "=1+1"}, "formula"),
        ({"target": {"ordinal": 28, "track": 2}, "as_character": "a\u202eb"}, "control character"),
        ({"target": {"ordinal": 28, "track": 2}, "split": "held_out"}, None),
        ({"target": {"ordinal": 28, "track": 2}, "path": "/etc/passwd"}, None),
    ],
)
def test_a_correction_that_cannot_be_is_refused(viewer: Viewer, body: dict[str, object], says: str | None) -> None:
    refused = viewer.post("/annotations", body)
    assert 400 <= refused.status_code < 500
    if says:
        assert says in refused.json()["error"]
    assert not viewer.annotations.exists()


def test_annotations_of_another_kind_are_never_overwritten(made: tuple[Film, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("name,price\nrose,3\n")
    with pytest.raises(DataError, match="other columns"):
        opened(made[1], annotations=other)
    with pytest.raises(DataError, match=r"ends with \.csv"):
        opened(made[1], annotations=tmp_path / "a.txt")
    assert other.read_text() == "name,price\nrose,3\n"
    with pytest.raises(UsageError, match="annotator"):
        open_viewer(str(made[1]), films=[], annotations=None, annotator="=cmd()", token=TOKEN)
