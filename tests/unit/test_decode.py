"""Decoding: what is said about frames, spans done later, films behind URLs. See also the frame oracle."""

from __future__ import annotations

import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest

from insideout import shots
from insideout.decode import decode, read_frames
from insideout.errors import UsageError
from insideout.film import Sampling, open_film
from insideout.spans import plan_reels
from tests.films import EXACT, FRAMES
from tests.media import held, numbered, patterned, write_film
from tests.oracle import changes, digests, run


@pytest.mark.parametrize("name", ["b-frames", "open-gop-ts", "one-group", "mpeg4-avi"])
def test_spans_done_later_are_the_same(name: str, tmp_path: Path) -> None:
    drawings = [n // 5 * 5 for n in range(FRAMES)]
    path = EXACT[name](tmp_path)
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
            assert digests([span]) == digests([first])
            np.testing.assert_array_equal(span.edges, first.edges)
            np.testing.assert_array_equal(span.changes[1:], first.changes[1:])
    if name == "one-group":
        assert any(str(reason).startswith("duplicate_of:") for span in whole for reason in span.reasons)


def test_a_cut_is_found_and_a_flash_is_not(tmp_path: Path) -> None:
    drawing, flash = patterned(shot=30), np.full((72, 128, 3), 255, np.uint8)
    film = open_film(str(write_film(tmp_path / "f.mp4", 90, lambda n: flash if n == 45 else drawing(n))))
    values = changes(run(film, Sampling(), span_bytes=1, reel_samples=1))
    assert shots.cuts(values).tolist() == [0, 30, 60]


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
    reasons = {o: r for o, (_, _, r) in digests(run(film, Sampling(every=2), span_bytes=1, reel_samples=1)).items()}
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
    (span,) = run(film, Sampling(every=1))
    assert span.reasons == (None,) * 12


def test_a_url_is_decoded_like_a_file(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f.mp4", 40)
    with fsspec.open("memory://decode/f.mp4", "wb") as target:
        target.write(path.read_bytes())
    plan = {"span_bytes": 1, "reel_samples": 1}
    remote = digests(run(open_film("memory://decode/f.mp4"), Sampling(), **plan))
    assert remote == digests(run(open_film(str(path)), Sampling(), **plan))


def test_read_frames_refuses_frames_outside_the_film(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f.mp4", 12)
    with pytest.raises(UsageError, match="the film has 0 to 11"):
        list(read_frames(str(path), [12]))
