"""The report says what the tables say: numbers are computed a second time here, with pandas."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from insideout import schema
from insideout.report import choice, findings, pictures, words, write_report
from insideout.report import page as report_page
from insideout.stats.run import analyse_run
from tests import runs
from tests.pages import Page, data_of, decoded, report_of

BUNNY = "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0"
MATRIX = "Screen time of each character by emotion"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "RESAMPLES", 200)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = runs.write_run(tmp_path_factory.mktemp("run"))
    analyse_run(folder, resamples=200)
    return folder


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    films = (runs.FilmSpec("long.mp4", "e5" * 32, shots=40, shot_frames=24), runs.FILMS[1])
    folder = runs.write_run(tmp_path_factory.mktemp("long"), films)
    analyse_run(folder, resamples=100)
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    written = Path(write_report(run))
    assert written == run / "report.html"
    return written.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def data(html: str) -> dict[str, Any]:
    return data_of(html)


def _truth(run: Path, spec: runs.FilmSpec) -> SimpleNamespace:
    """Screen time worked out from the Parquet files by another way than the report's."""
    ledger = pd.read_parquet(run / f"frames/film={spec.film}").sort_values("ordinal").reset_index(drop=True)
    rows = pd.read_parquet(run / f"characters/film={spec.film}", columns=None).sort_values(["ordinal", "track"])
    shots = pd.read_parquet(run / f"shots/film={spec.film}").set_index("shot")
    # A frame stands until the next one of its shot, the first one from where the shot begins, the last to its end.
    begin = ledger.pts.where(ledger.shot.diff() != 0)
    begin = begin.mask(begin.notna(), ledger.shot.map(shots.start_pts)).fillna(ledger.pts)
    end = begin.groupby(ledger.shot).shift(-1).fillna(ledger.shot.map(shots.end_pts))
    ledger["seconds"] = (end - begin) * float(spec.time_base)
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
def test_screen_time_is_what_the_tables_say(run: Path, page: Page, which: int) -> None:
    truth = _truth(run, runs.FILMS[which])
    want = truth.rows.groupby(["character", "emotion"]).seconds.sum()
    texts, values = page.grid(MATRIX, which), page.values(MATRIX, which)
    emotions = texts[0][1:-2]
    assert emotions == [*runs.EMOTIONS, "uncertain"]
    assert {row[0] for row in texts[1:]} == set(truth.rows.character)
    for text, value in zip(texts[1:], values[1:], strict=True):
        total = want[text[0]].sum()
        assert value[-2] == pytest.approx(total, abs=1e-5)
        assert float(text[-1].rstrip(" %")) == pytest.approx(100 * total / truth.ledger.seconds.sum(), abs=0.51)
        for place, emotion in enumerate(emotions, start=1):
            seconds = want.get((text[0], emotion), 0.0)
            assert value[place] == pytest.approx(seconds, abs=1e-5)
            if not seconds:
                assert re.fullmatch("0 %\\s*(\\d+\u2013\\d+ %|no interval)0 s", text[place]), text[place]
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
    held = truth.ledger[truth.ledger.reason.fillna("").str.startswith("duplicate_of")]
    shown, rest = (words.seconds(held[held.carried == carried].seconds.sum()) for carried in (True, False))
    told = f"Duplicates: {words.plural(len(held), 'frame')}; {shown} of these show labels, {rest} nobody."
    assert told.replace("\u00a0", " ") in text


def test_time_with_and_without_labels_is_all_of_the_film(run: Path, page: Page) -> None:
    text = " ".join(page.text.split())
    for spec in runs.FILMS:
        ledger = _truth(run, spec).ledger
        carried = ledger[ledger.carried].seconds.sum()
        told = f"Of {words.seconds(ledger.seconds.sum())} of film, {words.seconds(carried)} carry labels; the rest: "
        told = told.replace("\u00a0", " ")
        assert told in text
        rest = text[text.index(told) + len(told) :].partition(". ")[0] + "."
        lengths = [float(value) for value in re.findall(r"([\d.]+) s[,.]", rest)]
        assert sum(lengths) == pytest.approx(ledger[~ledger.carried].seconds.sum(), abs=0.06 * len(lengths))


