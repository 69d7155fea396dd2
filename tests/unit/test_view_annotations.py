"""Corrections made in the viewer are what training, evaluation and analysis read."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from insideout.datasets.crop_table import read_crop_table
from insideout.errors import DataError
from insideout.evaluation.report import evaluate_export
from insideout.recipes.crops import read_crops
from insideout.stats.run import analyse_run
from insideout.store import Store
from insideout.view.annotations import Annotation, Annotations
from tests.runs import FILMS, write_run
from tests.viewers import opened

FILM = FILMS[0].film


def _tracks(run: Path) -> list[list[dict[str, Any]]]:
    parts = sorted((run / "characters" / f"film={FILM}").glob("*.parquet"))
    tracks: dict[int, list[dict[str, Any]]] = {}
    for part in parts:
        for row in pq.read_table(part, partitioning=None).to_pylist():
            tracks.setdefault(row["track"], []).append(row)
    return [rows for rows in tracks.values() if len(rows) > 3]


def _say(client: TestClient, row: dict[str, Any], scope: str = "frame", **what: str) -> None:
    body = {"target": {"ordinal": row["ordinal"], "track": row["track"]}, "scope": scope} | what
    assert client.post(f"/api/films/{FILM}/annotations", json=body).status_code == 200


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[list[dict[str, Any]]]]:
    """A run, its annotations.csv, and tracks: one Happy, one Angry Frank for valid, one no character."""
    run = write_run(tmp_path_factory.mktemp("run") / "run", FILMS[:1])
    tracks = _tracks(run)
    shots = {rows[0]["shot"] for rows in tracks}
    assert len(shots) > 3
    chosen = [next(rows for rows in tracks if rows[0]["shot"] == shot) for shot in sorted(shots)[:3]]
    with opened(run) as client:
        _say(client, chosen[0][0], "track", emotion="Happy")
        _say(client, chosen[0][1], emotion="Angry")
        _say(client, chosen[1][0], "track", emotion="Angry", as_character="Somebody else", split="valid")
        _say(client, chosen[1][2], emotion="Happy")
        _say(client, chosen[2][0], "track", emotion="Happy")
        _say(client, chosen[2][0], "track", as_character="-")
    return run, run / "annotations.csv", chosen


def test_training_reads_true_emotions_and_names_and_leaves_out_who_is_none(
    annotated: tuple[Path, Path, list[list[dict[str, Any]]]], caplog: pytest.LogCaptureFixture
) -> None:
    run, labels, (first, second, third) = annotated
    found = read_crop_table(run, labels)
    assert {split: len(crops) for split, crops in found.items()} == {"train": len(first), "valid": len(second)}
    assert [crop.emotion for crop in found["train"]] == ["Happy", "Angry", *["Happy"] * (len(first) - 2)]
    assert {crop.character for crop in found["train"]} == {first[0]["character"]}
    assert {crop.character for crop in found["valid"]} == {"Somebody else"}
    assert [crop.emotion for crop in found["valid"]] == ["Angry", "Angry", "Happy", *["Angry"] * (len(second) - 3)]
    assert [crop.picture for crop in found["valid"]] == [row["crop"] for row in second]
    assert f"{len(third)} of {len(first) + len(second) + len(third)} rows show no character" in caplog.text
    assert len(read_crops(run, None, labels).train) == len(first)


def test_evaluation_scores_a_pack_on_them(
    annotated: tuple[Path, Path, list[list[dict[str, Any]]]], pack: Path, tmp_path: Path
) -> None:
    run, labels, (first, second, _) = annotated
    found = evaluate_export(pack, run, "valid", tmp_path / "out", labels=labels, resamples=20)
    assert (found["crops"], found["train_crops"]) == (len(second), len(first))
    assert found["data"]["labels"] == str(labels)
    with pytest.raises(DataError, match="no row for test; there is train and valid"):
        evaluate_export(pack, run, "test", tmp_path / "out", labels=labels)


def test_analysis_takes_them_for_the_truth(annotated: tuple[Path, Path, list[list[dict[str, Any]]]]) -> None:
    run, labels, (first, second, _) = annotated
    notes = analyse_run(run, labels=labels, resamples=100).notes
    assert any(f"{len(first) + len(second)} with an emotion of a row of the run" in note for note in notes)


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def write(track: int) -> None:
        own = Annotations(Store(tmp_path), "a.csv")
        for ordinal in range(8):
            own.correct([Annotation("f", 0, ordinal, track, "Bunny")], emotion="Happy", annotator=str(track))

    threads = [threading.Thread(target=write, args=(track,)) for track in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = Annotations(Store(tmp_path), "a.csv").rows()
    assert [(row.ordinal, row.track) for row in rows] == [(o, t) for o in range(8) for t in range(4)]
    with (tmp_path / "a.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 32


def test_a_correction_to_what_the_model_said_confirms_it_and_an_empty_one_takes_it_back(tmp_path: Path) -> None:
    kept = Annotations(Store(tmp_path), "a.csv")
    target = [Annotation("f", 0, 4, 1, "Bunny")]
    kept.correct(target, as_character="Frank")
    kept.correct(target, as_character="Bunny", emotion="Happy")
    assert [(row.as_character, row.emotion) for row in kept.rows()] == [("", "Happy")]
    kept.correct(target, emotion="")
    assert kept.rows() == []
