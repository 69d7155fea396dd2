"""The frame oracle on damaged films: the lost frames are named, the same ones in every division, the rest exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from insideout.decode import decode
from insideout.errors import FilmError
from insideout.film import Sampling, open_film
from insideout.spans import plan_reels
from tests.films import DAMAGED, EXACT, cut_off, lose_packets
from tests.media import damage, plain_decode, write_film
from tests.oracle import account, changes, digest, digests, divisions, is_lost, run, table, whole


def _original(path: Path) -> dict[int, str]:
    """The digests of the undamaged film by pts; where nothing was damaged, of the film itself."""
    return {pts: digest(picture) for pts, picture in plain_decode(next(path.parent.glob("whole.*"), path))}


@pytest.mark.parametrize("kind", list(DAMAGED))
def test_frames_are_lost_by_name_in_every_division_and_the_rest_are_exact(kind: str, tmp_path: Path) -> None:
    path = DAMAGED[kind](tmp_path)
    film, original = open_film(str(path)), _original(path)
    assert set(film.pts.tolist()) <= set(original)
    rows = whole(film)
    assert account(film, rows) == table("Damaged")[kind]
    for pts, picture, reason in rows.values():
        assert is_lost(reason) or picture == original[pts]
    for _, other in divisions(film, Sampling(every=1)):
        assert other == rows


CONTAINERS: dict[str, Callable[[Path], Path]] = {
    "mkv": lambda at: write_film(at / "whole.mkv", 49),
    "ts": lambda at: write_film(at / "whole.ts", 49),
    "mpg": lambda at: write_film(at / "whole.mpg", 49, codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "webm": lambda at: write_film(at / "whole.webm", 49, codec="libvpx-vp9", options={"g": "12", "cpu-used": "8"}),
    "fragments": lambda at: write_film(at / "whole.mp4", 49, muxing={"movflags": "frag_keyframe+empty_moov"}),
    "index-first": lambda at: write_film(at / "whole.mp4", 49, muxing={"movflags": "faststart"}),
}


@pytest.mark.parametrize("container", list(CONTAINERS))
def test_of_a_film_cut_off_anywhere_the_frames_before_the_cut_are_whole(container: str, tmp_path: Path) -> None:
    source = CONTAINERS[container](tmp_path)
    original = [digest(picture) for _, picture in plain_decode(source)]
    refused = []
    for share in np.linspace(0.05, 0.97, 13):
        try:
            film = open_film(str(path := cut_off(source, share)))
        except FilmError:
            refused.append(share)
            continue
        assert path.stat().st_size == film.bytes < source.stat().st_size
        assert film.frames == 49 or container != "index-first"
        rows = whole(film)
        good = [picture for _, picture, reason in rows.values() if not is_lost(reason)]
        # A B-frame may lie behind the cut and the frame after it before: in both lists they are in order.
        remaining = iter(original)
        assert all(picture in remaining for picture in good)
        # What was cut in two, and what needs it, is lost; of the frames that are there whole none is.
        # A pack of an MPEG program stream holds many frames as small as these, and is given up as a whole.
        allowed = {"index-first": 49, "fragments": 12, "mpg": 24}.get(container, 4)
        assert len(good) >= film.frames - allowed
        assert len(good) >= int(49 * share) - 24
        for _, other in divisions(film, Sampling(every=1)):
            assert other == rows
    # Where not even the header, or no whole picture, is left.
    assert max(refused, default=0) < 0.3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_lost_packets_of_a_stream_never_give_a_wrong_picture(codec: str, seed: int, tmp_path: Path) -> None:
    options = {"g": "12", "bf": "2"} if codec == "mpeg2video" else None
    source = write_film(tmp_path / "whole.ts", 49, codec=codec, options=options)
    original = _original(source)
    generator = np.random.default_rng(seed)
    for _ in range(4):
        film = open_film(str(lose_packets(source, int(generator.integers(8, 60)), int(generator.integers(1, 4)))))
        rows = whole(film)
        assert all(is_lost(reason) or picture == original[pts] for pts, picture, reason in rows.values())
        assert digests(run(film, Sampling(every=1), span_bytes=1, reel_samples=1)) == rows


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("packet", [36, 37, 38, 40, 42, 43, 47, 48])
def test_damage_costs_the_frames_it_damages(packet: int, threads: int, tmp_path: Path) -> None:
    source = write_film(tmp_path / "whole.mp4", 72)
    plain = plain_decode(source)
    broken = tmp_path / "broken.mp4"
    pts = damage(source, broken, packet)
    film = open_film(str(broken))
    assert film.pts.tolist() == [pts for pts, _ in plain]
    victim = film.pts.tolist().index(pts)
    outcomes = run(film, Sampling(every=1), span_bytes=1, reel_samples=12, threads=threads)
    rows = digests(outcomes)
    assert list(rows) == list(range(72))
    failed = [ordinal for ordinal, (_, _, reason) in rows.items() if reason is not None]
    assert victim in failed
    assert all(36 <= ordinal < 48 + (victim == 48) * 12 for ordinal in failed)
    blank = digest(np.zeros((72, 128, 3), np.uint8))
    for ordinal, (_, picture, reason) in rows.items():
        assert picture == (blank if is_lost(reason) else digest(plain[ordinal][1]))
    assert not np.isnan(changes(outcomes)[1:]).any()


def test_a_damaged_frame_nothing_depends_on_is_lost_alone(tmp_path: Path) -> None:
    source = write_film(tmp_path / "whole.mp4", 36, options={"x264-params": "b-pyramid=none"})
    film = open_film(str(source))
    # With groups coded I P b b b P ..., the third packet is a B-frame.
    pts = damage(source, tmp_path / "broken.mp4", 15)
    rows = whole(open_film(str(tmp_path / "broken.mp4")))
    failed = [ordinal for ordinal, (_, _, reason) in rows.items() if reason]
    assert failed == [film.pts.tolist().index(pts)]


def test_a_reel_behind_the_end_of_a_file_is_lost_as_a_whole(tmp_path: Path) -> None:
    cut = DAMAGED["cut-mp4-index-first"](tmp_path)
    film = replace(open_film(str(tmp_path / "whole.mp4")), path=str(cut))
    reels = plan_reels(film, Sampling(every=1).ordinals(film), reel_samples=1)
    assert [reel.start for reel in reels[-2:]] == [36, 48]
    for reel in reels[-2:]:
        rows = digests(decode(reel))
        assert {reason for _, _, reason in rows.values()} == {"decode: its data is not in the file"}


def test_a_damaged_key_frame_is_lost_when_key_frames_are_looked_at_alone(tmp_path: Path) -> None:
    film = open_film(str(DAMAGED["flipped-key"](tmp_path)))
    rows = digests(run(film, Sampling(keyframes=True), span_bytes=1, reel_samples=1))
    assert [ordinal for ordinal, (_, _, reason) in rows.items() if is_lost(reason)] == [12]


def test_a_film_that_is_counted_names_the_frames_of_a_damaged_group(tmp_path: Path) -> None:
    source = EXACT["h264-avi"](tmp_path)
    damage(source, broken := tmp_path / "broken.avi", 18)
    film, original = open_film(str(broken)), [digest(picture) for _, picture in plain_decode(source)]
    assert film.counted
    assert film.frames == 49
    rows = whole(film)
    lost = [ordinal for ordinal, (_, _, reason) in rows.items() if is_lost(reason)]
    assert lost == list(range(12, 24))
    assert all(is_lost(reason) or picture == original[o] for o, (_, picture, reason) in rows.items())


def test_a_file_that_shrinks_after_planning_fails_frame_by_frame(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f.mkv", 48)
    film = open_film(str(path))
    reels = plan_reels(film, Sampling(every=1).ordinals(film), span_bytes=1, reel_samples=12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rows = digests([span for reel in reels for span in decode(reel)])
    assert list(rows) == list(range(48))
    assert rows[0][2] is None
    assert rows[47][2] == "decode: its data is not in the file"
