from __future__ import annotations

import csv
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from insideout import schema
from insideout.datasets.crop_table import read_crop_table
from insideout.errors import DataError, OutputError
from insideout.store import Store
from tests.runs import FILMS, face, write_run

ONE = FILMS[0].film
TWO = FILMS[1].film


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("table") / "run")


def _characters(run: Path, film: str) -> list[dict[str, Any]]:
    parts = sorted((run / "characters" / f"film={film}").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part, partitioning=None).to_pylist()]


def _films(run: Path) -> list[dict[str, Any]]:
    return pq.read_table(run / "films.parquet").to_pylist()


def _labels(path: Path, rows: list[dict[str, object]]) -> Path:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    return path


def _track(run: Path, film: str, index: int = 0) -> list[dict[str, Any]]:
    """The rows of one of the longer tracks, in order of time."""
    tracks: dict[int, list[dict[str, Any]]] = {}
    for row in _characters(run, film):
        tracks.setdefault(row["track"], []).append(row)
    return [rows for rows in tracks.values() if len(rows) > 3][index]


def test_a_track_gives_all_its_crops_and_a_frame_with_a_character_gives_one(run: Path, tmp_path: Path) -> None:
    whole = _track(run, ONE)
    single = _track(run, TWO)[1]
    labels = _labels(
        tmp_path / "labels.csv",
        [
            {"film": ONE, "track": whole[0]["track"], "emotion": "Happy", "split": "train", "scene": "meadow"},
            {"film": TWO, "ordinal": single["ordinal"], "character": single["character"], "emotion": "Sad"}
            | {"split": "val", "p_Sad": 0.75, "p_Angry": 0.25},
        ],
    )
    found = read_crop_table(run, labels)
    assert list(found) == ["train", "valid"]
    assert [crop.ordinal for crop in found["train"]] == [row["ordinal"] for row in whole]
    assert [crop.picture for crop in found["train"]] == [row["crop"] for row in whole]
    first = found["train"][0]
    assert first.name == f"{ONE}/{whole[0]['ordinal']}/{whole[0]['character']}"
    assert (first.emotion, first.scene, first.votes) == ("Happy", "meadow", None)
    assert first.track_key == f"{ONE}/{whole[0]['shot']}/{whole[0]['track']}"
    assert first.read().shape == (96, 96, 3)
    base = Fraction(*next((f["time_base_num"], f["time_base_den"]) for f in _films(run) if f["film"] == ONE))
    assert [crop.time for crop in found["train"]] == [row["pts"] * base for row in whole]
    (crop,) = found["valid"]
    assert (crop.film, crop.ordinal, crop.character) == (TWO, single["ordinal"], single["character"])
    assert (crop.shot, crop.track, crop.emotion) == (str(single["shot"]), str(single["track"]), "Sad")
    assert crop.votes == {"Sad": 0.75, "Angry": 0.25}
    assert crop.picture == single["crop"]


def test_the_crops_of_two_of_one_name_in_a_frame_keep_apart(run: Path, tmp_path: Path) -> None:
    last = max(row["shot"] for row in _characters(run, ONE))
    pair = sorted({row["track"] for row in _characters(run, ONE) if row["shot"] == last})
    rows: list[dict[str, object]] = [
        {"film": ONE, "shot": last, "track": track, "emotion": "Happy", "split": "test"} for track in pair
    ]
    crops = read_crop_table(run, _labels(tmp_path / "labels.csv", rows))["test"]
    assert len({crop.name for crop in crops}) == len(crops)
    assert {crop.name.rsplit("/", 1)[1] for crop in crops} == {str(track) for track in pair}
    assert [(c.ordinal, int(c.track)) for c in crops] == sorted((c.ordinal or 0, int(c.track)) for c in crops)
    one = {"film": ONE, "ordinal": crops[0].ordinal, "character": crops[0].character}
    with pytest.raises(DataError, match=r"shows 2 characters.*add a column 'track'"):
        read_crop_table(run, _labels(tmp_path / "one.csv", [one | {"emotion": "Happy", "split": "test"}]))


def test_a_parquet_table_a_single_film_and_another_storage_give_the_same(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FILMS[:1])
    wanted = _track(run, ONE)
    row = {"track": wanted[0]["track"], "emotion": "Angry", "split": "valid"}
    written = _labels(tmp_path / "labels.csv", [row])
    pq.write_table(pa.Table.from_pylist([row | {"ordinal": None}]), tmp_path / "labels.parquet")
    remote = Store("memory://crop-table-run")
    for path in run.rglob("*"):
        if path.is_file():
            remote.write(path.relative_to(run).as_posix(), path.read_bytes())
    try:
        found = read_crop_table(str(run), written)
        assert [crop.film for crop in found["valid"]] == [ONE] * len(wanted)
        assert read_crop_table(run, tmp_path / "labels.parquet") == found
        assert read_crop_table(remote.root, written) == found
    finally:
        fsspec.filesystem("memory").rm("/crop-table-run", recursive=True)


