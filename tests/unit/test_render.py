"""Films with their labels drawn: every frame at its time, the labels where they belong, the sound as it was."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from insideout.errors import FilmError, InsideoutError, UsageError
from insideout.film import open_film
from insideout.pictures import pictures
from insideout.render import Rendered, RenderSettings, parse_clip, parse_show, render_film, render_sheet
from insideout.render.sheet import tiles
from insideout.render.source import open_source
from insideout.report.colours import DOUBT, PALETTE
from insideout.report.tables import open_run
from insideout.spans import reel_of
from pipelines.cli import app
from tests.media import NTSC_FILM, damage, number_in, plain_decode, write_film
from tests.tables import Row, table_of, write_tables

GREY = 128
VARYING = [int(v) for v in 3000 + np.cumsum([0, *np.resize([1001, 500, 2000, 40], 39)])]  # of 1/24000 s
ANGRY, HAPPY, SAD = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in PALETTE[:3])
DOUBTFUL = tuple(int(DOUBT[i : i + 2], 16) for i in (1, 3, 5))
BOX = (64, 40, 32, 24)


def grey(width: int = 128, height: int = 72) -> Any:
    return lambda number: np.full((height, width, 3), GREY, np.uint8)


def draw(run: Path, out: Path, show: tuple[str, ...] = ("masks",), **given: Any) -> Rendered:
    return render_film(str(run), str(out), RenderSettings(show=show, **given))


def packets(path: Path) -> list[tuple[Fraction, bytes]]:
    """Time and bytes of each packet of sound."""
    with av.open(str(path)) as container:
        found = [p for p in container.demux() if p.size and p.stream.type == "audio"]
        return [(p.pts * Fraction(p.time_base), bytes(p)) for p in found]


def tinted(picture: np.ndarray, box: tuple[int, int, int, int] = BOX) -> tuple[int, ...]:
    """The mean colour well inside of a box."""
    x, y, w, h = box
    return tuple(picture[y + 6 : y + h - 6, x + 6 : x + w - 6].mean((0, 1)).round().astype(int).tolist())


def overlaid(colour: tuple[int, ...]) -> Any:
    """The colour of a mask over grey."""
    return pytest.approx([0.38 * c + 0.62 * GREY for c in colour], abs=9)


def plain() -> Any:
    return pytest.approx([GREY] * 3, abs=4)


@pytest.fixture(scope="module")
def varying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of a varying rate that begins late, with B-frames and sound; the number of each frame in its picture."""
    path = tmp_path_factory.mktemp("film") / "varying.mp4"
    options = {"video_track_timescale": "24000", "movie_timescale": "24000"}
    return write_film(path, 40, pts=VARYING, time_base=Fraction(1, 24000), audio=True, muxing=options)


