"""The report says what the tables say: numbers are computed a second time here, with pandas."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from insideout import schema
from insideout.errors import OutputError
from insideout.film import open_film
from insideout.report import figures, pictures, tables, words, write_report
from tests import runs
from tests.pages import Page

BUNNY = "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    written = Path(write_report(run))
    assert written == run / "report.html"
    return Page(written.read_text(encoding="utf-8"))


def _truth(run: Path, spec: runs.FilmSpec) -> SimpleNamespace:
    """Screen time worked out from the Parquet files by another way than the report's."""
    ledger = pd.read_parquet(run / f"frames/film={spec.film}").sort_values("ordinal").reset_index(drop=True)
    rows = pd.read_parquet(run / f"characters/film={spec.film}", columns=None).sort_values(["ordinal", "track"])
    shots = pd.read_parquet(run / f"shots/film={spec.film}")
    stops = np.append(ledger.pts.to_numpy()[1:], shots.end_pts.max())
    ledger["seconds"] = (stops - ledger.pts) * float(spec.time_base)
    # Follow duplicates to the frame that was looked at: as often as there are links in the chain.
    source = ledger.ordinal.copy()
    repeats = ledger[ledger.reason.str.startswith("duplicate_of", na=False)]
    target = dict(zip(repeats.ordinal, repeats.reason.str.split(":").str[1].astype(int), strict=True))
    for _ in range(5):
        source = source.map(lambda o: target.get(o, o))
    assert not source.isin(target).any()
    ledger["source"] = source
    shown = ledger.groupby("source").seconds.sum()
    rows["seconds"] = rows.ordinal.map(shown) / rows.groupby(["ordinal", "character"]).track.transform("count")
    ledger["carried"] = ledger.source.isin(rows.ordinal)
    return SimpleNamespace(ledger=ledger, rows=rows, shots=shots)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("column", "caption"),
    [
        ("track_emotion", "Screen time of each character by emotion, fused over its tracks"),
        ("emotion", "Screen time of each character by the emotion of the single frame"),
    ],
)
def test_screen_time_is_what_the_tables_say(run: Path, page: Page, which: int, column: str, caption: str) -> None:
    truth = _truth(run, runs.FILMS[which])
    want = truth.rows.groupby(["character", column]).seconds.sum()
    texts, values = page.grid(caption, which), page.values(caption, which)
    emotions = texts[0][1:-2]
    assert emotions == [*runs.EMOTIONS, "uncertain"]
    assert {row[0] for row in texts[1:]} == set(truth.rows.character)
    covered = truth.ledger.seconds.sum()
    for text, value in zip(texts[1:], values[1:], strict=True):
        total = want[text[0]].sum()
        assert value[-2] == pytest.approx(total, abs=1e-5)
        assert text[-1] == words.percent(total / covered).replace("\u00a0", " ")
        for place, emotion in enumerate(emotions, start=1):
            seconds = want.get((text[0], emotion), 0.0)
            assert value[place] == pytest.approx(seconds, abs=1e-5)
            if seconds:
                assert f"{seconds:.1f} s" in text[place]
                assert words.percent(seconds / total).replace("\u00a0", " ") in text[place]
    assert sum(row[-2] or 0 for row in values[1:]) > 5


@pytest.mark.parametrize("which", [0, 1])
def test_the_ledger_adds_up_and_counts_duplicates_as_one_reason(run: Path, page: Page, which: int) -> None:
    truth = _truth(run, runs.FILMS[which])
    reasons = truth.ledger.reason.fillna("").str.split(":").str[0].replace("duplicate_of", "duplicate")
    want = truth.ledger.groupby([truth.ledger.status, reasons]).agg(n=("seconds", "size"), s=("seconds", "sum"))
    caption = "What became of the sampled frames"
    texts, values = page.grid(caption, which), page.values(caption, which)
    found = {}
    for text, value in zip(texts[1:-1], values[1:-1], strict=True):
        reason = {"no character": "no_character"}.get(text[1], text[1].split(" ")[0])
        found[text[0], reason] = (value[2], value[3])
    assert set(found) == set(want.index)
    for line, (count, seconds) in found.items():
        assert count == want.n[line]
        assert seconds == pytest.approx(want.s[line], abs=1e-5)
    assert values[-1][-2] == len(truth.ledger) == sum(count or 0 for count, _ in found.values())
    assert ("dropped", "duplicate") in found
    assert which == 1 or ("failed", "decode") in found
    by = truth.ledger.status.value_counts()
    text = " ".join(page.text.split())
    assert f"{len(truth.ledger)} sampled = {by['labelled']} labelled + {by['dropped']} dropped" in text
    assert "does not add up" not in page.text


