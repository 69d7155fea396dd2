"""Questions in SQL: the answers are right, and a question reaches nothing but the run's tables."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from insideout.ask import QUESTIONS, asking
from insideout.errors import OutputError, UsageError
from insideout.outfile import new_file
from insideout.rows import print_rows, unique
from insideout.stats.run import analyse_run
from pipelines.cli import app
from tests.runs import FILMS, write_run
from tests.unit.test_cli import insideout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films, analysed."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    analyse_run(folder, resamples=100)
    return folder


def rows(run: Path | str, query: str) -> list[tuple[Any, ...]]:
    with asking(run) as asker:
        answer = asker.ask(query)
        return [tuple(row.values()) for batch in answer.batches for row in batch.to_pylist()]


def ask(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["ask", *map(str, arguments)])


def refusal(*arguments: object) -> str:
    """What the command says where it refuses: one line."""
    error = ask(*arguments).exception
    assert isinstance(error, UsageError)
    assert "\n" not in str(error)
    return str(error)


def table(run: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of a table, read without DuckDB."""
    return [row for path in sorted(run.glob(f"{kind}/*/*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]


def test_the_answer_is_what_the_parquet_files_say(run: Path) -> None:
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for row in table(run, "characters"):
        counted[row["character"], row["emotion"]] += 1
    found = rows(run, "select character, emotion, count(*) from characters group by all")
    assert {(who, emotion): n for who, emotion, n in found} == counted
    # Both films, and tables joined.
    joined = rows(run, "select path, count(*) from characters join films using (film) group by all order by all")
    assert [path for path, _ in joined] == sorted(spec.path for spec in FILMS)
    assert sum(n for _, n in joined) == sum(counted.values())


def test_the_tables_of_the_analysis_can_be_asked(run: Path) -> None:
    seconds: dict[str, float] = defaultdict(float)
    for row in pq.read_table(run / "analysis/screen.parquet").to_pylist():
        seconds[row["character"]] += row["seconds"]
    assert dict(rows(run, "select character, sum(seconds) from screen group by all")) == pytest.approx(seconds)
    assert rows(run, "select count(*) > 0 from shares") == [(True,)]


def test_without_a_question_tables_columns_units_and_questions_are_told(run: Path) -> None:
    done = ask(run)
    assert done.exit_code == 0, done.output
    count = len(table(run, "characters"))
    assert f"characters: a row per character in each labelled frame ({count} rows)" in done.output
    assert re.search(r"box_w +FLOAT +width in pixels", done.output)
    assert re.search(r"pts +BIGINT +presentation time stamp in units of the film's time base", done.output)
    assert "  film, character, track, shot, scene, ordinal," in done.output  # of screen
    for _, query in QUESTIONS:
        assert f'insideout ask {run} "{query}"' in done.output
        assert ask(run, query).exit_code == 0


def test_a_table_says_how_many_rows_are_shown_and_how_many_there_are(run: Path) -> None:
    count = len(table(run, "characters"))
    done = ask(run, "select ordinal, character from characters", "--rows", 3)
    assert done.exit_code == 0
    assert done.output.splitlines()[0].split() == ["ordinal", "character"]
    assert len(done.output.splitlines()) == 5
    assert f"(3 of {count} rows; --rows {count} prints all)" in done.output
    assert "兎が嬉しい   1" in ask(run, "select '兎が嬉しい' as name, 1 as a").output  # letters twice as wide
    assert "(1 row)" in ask(run, "select 1 as one").output
    assert "(0 rows)" in ask(run, "from characters select ordinal where false").output


def test_each_format_holds_the_same_rows(run: Path, tmp_path: Path) -> None:
    query = "select ordinal, character, certainty, probabilities, crop, sum(track) over () as sum from characters"
    for kind in ("csv", "json", "parquet", "txt"):
        assert ask(run, query, "--out", tmp_path / f"out.{kind}").exit_code == 0
    whole = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(whole) == len(table(run, "characters"))
    as_json = json.loads((tmp_path / "out.json").read_text())
    as_csv = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(), newline="")))
    assert len(as_json) == len(as_csv) == len(whole)
    for row, other, text in zip(whole, as_json, as_csv, strict=True):
        assert (row["ordinal"], row["character"]) == (other["ordinal"], other["character"])
        assert other["probabilities"] == pytest.approx(dict(row["probabilities"]))
        assert bytes.fromhex(other["crop"]) == row["crop"] == bytes.fromhex(text["crop"])
        assert other["sum"] == int(row["sum"]) == int(text["sum"])
        assert float(text["certainty"]) == pytest.approx(row["certainty"])
        assert json.loads(text["probabilities"]) == other["probabilities"]
    assert (tmp_path / "out.txt").read_text().endswith(f"({len(whole)} rows)\n")
    assert json.loads(ask(run, query, "--format", "json").output) == as_json
    assert ask(run, query, "--format", "csv").output == (tmp_path / "out.csv").read_text()
    assert json.loads(ask(run, "select 1 where false", "--format", "json").output) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.json", "out.parquet", "out.txt"]


