"""Which labels stand for which frame: the same as the statistics have it, and only what is asked for is read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from insideout.errors import OutputError
from insideout.report.tables import open_run
from insideout.shown import FAILED, NOBODY, Shown, polygons
from insideout.stats.screen import screen_of
from tests.runs import FILMS, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("shown") / "run", crops=False)


def _shown(run: Path, film: int = 0) -> Shown:
    opened = open_run(run)
    return Shown(opened, opened.films[film])


def _table(run: Path, kind: str, film: str) -> pa.Table:
    parts = sorted((run / kind / f"film={film}").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])


@pytest.mark.parametrize("film", [0, 1])
def test_every_frame_shows_what_the_statistics_say_is_on_screen(run: Path, film: int) -> None:
    shown, spec = _shown(run, film), FILMS[film]
    tables = [_table(run, kind, spec.film) for kind in ("frames", "characters", "shots")]
    screen = screen_of(spec.film, *tables, spec.time_base, ())
    pts = spec.first_pts + np.concatenate([[0], np.cumsum(np.resize(spec.steps, spec.shots * spec.shot_frames))])
    kinds = set()
    for ordinal in range(spec.shots * spec.shot_frames):
        now = (screen.begin <= pts[ordinal]) & (pts[ordinal] < screen.begin + screen.units)
        expected = {(int(o), int(t)) for o, t in zip(screen.labelled[now], screen.track[now], strict=True)}
        assert {(figure.ordinal, figure.track) for figure in shown.at(ordinal)} == expected, ordinal
        kinds.add(min(0, int(shown.source_of(np.array([ordinal]))[0])))
    assert kinds == ({0, NOBODY, FAILED} if film == 0 else {0, NOBODY}), "somebody, nobody, frames that failed"
    assert shown.source_of().tolist() == [
        int(shown.source_of(np.array([o]))[0]) for o in range(spec.shots * spec.shot_frames)
    ]


def test_a_frame_between_two_sampled_ones_stands_with_its_shot(run: Path) -> None:
    shown = _shown(run)
    cut = shown.shots[3].start_ordinal
    assert (
        shown.ordinals[shown.sampled_of(np.array([cut - 1]))[0]]
        < cut
        <= shown.ordinals[shown.sampled_of(np.array([cut]))[0]]
    )
    assert shown.sampled_of(np.array([-1, shown.shots[-1].end_ordinal])).tolist() == [-1, -1]


def test_rows_come_with_their_masks_and_only_their_row_groups_are_read(run: Path, tmp_path: Path) -> None:
    film = FILMS[0].film
    rows = _table(run, "characters", film).sort_by("ordinal")
    copy = write_run(tmp_path / "run", crops=False)
    for old in (copy / "characters" / f"film={film}").glob("*.parquet"):
        old.unlink()
    pq.write_table(rows, copy / "characters" / f"film={film}" / "part-0.parquet", row_group_size=20)
    shown = _shown(copy)
    wanted = rows.to_pylist()[30]["ordinal"]
    read: list[int] = []
    group = shown._group
    shown._group = lambda key, number: read.append(number) or group(key, number)  # type: ignore[method-assign,func-returns-value]
    figures = shown.rows(wanted, wanted + 3)
    expected = [row for row in rows.to_pylist() if wanted <= row["ordinal"] <= wanted + 3]
    assert [(f.ordinal, f.track, f.character, f.emotion) for f in figures] == [
        (r["ordinal"], r["track"], r["character"], r["emotion"]) for r in expected
    ]
    assert figures[0].box == tuple(expected[0][f"box_{side}"] for side in "xywh")
    assert figures[0].probabilities == pytest.approx(dict(expected[0]["probabilities"]))
    x, y, w, h = figures[0].box
    ys, xs = np.nonzero(figures[0].mask())
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == pytest.approx((x, x + w, y, y + h), abs=3)
    assert read == [1]


def test_outlines_keep_parts_holes_and_single_pixels() -> None:
    mask = np.zeros((60, 80), bool)
    mask[5:30, 5:40] = True
    mask[10:20, 10:20] = False  # a hole
    mask[13:16, 13:16] = True  # an island in it
    mask[40:55, 50:70] = True  # another part
    mask[2, 70] = mask[50, 3:9] = True  # a pixel, and a line
    outlines = polygons(mask)
    assert len(outlines) == 6
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, outlines, 1)
    assert (drawn.astype(bool) == mask).all()


def test_all_that_is_seen_comes_without_masks_in_the_order_of_the_pack(run: Path) -> None:
    seen = _shown(run).seen()
    rows = _table(run, "characters", FILMS[0].film).sort_by([("ordinal", "ascending"), ("track", "ascending")])
    assert seen.emotions[-1] == "uncertain"
    assert [seen.characters[i] for i in seen.character] == rows["character"].to_pylist()
    assert [seen.emotions[i] for i in seen.emotion] == rows["emotion"].to_pylist()
    assert [seen.emotions[i] for i in seen.fused] == rows["track_emotion"].to_pylist()
    assert seen.certainty.tolist() == rows["certainty"].to_pylist()


def test_a_run_without_a_ledger_of_the_film_is_refused(run: Path, tmp_path: Path) -> None:
    copy = write_run(tmp_path / "run", crops=False)
    (copy / "frames" / f"film={FILMS[0].film}" / "part-0.parquet").unlink()
    with pytest.raises(OutputError, match="no ledger or no shots"):
        _shown(copy)
