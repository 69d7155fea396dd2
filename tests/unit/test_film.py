"""Opening films, sampling them, dividing them into spans and reels."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from fractions import Fraction
from pathlib import Path

import fsspec
import numpy as np
import pytest

from insideout.errors import FilmError, UsageError
from insideout.film import Film, Sampling, open_film
from insideout.spans import plan_reels
from tests.media import NTSC_FILM, remux, write_film


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", 50, audio=True)


def test_a_film_is_probed_and_indexed(path: Path) -> None:
    film = open_film(str(path))
    data = path.read_bytes()
    assert film.sha256 == hashlib.sha256(data).hexdigest()
    assert film.film == film.sha256[:16]
    assert film.bytes == len(data)
    assert (film.width, film.height, film.rotation) == (128, 72, 0)
    assert (film.fps, film.time_base, film.codec) == (NTSC_FILM, Fraction(1, 24000), "h264")
    assert film.frames == 50
    assert film.pts.dtype == np.int64
    assert film.pts.tolist() == [1001 * n for n in range(50)]
    assert film.keyframes.dtype == np.int32
    assert film.keyframes.tolist() == [0, 12, 24, 36, 48]
    assert film.time_s(24) == pytest.approx(1.001)
    assert film.duration_s == pytest.approx(50 * 1001 / 24000)
    assert pickle.loads(pickle.dumps(film)).pts.tolist() == film.pts.tolist()


def test_the_id_is_of_the_bytes_and_not_of_the_name(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other name.mov"
    copy.write_bytes(path.read_bytes())
    assert open_film(str(copy)).film == open_film(str(path)).film


def test_a_film_is_read_from_a_url(path: Path) -> None:
    with fsspec.open("memory://films/film.mp4", "wb") as target:
        target.write(path.read_bytes())
    film = open_film("memory://films/film.mp4")
    assert film.path == "memory://films/film.mp4"
    assert film.film == open_film(str(path)).film
    assert film.frames == 50
    assert open_film(path.as_uri()).film == film.film


@pytest.mark.parametrize(("rotation", "size"), [(90, (72, 128)), (-90, (72, 128)), (180, (128, 72))])
def test_the_size_is_after_rotation(rotation: int, size: tuple[int, int], tmp_path: Path) -> None:
    film = open_film(str(write_film(tmp_path / "film.mp4", 3, rotation=rotation)))
    assert (film.width, film.height) == size
    assert film.rotation == rotation % 360


def test_what_an_edit_list_cuts_away_is_no_frame(path: Path, tmp_path: Path) -> None:
    film = open_film(str(remux(path, tmp_path / "cut.mp4", shift=-5 * 1001)))
    assert film.frames == 45
    assert film.pts[0] == 0
    assert film.keyframes.tolist() == [7, 19, 31, 43]


def test_a_missing_film_is_named() -> None:
    with pytest.raises(FilmError, match=r"nowhere\.mp4: no such file"):
        open_film("nowhere.mp4")
    with pytest.raises(FilmError, match="no such file"):
        open_film("memory://nowhere/film.mp4")


def test_a_protocol_nobody_knows_is_refused() -> None:
    with pytest.raises(FilmError, match="nonsense"):
        open_film("nonsense://films/film.mp4")


def test_a_folder_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(FilmError, match="a folder"):
        open_film(str(tmp_path))


@pytest.mark.parametrize("suffix", [".mp4", ".txt"])
def test_text_is_no_film(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"notes{suffix}"
    path.write_text("this is no film\n" * 100)
    with pytest.raises(FilmError, match="notes"):
        open_film(str(path))


def test_every_nth_frame_starts_at_the_first(path: Path) -> None:
    film = open_film(str(path))
    assert Sampling().ordinals(film).tolist() == list(range(0, 50, 4))
    assert Sampling(every=25).ordinals(film).tolist() == [0, 25]
    assert Sampling(every=1).ordinals(film).tolist() == list(range(50))
    assert Sampling(every=100).ordinals(film).tolist() == [0]
    assert Sampling().ordinals(film).dtype == np.int32


def test_key_frames_are_sampled(path: Path) -> None:
    assert Sampling(keyframes=True).ordinals(open_film(str(path))).tolist() == [0, 12, 24, 36, 48]


def _timed(milliseconds: list[int]) -> Film:
    return Film(
        path="film.mp4",
        film="0" * 16,
        sha256="0" * 64,
        bytes=1,
        width=128,
        height=72,
        rotation=0,
        time_base=Fraction(1, 1000),
        fps=Fraction(25),
        codec="h264",
        pts=np.array(milliseconds, np.int64),
        keyframes=np.array([0], np.int32),
    )


def test_a_rate_takes_the_frame_shown_at_each_time() -> None:
    # Delayed start at 700 ms; times are counted from there: 0, 500, 1000, 1500 and 2000 ms.
    film = _timed([700, 800, 1190, 1200, 1201, 1950, 2200, 2699, 2700])
    assert Sampling(fps=Fraction(2)).ordinals(film).tolist() == [0, 3, 4, 6, 8]


def test_a_frame_shown_for_long_is_taken_once() -> None:
    film = _timed([0, 40, 5000, 5040])
    assert Sampling(fps=Fraction(2)).ordinals(film).tolist() == [0, 1, 2]


def test_a_rate_does_not_drift_over_a_long_film() -> None:
    # Two hours at 24000/1001 in a time base of 1/24000: one frame in 24 is one in 1.001 seconds.
    film = dataclasses.replace(_timed([0]), pts=np.arange(172_627, dtype=np.int64) * 1001, time_base=Fraction(1, 24000))
    rate = Fraction(1000, 1001)
    assert Sampling(fps=rate).ordinals(film).tolist() == list(range(0, 172_627, 24))
    per_second = Sampling(fps=Fraction(1)).ordinals(film)
    assert len(per_second) == 172_626 * 1001 // 24000 + 1
    assert per_second[7000] == 7000 * 24000 // 1001


@pytest.mark.parametrize("text", ["every:4", "every:1", "fps:2", "fps:24000/1001", "fps:1/2", "keyframes"])
def test_a_sampling_is_written_and_read(text: str) -> None:
    assert str(Sampling.parse(text)) == text


@pytest.mark.parametrize("text", ["", "4", "every:0", "every:x", "every:", "fps:0", "fps:-1", "fps:1/0", "keyframes:2"])
def test_a_sampling_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="sampling"):
        Sampling.parse(text)


def _grouped(frames: int, keyframes: list[int]) -> Film:
    return dataclasses.replace(_timed(list(range(0, frames * 40, 40))), keyframes=np.array(keyframes, np.int32))


def test_reels_are_whole_groups_and_spans_divide_the_film() -> None:
    film = _grouped(1000, [0, 40, 300, 301, 700, 980])
    samples = Sampling().ordinals(film)
    reels = plan_reels(film, samples, span_bytes=128 * 72 * 3 * 30, reel_samples=64)
    assert [(reel.start, reel.end) for reel in reels] == [(0, 300), (300, 700), (700, 980), (980, 1000)]
    spans = [span for reel in reels for span in reel.spans]
    assert [span.index for span in spans] == list(range(len(spans)))
    assert [span.start for span in spans] == [0, *[span.end for span in spans[:-1]]]
    assert spans[-1].end == film.frames
    for reel in reels:
        assert reel.pts.tolist() == film.pts[reel.start : reel.end].tolist()
        assert reel.seek_pts == film.pts[reel.start]
        assert reel.samples.tolist() == [s for s in samples if reel.start <= s < reel.end]
        # 30 pictures fit: spans of 24, all but the last of a reel full and beginning with a sample.
        assert all(span.start % 4 == 0 for span in reel.spans[1:])
        held = [sum(span.start <= s < span.end for s in samples) for span in reel.spans]
        assert set(held[:-1]) <= {24}
        assert 0 < held[-1] <= 24


def test_large_pictures_make_short_spans_of_at_least_eight() -> None:
    film = dataclasses.replace(_grouped(400, [0]), width=7680, height=4320)
    (reel,) = plan_reels(film, Sampling().ordinals(film))
    assert [span.end - span.start for span in reel.spans] == [32] * 12 + [16]


def test_a_film_of_one_frame_is_one_span() -> None:
    film = _grouped(1, [0])
    (reel,) = plan_reels(film, Sampling().ordinals(film))
    assert [(span.index, span.start, span.end) for span in reel.spans] == [(0, 0, 1)]


def test_a_film_that_starts_without_a_key_frame_is_planned_from_its_first_frame() -> None:
    film = _grouped(100, [7, 50])
    reels = plan_reels(film, Sampling().ordinals(film), reel_samples=1)
    assert [(reel.start, reel.end) for reel in reels] == [(0, 7), (7, 50), (50, 100)]


@pytest.mark.parametrize("seed", range(20))
def test_spans_do_not_depend_on_which_are_wanted(seed: int) -> None:
    generator = np.random.default_rng(seed)
    frames = int(generator.integers(1, 1500))
    keys = np.union1d([0], generator.integers(0, frames, generator.integers(1, 30))).tolist()
    film = _grouped(frames, keys)
    samples = Sampling(every=int(generator.integers(1, 9))).ordinals(film)
    plan = {"span_bytes": int(generator.integers(1, 2_000_000)), "reel_samples": int(generator.integers(1, 100))}
    spans = {span.index: span for reel in plan_reels(film, samples, **plan) for span in reel.spans}
    assert sum(span.end - span.start for span in spans.values()) == frames
    wanted = set(generator.choice(len(spans), generator.integers(0, len(spans) + 1), replace=False).tolist())
    reels = plan_reels(film, samples, wanted=wanted, **plan)
    assert [span for reel in reels for span in reel.spans] == [spans[index] for index in sorted(wanted)]
    for reel in reels:
        indices = [span.index for span in reel.spans]
        assert indices == list(range(indices[0], indices[0] + len(indices)))
        # Self-contained from the key frame at or before the first span.
        assert reel.start == max(key for key in keys if key <= reel.spans[0].start)
        assert reel.end == reel.spans[-1].end
        assert reel.groups == tuple(key for key in keys if reel.start <= key < reel.end)
        assert reel.samples.tolist() == [s for s in samples if reel.start <= s < reel.end]


def test_a_reel_is_small_when_pickled() -> None:
    film = _grouped(200_000, list(range(0, 200_000, 250)))
    reels = plan_reels(film, Sampling().ordinals(film))
    assert max(len(pickle.dumps(reel)) for reel in reels) < 8192