def test_time_with_and_without_labels_is_all_of_the_film(run: Path, page: Page) -> None:
    for spec in runs.FILMS:
        truth = _truth(run, spec)
        film = tables.read_film(tables.open_run(run), _facts(run, spec))
        clock = figures.clock(film)
        shown, rest = sum(clock.shown.values()), sum(clock.rest.values())
        assert shown + rest == sum(clock.spans.values()) == truth.shots.end_pts.max() - truth.ledger.pts.min()
        carried = truth.ledger[truth.ledger.carried].seconds.sum()
        assert clock.seconds(shown) == pytest.approx(carried)
        told = f"Of {words.seconds(truth.ledger.seconds.sum())} of film, {words.seconds(carried)} carry labels"
        assert told.replace("\u00a0", " ") in " ".join(page.text.split())


def _facts(run: Path, spec: runs.FilmSpec) -> tables.FilmFacts:
    return next(facts for facts in tables.open_run(run).films if facts.film == spec.film)


def test_every_track_is_on_the_timeline_where_it_is_in_the_film(run: Path, page: Page) -> None:
    for which, spec in enumerate(runs.FILMS):
        truth = _truth(run, spec)
        for character, rows in truth.rows.groupby("character"):
            grid = page.grid(f"{character}: one row per track", which)[1:]
            assert sorted(int(row[3]) for row in grid) == sorted(rows.track.unique())
            for start, _, shot, track, emotion, _, frames in grid:
                own = rows[rows.track == int(track)]
                assert int(shot) == own.shot.iloc[0]
                assert emotion == own.track_emotion.iloc[0]
                assert int(frames) == len(own)
                first = Fraction(int(own.pts.min() - truth.shots.start_pts.min())) * spec.time_base
                assert start == words.timecode(float(first))
    blocks = [a for tag, a in page.tags if tag == "i" and "title" in a]
    assert len(blocks) == sum(_truth(run, spec).rows.track.nunique() for spec in runs.FILMS)
    for block in blocks:
        left, width = map(float, re.findall(r"(?:left|width):([\d.]+)%", block["style"]))
        assert left >= 0
        assert 0 < left + width <= 100.001


def test_overlapping_tracks_of_one_name_lie_in_lanes_and_share_the_time(run: Path) -> None:
    film = tables.read_film(tables.open_run(run), _facts(run, runs.FILMS[0]))
    clock = figures.clock(film)
    last = [s for s in figures.stretches(film, clock) if s.shot == runs.FILMS[0].shots - 1]
    assert sorted(stretch.lane for stretch in last) == [0, 1]
    seen = {s.ordinal for s in film.sightings if s.character == "Bunny"}
    in_view = sum(clock.shown[ordinal] for ordinal in seen)
    assert sum(figures.screen_time(film.sightings, clock, fused=True)["Bunny"].values()) == in_view


def _gallery(run: Path, spec: runs.FilmSpec) -> tuple[list[tables.Sighting], list[tables.Sighting], pd.DataFrame]:
    film = tables.read_film(tables.open_run(run), _facts(run, spec))
    most, least = figures.extremes(film.sightings)
    return most, least, _truth(run, spec).rows


def test_the_surest_and_least_sure_are_one_per_track(run: Path, page: Page) -> None:
    most, least, rows = _gallery(run, runs.FILMS[0])
    best = rows.groupby("track").certainty.max().sort_values(ascending=False)
    assert [s.certainty for s in most] == pytest.approx(best.head(12).tolist())
    worst = rows.groupby("track").certainty.min().sort_values()
    assert [s.certainty for s in least] == pytest.approx(worst.head(12).tolist())
    for chosen in (most, least):
        assert len({s.track for s in chosen}) == len(chosen) == 12
    assert not {s.key for s in most} & {s.key for s in least}
    alts = [a["alt"] for tag, a in page.tags if tag == "img"]
    start = _truth(run, runs.FILMS[0]).shots.start_pts.min()
    for s in most + least:
        time = words.timecode(float((s.pts - start) * runs.FILMS[0].time_base))
        assert f"{s.character} at {time}, labelled {s.emotion}" in alts