def test_a_file_is_written_whole_or_not_at_all(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.csv"
    query = "select case when i = 499999 then 'x' else '1' end::int from range(500000) t(i)"  # fails on its last row
    assert "Could not convert string 'x' to INT32" in refusal(run, query, "--out", out)
    assert not out.parent.exists() or not list(out.parent.iterdir())
    out.parent.mkdir(exist_ok=True)
    out.write_text("older")
    refusal(run, query, "--out", out)
    assert out.read_text() == "older"
    assert ask(run, "select 1 as one", "--out", out).exit_code == 0
    assert out.read_text() == "one\n1\n"
    with pytest.raises(UsageError, match="is a folder"), new_file(tmp_path):
        pass


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["select mood from characters"], '"mood" not found.*; characters has film, ordinal, pts, time_s, shot, track'),
        (["select * from people"], "people does not exist.*; the tables are characters, frames, shots, films, always"),
        (["selec 1"], 'syntax error at or near "selec"'),
        (["select 1; select 2"], "2 statements in the query"),
        ([" -- nothing"], "the query is empty; ask one"),
        ([""], "the query is empty; ask one"),
        (["select 1", "--format", "xml"], "--format xml is not known; choose --format table, csv, json or parquet"),
        (["select 1", "--out", "out.xlsx"], "out.xlsx: a file of this suffix is not known"),
        (["select 1", "--format", "parquet"], "needs --out FILE"),
        (["--format", "csv"], "for the answer to a question"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(run: Path, arguments: list[str], says: str) -> None:
    said = refusal(run, *arguments)
    assert re.search(says, said)
    assert "LINE" not in said


def test_the_command_prints_one_line_and_no_traceback(run: Path) -> None:
    done = insideout("ask", str(run), "select mood from characters")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r'insideout: Referenced column "mood" not found[^\n]*\n', done.stderr)


