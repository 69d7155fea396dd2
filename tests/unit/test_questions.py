"""The questions of docs/questions.md: each is run on a made-up run, and its answer counted again without SQL."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest

from insideout.ask import QUESTIONS, asking
from insideout.stats.run import analyse_run
from tests.runs import write_run

PAGE = (Path(__file__).parents[2] / "docs" / "questions.md").read_text()
PARTS = re.findall(r"^## ([^\n]+)\n\n```sql\n([^`]+?)\n```", PAGE, re.MULTILINE)

Rows = list[tuple[Any, ...]]
Tables = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films, analysed."""
    folder = write_run(tmp_path_factory.mktemp("run"), crops=False)
    analyse_run(folder, resamples=100)
    return folder


@pytest.fixture(scope="module")
def tables(run: Path) -> Tables:
    """All rows, read without DuckDB."""
    paths = {kind: sorted(run.glob(f"{kind}/*/*.parquet")) for kind in ("characters", "frames", "shots")}
    paths |= {"films": [run / "films.parquet"]} | {n: [run / f"analysis/{n}.parquet"] for n in ("screen", "shares")}
    return {kind: [r for p in found for r in pq.ParquetFile(p).read().to_pylist()] for kind, found in paths.items()}


def grouped(rows: list[dict[str, Any]], *columns: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[column] for column in columns)].append(row)
    return dict(sorted(found.items(), key=lambda pair: [(value is None, value) for value in pair[0]]))


def who_is_in_how_many_frames(t: Tables) -> Rows:
    return [(*key, len({r["ordinal"] for r in rows})) for key, rows in grouped(t["characters"], "character").items()]


def what_became_of_the_frames(t: Tables) -> Rows:
    return [(*key, len(rows)) for key, rows in grouped(t["frames"], "status", "reason").items()]


def seconds(t: Tables) -> Rows:
    found = grouped(t["screen"], "character", "emotion")
    return [(*key, round(sum(r["seconds"] for r in rows), 1)) for key, rows in found.items()]


def seconds_by_columns(t: Tables) -> Rows:
    emotions = sorted({r["emotion"] for r in t["screen"]})
    sums = {(who, emotion): value for who, emotion, value in seconds(t)}
    return [(who, *(sums.get((who, e)) for e in emotions)) for who in sorted({who for who, _ in sums})]


def how_sure(t: Tables) -> Rows:
    columns = ("film", "character", "emotion", "share", "low", "high", "supported")
    rows = [r for r in t["shares"] if r["share"] > 0.1]
    return [tuple(r[c] for c in columns) for r in sorted(rows, key=lambda r: (r["film"], r["character"], -r["share"]))]


def first_and_last(t: Tables) -> Rows:
    found = [(*key, min(r["time_s"] for r in rows), max(r["time_s"] for r in rows))
             for key, rows in grouped(t["characters"], "film", "character").items()]  # fmt: skip
    return sorted(found, key=lambda row: (row[0], row[2], row[1]))


def happy_shots(t: Tables) -> Rows:
    rows = [r for r in t["screen"] if (r["character"], r["emotion"]) == ("Bunny", "Happy")]
    found = [(*key, sum(r["seconds"] for r in part)) for key, part in grouped(rows, "film", "shot").items()]
    return sorted(found, key=lambda row: (-round(row[2], 9), row[:2]))[:5]


