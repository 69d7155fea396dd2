"""`insideout analyse`: a run goes in, answers and tables come out, and every figure leads back to its rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from insideout import schema
from insideout.errors import DataError, OutputError, UsageError
from insideout.stats.run import RunAnalysis, analyse_run
from pipelines.cli import app
from tests.runs import EMOTIONS, FILMS, write_run

RESAMPLES = 200


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), crops=False)
    rows = [
        {
            "film": "other", "scene": str(shot // 3), "shot": str(shot), "character": who, "emotion": true,
            "guess": true if shot % 4 else EMOTIONS[0], "answered": bool(shot % 5), "crops": 2,
        }
        for shot in range(30)
        for who in ("Bunny", "Frank")
        for true in (EMOTIONS[shot % 5],)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=schema.stamp(schema.CONFUSION, ""))
    pq.write_table(table, folder / "confusion.parquet")
    return folder


@pytest.fixture(scope="module")
def analysed(run: Path) -> RunAnalysis:
    return analyse_run(run, resamples=RESAMPLES)


def test_every_share_is_the_sum_of_the_rows_it_names(run: Path, analysed: RunAnalysis) -> None:
    screen = duckdb.read_parquet(str(run / "analysis" / "screen.parquet"))
    checked = 0
    for row in pq.read_table(run / "analysis" / "shares.parquet").to_pylist():
        sums = "coalesce(sum(seconds), 0), count(*), list(DISTINCT shot ORDER BY shot)"
        (seconds, rows, shots), *_ = duckdb.sql(f"SELECT {sums} FROM screen WHERE {row['condition']}").fetchall()
        assert seconds == pytest.approx(row["seconds"])
        assert rows == row["rows"]
        assert (shots or []) == row["shot_list"]
        checked += rows > 0
    assert checked > 10
    assert screen.shape[0] == sum(len(film.screen.ordinal) for film in analysed.films)
    for row in pq.read_table(run / "analysis" / "together.parquet").to_pylist():
        ((seconds,),) = duckdb.sql(f"SELECT sum(seconds) FROM screen WHERE {row['condition']}").fetchall()
        assert seconds == pytest.approx(row["seconds"])


def test_every_row_on_screen_is_a_row_of_the_label_table(run: Path, analysed: RunAnalysis) -> None:
    label_table = f"read_parquet('{run}/characters/*/*.parquet', hive_partitioning = false)"
    screen = f"'{run}/analysis/screen.parquet'"
    ((lost, other),) = duckdb.sql(
        "SELECT count(*) FILTER (l.track IS NULL),"
        " count(*) FILTER (l.emotion <> s.emotion OR l.character <> s.character)"
        f" FROM {screen} s LEFT JOIN {label_table} l"
        " ON l.film = s.film AND l.ordinal = s.labelled_ordinal AND l.track = s.track"
    ).fetchall()
    assert (lost, other) == (0, 0)
    unused = duckdb.sql(
        f"SELECT count(*) FROM {label_table} l ANTI JOIN {screen} s"
        " ON l.film = s.film AND l.ordinal = s.labelled_ordinal AND l.track = s.track"
    ).fetchall()
    assert unused == [(0,)]


def test_the_same_seed_gives_the_same_figures(run: Path, analysed: RunAnalysis) -> None:
    before = (run / "analysis" / "analysis.json").read_text()
    analyse_run(run, resamples=RESAMPLES)
    assert (run / "analysis" / "analysis.json").read_text() == before
    analyse_run(run, resamples=RESAMPLES, seed=1)
    other = json.loads((run / "analysis" / "analysis.json").read_text())
    assert other["seed"] == 1
    was = json.loads(before)
    assert [row["share"] for row in other["shares"]] == [row["share"] for row in was["shares"]]
    assert [row["low"] for row in other["shares"]] != [row["low"] for row in was["shares"]]
    analyse_run(run, resamples=RESAMPLES)


def test_what_is_written_says_how_it_was_made(run: Path, analysed: RunAnalysis) -> None:
    content = json.loads((run / "analysis" / "analysis.json").read_text())
    assert content["resamples"] == RESAMPLES
    names = {"shares", "always", "association", "residuals", "transitions", "dwell", "arc", "together", "support"}
    assert names <= set(content)
    assert names == set(content["definitions"])
    for name in names:
        with (run / "analysis" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(content[name]) == pq.read_table(run / "analysis" / f"{name}.parquet").num_rows
        for column in rows[0]:
            assert column in content[name][0]
    marked = {row["character"]: row["supported"] for row in content["shares"]}
    assert marked["Bunny"] is True
    assert marked["Gamera"] is None
    assert all(row["corrected"] is None for row in content["shares"] if row["character"] == "Gamera")
    assert any(row["corrected"] is not None for row in content["shares"] if row["character"] == "Bunny")


def test_the_answer_is_in_plain_words_and_fits_a_screen(run: Path) -> None:
    done = CliRunner().invoke(app, ["analyse", str(run), "--resamples", "200"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert len(lines) < 50
    assert any(line.startswith("Bunny: ") for line in lines)
    assert sum("is read as" in line for line in lines) == 6
    read = next(line for line in lines if line.startswith("  as read"))
    assert all(emotion in read for emotion in EMOTIONS)  # also those with no share
    assert "feels" not in done.output
    assert "varying rate.mkv" in done.output
    printed = CliRunner().invoke(app, ["analyse", str(run), "--resamples", "200", "--json"])
    assert json.loads(printed.output) == json.loads((run / "analysis" / "analysis.json").read_text())


def test_scenes_are_those_of_the_table_by_most_frames(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "scenes.csv"
    rows = ["film,scene,start_ordinal,end_ordinal"]
    for spec in FILMS:
        length = spec.shots * spec.shot_frames
        cut = spec.shot_frames * 2 + 5  # five frames of shot 2 belong to scene 0, most of it to scene 1
        rows += [f"{spec.film},0,0,{cut}", f"{spec.film},1,{cut},{length}"]
    path.write_text("\n".join(rows))
    found = analyse_run(run, scenes=path, resamples=RESAMPLES)
    film = found.films[0].screen
    assert {int(s) for s in film.scene[film.shot < 2]} == {0}
    assert {int(s) for s in film.scene[film.shot >= 2]} == {1}
    assert found.films[0].shares[0].scenes == 2
    assert not any("scenes are not known" in note for note in found.notes)
    path.write_text("\n".join(rows[:2]))
    with pytest.raises(DataError, match="is in no scene"):
        analyse_run(run, scenes=path, resamples=RESAMPLES)
    path.write_text("scene,start_ordinal,end_ordinal\n0,0,1000")
    with pytest.raises(DataError, match="add a column 'film'"):
        analyse_run(run, scenes=path, resamples=RESAMPLES)
    path.write_text("scene,start_ordinal\n0,0")
    with pytest.raises(DataError, match="no column end_ordinal"):
        analyse_run(run, scenes=path, resamples=RESAMPLES)


def test_labels_correct_and_labels_of_another_run_are_refused(run: Path, analysed: RunAnalysis, tmp_path: Path) -> None:
    film = analysed.films[0].screen
    own = np.flatnonzero(film.ordinal == film.labelled)[::2]
    path = tmp_path / "labels.csv"
    rows = [f"{film.film},{film.ordinal[i]},{film.track[i]},Happy" for i in own.tolist()]
    path.write_text("\n".join(["film,ordinal,track,emotion", *rows]))
    found = analyse_run(run, labels=path, resamples=RESAMPLES)
    happy = next(r for r in found.films[0].shares if (r.character, r.emotion) == ("Bunny", "Happy"))
    # All labels say Happy, so the difference of label and reading makes up for whatever was read.
    assert happy.powered == pytest.approx(1, abs=0.15)
    assert happy.powered > happy.share
    assert any(f"has {len(own)} rows: {len(own)} with an emotion of a row" in note for note in found.notes)
    assert any(note.endswith("has no row of this film, so nothing is estimated by labels") for note in found.notes)
    path.write_text("\n".join(["film,ordinal,track,emotion", *rows, rows[0].replace("Happy", "Angry")]))
    with pytest.raises(DataError, match="another label"):
        analyse_run(run, labels=path, resamples=RESAMPLES)
    path.write_text(f"film,ordinal,track,emotion\n{film.film},1,99999,Happy")
    with pytest.raises(DataError, match="match no character"):
        analyse_run(run, labels=path, resamples=RESAMPLES)
    path.write_text(f"film,ordinal,track,emotion\n{film.film},four,1,Happy")
    with pytest.raises(DataError, match="line 2: ordinal 'four'"):
        analyse_run(run, labels=path, resamples=RESAMPLES)


def test_what_became_of_every_row_of_the_labels_is_told(run: Path, analysed: RunAnalysis, tmp_path: Path) -> None:
    film = analysed.films[0].screen
    path = tmp_path / "labels.csv"
    keys = [f"{film.film},{film.ordinal[i]},{film.track[i]}" for i in range(4)]
    given = [f"{keys[0]},Happy,", f"{keys[1]},Happy,-", f"{keys[2]},,Frank", f"{keys[3]},,", f"{film.film},1,1,,-"]
    path.write_text("\n".join(["film,ordinal,track,emotion,as_character", *given]))
    found = analyse_run(run, labels=path, resamples=RESAMPLES)
    told = [note for note in found.notes if note.startswith(f"meadow.mp4: {path}")]
    assert told[0].endswith(
        "has 5 rows: 1 with an emotion of a row of the run, 2 '-' (not a character, left out),"
        " 1 with only a name (not used here), 1 without emotion and name (left out)"
    )
    who = film.characters[film.character[0]]
    assert f"{who} (labels in 1 shot)" in told[1]
    assert told[1].endswith("labels in 5 shots are needed for each")
    assert all(row.powered is None for row in found.films[0].shares)


@pytest.mark.parametrize("option", ["--labels", "--scenes"])
def test_a_table_that_is_not_there_is_named(run: Path, tmp_path: Path, option: str) -> None:
    done = CliRunner().invoke(app, ["analyse", str(run), option, str(tmp_path / "none.csv")])
    assert done.exit_code != 0
    assert "none.csv: there is no such file" in str(done.exception or done.output)


def test_errors_of_another_pack_are_refused(run: Path, pack: Path) -> None:
    with pytest.raises(UsageError, match="errors of another"):
        analyse_run(run, pack=pack, resamples=RESAMPLES)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not a finished run"):
        analyse_run(write_run(tmp_path, crops=False, finished=False))


def test_a_run_without_errors_or_characters_says_so(tmp_path: Path) -> None:
    found = analyse_run(write_run(tmp_path, crops=False), resamples=RESAMPLES)
    assert any("not corrected" in note for note in found.notes)
    assert all(row.corrected is None and row.supported is None for film in found.films for row in film.shares)
    for part in tmp_path.glob("characters/*/*.parquet"):
        pq.write_table(pq.read_table(part, partitioning=None).slice(0, 0), part)
    empty = analyse_run(tmp_path, resamples=RESAMPLES)
    assert empty.films == []
    assert sum("no character was found" in note for note in empty.notes) == 2