def test_a_folder_that_is_no_finished_run_cannot_be_asked(run: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not a finished run"):
        rows(write_run(tmp_path / "begun", finished=False), "select 1")
    mixed = tmp_path / "mixed"
    shutil.copytree(run, mixed)
    part = next(mixed.glob("characters/*/part-1.parquet"))
    old = pq.ParquetFile(part).read()
    pq.write_table(old.replace_schema_metadata(old.schema.metadata | {b"insideout.fingerprint": b"other"}), part)
    with pytest.raises(OutputError, match="rows of two different runs"):
        rows(mixed, "select 1")
    part.write_bytes(b"PAR1 nothing")
    with pytest.raises(OutputError, match="cannot be read as Parquet"):
        rows(mixed, "select 1")


def test_a_run_on_object_storage_answers_the_same_and_takes_the_answer(run: Path) -> None:
    query = "select character, emotion, count(*) as n from characters group by all order by all"
    storage = fsspec.filesystem("memory")
    storage.put(str(run), "/bucket/run", recursive=True)
    try:
        assert rows("memory://bucket/run", query) == rows(run, query)
        assert ask("memory://bucket/run", query, "--out", "memory://bucket/answers/n.json").exit_code == 0
        assert json.loads(storage.cat("/bucket/answers/n.json")) == json.loads(
            ask(run, query, "--format", "json").output
        )
    finally:
        storage.rm("/bucket", recursive=True)


def test_without_an_analysis_the_table_of_seconds_is_offered(tmp_path: Path) -> None:
    said = refusal(write_run(tmp_path, crops=False), "select sum(seconds) from screen")
    assert f"; the tables are characters, frames, shots, films; `insideout analyse {tmp_path}` adds screen" in said


def test_a_table_that_is_missing_after_an_analysis_is_not_to_be_had_by_another(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for name in ("screen", "shares"):
        (copy / "analysis" / f"{name}.parquet").unlink()
    said = refusal(copy, "select * from shares")
    assert "Table with name shares does not exist" in said
    assert "insideout analyse" not in said
    assert 'Did you mean "screen"' in refusal(run, "select * from screens")
    said = refusal(run, "select * from pg_sequences_of")
    assert "Table with name pg_sequences_of does not exist; the tables are characters" in said, (
        "no table of DuckDB's own"
    )


def test_only_the_columns_that_a_query_names_are_read(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "damaged")
    path = next((tmp_path / "damaged").glob("characters/*/part-0.parquet"))
    data, found = bytearray(path.read_bytes()), pq.read_metadata(path).row_group(0)
    crop = next(found.column(i) for i in range(found.num_columns) if found.column(i).path_in_schema == "crop")
    start = crop.dictionary_page_offset or crop.data_page_offset
    data[start : start + crop.total_compressed_size] = b"\xff" * crop.total_compressed_size
    path.write_bytes(data)
    assert rows(tmp_path / "damaged", "select count(*), max(certainty) <= 1 from characters")[0][1]
    with pytest.raises(UsageError):
        rows(tmp_path / "damaged", "select max(length(crop)) from characters")


def test_names_in_an_answer_cannot_steer_the_terminal(tmp_path: Path) -> None:
    folder = write_run(tmp_path, crops=False, characters=("Bunny", "a\x1b]0;owned\x07\u202e[bold]b", "Gamera"))
    query = 'select distinct character, 1 as "x\x1b[2J" from characters order by all'
    for form in ("table", "csv", "json"):
        done = ask(folder, query, "--format", form)
        assert done.exit_code == 0, done.output
        assert "owned" in done.output
        assert not set("\x1b\x07\u202e") & set(done.output), form
    assert r"a\x1b]0;owned\x07\u202e[bold]b" in ask(folder, query).output  # rich's markup is text, too
    with pytest.raises(UsageError) as raised:
        rows(folder, "select '\x1b[2J'::int")
    assert "\x1b" not in str(raised.value)


def test_rows_that_are_wider_than_the_terminal_are_printed_below_each_other(run: Path) -> None:
    told = io.StringIO()
    with asking(run) as asker:
        assert print_rows(asker.ask("select * from films order by film"), told, most=1, width=60) == 2
    lines = told.getvalue().splitlines()
    assert lines[0].startswith("row 1 ")
    assert "path           films/meadow.mp4" in lines
    assert "sampling       every:4" in lines
    assert lines[-1] == "(1 of 2 rows; --rows 2 prints all)"
    assert max(map(len, lines)) <= 80


def test_two_columns_of_one_name_are_told_apart() -> None:
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a_2", "a_3"]
    assert len(set(unique(["a", "a", "a_2"]))) == 3


def test_an_answer_larger_than_the_memory_allowed_is_spilled_and_the_folder_removed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insideout.ask.MEMORY", "40MB")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with asking(run) as asker:
        answer = asker.ask("select i, hash(i) as h from range(2000000) t(i) order by h")
        batches = iter(answer.batches)
        first = next(batches)  # in order, so all of it was seen
        assert any(path.stat().st_size for path in tmp_path.rglob("duckdb_temp*"))
        assert first.num_rows + sum(batch.num_rows for batch in batches) == 2_000_000
    assert list(tmp_path.iterdir()) == []


def test_a_long_question_ends_with_ctrl_c(run: Path) -> None:
    query = "select count(*) from range(100000000000) a, range(1000) b where hash(a.range) = hash(b.range + 1)"
    with asking(run) as asker:
        press = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        press.start()
        with pytest.raises(KeyboardInterrupt):
            asker.ask(query)
        press.join()
        assert next(asker.ask("select 1 as one").batches).to_pylist() == [{"one": 1}]


# What docs/security.md says of questions.


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("select * from read_csv('{file}')", "nothing else"),
        ("select * from read_csv('/etc/passwd')", "nothing else"),
        ("select * from read_text('{file}')", "nothing else"),
        ("select * from read_blob('{file}')", "nothing else"),
        ("select * from read_json('{file}')", "nothing else"),
        ("select * from read_parquet('{file}')", "nothing else"),
        ("select * from parquet_metadata('{run}/films.parquet')", "nothing else"),
        ("select * from sniff_csv('{file}')", "nothing else"),
        ("select * from '{file}'", "nothing else"),
        ("select * from glob('/etc/*')", "nothing else"),
        ("select * from duckdb_extensions()", "nothing else"),
        ("select * from read_text('http://127.0.0.1:9/x')", "nothing else|httpfs"),
        ("select * from query('copy (select 1) to ''{out}''')", "single SELECT"),
        ("explain analyze copy (select 1) to '{out}'", "nothing else"),
        ("select * from enable_logging(storage := 'file', storage_path := '{out}')", "locked"),
        ("select getenv('HOME')", "getenv does not exist"),
        ("select * from run", "does not exist"),  # a variable of the program that runs the query
        ("copy (select 1) to '{out}'", "of the kind COPY"),
        ("copy characters from '{file}'", "of the kind COPY"),
        ("export database '{out}'", "of the kind EXPORT"),
        ("attach '{out}' as other", "of the kind ATTACH"),
        ("install httpfs", "of the kind LOAD"),
        ("load httpfs", "of the kind LOAD"),
        ("pragma enable_profiling", "of the kind PRAGMA"),
        ("set enable_external_access = true", "of the kind SET"),
        ("reset enable_external_access", "of the kind SET"),
        ("call enable_logging(storage = 'file', storage_path = '{out}')", "of the kind CALL"),
        ("create table mine as select 1", "of the kind CREATE"),
        ("create secret (type s3)", "of the kind|syntax|not"),
        ("drop view characters", "of the kind DROP"),
        ("insert into characters select * from characters", "of the kind INSERT"),
        ("delete from characters", "of the kind DELETE"),
    ],
)
def test_a_question_reads_and_writes_nothing_else(run: Path, tmp_path: Path, query: str, says: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nxyzzy\n")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(UsageError, match=says) as raised:
        rows(run, query.format(file=secret, run=run, out=tmp_path / "out"))
    assert "xyzzy" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_lock_holds_without_the_check_of_the_kind(run: Path, tmp_path: Path) -> None:
    with asking(run) as asker:
        for query in ("set enable_external_access = true", "reset lock_configuration", "install httpfs",
                      f"copy (select 1) to '{tmp_path}/out'", f"attach '{tmp_path}/out' as other"):  # fmt: skip
            with pytest.raises(Exception, match=r"locked|disabled"):
                asker._connection.execute(query)
    assert list(tmp_path.iterdir()) == []


def test_a_column_of_a_kind_that_holds_code_is_refused(run: Path, tmp_path: Path) -> None:
    class Held(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.binary(), "tests.held")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Held:
            return cls()

    pa.register_extension_type(Held())
    try:
        shutil.copytree(run, tmp_path / "run")
        column = pa.ExtensionArray.from_storage(Held(), pa.array([b"x"], pa.binary()))
        pq.write_table(pa.table({"x": column}), tmp_path / "run/analysis/screen.parquet")
        with pytest.raises(OutputError, match=r"tests\.held"):
            rows(tmp_path / "run", "select 1")
    finally:
        pa.unregister_extension_type("tests.held")