def by_minute(t: Tables) -> Rows:
    return sorted(Counter((r["film"], int(r["time_s"] // 60), r["character"], r["emotion"])
                          for r in t["characters"]).items())  # fmt: skip


def in_one_frame(t: Tables) -> Rows:
    found: dict[tuple[str, str], int] = Counter()
    for rows in grouped(t["characters"], "film", "ordinal").values():
        names = sorted({r["character"] for r in rows})
        found.update((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    return [(*pair, count) for pair, count in sorted(found.items())]


def least_sure(t: Tables) -> Rows:
    rows = sorted(t["characters"], key=lambda r: (r["certainty"], r["film"], r["ordinal"], r["track"]))[:10]
    return [tuple(r[c] for c in ("film", "ordinal", "time_s", "character", "track", "certainty")) for r in rows]


def angry_frank(t: Tables) -> Rows:
    rows = [r for r in t["characters"] if r["character"] == "Frank"]
    return [(*key, fmean(dict(r["probabilities"])["Angry"] for r in part))
            for key, part in grouped(rows, "film", "shot").items()]  # fmt: skip


def contradicting(t: Tables) -> Rows:
    tracks = grouped(t["characters"], "film", "track", "character", "track_emotion")
    found = [(*key, len(rows), sum(r["emotion"] != r["track_emotion"] for r in rows)) for key, rows in tracks.items()]
    return [row for row in found if row[-1]]


def share_of_picture(t: Tables) -> Rows:
    return [(*key, fmean(r["box_w"] * r["box_h"] / (r["mask_w"] * r["mask_h"]) for r in rows))
            for key, rows in grouped(t["characters"], "character").items()]  # fmt: skip


def shot_lengths(t: Tables) -> Rows:
    bases = {r["film"]: Fraction(r["time_base_num"], r["time_base_den"]) for r in t["films"]}
    found = [(r["film"], r["shot"], float((r["end_pts"] - r["start_pts"]) * bases[r["film"]])) for r in t["shots"]]
    return sorted(found, key=lambda row: (-row[2], row[:2]))


def empty_shots(t: Tables) -> Rows:
    seen = {(r["film"], r["shot"]) for r in t["characters"]}
    return sorted(key for r in t["shots"] if (key := (r["film"], r["shot"])) not in seen)


def failures(t: Tables) -> Rows:
    paths = {r["film"]: r["path"] for r in t["films"]}
    return sorted((paths[r["film"]], r["ordinal"], r["time_s"], r["reason"])
                  for r in t["frames"] if r["status"] == "failed")  # fmt: skip


def back_to_the_rows(t: Tables) -> Rows:
    rows = [r for r in t["screen"] if (r["character"], r["emotion"]) == ("Bunny", "Happy")]
    known = {(r["film"], r["ordinal"], r["track"]): r["emotion"] for r in t["characters"]}
    assert all(known[r["film"], r["labelled_ordinal"], r["track"]] == "Happy" for r in rows)
    rows.sort(key=lambda r: (r["film"], r["ordinal"], r["track"]))
    return [(r["film"], r["labelled_ordinal"], r["track"], r["seconds"]) for r in rows]


ANSWERS: dict[str, Callable[[Tables], Rows]] = {
    "Who is in how many frames?": who_is_in_how_many_frames,
    "What became of the frames?": what_became_of_the_frames,
    "How many seconds is each character read as what?": seconds,
    "The same as a table with a column for each emotion": seconds_by_columns,
    "How sure are these shares?": how_sure,
    "When is each character seen first and last?": first_and_last,
    "In which shots is Bunny read as happy for longest?": happy_shots,
    "What is read in each minute?": by_minute,
    "Who is in the same frame with whom?": in_one_frame,
    "Which readings was the classifier least sure of?": least_sure,
    "How probable is it on average that Frank is angry, shot by shot?": angry_frank,
    "In which tracks do single frames contradict the track?": contradicting,
    "How much of the picture does each character fill?": share_of_picture,
    "How long are the shots?": shot_lengths,
    "Which shots show nobody?": empty_shots,
    "Which frames failed, and why?": failures,
    "Which rows does a figure of the analysis come from?": back_to_the_rows,
}


def test_every_question_of_the_page_has_an_answer_here() -> None:
    assert [title for title, _ in PARTS] == list(ANSWERS)
    assert PAGE.count("```sql") == len(PARTS)
    assert set(QUESTIONS) <= set(PARTS), "the command prints other questions than the page has"


@pytest.mark.parametrize(("title", "query"), PARTS, ids=[title for title, _ in PARTS])
def test_the_answer_is_that_counted_without_sql(run: Path, tables: Tables, title: str, query: str) -> None:
    with asking(run) as asker:
        answer = asker.ask(query)
        found = [tuple(row.values()) for batch in answer.batches for row in batch.to_pylist()]
    expected = [flat(row) for row in ANSWERS[title](tables)]
    assert expected
    if " order by " not in query:
        found.sort()
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row == tuple(pytest.approx(v, rel=1e-6) if isinstance(v, float) else v for v in other)


def flat(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """(("a", 1), 2) as ("a", 1, 2)."""
    return tuple(inner for value in row for inner in (value if isinstance(value, tuple) else (value,)))