def test_rows_without_an_emotion_are_left_out_and_told(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    track = _track(run, ONE)[0]["track"]
    rows: list[dict[str, object]] = [
        {"film": ONE, "track": track, "emotion": "Happy", "split": "train"},
        {"film": ONE, "track": track + 1, "emotion": "", "split": ""},
    ]
    with caplog.at_level(logging.WARNING):
        crops = read_crop_table(run, _labels(tmp_path / "labels.csv", rows))["train"]
    assert {crop.track for crop in crops} == {str(track)}
    assert "1 of 2 rows have no emotion" in caplog.text


def test_up_to_one_row_in_a_hundred_may_match_nothing(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops = [row for row in _characters(run, ONE) if row["shot"] < 11][:120]
    rows: list[dict[str, object]] = [
        {"film": ONE, "ordinal": c["ordinal"], "track": c["track"], "emotion": "Happy", "split": "train"} for c in crops
    ]
    lost = {"film": ONE, "ordinal": 9999, "track": 3, "emotion": "Happy", "split": "train"}
    with caplog.at_level(logging.WARNING):
        found = read_crop_table(run, _labels(tmp_path / "few.csv", [*rows, lost]))
    assert len(found["train"]) == 120
    assert f"1 of 121 labelled rows match no character of {run}: row 121 (film {ONE}, ordinal 9999, track 3)" in (
        caplog.text
    )
    more = [lost | {"ordinal": ordinal} for ordinal in range(9000, 9004)]
    with pytest.raises(DataError, match=r"4 of 124 .*ordinal 9000.*ordinal 9001.*ordinal 9002(?!.*9003)"):
        read_crop_table(run, _labels(tmp_path / "many.csv", [*rows, *more]))


def test_all_that_a_row_says_must_fit(run: Path, tmp_path: Path) -> None:
    crop = _track(run, ONE)[0]
    for wrong in ({"shot": crop["shot"] + 1}, {"character": "Nobody"}, {"ordinal": crop["ordinal"] + 1}, {"film": "x"}):
        row = {"film": ONE, "track": crop["track"], "emotion": "Happy", "split": "train"} | wrong
        with pytest.raises(DataError, match="1 of 1 labelled rows match no character"):
            read_crop_table(run, _labels(tmp_path / "labels.csv", [row]))


def test_one_crop_has_one_label(run: Path, tmp_path: Path) -> None:
    crop = _track(run, ONE)[2]
    by_track = {"film": ONE, "track": crop["track"], "emotion": "Happy", "split": "train"}
    by_frame = {"film": ONE, "ordinal": crop["ordinal"], "character": crop["character"], "emotion": "Happy"}
    same = read_crop_table(run, _labels(tmp_path / "same.csv", [by_track, by_frame | {"split": "train"}]))
    assert len(same["train"]) == len(_track(run, ONE))
    with pytest.raises(DataError, match=f"row 1 and row 2.*frame {crop['ordinal']}, as Happy of train and Sad of"):
        read_crop_table(
            run, _labels(tmp_path / "other.csv", [by_track, by_frame | {"emotion": "Sad", "split": "train"}])
        )
    with pytest.raises(DataError, match="Happy of train and Happy of test"):
        read_crop_table(run, _labels(tmp_path / "split.csv", [by_track, by_frame | {"split": "test"}]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"track": 0, "emotion": "Happy"}, "no column split;"),
        ({"ordinal": 0, "label": "Happy"}, r"no column emotion, split, track \(or ordinal and character\)"),
        ({"film": ONE, "track": 0, "emotion": "Happy", "split": "dev"}, "row 1: split is 'dev'"),
        ({"film": ONE, "track": "a", "emotion": "Happy", "split": "train"}, "track 'a' is not a whole number"),
        ({"film": ONE, "track": "", "ordinal": 4, "emotion": "Happy", "split": "train"}, "names no crop"),
        ({"film": ONE, "track": 0, "emotion": "Happy", "split": "train", "p_Happy": 3}, "p_Happy is '3'"),
        ({"track": 0, "emotion": "Happy", "split": "train"}, "no film, and the run has 2"),
        ({"film": ONE, "track": 0, "emotion": "", "split": "train"}, "none of its 1 rows has an emotion"),
    ],
)
def test_labels_that_cannot_be_used_are_told(run: Path, tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_crop_table(run, _labels(tmp_path / "labels.csv", [row]))


def test_no_run_no_labels_and_no_crops_are_told(run: Path, tmp_path: Path) -> None:
    labels = _labels(tmp_path / "labels.csv", [{"film": ONE, "track": 0, "emotion": "Happy", "split": "train"}])
    with pytest.raises(DataError, match="no label table there"):
        read_crop_table(tmp_path / "nowhere", labels)
    with pytest.raises(DataError, match="no such file"):
        read_crop_table(run, tmp_path / "none.csv")
    (tmp_path / "torn.csv").write_text("film,track,emotion,split\na,1,Happy,train,more\n")
    with pytest.raises(DataError, match="row 1 has more values"):
        read_crop_table(run, tmp_path / "torn.csv")
    bare = write_run(tmp_path / "bare", crops=False)
    with pytest.raises(DataError, match="label again with --crops"):
        read_crop_table(bare, labels)


def test_a_run_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    row = {"film": "f", "ordinal": 0, "shot": 0, "track": 0, "character": "Bunny", "crop": face("Bunny", "Happy")}
    newer = schema.CHARACTERS.with_metadata({b"insideout.schema": str(schema.VERSION + 1)})
    Store(tmp_path / "run").write_table("characters/film=f/part.parquet", pa.Table.from_pylist([row], schema=newer))
    labels = _labels(tmp_path / "labels.csv", [{"track": 0, "emotion": "Happy", "split": "train"}])
    with pytest.raises(OutputError, match="newer"):
        read_crop_table(tmp_path / "run", labels)
