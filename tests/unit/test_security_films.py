"""What a film from a stranger may try: other files, other addresses, pictures and lengths that fill the memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from insideout.errors import FilmError
from insideout.film import MOST_PIXELS, Sampling, open_film
from insideout.sources import find_films
from tests.media import write_film


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """An address, and what was asked of it."""
    paths: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def _playlist(*segments: str) -> str:
    return "#EXTM3U\n#EXT-X-TARGETDURATION:9\n" + "".join(f"#EXTINF:9,\n{s}\n" for s in segments) + "#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.mkv"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_list_of_files_is_no_film(tmp_path: Path, name: str, scheme: str, asked: tuple[str, list[str]]) -> None:
    address, paths = asked
    private = write_film(tmp_path / "private.mp4", 12)
    (tmp_path / "inner.ts").write_bytes(private.read_bytes())
    lists = [
        f"ffconcat version 1.0\nfile {private.name}\n",
        _playlist(private.as_uri()),
        _playlist("inner.ts", f"{address}/inner.ts"),
        _playlist(f"{address}/outer.ts"),
        f"<?xml version='1.0'?><MPD><Period><AdaptationSet><BaseURL>{address}</BaseURL></AdaptationSet></Period></MPD>",
        f"v=0\nc=IN IP4 127.0.0.1\nm=video {address.rpartition(':')[2]} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ]
    for text in lists:
        (tmp_path / name).write_text(text)
        with pytest.raises(FilmError, match=name):
            open_film(f"{scheme}{tmp_path / name}")
    assert paths == []


def test_a_name_is_never_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "private.mp4", 12)
    for name in ("concat:private.mp4", "file:private.mp4", "pipe:0", "-i private.mp4"):
        write_film(tmp_path / "own.mp4", 24).rename(tmp_path / name)
        assert open_film(name).frames == 24


@pytest.mark.parametrize(
    "name",
    ["%2e%2e%2fup.mp4", "up%2f..%2f..%2fup.mp4", "two\nlines.mp4", "'quoted' \"film\".mp4", "<script>.mp4", "$(id).mp4",
     "-rf.mp4", "f" * 251 + ".mp4", "\x1b[2J.mp4", "\u202e4pm.mp4"],
)  # fmt: skip
def test_a_film_is_opened_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    path = write_film(tmp_path / "plain.mp4", 12)
    known = open_film(str(path)).film
    path.rename(folder / name)
    (found,) = find_films([str(folder)])
    assert open_film(found).film == known
    assert [p.name for p in tmp_path.rglob("*")] == ["films", name]


def test_a_name_that_cannot_be_is_told() -> None:
    for name in ("f" * 9999 + ".mp4", "a\0b.mp4"):
        with pytest.raises(FilmError, match=r"no such file|cannot be"):
            find_films([name])
        with pytest.raises(FilmError, match=r"no such file|cannot be"):
            open_film(name)


def test_pictures_too_large_for_the_memory_are_refused_before_one_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W16000 H16000 F24:1 Ip C420jpeg\nFRAME\n" + bytes(1000))
    assert 16000 * 16000 > MOST_PIXELS > 8192 * 4320
    with pytest.raises(FilmError, match=r"huge\.y4m: its pictures have 16000x16000 pixels.*ffmpeg -i FILM -vf scale"):
        open_film(str(path))
    path.write_bytes(b"YUV4MPEG2 W60000 H60000 F24:1 Ip C420jpeg\nFRAME\n" + bytes(1000))
    with pytest.raises(FilmError, match=r"huge\.y4m"):
        open_film(str(path))


def test_pictures_that_become_too_large_on_the_way_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from insideout import film as films
    from insideout.decode import decode
    from insideout.pictures import LOST
    from insideout.spans import plan_reels

    def tall(number: int) -> np.ndarray:
        return np.full((72 if number < 12 else 720, 128, 3), 9 * number, np.uint8)

    small = write_film(tmp_path / "small.h264", 12, lambda n: tall(0), options={"preset": "ultrafast", "bf": "0"})
    large = write_film(tmp_path / "large.h264", 12, lambda n: tall(12), options={"preset": "ultrafast", "bf": "0"})
    (tmp_path / "both.h264").write_bytes(small.read_bytes() + large.read_bytes())
    import av

    with av.open(str(tmp_path / "both.h264")) as raw, av.open(str(tmp_path / "both.mkv"), "w") as film:
        stream = film.add_stream_from_template(raw.streams.video[0])
        for number, packet in enumerate(p for p in raw.demux(video=0) if p.size):
            packet.stream, packet.pts, packet.dts = stream, 40 * number, 40 * number
            packet.time_base = Fraction(1, 1000)
            film.mux(packet)
    path = str(tmp_path / "both.mkv")
    film = open_film(path)
    (reel,) = plan_reels(film, Sampling(every=1).ordinals(film))
    assert film.frames == 24

    def reasons() -> list[str | None]:
        return [reason for span in decode(reel) for reason in span.reasons]

    seen = reasons()
    assert seen[:12] == ["black"] * 12
    assert all("128x720" in str(reason) for reason in seen[12:]), seen[12:]
    monkeypatch.setattr(films, "MOST_PIXELS", 128 * 72 * 2)
    assert reasons() == seen[:12] + [LOST] * 12


def test_a_film_that_claims_to_last_for_ages_costs_no_more(tmp_path: Path) -> None:
    ages = 2**45
    path = write_film(tmp_path / "ages.mkv", 3, pts=[0, 400, ages], time_base=Fraction(1, 1000), options={"bf": "0"})
    film = open_film(str(path))
    assert film.pts.tolist() == [0, 400, ages]
    assert Sampling.parse("fps:2").ordinals(film).tolist() == [0, 1]
    assert Sampling.parse("fps:5/2").ordinals(film).tolist() == [0, 1]
    assert Sampling.parse("fps:1000").ordinals(film).tolist() == [0, 1, 2]
