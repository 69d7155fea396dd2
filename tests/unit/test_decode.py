"""The frame oracle: however a film is cut into spans, its frames are those of one plain decode."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pytest

from insideout import shots
from insideout.decode import SpanFrames, decode, read_frames
from insideout.errors import UsageError
from insideout.film import Film, Sampling, open_film
from insideout.spans import plan_reels
from tests.media import damage, held, number_in, numbered, patterned, plain_decode, remux, write_film

FRAMES = 97
VFR = np.cumsum(np.random.default_rng(7).integers(10, 90, FRAMES)).tolist()
OPEN_GOP = {"x264-params": "open-gop=1"}

FILMS: dict[str, Callable[[Path], Path]] = {
    "b-frames": lambda at: write_film(at / "f.mp4", FRAMES),
    "b-frames-mkv": lambda at: write_film(at / "f.mkv", FRAMES, audio=True),
    "transport-stream": lambda at: write_film(at / "f.ts", FRAMES),
    "vfr": lambda at: write_film(at / "f.mp4", FRAMES, pts=VFR, time_base=Fraction(1, 1000)),
    "delayed": lambda at: write_film(at / "f.mkv", FRAMES, pts=[480 + i for i in range(FRAMES)]),
    "open-gop": lambda at: write_film(at / "f.mp4", FRAMES, options=OPEN_GOP),
    "open-gop-mkv": lambda at: write_film(at / "f.mkv", FRAMES, options=OPEN_GOP),
    "open-gop-ts": lambda at: write_film(at / "f.ts", FRAMES, options=OPEN_GOP),
    "one-group": lambda at: write_film(at / "f.mp4", FRAMES, options={"g": "250"}),
    "edit-list": lambda at: remux(write_film(at / "whole.mp4", FRAMES + 5), at / "f.mp4", shift=-5 * 1001),
    "odd-size": lambda at: write_film(at / "f.mp4", FRAMES, numbered(131, 73), pixels="yuv444p"),
    "mpeg4-avi": lambda at: write_film(at / "f.avi", FRAMES, codec="mpeg4", options={"bf": "2", "g": "12"}),
    "mpeg2-ts": lambda at: write_film(at / "f.ts", FRAMES, codec="mpeg2video", options={"bf": "2", "g": "12"}),
    "ten-bit": lambda at: write_film(at / "f.mp4", FRAMES, pixels="yuv420p10le"),
    "full-range": lambda at: write_film(at / "f.mkv", FRAMES, codec="mjpeg", pixels="yuvj420p"),
    "rotated": lambda at: write_film(at / "f.mp4", FRAMES, rotation=-90),
}


@pytest.fixture(params=list(FILMS), scope="module")
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FILMS[request.param](tmp_path_factory.mktemp(request.param))


def _digests(spans: list[SpanFrames]) -> dict[int, tuple[int, bytes, str | None]]:
    rows: dict[int, tuple[int, bytes, str | None]] = {}
    for span in spans:
        for ordinal, pts, picture, reason in zip(span.ordinals, span.pts, span.pictures, span.reasons, strict=True):
            assert int(ordinal) not in rows
            rows[int(ordinal)] = (int(pts), picture.tobytes(), reason)
    return rows


def _changes(spans: list[SpanFrames]) -> np.ndarray:
    """Join the changes; where a reel begins the edges of the spans on both sides give the value."""
    for before, after in pairwise(spans):
        if np.isnan(after.changes[0]):
            after.changes[0] = shots.change(before.edges[1], after.edges[0])
    return np.concatenate([span.changes for span in spans])


def _run(film: Film, sampling: Sampling, *, threads: int = 1, **plan: int) -> list[SpanFrames]:
    reels = plan_reels(film, sampling.ordinals(film), keyframes_only=sampling.keyframes, **plan)
    spans = []
    for reel in reels:
        decoded = list(decode(reel, threads=threads))
        assert [span.span for span in decoded] == list(reel.spans)
        # Only at the start of a reel is there nothing to compare with.
        starts = [i for span in decoded for i in np.flatnonzero(np.isnan(span.changes)) + span.span.start]
        assert starts[:1] == [reel.spans[0].start]
        assert all(not decoded[0].edges[0].any() for _ in starts[1:])
        spans += decoded
    return spans


def test_frames_of_any_division_are_those_of_one_plain_decode(path: Path) -> None:
    film = open_film(str(path))
    plain = plain_decode(path)
    assert film.pts.tolist() == [pts for pts, _ in plain]
    assert (film.height, film.width) == plain[0][1].shape[:2]
    sampling = Sampling(every=2)

    whole = _run(film, sampling, span_bytes=1 << 30, reel_samples=1000)
    assert len(whole) == 1
    rows, changes = _digests(whole), _changes(whole)
    assert list(rows) == list(range(0, FRAMES, 2))
    for ordinal, (pts, picture, reason) in rows.items():
        assert (pts, reason) == (plain[ordinal][0], None)
        assert picture == plain[ordinal][1].tobytes()
    first_number = number_in(np.rot90(plain[0][1], -film.rotation // 90))
    for ordinal, picture in zip(whole[0].ordinals, whole[0].pictures, strict=True):
        assert number_in(np.rot90(picture, -film.rotation // 90)) == first_number + ordinal

    two = _run(film, sampling, span_bytes=1 << 30, reel_samples=25)
    seven = _run(film, sampling, span_bytes=1, reel_samples=1000)
    many = _run(film, sampling, span_bytes=1, reel_samples=1, threads=2)
    assert len(seven) == 7
    for other in (two, seven, many):
        assert _digests(other) == rows
        np.testing.assert_array_equal(_changes(other)[1:], changes[1:])
    if len(film.keyframes) > 1:
        assert len(two) == 2


@pytest.mark.parametrize("name", ["b-frames", "open-gop-ts", "one-group", "mpeg4-avi"])
def test_spans_done_later_are_the_same(name: str, tmp_path: Path) -> None:
    drawings = [n // 5 * 5 for n in range(FRAMES)]
    path = FILMS[name](tmp_path)
    if name == "one-group":
        path = write_film(path, FRAMES, held(drawings, numbered()), options={"g": "250"})
    film = open_film(str(path))
    samples = Sampling(every=2).ordinals(film)
    all_reels = plan_reels(film, samples, span_bytes=1, reel_samples=24)
    whole = [span for reel in all_reels for span in decode(reel)]
    by_index = {span.span.index: span for span in whole}
    wanted = {1, 3, 4, 6}
    again = plan_reels(film, samples, span_bytes=1, reel_samples=24, wanted=wanted)
    assert [span for reel in again for span in reel.spans] == [by_index[i].span for i in sorted(wanted)]
    for reel in again:
        assert all(start in reel.groups or start > reel.start for start in [reel.spans[0].start])
        for span in decode(pickle.loads(pickle.dumps(reel))):
            first = by_index[span.span.index]
            assert _digests([span]) == _digests([first])
            np.testing.assert_array_equal(span.edges, first.edges)
            np.testing.assert_array_equal(span.changes[1:], first.changes[1:])
    if name == "one-group":
        assert any(str(reason).startswith("duplicate_of:") for span in whole for reason in span.reasons)


def test_key_frames_alone_are_those_of_a_full_decode(path: Path) -> None:
    film = open_film(str(path))
    plain = plain_decode(path)
    for reel_samples in (1, 1000):
        spans = _run(film, Sampling(keyframes=True), span_bytes=1, reel_samples=reel_samples)
        rows = _digests(spans)
        assert list(rows) == film.keyframes.tolist()
        for ordinal, (pts, picture, reason) in rows.items():
            assert (pts, reason) == (plain[ordinal][0], None)
            assert picture == plain[ordinal][1].tobytes()
        changed = np.flatnonzero(_changes(spans)[1:]) + 1
        assert changed.tolist() == film.keyframes[1:].tolist()


def test_a_cut_is_found_and_a_flash_is_not(tmp_path: Path) -> None:
    drawing, flash = patterned(shot=30), np.full((72, 128, 3), 255, np.uint8)
    film = open_film(str(write_film(tmp_path / "f.mp4", 90, lambda n: flash if n == 45 else drawing(n))))
    changes = _changes(_run(film, Sampling(), span_bytes=1, reel_samples=1))
    assert shots.cuts(changes).tolist() == [0, 30, 60]


def test_black_and_held_frames_are_dropped_with_a_reason(tmp_path: Path) -> None:
    # Two drawings of four frames each per group, one group on black.
    drawings = [n // 6 for n in range(48)]
    drawing = numbered(256, 144)

    def draw(number: int) -> np.ndarray:
        if 24 <= number < 36:
            return np.zeros((144, 256, 3), np.uint8)
        picture = drawing(drawings[number])
        # Grain makes the encoder spend bits on a drawing that does not change.
        grain = np.random.default_rng(number).integers(-2, 3, picture.shape)
        return np.clip(picture.astype(int) + grain, 0, 255).astype(np.uint8)

    film = open_film(str(write_film(tmp_path / "f.mp4", 48, draw, options={"crf": "26"})))
    reasons = {o: r for o, (_, _, r) in _digests(_run(film, Sampling(every=2), span_bytes=1, reel_samples=1)).items()}
    expected: dict[int, str | None] = {}
    for ordinal in range(0, 48, 2):
        start = ordinal // 6 * 6
        expected[ordinal] = "black" if 24 <= ordinal < 36 else None if ordinal == start else f"duplicate_of:{start}"
    assert reasons == expected


def test_a_small_movement_is_no_duplicate(tmp_path: Path) -> None:
    def draw(number: int) -> np.ndarray:
        picture = np.full((360, 640, 3), 200, np.uint8)
        picture[200 + number : 204 + number, 300:340] = 90  # a mouth line that drops one pixel a frame
        return picture

    film = open_film(str(write_film(tmp_path / "f.mp4", 12, draw)))
    (span,) = _run(film, Sampling(every=1))
    assert span.reasons == (None,) * 12


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("packet", [36, 37, 38, 40, 42, 43, 47, 48])
def test_damage_costs_the_frames_it_damages(packet: int, threads: int, tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mp4", 72)
    plain = plain_decode(whole)
    broken = tmp_path / "broken.mp4"
    pts = damage(whole, broken, packet)
    film = open_film(str(broken))
    assert film.pts.tolist() == [pts for pts, _ in plain]
    victim = film.pts.tolist().index(pts)
    outcomes = _run(film, Sampling(every=1), span_bytes=1, reel_samples=12, threads=threads)
    rows = _digests(outcomes)
    assert list(rows) == list(range(72))
    failed = [ordinal for ordinal, (_, _, reason) in rows.items() if reason is not None]
    assert victim in failed
    assert all(36 <= ordinal < 48 + (victim == 48) * 12 for ordinal in failed)
    for ordinal, (_, picture, reason) in rows.items():
        if reason is None:
            assert picture == plain[ordinal][1].tobytes()
        else:
            assert reason.startswith("decode: ")
            assert not any(picture)
    assert not np.isnan(_changes(outcomes)[1:]).any()


def test_a_damaged_frame_nothing_depends_on_is_lost_alone(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mp4", 36, options={"x264-params": "b-pyramid=none"})
    film = open_film(str(whole))
    # With groups coded I P b b b P ..., the third packet is a B-frame.
    pts = damage(whole, tmp_path / "broken.mp4", 15)
    rows = _digests(_run(open_film(str(tmp_path / "broken.mp4")), Sampling(every=1)))
    failed = [ordinal for ordinal, (_, _, reason) in rows.items() if reason]
    assert failed == [film.pts.tolist().index(pts)]


def test_a_film_cut_off_in_the_middle_is_what_there_is(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mkv", 48)
    plain = plain_decode(whole)
    data = whole.read_bytes()
    (tmp_path / "part.mkv").write_bytes(data[: len(data) * 2 // 3])
    film = open_film(str(tmp_path / "part.mkv"))
    assert 12 < film.frames < 48
    rows = _digests(_run(film, Sampling(every=1)))
    assert list(rows) == list(range(film.frames))
    intact = [ordinal for ordinal, (_, _, reason) in rows.items() if reason is None]
    assert len(intact) > film.frames - 12
    assert all(rows[ordinal][1] == plain[ordinal][1].tobytes() for ordinal in intact)


def test_a_file_that_shrinks_after_planning_fails_frame_by_frame(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f.mkv", 48)
    film = open_film(str(path))
    reels = plan_reels(film, Sampling(every=1).ordinals(film), span_bytes=1, reel_samples=12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rows = _digests([span for reel in reels for span in decode(reel)])
    assert list(rows) == list(range(48))
    assert rows[0][2] is None
    assert str(rows[47][2]).startswith("decode: ")


def test_read_frames_gives_each_picture_once_in_order(path: Path) -> None:
    plain = plain_decode(path)
    got = list(read_frames(str(path), [96, 40, 3, 40, 41]))
    assert [ordinal for ordinal, _ in got] == [3, 40, 41, 96]
    for ordinal, picture in got:
        np.testing.assert_array_equal(picture, plain[ordinal][1])


def test_a_url_is_decoded_like_a_file(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f.mp4", 40)
    with fsspec.open("memory://decode/f.mp4", "wb") as target:
        target.write(path.read_bytes())
    plan = {"span_bytes": 1, "reel_samples": 1}
    remote = _digests(_run(open_film("memory://decode/f.mp4"), Sampling(), **plan))
    assert remote == _digests(_run(open_film(str(path)), Sampling(), **plan))


def test_read_frames_refuses_frames_outside_the_film(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f.mp4", 12)
    with pytest.raises(UsageError, match="the film has 0 to 11"):
        list(read_frames(str(path), [12]))
