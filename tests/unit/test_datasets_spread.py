"""Annotators' labels on the crops of a run: whose head it is, and what the frames between two labels show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from insideout.datasets.crop_table import read_crop_table
from insideout.datasets.spread import HeadLabel, RunTracks, locate_all, spread, write_labels
from insideout.errors import DataError
from tests.runs import FILMS, write_run

FILM = FILMS[0].film


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("spread") / "run")


@pytest.fixture(scope="module")
def track(run: Path) -> list[dict[str, Any]]:
    """The rows of the longest track with heads, in order of time."""
    tracks: dict[int, list[dict[str, Any]]] = {}
    for part in sorted((run / "characters" / f"film={FILM}").glob("*.parquet")):
        for row in pq.read_table(part, partitioning=None).to_pylist():
            tracks.setdefault(row["track"], []).append(row)
    return max(tracks.values(), key=len)


def _label(row: dict[str, Any], emotion: str = "Happy", split: str = "train", **change: Any) -> HeadLabel:
    kind = "box" if row["head_x"] is None else "head"
    x, y, w, h = (row[f"{kind}_{side}"] for side in "xywh")
    # An annotator draws the box a little otherwise.
    head = (round(x + 0.05 * w), round(y), round(w), round(1.05 * h))
    label = HeadLabel(FILM, row["ordinal"], emotion, split, "3", "77", head, votes=((emotion, 1.0),))
    return replace(label, **change)


def test_a_label_is_of_the_character_whose_head_it_covers(run: Path, track: list[dict[str, Any]]) -> None:
    tracks = RunTracks(run, FILM)
    right, elsewhere = _label(track[0]), _label(track[1], head=(0, 0, 3, 3))
    unseen = _label(track[0], ordinal=1)
    located, lost = locate_all([right, elsewhere, unseen, replace(right, emotion="Angry")], tracks)
    assert [(label.ordinal, label.track) for label in located] == [(track[0]["ordinal"], track[0]["track"])]
    assert lost == [elsewhere, unseen, replace(right, emotion="Angry")]
    with pytest.raises(DataError, match="no characters of film 0000"):
        RunTracks(run, "0000")


def test_labels_spread_between_two_equal_ones_of_training_and_nowhere_else(
    run: Path, track: list[dict[str, Any]]
) -> None:
    tracks = RunTracks(run, FILM)
    assert len(track) >= 7
    torn = (("Angry", 0.5), ("Happy", 0.5))
    given = [_label(track[0]), _label(track[3], votes=torn), _label(track[5], "Angry"), _label(track[6], "Angry")]
    located, lost = locate_all(given, tracks)
    assert not lost
    found = spread(located, tracks, longest=24)
    number = track[0]["track"]
    assert [(label.ordinal, label.emotion) for label in found if label.track == number] == [
        (track[i]["ordinal"], "Happy" if i < 4 else "Angry") for i in (0, 1, 2, 3, 5, 6)
    ]
    start, end = track[0]["ordinal"], track[3]["ordinal"]
    share = (track[1]["ordinal"] - start) / (end - start)
    assert dict(found[1].votes) == pytest.approx({"Happy": 1 - share / 2, "Angry": share / 2})
    assert spread(located, tracks, longest=end - start - 1) == sorted(located, key=lambda label: label.ordinal)
    scored = [replace(label, split="valid") for label in located]
    assert spread(scored, tracks, longest=24) == sorted(scored, key=lambda label: label.ordinal)


def test_the_table_is_what_training_reads(run: Path, track: list[dict[str, Any]], tmp_path: Path) -> None:
    tracks = RunTracks(run, FILM)
    located, _ = locate_all([_label(track[0]), _label(track[3]), _label(track[5], split="valid")], tracks)
    write_labels(spread(located, tracks, 24), tmp_path / "labels.csv")
    found = read_crop_table(run, tmp_path / "labels.csv")
    assert [crop.ordinal for crop in found["train"]] == [row["ordinal"] for row in track[:4]]
    assert {(c.scene, c.shot, c.track, c.emotion) for c in found["train"]} == {
        ("3", "77", str(track[0]["track"]), "Happy")
    }
    assert [crop.votes for crop in found["valid"]] == [{"Happy": 1.0}]
