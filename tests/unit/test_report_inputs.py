"""The report of runs that are short, odd, unfinished or damaged, and the pictures cut from a film."""

from __future__ import annotations

import json
import re
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from insideout import schema
from insideout.errors import OutputError
from insideout.film import open_film
from insideout.report import choice, findings, pictures, words, write_report
from insideout.stats.run import analyse_run
from tests import runs
from tests.pages import Page, data_of, report_of

BUNNY = "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "RESAMPLES", 200)


@pytest.mark.parametrize("count", [1, 2, 7, 24, 100])
def test_every_beginning_of_a_choice_lies_evenly_over_all_of_it(count: int) -> None:
    order = choice.coarse_to_fine(count)
    assert sorted(order) == list(range(count))
    for part in range(2, count):
        gaps = np.diff([-1, *sorted(order[:part]), count])
        assert gaps.max() <= 4 * count / part


def test_frames_are_chosen_evenly_over_shots() -> None:
    shot = np.repeat(np.arange(50), 10)
    certainty = np.tile(np.linspace(0, 1, 10), 50)
    chosen = choice.even(np.arange(500), shot, certainty)
    assert len(chosen) == 24
    assert [chosen[0], chosen[-1]] == [9, 499]  # the surest of the first and of the last shot
    assert set(np.diff(shot[chosen])) <= {2, 3}
    few = choice.even(np.arange(30), shot, certainty)
    assert np.bincount(shot[few]).tolist() == [8, 8, 8]
    assert choice.even(np.arange(5, 9), shot, certainty) == [5, 6, 7, 8]


def test_a_figure_found_twice_in_a_frame_is_among_the_surest_once() -> None:
    names = ("ordinal", "shot", "track", "character", "reading", "fused")
    rows = {"ordinal": [0, 0, 0, 4], "track": [1, 2, 3, 4], "character": [0, 0, 1, 0]}
    cast = choice.Cast(
        **{name: np.array(rows.get(name, [0] * 4), np.int64) for name in names},
        certainty=np.array([0.9, 0.8, 0.7, 0.6]),
        head=np.ones(4),
    )
    assert choice.extremes(cast) == ([0, 2, 3], [1])


def test_a_sum_that_is_off_is_said(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[1:])
    path = tmp_path / f"frames/film={runs.FILMS[1].film}/part-0.parquet"
    rows = pq.read_table(path)
    status = rows["status"].to_pylist()
    status[status.index("labelled")] = "lost"
    rows = rows.set_column(rows.schema.get_field_index("status"), rows.schema.field("status"), [status])
    pq.write_table(rows, path)
    _, page = report_of(tmp_path)
    assert "1 sampled frame is neither labelled, dropped nor failed" in page.text
    assert "the manifest counts" in page.text


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), None])
def test_a_certainty_that_is_no_number_is_none(tmp_path: Path, odd: float | None) -> None:
    runs.write_run(tmp_path, runs.FILMS[1:])
    path = tmp_path / f"characters/film={runs.FILMS[1].film}/part-0.parquet"
    rows = pq.read_table(path)
    place = rows.schema.get_field_index("certainty")
    certainty = pa.array([odd] * rows.num_rows, pa.float32())
    pq.write_table(rows.set_column(place, rows.schema.field(place), certainty), path)
    html, _ = report_of(tmp_path)
    frames = data_of(html)["films"][0]["frames"]
    assert 0.0 in {frame[6] for frame in frames}
    assert all(0 <= frame[6] <= 1 for frame in frames)


def test_a_manifest_without_optional_keys_is_enough(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[:1])
    (tmp_path / "manifest.json").write_text('{"schema": 1}')
    page = Page(Path(write_report(tmp_path, tmp_path / "elsewhere.html")).read_text(encoding="utf-8"))
    assert "Frank" in page.text
    assert not (tmp_path / "report.html").exists()


def test_a_film_without_characters_has_areport_of(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[:1])
    for path in (tmp_path / "characters").rglob("*.parquet"):
        path.unlink()
    _, page = report_of(tmp_path)
    assert "No character was found in this film" in page.text
    assert "the ledger tells of" in page.text


def test_the_attribution_follows_the_digest_or_the_caller(tmp_path: Path) -> None:
    runs.write_run(tmp_path, (runs.FilmSpec("any name.mp4", BUNNY, shots=4),))
    line = "(c) 2008 Blender Foundation, Big Buck Bunny, CC BY 3.0"
    assert report_of(tmp_path)[0].count(line) == 2
    own = Path(write_report(tmp_path, attribution="(c) <me>")).read_text(encoding="utf-8")
    assert own.count("(c) &lt;me&gt;") == 2
    assert line not in own


def test_an_analysis_that_is_none_is_refused_and_one_of_other_seconds_is_not_taken(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[1:])
    analyse_run(tmp_path, resamples=200)
    path = tmp_path / "analysis/analysis.json"
    good = json.loads(path.read_text())
    for odd in ("<script>", float("nan")):
        path.write_text(json.dumps(good | {"shares": [row | {"share": odd} for row in good["shares"]]}))
        with pytest.raises(
            OutputError, match=r"analysis\.json: not an analysis of this version; run `insideout analyse"
        ):
            write_report(tmp_path)
    path.write_text(json.dumps(good | {"shares": [row | {"seconds": row["seconds"] + 1} for row in good["shares"]]}))
    _, page = report_of(tmp_path)
    assert "seed 0; computed for this page" in page.text