@pytest.mark.parametrize("which", [0, 1])
def test_every_track_is_on_the_timeline_where_it_is_in_the_film(
    run: Path, page: Page, data: dict[str, Any], which: int
) -> None:
    spec = runs.FILMS[which]
    truth = _truth(run, spec)
    film = data["films"][which]
    drawn = {track[0]: track for track in film["tracks"]}
    assert set(drawn) == set(truth.rows.track)
    first = truth.shots.start_pts.min()
    for character, rows in truth.rows.groupby("character"):
        grid = page.grid(f"{character}: one row per track", which)[1:]
        assert sorted(int(row[3]) for row in grid) == sorted(rows.track.unique())
        for start, _, shot, track, emotion, certain, seconds, frames in grid:
            own = rows[rows.track == int(track)]
            _, who, in_shot, begin, end, fused, certainty, length, count, *_, read = drawn[int(track)]
            assert int(shot) == in_shot == own.shot.iloc[0]
            assert emotion == film["readings"][fused] == own.track_emotion.iloc[0]
            assert film["characters"][who] == character
            assert int(frames) == count == len(own)
            seen = Fraction(int(own.pts.min() - first)) * spec.time_base
            cut = Fraction(int(truth.shots.start_pts[in_shot] - first)) * spec.time_base
            assert float(cut) - 1e-3 <= begin <= float(seen) + 1e-3  # the first frame of a shot stands from its cut on
            assert start == words.timecode(begin)
            assert begin < end <= film["shots"][list(truth.shots.index).index(in_shot)][1] + 1e-3
            assert certainty == pytest.approx(own.certainty.mean(), abs=0.006)
            assert certain == words.percent(own.certainty.mean()).replace("\u00a0", " ")
            assert length == pytest.approx(own.seconds.sum(), abs=0.006)
            assert seconds == f"{own.seconds.sum():.1f} s"
            by = own.groupby("emotion").seconds.sum()
            assert {film["readings"][e]: s for e, s in zip(read[::2], read[1::2], strict=True)} == pytest.approx(
                by.to_dict(), abs=0.006
            )


def test_arcs_stand_in_a_table_too(long_run: Path) -> None:
    _, page = report_of(long_run)
    film = runs.FILMS[1].film
    points = {
        (row["character"], row["emotion"], words.timecode(row["time_s"])): row
        for row in _analysis(long_run)["arc"]
        if row["film"] != film
    }
    checked = 0
    for caption in [caption for caption in page.tables if caption.endswith(" over the film")]:
        head, *rows = page.grid(caption)
        for time, *cells in rows:
            for emotion, cell in zip(head[1:], cells, strict=True):
                point = points[caption.removesuffix(" over the film"), emotion, time]
                share = words.percent(point["share"]).replace("\u00a0", " ")
                assert cell == f"{share} {100 * point['low']:.0f}\u2013{100 * point['high']:.0f} %"
                checked += 1
    assert checked >= 15


def test_overlapping_tracks_of_one_name_share_the_height(data: dict[str, Any]) -> None:
    last = [track for track in data["films"][0]["tracks"] if track[2] == runs.FILMS[0].shots - 1]
    assert sorted(track[9] for track in last) == [0, 1]
    assert {track[10] for track in last} == {2}
    assert {track[10] for track in data["films"][0]["tracks"] if track[2] < 2} == {1}


def test_every_figure_shows_frames_of_its_own_rows_only(run: Path, data: dict[str, Any]) -> None:
    table = f"read_parquet('{run}/analysis/screen.parquet')"
    checked = 0
    for film in data["films"]:
        for title, _, frames, rows, condition, *_ in film["figures"]:
            sql = f"WITH screen AS (FROM {table}) SELECT DISTINCT labelled_ordinal, track FROM screen WHERE {condition}"
            meant = set(duckdb.sql(sql).fetchall())
            shown = {(film["frames"][place][0], film["frames"][place][3]) for place in frames}
            if "then" in title:  # of tracks: the condition picks the same ones
                assert shown <= meant
                continue
            count = f"WITH screen AS (FROM {table}) SELECT count(*) FROM screen WHERE {condition}"
            assert duckdb.sql(count).fetchall() == [(rows,)], title
            assert shown <= meant, title
            assert len(shown) == len(frames) <= choice.SHOWN
            assert bool(shown) == bool(meant), title
            checked += 1
    assert checked > 60