def _pictures(page: Page) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    for tag, attributes in page.tags:
        if tag == "img":
            kind, data = attributes["src"].split(",", 1)
            assert kind == "data:image/webp;base64"
            picture = cv2.imdecode(np.frombuffer(base64.b64decode(data, validate=True), np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            yield attributes, picture


def test_pictures_decode_and_are_small(page: Page) -> None:
    found = list(_pictures(page))
    assert len(found) > 40
    for attributes, picture in found:
        assert picture.shape[:2] == (int(attributes["height"]), int(attributes["width"]))
        assert picture.shape[0] <= 112
        assert picture.std() > 10
        assert attributes["alt"]


def test_the_page_loads_nothing_and_runs_nothing(run: Path, page: Page) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_tables_can_be_read_aloud(page: Page) -> None:
    count = sum(tag == "table" for tag, _ in page.tags)
    assert count == sum(tag == "caption" for tag, _ in page.tags) > 5
    assert all(a.get("scope") in ("col", "row") for tag, a in page.tags if tag == "th")
    assert all(a.get("tabindex") == "0" and a["aria-label"] for _, a in page.tags if a.get("class") == "scroll")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    used |= {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")}
    assert used <= set(ids)


def test_how_the_labels_were_made_is_told(page: Page) -> None:
    assert dict(page.grid("Model pack"))["name"] == "made-up"
    assert dict(page.grid("Model pack"))["digest"] == "c3" * 32
    assert dict(page.grid("Settings"))["confidence"] == "0.25"
    assert dict(page.grid("Where the time went"))["stages: segment"] == "40.25"
    assert "not felt" in page.text
    assert "Below 35\u00a0% the label is \u2018uncertain\u2019" in page.text


def test_names_with_html_in_them_are_text(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    spec = runs.FilmSpec("films/<b onload=x>&amp;.mp4", "d4" * 32, shots=4, shot_frames=24)
    emotions = ("<i>Glad</i>", '"quoted"')
    runs.write_run(tmp_path, (spec,), characters=(evil,), emotions=emotions)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["configuration"]["<u>key</u>"] = "s3://user:secret@bucket/<u>"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    html = Path(write_report(tmp_path)).read_text(encoding="utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "b onload", "u"})
    assert "<i>Glad" not in html
    for name in (evil, "<b onload=x>&amp;.mp4", "<i>Glad</i>", '"quoted"', "<u>key</u>"):
        assert name in page.text
    assert any(evil in a.get("alt", "") for tag, a in page.tags if tag == "img")
    assert "secret" not in html


def test_a_long_film_stays_small_and_has_at_most_forty_pictures_a_character(tmp_path: Path) -> None:
    spec = runs.FilmSpec("long.mp4", "e5" * 32, shots=160, shot_frames=12)
    runs.write_run(tmp_path, (spec,))
    report = Path(write_report(tmp_path))
    assert report.stat().st_size < 2_000_000
    page = Page(report.read_text(encoding="utf-8"))
    assert sum(1 for _ in _pictures(page)) == 3 * 40 + 24
    film = tables.read_film(tables.open_run(tmp_path), _facts(tmp_path, spec))
    for name in runs.CHARACTERS:
        chosen = [s.shot for s in figures.shot_pictures(film.sightings, name)]
        shots = sorted({s.shot for s in film.sightings if s.character == name})
        places = [shots.index(shot) for shot in chosen]
        assert len(set(chosen)) == 40
        assert (places[0], places[-1]) == (0, len(shots) - 1)
        assert set(np.diff(places)) <= {len(shots) // 40, len(shots) // 40 + 1, len(shots) // 40 + 2}


def test_a_sum_that_is_off_is_said(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[1:])
    path = tmp_path / f"frames/film={runs.FILMS[1].film}/part-0.parquet"
    rows = pq.read_table(path)
    status = rows["status"].to_pylist()
    status[status.index("labelled")] = "lost"
    rows = rows.set_column(rows.schema.get_field_index("status"), rows.schema.field("status"), [status])
    pq.write_table(rows, path)
    page = Page(Path(write_report(tmp_path)).read_text(encoding="utf-8"))
    assert "1 sampled frames are neither labelled, dropped nor failed" in page.text
    assert "the manifest counts" in page.text


def test_a_manifest_without_optional_keys_is_enough(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[:1])
    (tmp_path / "manifest.json").write_text('{"schema": 1}')
    page = Page(Path(write_report(tmp_path, tmp_path / "elsewhere.html")).read_text(encoding="utf-8"))
    assert "Frank" in page.text
    assert not (tmp_path / "report.html").exists()


def test_a_film_without_characters_has_a_report(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[:1])
    for path in (tmp_path / "characters").rglob("*.parquet"):
        path.unlink()
    page = Page(Path(write_report(tmp_path)).read_text(encoding="utf-8"))
    assert "No character was found in this film" in page.text
    assert "the ledger tells of" in page.text


def test_the_attribution_follows_the_digest_or_the_caller(tmp_path: Path) -> None:
    runs.write_run(tmp_path, (runs.FilmSpec("any name.mp4", BUNNY, shots=4),))
    line = "(c) 2008 Blender Foundation, Big Buck Bunny, CC BY 3.0"
    assert Path(write_report(tmp_path)).read_text(encoding="utf-8").count(line) == 2
    own = Path(write_report(tmp_path, attribution="(c) <me>")).read_text(encoding="utf-8")
    assert own.count("(c) &lt;me&gt;") == 2
    assert line not in own


def test_the_same_table_gives_the_same_page(run: Path, page: Page) -> None:
    before = (run / "report.html").read_bytes()
    assert Path(write_report(str(run))).read_bytes() == before
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


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
    page = Page(Path(write_report(_run_over(clip, tmp_path))).read_text(encoding="utf-8"))
    found = list(_pictures(page))
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
    page = Page(Path(write_report(run)).read_text(encoding="utf-8"))
    assert page.text.count("Some pictures are missing") == 1
    assert why in page.text
    assert not list(_pictures(page))
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