@pytest.mark.parametrize("missing", ["manifest.json", "_SUCCESS", "films.parquet"])
def test_an_unfinished_run_is_refused(tmp_path: Path, missing: str) -> None:
    runs.write_run(tmp_path, runs.FILMS[1:])
    (tmp_path / missing).unlink()
    with pytest.raises(OutputError, match=f"no {re.escape(missing)}.*insideout status"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing is there"):
        write_report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_film_without_ledger_is_refused(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[1:])
    (tmp_path / f"frames/film={runs.FILMS[1].film}/part-0.parquet").unlink()
    with pytest.raises(OutputError, match="no ledger for film b2b2"):
        write_report(tmp_path)


@pytest.mark.parametrize("key", ["films.parquet", f"frames/film={runs.FILMS[1].film}/part-0.parquet"])
def test_a_newer_schema_is_refused(tmp_path: Path, key: str) -> None:
    runs.write_run(tmp_path, runs.FILMS[1:])
    table = pq.read_table(tmp_path / key)
    metadata = table.schema.metadata | {b"insideout.schema": str(schema.VERSION + 1).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / key)
    with pytest.raises(OutputError, match="newer than"):
        write_report(tmp_path)


def test_rows_of_two_runs_are_refused(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[1:])
    path = tmp_path / f"characters/film={runs.FILMS[1].film}/part-1.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(schema.stamp(schema.CHARACTERS, "other").metadata), path)
    with pytest.raises(OutputError, match="two different runs"):
        write_report(tmp_path)


@pytest.mark.parametrize("column", ["frames/ordinal", "characters/emotion", "characters/crop"])
def test_a_file_that_is_damaged_is_named(tmp_path: Path, column: str) -> None:
    runs.write_run(tmp_path, runs.FILMS[1:])
    kind, name = column.split("/")
    path = tmp_path / f"{kind}/film={runs.FILMS[1].film}/part-0.parquet"
    group = pq.read_metadata(path).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == name)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    with pytest.raises(OutputError, match=rf"{kind}/film=.*part-0\.parquet: cannot be read as Parquet .*label again"):
        write_report(tmp_path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film whose frame n is a plain grey of 40 + n, but for a bright square where heads will be."""
    path = tmp_path_factory.mktemp("film") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for ordinal in range(96):
            picture = np.full((180, 320, 3), 40 + ordinal, np.uint8)
            picture[:, :, 0] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def _run_over(clip: Path, folder: Path) -> Path:
    film = open_film(str(clip))
    step = int(film.pts[1] - film.pts[0])
    spec = runs.FilmSpec(
        str(clip), film.sha256, film.time_base, int(film.pts[0]), (step,), shots=4, shot_frames=24, size=film.bytes
    )
    return runs.write_run(folder, (spec,), crops=False)


def test_without_crops_pictures_are_cut_from_the_film(clip: Path, tmp_path: Path) -> None:
    _, page = report_of(_run_over(clip, tmp_path))
    found = list(page.pictures())
    assert len(found) > 10
    for attributes, picture in found:
        match = re.search(r" at (\d+):(\d+)\.(\d),", attributes["alt"])
        assert match is not None
        minutes, seconds, tenths = map(int, match.groups())
        # Tenths are cut off, so the frame is one of the next 2.4.
        ordinal = float(picture[:, :, :2].mean()) - 40
        assert -3 <= ordinal - 24 * (60 * minutes + seconds + tenths / 10) <= 5.5
        assert picture[:, :, 2].mean() == pytest.approx(220, abs=12)
    assert "pictures are missing" not in page.text


@pytest.mark.parametrize(
    ("harm", "why"), [("remove", "is no longer where"), ("grow", "another size"), ("alter", "another digest")]
)
def test_without_crops_and_film_the_page_says_why(clip: Path, tmp_path: Path, harm: str, why: str) -> None:
    copy = tmp_path / "copy.mp4"
    data = clip.read_bytes()
    copy.write_bytes(data)
    run = _run_over(copy, tmp_path / "run")
    if harm == "remove":
        copy.unlink()
    elif harm == "grow":
        copy.write_bytes(data + b"\0")
    else:
        middle = data.index(b"mdat") + 600
        copy.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    _, page = report_of(run)
    assert page.text.count("Some pictures are missing") == 1
    assert why in page.text
    assert not list(page.pictures())
    assert "no picture" in page.text


def test_cutting_stays_inside_the_picture() -> None:
    picture = np.arange(100 * 200 * 3, dtype=np.uint32).reshape(100, 200, 3).astype(np.uint8)
    head = pictures.cut(picture, (0, 0, 10, 10), (100, 40, 20, 10))
    assert head is not None
    assert np.array_equal(head, picture[30:60, 95:125])
    corner = pictures.cut(picture, (190, 90, 50, 50), None)
    assert corner is not None
    assert np.array_equal(corner, picture[88:, 188:])
    assert pictures.cut(picture, (300, 90, 50, 50), None) is None


@pytest.mark.parametrize(
    ("value", "want"),
    [(0.0, "0:00.0"), (0.3, "0:00.3"), (83.69, "1:23.6"), (59.999, "0:59.9"), (5025.0, "1:23:45.0")],
)
def test_time_codes_are_cut_off_not_rounded(value: float, want: str) -> None:
    assert words.timecode(value) == want


@pytest.mark.parametrize(
    ("value", "want"), [(0.0, "0 %"), (0.004, "<1 %"), (0.417, "42 %"), (0.997, ">99 %"), (1.0, "100 %")]
)
def test_shares_never_claim_nothing_or_all(value: float, want: str) -> None:
    assert words.percent(value) == want.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("value", "whole", "want"),
    [
        (0.04, 0, "0.0 s"),
        (83.69, 600, "83.7 s"),
        (83.69, 5400, "1:24 min"),
        (2.5, 5400, "2.5 s"),
        (3723, 0, "1:02:03 h"),
    ],
)
def test_lengths_have_a_unit_that_fits(value: float, whole: float, want: str) -> None:
    assert words.seconds(value, whole) == want.replace(" ", "\u00a0")