def test_the_frames_of_a_cell_are_all_there_are_or_evenly_over_its_shots(run: Path, data: dict[str, Any]) -> None:
    film = data["films"][0]
    rows = _truth(run, runs.FILMS[0]).rows
    seen = 0
    for title, _, frames, *_ in film["figures"]:
        match = re.fullmatch(r"(\w+), read as (\w+)", title)
        if match is None:
            continue
        own = rows[(rows.character == match[1]) & (rows.emotion == match[2])]
        assert len(frames) == min(len(own), choice.SHOWN)
        assert {film["frames"][place][2] for place in frames} == set(own.shot)
        seen += len(own) > choice.SHOWN
    assert seen


def test_the_surest_and_least_sure_are_one_per_track(run: Path, page: Page) -> None:
    rows = _truth(run, runs.FILMS[0]).rows
    galleries = _galleries(page)
    start = _truth(run, runs.FILMS[0]).shots.start_pts.min()
    best, worst = rows.loc[rows.groupby("track").certainty.idxmax()], rows.loc[rows.groupby("track").certainty.idxmin()]
    for label, chosen in (
        ("Most certain", best.nlargest(12, "certainty")),
        ("Least certain", worst.nsmallest(12, "certainty")),
    ):
        want = []
        for row in chosen.itertuples():
            time = words.timecode(float((row.pts - start) * runs.FILMS[0].time_base))
            want.append(f"{row.character} at {time}, read as {row.emotion}")
        assert galleries[label][0] == want


def _galleries(page: Page) -> dict[str, list[list[str]]]:
    """The descriptions of the pictures of each gallery, by its label."""
    found: dict[str, list[list[str]]] = {}
    label = None
    for tag, attributes in page.tags:
        if tag == "ul":
            label = attributes.get("aria-label") if "gallery" in attributes.get("class", "") else None
            if label:
                found.setdefault(label, []).append([])
        elif tag == "img" and label:
            found[label][-1].append(attributes["alt"])
    return found


def test_pictures_decode_and_are_small(page: Page) -> None:
    found = list(page.pictures())
    assert len(found) > 40
    for attributes, picture in found:
        assert picture.shape[:2] == (int(attributes["height"]), int(attributes["width"]))
        assert picture.shape[0] <= pictures.PORTRAIT
        assert picture.std() > 10
        assert attributes["alt"]


def test_what_is_in_a_gallery_is_not_kept_for_the_script_again(page: Page, data: dict[str, Any]) -> None:
    shown = {attributes["data-picture"] for attributes, _ in page.pictures()}
    for n, film in enumerate(data["films"], 1):
        for place, frame in enumerate(film["frames"]):
            held = frame[-1]
            assert (f"{n}-{place}" in shown) == (held == 1)
            if held != 1:
                assert decoded(held).std() > 10
    held = [frame[-1] for film in data["films"] for frame in film["frames"]]
    assert any(isinstance(one, str) for one in held)


