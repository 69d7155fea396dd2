"""The frame oracle: however a film is cut into spans, its frames are those of one plain decode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from insideout.decode import decode, read_frames
from insideout.errors import FilmError
from insideout.film import Film, Sampling, open_film
from tests.films import DAMAGED, EXACT, REFUSED
from tests.media import Picture, number_in, plain_decode
from tests.oracle import changes, digest, digests, divisions, run, runs_of_groups, table, whole

CUT_EVERYWHERE = ["b-frames", "open-gop-ts", "edit-list", "clock-wraps", "fields-apart", "hevc", "vp9", "mpeg2-ts"]


@pytest.fixture(params=list(EXACT), scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Film]:
    path = EXACT[request.param](tmp_path_factory.mktemp(request.param))
    return request.param, path, open_film(str(path))


@pytest.fixture(scope="module")
def plain(made: tuple[str, Path, Film]) -> list[tuple[int, Picture]]:
    """Every frame as PyAV decodes it from the beginning, with the time stamps in ascending order."""
    decoded = plain_decode(made[1])
    return list(zip(sorted(pts for pts, _ in decoded), [picture for _, picture in decoded], strict=True))


Made = tuple[str, Path, Film]
Plain = list[tuple[int, Picture]]


def test_frames_of_every_division_are_those_of_one_plain_decode(made: Made, plain: Plain) -> None:
    _, _, film = made
    assert film.pts.tolist() == [pts for pts, _ in plain]
    assert (film.height, film.width) == plain[0][1].shape[:2]
    expected = {ordinal: (pts, digest(picture), None) for ordinal, (pts, picture) in enumerate(plain)}
    assert whole(film) == expected
    counts = set()
    for reels, rows in divisions(film, Sampling(every=1)):
        assert rows == expected
        counts.add(reels)
    assert {1, len(film.gops)} <= counts


def test_the_number_drawn_into_a_frame_is_its_ordinal(made: Made, plain: Plain) -> None:
    _, _, film = made
    numbers = [number_in(np.rot90(picture, -film.rotation // 90)) for _, picture in plain]
    # An edit list cuts away the first five.
    first = 5 if made[0] == "edit-list" else 0
    assert numbers == list(range(first, first + film.frames))


def test_changes_and_samples_do_not_depend_on_the_division(made: Made, plain: Plain) -> None:
    _, _, film = made
    one = run(film, Sampling(every=2), span_bytes=1 << 40, reel_samples=film.frames)
    rows, values = digests(one), changes(one)
    assert list(rows) == list(range(0, film.frames, 2))
    assert {o: (pts, seen) for o, (pts, seen, _) in rows.items()} == {
        o: (plain[o][0], digest(plain[o][1])) for o in rows
    }
    two = run(film, Sampling(every=2), span_bytes=1 << 40, reel_samples=13)
    seven = run(film, Sampling(every=2), span_bytes=1, reel_samples=film.frames)
    many = run(film, Sampling(every=2), span_bytes=1, reel_samples=1, threads=2)
    assert len(seven) == -(-len(rows) // 8)
    for other in (two, seven, many):
        assert digests(other) == rows
        np.testing.assert_array_equal(changes(other)[1:], values[1:])
    if len(film.gops) > 4:
        assert len(two) > 1


def test_key_frames_alone_are_those_of_a_full_decode(made: Made, plain: Plain) -> None:
    _, _, film = made
    for reel_samples in (1, 1000):
        spans = run(film, Sampling(keyframes=True), span_bytes=1, reel_samples=reel_samples)
        rows = digests(spans)
        assert list(rows) == film.keyframes.tolist()
        assert rows == {o: (plain[o][0], digest(plain[o][1]), None) for o in rows}
        changed = np.flatnonzero(changes(spans)[1:]) + 1
        assert changed.tolist() == film.keyframes[1:].tolist()


def test_read_frames_gives_each_picture_once_in_order(made: Made, plain: Plain) -> None:
    _, path, film = made
    last = film.frames - 1
    got = list(read_frames(str(path), [last, 40, 3, 40, 41], film=film))
    assert [ordinal for ordinal, _ in got] == [3, 40, 41, last]
    for ordinal, picture in got:
        np.testing.assert_array_equal(picture, plain[ordinal][1])


@pytest.mark.parametrize("kind", CUT_EVERYWHERE)
def test_a_film_may_be_cut_at_any_of_its_key_frames(kind: str, tmp_path: Path) -> None:
    film = open_film(str(EXACT[kind](tmp_path)))
    assert len(film.gops) >= 4
    expected = whole(film)
    for reel in runs_of_groups(film):
        assert digests(decode(reel)) == {ordinal: expected[ordinal] for ordinal in range(reel.start, reel.end)}


def test_of_two_video_streams_the_first_is_taken_and_a_cover_never(tmp_path: Path) -> None:
    for kind in ("two-streams", "cover-first", "cover-second"):
        (tmp_path / kind).mkdir()
        film = open_film(str(EXACT[kind](tmp_path / kind)))
        assert (film.width, film.height, film.frames, film.codec) == (128, 72, 49, "h264")


def test_wide_pixels_stay_as_they_are_stored(tmp_path: Path) -> None:
    film = open_film(str(EXACT["anamorphic"](tmp_path)))
    assert (film.width, film.height) == (128, 72)


def test_only_films_whose_stamps_do_not_tell_their_frames_are_decoded_in_one_reel(made: Made) -> None:
    kind, _, film = made
    assert film.counted == (kind in {"packed-avi", "h264-avi", "doubled-stamps"})
    assert table("Exact")[kind] == ("exact, in one reel" if film.counted else "exact")
    assert film.gaps.size == 0


@pytest.mark.parametrize("kind", list(REFUSED))
def test_a_film_that_cannot_be_read_is_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FilmError) as refusal:
        open_film(str(REFUSED[kind](tmp_path)))
    assert table("Refused")[kind] in str(refusal.value)


@pytest.mark.parametrize(("heading", "kinds"), [("Exact", EXACT), ("Damaged", DAMAGED), ("Refused", REFUSED)])
def test_the_table_names_the_kinds_that_are_tested(heading: str, kinds: dict[str, object]) -> None:
    assert list(table(heading)) == list(kinds)