@pytest.fixture(scope="module")
def labelled(varying: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over it: somebody happy in every other sampled frame."""
    rows = [Row(ordinal, "Bunny", "Happy", BOX) for ordinal in range(0, 40, 8)]
    return write_tables(tmp_path_factory.mktemp("run"), table_of(varying, rows=rows))


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_every_frame_is_there_at_its_time_and_the_sound_is_copied(
    varying: Path, labelled: Path, tmp_path: Path, suffix: str
) -> None:
    done = draw(labelled, tmp_path / f"out{suffix}")
    before, after = open_film(str(varying)), open_film(str(tmp_path / f"out{suffix}"))
    assert before.pts[0] > 0
    assert after.time_base == before.time_base
    assert after.pts.tolist() == before.pts.tolist() == VARYING
    found = plain_decode(tmp_path / f"out{suffix}")
    assert [number_in(picture) for _, picture in found] == list(range(40))
    assert packets(tmp_path / f"out{suffix}") == packets(varying)
    assert (done.frames, done.unknown, done.sounds, done.encoder) == (40, 0, 1, "libx264")


def test_matroska_has_the_times_in_its_milliseconds(varying: Path, labelled: Path, tmp_path: Path) -> None:
    draw(labelled, tmp_path / "out.mkv")
    base = Fraction(1, 24000)
    found = [pts * Fraction(1, 1000) for pts, _ in plain_decode(tmp_path / "out.mkv")]
    assert len(found) == 40
    assert max(abs(time - pts * base) for time, pts in zip(found, VARYING, strict=True)) <= Fraction(1, 2000)
    assert [data for _, data in packets(tmp_path / "out.mkv")] == [data for _, data in packets(varying)]


def test_the_milliseconds_of_matroska_stay_what_they_are_in_mp4(tmp_path: Path) -> None:
    stamps = [40 + int(v) for v in np.cumsum([0, *np.resize([33, 50, 7], 23)])]
    film = write_film(tmp_path / "film.mkv", 24, pts=stamps, time_base=Fraction(1, 1000))
    draw(write_tables(tmp_path / "run", table_of(film)), tmp_path / "out.mp4")
    found = open_film(str(tmp_path / "out.mp4"))
    assert (found.pts.tolist(), found.time_base) == (stamps, Fraction(1, 1000))


def test_without_x264_another_encoder_is_used_and_named(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insideout.render.movie.ENCODERS", ("libx264-that-is-not-there", "mpeg4"))
    assert draw(labelled, tmp_path / "out.mp4").encoder == "mpeg4"
    found = plain_decode(tmp_path / "out.mp4")
    assert [(pts, number_in(picture)) for pts, picture in found] == list(zip(VARYING, range(40), strict=True))


def test_labels_stand_for_the_frames_that_the_statistics_say(tmp_path: Path) -> None:
    """Until the next sampled frame of the shot, never beyond a cut, duplicates what they repeat, failures nothing."""
    film = write_film(tmp_path / "film.mp4", 48, grey())
    rows = [
        Row(0, "Bunny", "Angry", BOX), Row(8, "Bunny", "Happy", BOX), Row(12, "Bunny", "Sad", BOX),
        Row(24, "Bunny", "uncertain", BOX), Row(36, "Bunny", "Happy", BOX),
    ]  # fmt: skip
    status = {4: ("dropped", "duplicate_of:0"), 28: ("failed", "decode: damaged"), 32: ("dropped", "no_character")}
    table = table_of(film, rows=rows, cuts=(10, 22, 42), status=status)
    done = draw(write_tables(tmp_path / "run", table), tmp_path / "out.mp4")
    # Shots [0, 10), [10, 22), [22, 42), [42, 48); frame 16, 20, 40 and 44 show nobody.
    shows = [ANGRY] * 8 + [HAPPY] * 2 + [SAD] * 6 + [None] * 6 + [DOUBTFUL] * 6 + [None] * 8 + [HAPPY] * 4 + [None] * 8
    pictures = [picture for _, picture in plain_decode(tmp_path / "out.mp4")]
    for number, (picture, colour) in enumerate(zip(pictures, shows, strict=True)):
        assert tinted(picture) == (plain() if colour is None else overlaid(colour)), number
        marked = tuple(int(v) for v in picture[70:, 4:60].mean((0, 1)))  # the frame of a warning
        assert (marked != plain()) == (28 <= number < 32), number
    assert (done.unknown, done.unseen) == (4, 0)


def test_a_shot_that_was_not_looked_at_is_told_from_one_that_failed(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 16, grey())
    table = table_of(film, rows=[Row(0, "Bunny", "Happy", BOX)], cuts=(5, 7, 9), status={8: ("failed", "decode: torn")})
    run = write_tables(tmp_path / "run", table)
    done = CliRunner().invoke(app, ["render", str(run), "--out", str(tmp_path / "out.mp4")])
    assert done.exit_code == 0, done.output
    # Shots [0, 5), [5, 7), [7, 9), [9, 16), of which frames 0 and 4, none, 8, and 12 were to be looked at.
    assert "2 frames marked: failed, or could not be decoded\n" in done.output
    assert "2 frames marked: not looked at, no frame of the shot was\n" in done.output
    opened = open_run(run)
    found = tiles(open_source(opened, opened.films[0]))
    assert [tile.why for tile in found if not tile.figures] == ["not looked at", "failed", "nobody"]


def test_the_colour_is_where_the_mask_says(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 8, grey())
    mask = np.zeros((72, 128), np.uint8)
    cv2.circle(mask, (40, 36), 24, 1, -1)
    cv2.circle(mask, (40, 36), 9, 0, -1)  # a hole
    mask[20:50, 90:110] = 1  # a part
    table = table_of(film, rows=[Row(0, "Bunny", "Happy", (16, 12, 94, 49), mask=mask)])
    run = write_tables(tmp_path / "run", table)
    draw(run, tmp_path / "out.mp4")
    picture = plain_decode(tmp_path / "out.mp4")[0][1].astype(int)
    drawn = np.abs(picture - GREY).max(2) > 20
    inside = cv2.erode(mask, np.ones((7, 7))).astype(bool)
    outside = cv2.dilate(mask, np.ones((7, 7))) == 0
    assert drawn[inside].mean() > 0.99
    assert not drawn[outside].any()
    assert outside[36, 40], "the hole is empty"
    # Without masks nothing is drawn but the boxes.
    draw(run, tmp_path / "boxes.mp4", show=("boxes",))
    boxes = np.abs(plain_decode(tmp_path / "boxes.mp4")[0][1].astype(int) - GREY).max(2) > 20
    assert boxes[30, 14:19].any()
    assert not boxes[20:55, 24:100].any()


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_film_with_oblong_pixels_is_upright_and_keeps_its_shape(tmp_path: Path, rotation: int) -> None:
    options = {"video_track_timescale": "24000"}
    film = write_film(tmp_path / "film.mp4", 8, grey(), rotation=rotation, aspect=Fraction(4, 3), muxing=options)
    upright = (128, 72) if rotation == 180 else (72, 128)
    box = (8, 16, 40, 48)
    run = write_tables(tmp_path / "run", table_of(film, rows=[Row(0, "Bunny", "Happy", box)]))
    draw(run, tmp_path / "out.mp4")
    found = open_film(str(tmp_path / "out.mp4"))
    assert (found.width, found.height, found.rotation) == (*upright, 0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        shape = Fraction(4, 3) if rotation == 180 else Fraction(3, 4)
        assert container.streams.video[0].sample_aspect_ratio == shape
    picture = plain_decode(tmp_path / "out.mp4")[0][1]
    assert tinted(picture, box) == overlaid(HAPPY)
    assert picture[100 if upright[1] == 128 else 68, 60].tolist() == plain()
    # Scaled, pixels are square: the picture is as wide as it was shown.
    draw(run, tmp_path / "small.mp4", height=64)
    small = open_film(str(tmp_path / "small.mp4"))
    assert (small.width, small.height) == ((152, 64) if rotation == 180 else (28, 64))
    scale = (small.width / upright[0], 64 / upright[1])
    moved = tuple(round(v * scale[i % 2]) for i, v in enumerate(box))
    x, y, w, h = moved
    middle = plain_decode(tmp_path / "small.mp4")[0][1][y + h // 2, x + w // 2]
    assert middle.tolist() == overlaid(HAPPY)


@pytest.mark.parametrize(
    ("space", "extent", "pixels"),
    [("bt709", "tv", "yuv420p"), ("smpte170m", "pc", "yuv420p"), ("bt709", "tv", "yuv444p")],
)
def test_colours_keep_their_tags_and_their_values(tmp_path: Path, space: str, extent: str, pixels: str) -> None:
    colours = ("colorspace", "color_primaries", "color_trc")
    options = dict.fromkeys(colours, space) | {"color_range": extent, "preset": "veryfast", "qp": "0"}
    solid = np.full((72, 128, 3), (200, 60, 30), np.uint8)
    film = write_film(tmp_path / "film.mp4", 4, lambda number: solid, pixels=pixels, options=options)
    run = write_tables(tmp_path / "run", table_of(film, rows=[Row(0, "Bunny", "Happy", BOX)]))
    draw(run, tmp_path / "out.mp4")
    tags = []
    for path in (film, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            tags.append((context.colorspace, context.color_range, context.color_primaries, context.color_trc,
                         context.pix_fmt))  # fmt: skip
            frame = next(container.decode(video=0))
            # The stored values themselves, away from the mask: luma, then both chromas.
            tags[-1] += tuple(int(plane.to_bytes()[2]) if hasattr(plane, "to_bytes") else int(bytes(plane)[2])
                              for plane in frame.planes)  # fmt: skip
    assert tags[0][:5] == tags[1][:5]
    assert tags[0][0] in (1, 6)
    assert tags[0][5:] == pytest.approx(tags[1][5:], abs=4)


def test_a_clip_has_exactly_its_frames_and_the_sound_of_its_time(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 48, rate=Fraction(24), audio=True, muxing={"movie_timescale": "12288"})
    run = write_tables(tmp_path / "run", table_of(film, rows=[Row(4, "Bunny", "Happy", BOX)]))
    done = draw(run, tmp_path / "out.mp4", clip=parse_clip("0.25-0:00:01"))
    found = plain_decode(tmp_path / "out.mp4")
    assert [number_in(picture) for _, picture in found] == list(range(6, 24))
    assert done.frames == 18
    assert tinted(found[0][1], (64, 40, 32, 24)) != tinted(found[-1][1], (64, 40, 32, 24))  # frames 6 and 7 show 4's
    base = open_film(str(tmp_path / "out.mp4")).time_base
    assert [pts * base for pts, _ in found] == [Fraction(n, 24) for n in range(18)]
    # A packet is 1024 of 8000 samples a second; those that sound between 0.25 and 0.5, the end of the sound.
    whole = [(time, data) for time, data in packets(film) if time + Fraction(1024, 8000) > Fraction(1, 4)]
    cut = packets(tmp_path / "out.mp4")
    assert [data for _, data in cut] == [data for _, data in whole]
    for (time, _), (was, _) in zip(cut, whole, strict=True):
        assert time == was - Fraction(1, 4)
    draw(run, tmp_path / "end.mp4", clip=parse_clip("1.5-"))
    assert [number_in(picture) for _, picture in plain_decode(tmp_path / "end.mp4")] == list(range(36, 48))
    assert not packets(tmp_path / "end.mp4")


def test_a_frame_that_cannot_be_decoded_repeats_the_one_before_and_is_marked(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mp4", 36, muxing={"movie_timescale": "24000"})
    damage(whole, tmp_path / "film.mp4", 15)
    film = open_film(str(tmp_path / "film.mp4"))
    run = write_tables(tmp_path / "run", table_of(tmp_path / "film.mp4", rows=[Row(0, "Bunny", "Happy", BOX)]))
    done = draw(run, tmp_path / "out.mp4")
    after = open_film(str(tmp_path / "out.mp4"))
    assert after.pts.tolist() == film.pts.tolist()
    outcomes = list(pictures(reel_of(film, np.arange(film.frames, dtype=np.int32))))
    assert done.unknown == sum(reason is not None for _, _, reason in outcomes) > 0
    numbers = [number_in(picture) for _, picture in plain_decode(tmp_path / "out.mp4")]
    for ordinal, frame, reason in outcomes:
        if reason is None:
            assert numbers[ordinal] == ordinal
        elif frame is None:
            assert numbers[ordinal] == numbers[ordinal - 1]


def test_certainty_names_and_tracks_are_written_as_asked() -> None:
    from insideout.render.drawing import Drawing
    from insideout.shown import Figure

    figure = Figure(0, 0, 7, "Jägerin", 0.9, "Happy", 0.634, "Sad", {}, (0, 0, 8, 8), None, None, 36, 64)
    emotions = ("Angry", "Happy", "Sad")
    assert Drawing(emotions).label(figure) == "Jägerin  Happy  63 %"
    assert Drawing(emotions, ("names", "tracks")).label(figure) == "Jägerin  #7"
    assert Drawing(emotions, fused=True).label(figure) == "Jägerin  Sad"
    assert Drawing(emotions, ("masks",)).label(figure) == ""
    assert Drawing(emotions, ("names",)).label(replace(figure, character="a\n\u202eb")) == r"a\n\u202eb"
    assert parse_show(" names, masks ") == ("names", "masks")
    picture = np.full((72, 128, 3), GREY, np.uint8)
    assert (Drawing(emotions, ("names",)).draw(picture, [figure]) != GREY).any()
    assert (picture == GREY).all(), "the picture that was given is left alone"


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("00:01:30-00:02:00", 90, 120), ("90-120", 90, 120), ("1:30.5 - 1:02:03", Fraction(181, 2), 3723),
        ("-30", 0, 30), ("90-", 90, None),
    ],
)  # fmt: skip
def test_a_clip_is_read_in_seconds_or_as_a_clock(text: str, begin: Fraction, end: Fraction | None) -> None:
    assert parse_clip(text) == (begin, end)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--out", "out.avi"], "ends in none of .mp4, .mov, .m4v, .mkv"),
        (["--out", "out.png"], "--contact-sheet"),
        (["--out", "out.mp4", "--contact-sheet"], "a contact sheet is a picture"),
        (["--out", "out.mp4", "--clip", "soon"], "'soon' is not understood"),
        (["--out", "out.mp4", "--clip", "-"], "'-' is not understood"),
        (["--out", "out.mp4", "--clip", "2-1"], "ends before it begins"),
        (["--out", "out.mp4", "--clip", "100-200"], "no frame is in it; the film lasts 1."),
        (["--out", "out.mp4", "--show", "names,hats"], "--show hats: not known; choose of names, emotions"),
        (
            ["--out", "out.mp4", "--film", "other"],
            "--film other: no film of the run; choose one by --film: [0-9a-f]{16}",
        ),
        (["--out", "out.mp4", "--source", "nowhere.mp4"], "nowhere.mp4: no such file"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["render", str(labelled), *given])
    assert isinstance(done.exception, UsageError)
    assert re.search(says, str(done.exception))
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_has_moved_is_found_where_it_is_said_to_be(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 8, grey())
    run = write_tables(tmp_path / "run", table_of(film, rows=[Row(0, "Bunny", "Happy", BOX)]))
    film.rename(tmp_path / "moved.mp4")
    with pytest.raises(FilmError, match=r"film.mp4: no such file.*give --source PATH"):
        draw(run, tmp_path / "out.mp4")
    assert draw(run, tmp_path / "out.mp4", path=str(tmp_path / "moved.mp4")).frames == 8
    other = write_film(tmp_path / "other.mp4", 9, grey())
    with pytest.raises(FilmError, match=r"other.mp4: is not the film that was labelled \(sha256"):
        draw(run, tmp_path / "new.mp4", path=str(other))
    with pytest.raises(UsageError, match="is the film itself"):
        draw(run, tmp_path / "moved.mp4", path=str(tmp_path / "moved.mp4"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved.mp4", "other.mp4", "out.mp4", "run"]


def test_of_several_films_one_is_chosen_by_id_path_or_name(tmp_path: Path) -> None:
    films = [write_film(tmp_path / f"{n}.mp4", n, grey()) for n in (4, 8)]
    tables = [table_of(film) for film in films]
    run = write_tables(tmp_path / "run", *tables)
    with pytest.raises(UsageError, match=f"the run has several; choose one by --film: {tables[0].film} \\(4.mp4\\), "):
        draw(run, tmp_path / "out.mp4")
    for name in (tables[1].film, tables[1].film[:6].upper(), "8.mp4", str(films[1])):
        assert draw(run, tmp_path / "out.mp4", film=name).frames == 8


def test_a_film_that_is_not_finished_leaves_the_older_one(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"older")

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_film(str(labelled), str(out), RenderSettings(), tell=stop)
    assert out.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [out]


def test_sound_that_the_container_cannot_hold_is_named(tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as container:
        video, sound = container.add_stream("libx264", rate=24), container.add_stream("wavpack", rate=8000)
        video.width, video.height, video.pix_fmt = 128, 72, "yuv420p"
        for _ in range(8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(grey()(0), "rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int32), format="s32p", layout="mono")
        silence.sample_rate = 8000
        container.mux([*video.encode(), *sound.encode(silence), *sound.encode()])
    run = write_tables(tmp_path / "run", table_of(film))
    with pytest.raises(UsageError, match=r"a .mp4 file cannot hold sound of the codec wavpack; --out FILE.mkv can"):
        draw(run, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert draw(run, tmp_path / "out.mkv").sounds == 1
    assert packets(tmp_path / "out.mkv") == packets(film)


def test_time_stamps_that_repeat_are_written_at_the_mean_rate_and_that_is_said(tmp_path: Path) -> None:
    # The time stamps of an AVI with B-frames count packets.
    film = write_film(tmp_path / "film.avi", 24, rate=Fraction(24))
    assert open_film(str(film)).counted
    done = draw(write_tables(tmp_path / "run", table_of(film)), tmp_path / "out.mp4")
    found = open_film(str(tmp_path / "out.mp4"))
    assert [number_in(picture) for _, picture in plain_decode(tmp_path / "out.mp4")] == list(range(24))
    assert bool(done.notes) == (np.diff(open_film(str(film)).pts).min() <= 0)
    assert (np.diff(found.pts) > 0).all()


def test_the_command_says_what_it_wrote_and_is_quiet_on_the_way(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.mp4"
    done = CliRunner().invoke(app, ["render", str(labelled), "--out", str(out), "--clip", "-0.5"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ frames of 128x72, encoded by libx264; 1 stream of sound copied", lines[0])
    assert lines[1:] == [f"film: {out}"]
    assert len(done.stderr.splitlines()) <= 1
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


def test_whose_film_it_is_stands_in_the_file(tmp_path: Path, excerpt: Path) -> None:
    run = write_tables(tmp_path / "run", table_of(excerpt, rows=[Row(0, "Bunny", "Happy", (300, 200, 400, 300))]))
    draw(run, tmp_path / "out.mp4", show=("names", "masks"), clip=parse_clip("-0.2"), height=90)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["copyright"] == "(c) 2008 Blender Foundation, Big Buck Bunny, CC BY 3.0"


def test_a_film_is_written_to_storage_whole(labelled: Path) -> None:
    import fsspec

    storage = fsspec.filesystem("memory")
    try:
        render_film(str(labelled), "memory://bucket/films/out.mp4", RenderSettings(clip=parse_clip("-0.3")))
        with storage.open("/bucket/films/out.mp4", "rb") as file, av.open(file) as container:
            assert number_in(next(container.decode(video=0)).to_ndarray(format="rgb24")) == 0
    finally:
        storage.rm("/bucket", recursive=True)


# Contact sheets.


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a grey film of 60 shots of 4 frames: somebody happy in shot 0, sad in 1, shot 2 failed."""
    folder = tmp_path_factory.mktemp("shots")
    film = write_film(folder / "film.mp4", 240, grey(64, 36), rate=NTSC_FILM)
    rows = [Row(0, "Bunny", "Happy", (8, 6, 48, 24)), Row(4, "Bunny", "Sad", (8, 6, 48, 24))]
    status = {8: ("failed", "decode: damaged")}
    return write_tables(folder / "run", table_of(film, rows=rows, cuts=range(4, 240, 4), status=status))


def test_a_contact_sheet_has_a_picture_of_each_shot_on_as_many_pages_as_it_needs(shots: Path, tmp_path: Path) -> None:
    pages = render_sheet(str(shots), str(tmp_path / "sheet.png"), RenderSettings(height=72))
    assert pages == [str(tmp_path / "sheet-1.png"), str(tmp_path / "sheet-2.png")]
    pictures = [cv2.cvtColor(cv2.imread(page), cv2.COLOR_BGR2RGB) for page in pages]
    assert pictures[0].shape[1] == pictures[1].shape[1]
    # 48 shots on the first page in eight rows of six, twelve on the second in two.
    greys = [(np.abs(picture.astype(int) - GREY).max(2) < 6).sum() // (100 * 60) for picture in pictures]
    assert 44 <= greys[0] * 6000 / (128 * 72) <= 48
    assert 10 <= greys[1] * 6000 / (128 * 72) <= 12
    first = pictures[0]
    letter = max(11, round(72 / 12))
    top = letter + round(2.6 * round(1.35 * letter)) + round(1.35 * letter)
    # The colours are brighter than over the film itself: a mask over grey.
    for place, colour in ((0, HAPPY), (1, SAD), (2, None)):
        x = letter + place * (128 + letter) + 64
        assert first[top + 36, x].tolist() == (plain() if colour is None else overlaid(colour))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_sheet_of_a_clip_has_its_shots_only(shots: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"sheet{suffix}"
    done = CliRunner().invoke(
        app, ["render", str(shots), "--out", str(out), "--contact-sheet", "--clip", "0-0.3", "--height", "72"]
    )
    assert done.exit_code == 0, done.output
    assert f"contact sheet: {out}" in done.output
    picture = cv2.imread(str(out))
    assert picture is not None
    assert picture.shape[0] < 250  # one row
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_sheet_of_a_film_that_is_gone_says_so(shots: Path, tmp_path: Path) -> None:
    with pytest.raises(InsideoutError, match="no such file"):
        render_sheet(str(shots), str(tmp_path / "sheet.png"), RenderSettings(path=str(tmp_path / "gone.mp4")))
    assert not list(tmp_path.iterdir())