def test_the_page_loads_nothing_and_runs_its_own_scripts_only(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == parts["connect-src"] == "'none'"
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert parts["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(scripts) == 2
    assert sum(tag == "script" for tag, _ in page.tags) == 3  # and the data, which does not run
    own = scripts[1]
    assert "ast: true" in own  # else Vega evaluates expressions, which the policy does not allow
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way not in own


def test_what_can_be_opened_is_a_button(page: Page, data: dict[str, Any]) -> None:
    opened = [(tag, a) for tag, a in page.tags if {"data-figure", "data-track", "data-frame"} & set(a)]
    assert len(opened) > 100
    for tag, attributes in opened:
        assert (tag, attributes["type"]) == ("button", "button")
        film = data["films"][int(attributes["data-film"])]
        if "data-figure" in attributes:
            assert int(attributes["data-figure"]) < len(film["figures"])
        elif "data-frame" in attributes:
            assert int(attributes["data-frame"]) < len(film["frames"])
        else:
            assert int(attributes["data-track"]) in {track[0] for track in film["tracks"]}


def test_tables_can_be_read_aloud(page: Page) -> None:
    count = sum(tag == "table" for tag, _ in page.tags)
    assert count == sum(tag == "caption" for tag, _ in page.tags) > 5
    assert all(a.get("scope") in ("col", "row") for tag, a in page.tags if tag == "th")
    assert all(a.get("tabindex") == "0" and a["aria-label"] for _, a in page.tags if a.get("class") == "scroll")
    assert all(a["role"] == "img" and a["aria-label"] for _, a in page.tags if a.get("class") == "chart")
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


def test_the_answer_is_that_of_the_analysis_and_says_what_is_not_supported(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[:1])
    rows = [
        {
            "film": "other", "scene": str(shot // 3), "shot": str(shot), "character": who, "emotion": true,
            "guess": true if who == "Bunny" else runs.EMOTIONS[0], "answered": True, "crops": 2,
        }
        for shot in range(30)
        for who in ("Bunny", "Frank")
        for true in (runs.EMOTIONS[shot % 5],)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=schema.stamp(schema.CONFUSION, ""))
    pq.write_table(table, tmp_path / "confusion.parquet")
    analyse_run(tmp_path, resamples=200)
    found = _analysis(tmp_path)
    _, page = report_of(tmp_path)
    text = " ".join(page.text.split())
    usual = {}
    for name in runs.CHARACTERS:
        own = [row for row in found["shares"] if row["character"] == name and row["emotion"] != "uncertain"]
        usual[name] = max(own, key=lambda row: row["share"])
        low, high = usual[name]["low"], usual[name]["high"]
        told = f"{name} is read as {usual[name]['emotion']} for {100 * low:.0f}\u2013{100 * high:.0f} % of"
        assert told in text
    tests = {(test["character"], test["emotion"]): test for test in found["always"]}
    bunny, gamera = (tests[name, usual[name]["emotion"]] for name in ("Bunny", "Gamera"))
    assert bunny["refuted"]
    assert gamera["by"] == "all characters"  # none of the labelled crops is Gamera's
    told = f"Bunny is not always {bunny['emotion']}"
    if gamera["refuted"]:
        told += f" and Gamera not always {gamera['emotion']}."
    else:
        low, high = usual["Gamera"]["low"], usual["Gamera"]["high"]
        told += f". Gamera is read as {gamera['emotion']} for {100 * low:.0f}\u2013{100 * high:.0f} % of the time; the"
    assert told in text
    rate = f"{words.percent(bunny['recall'])} of labelled {bunny['emotion']} crops".replace("\u00a0", " ")
    assert f"\u201calways\u201d is refuted, {words.p_value(bunny['p'])}: the classifier reads {rate} as" in text
    # Who is not supported is said in words wherever its figures are, not by faint colours only.
    for title in ("what follows what", "with whom"):
        assert f"Frank: {title} not supported" in text
        assert f"Bunny: {title} not supported" not in text
    assert "Frank not supported 0:" in text.partition(" Faces ")[2]
    assert "Of Frank the model cannot tell." in text
    assert text.count("Not supported: the classifier") == 1
    grid = page.grid("How crops of scenes that the classifier had not seen were read")
    assert [row[0] for row in grid[1:]] == list(runs.EMOTIONS)
    # Angry: Bunny's read rightly, Frank's as Afraid
    assert [int(cell) for cell in grid[2][1:-1]] == [12, 12, 0, 0, 0, 0, 24, 24]
    assert grid[2][-1] == "12 (50 %)"
    assert "Of 120 labelled crops of scenes that the classifier had not seen, it left 0 (0 %) unanswered" in text
    assert "It answered 120, and 72 of these answers are right (60 %): 60 % of all crops." in text
    own = {row[0]: row[-3:-1] for row in page.grid("Does the classifier tell a character's emotions apart?")[1:]}
    assert own == {"Bunny": ["60", "60 (100 %)"], "Frank": ["60", "12 (20 %)"], "Gamera": ["\u2013", "\u2013"]}
    support = {row[0]: row[1] for row in page.grid("Does the classifier tell a character's emotions apart?")[1:]}
    assert support == {"Bunny": "yes", "Frank": "no", "Gamera": "not known"}


def test_figures_of_insideout_analyse_are_shown_while_they_are_of_this_run(tmp_path: Path) -> None:
    runs.write_run(tmp_path, runs.FILMS[:1])
    _, page = report_of(tmp_path)
    assert "computed for this page with 200 resamples" in page.text
    assert not (tmp_path / "analysis").exists()
    scenes = tmp_path / "scenes.csv"
    scenes.write_text("scene,start_ordinal,end_ordinal\n" + "".join(f"{i},{96 * i},{96 * i + 96}\n" for i in range(6)))
    analyse_run(tmp_path, scenes=scenes, resamples=300, seed=5)
    shares = {(row["character"], row["emotion"]): row for row in _analysis(tmp_path)["shares"]}
    _, page = report_of(tmp_path)
    assert "those of insideout analyse, 300 resamples, seed 5" in page.text
    assert "over scenes" in page.text
    texts = page.grid(MATRIX)
    for text in texts[1:]:
        for emotion, cell in zip(texts[0][1:-2], text[1:-2], strict=True):
            row = shares[text[0], emotion]
            if row["rows"] and row["scene_low"] is not None:
                assert f"{100 * row['scene_low']:.0f}\u2013{100 * row['scene_high']:.0f} %" in cell
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"created": "2026-01-03T00:00:00Z"}))
    _, page = report_of(tmp_path)
    assert "left in this folder is of an earlier state of the run; computed for this page" in page.text
    assert "those of insideout analyse" not in page.text


def _analysis(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "analysis/analysis.json").read_text())
    return content


def test_names_with_html_in_them_are_text(tmp_path: Path) -> None:
    evil = '</script><script>alert("1")</script>'
    spec = runs.FilmSpec("films/<b onload=x>&amp;.mp4", "d4" * 32, shots=4, shot_frames=24)
    emotions = ("<i>Glad</i>", '"quoted"')
    runs.write_run(tmp_path, (spec,), characters=(evil,), emotions=emotions)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["configuration"]["<u>key</u>"] = "s3://user:secret@bucket/<u>"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    html, page = report_of(tmp_path)
    assert {tag for tag, _ in page.tags}.isdisjoint({"b onload", "u"})
    assert sum(tag == "script" for tag, _ in page.tags) == html.count("<script") == 3
    assert "<i>Glad" not in html
    for name in (evil, "<b onload=x>&amp;.mp4", "<i>Glad</i>", '"quoted"', "<u>key</u>"):
        assert name in page.text
    assert any(evil in a.get("alt", "") for tag, a in page.tags if tag == "img")
    assert data_of(html)["films"][0]["characters"] == [evil]
    assert "secret" not in html


def test_pictures_are_fewer_and_smaller_where_the_page_would_be_too_large(
    long_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, counts, sides = [], [], []
    for limit in (9_500_000, 1_600_000, 1_400_000, 1_000_000):
        monkeypatch.setattr(report_page, "LIMIT", limit)
        html, page = report_of(long_run)
        sizes.append(len(html.encode()))
        found = [picture for _, picture in page.pictures()]
        held = [frame[-1] for film in data_of(html)["films"] for frame in film["frames"]]
        counts.append(len(found) + sum(isinstance(one, str) for one in held))
        sides.append(max((len(picture) for picture in found), default=0))
        assert limit == 1_000_000 or sizes[-1] <= limit
        if counts[-1]:  # room is shared: each film has its faces
            assert {a["data-picture"].split("-")[0] for a, _ in page.pictures()} == {"1", "2"}
    assert counts[0] >= counts[1] > counts[2] > counts[3] == 0
    assert sizes[0] > 1_600_000, sizes
    assert sides[0] > sides[2]


def test_the_same_table_gives_the_same_page(run: Path, html: str) -> None:
    said: list[str] = []
    assert Path(write_report(str(run), say=said.append)).read_text(encoding="utf-8") == html
    assert any("meadow.mp4" in what for what in said)
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
