"""Two runs compared: counts and seconds that are known, on films that are made up."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from insideout.compare import compare_runs
from insideout.compare.films import kappa
from insideout.compare.page import render_page
from insideout.compare.rows import match
from insideout.compare.times import difference_interval
from insideout.compare.words import UNCHANGED, lines
from insideout.errors import OutputError, UsageError
from insideout.masks import decode_rle
from insideout.shown import Figure
from insideout.stats.clusters import draws, generator
from insideout.stats.run import analyse_run
from pipelines.cli import app
from tests.media import write_film
from tests.pages import Page
from tests.runs import FILMS, write_run
from tests.tables import Row, made_up, table_of, write_tables

LEFT, RIGHT, FAR = (2, 2, 16, 16), (24, 2, 16, 16), (44, 16, 16, 16)
STEP = 4 / 24  # seconds of a sampled frame


def pair_of_runs(folder: Path) -> tuple[Path, Path]:
    """Bunny in all 24 sampled frames of 8 shots, Frank beside him in the first half; B differs in known rows."""
    cuts = range(12, 96, 12)
    bunny = [Row(n, "Bunny", "Happy", LEFT, 0) for n in range(0, 96, 4)]
    frank = [Row(n, "Frank", "Angry", RIGHT, 1) for n in range(0, 48, 4)]
    a = write_tables(folder / "a", made_up(rows=[*bunny, *frank], cuts=cuts))
    other = []
    for row in bunny:
        # Shot 0: sad. Frame 12: gone. Frame 16: Frank by name. Elsewhere as it was.
        if row.ordinal < 12:
            other.append(Row(row.ordinal, "Bunny", "Sad", LEFT, 0))
        elif row.ordinal == 16:
            other.append(Row(16, "Frank", "Happy", LEFT, 0))
        elif row.ordinal != 12:
            other.append(row)
    other += [*frank, Row(92, "Frank", "Sad", FAR, 2)]
    b = write_tables(folder / "b", made_up(rows=other, cuts=cuts), pack={"name": "made-up", "digest": "d4" * 32})
    return a, b


def figure(box: tuple[int, int, int, int], mask: np.ndarray | None = None, name: str = "Bunny", **given: Any) -> Figure:
    from pycocotools import mask as coco

    x, y, w, h = box
    pixels = np.zeros((36, 64), np.uint8)
    pixels[y : y + h, x : x + w] = 1
    rle = coco.encode(np.asfortranarray(pixels if mask is None else mask))["counts"].decode()
    values: dict[str, Any] = dict(
        ordinal=0, shot=0, track=0, character=name, score=0.9, emotion="Happy", certainty=0.9, track_emotion="Happy",
        probabilities={"Happy": 0.9, "Sad": 0.1}, box=tuple(map(float, box)), head=None, mask_rle=rle, mask_h=36,
        mask_w=64,
    )  # fmt: skip
    return Figure(**values | given)


def test_the_same_run_twice_has_changed_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", crops=False)
    found = compare_runs(run, run, resamples=200)
    assert found.unchanged
    assert found.counts.compared > 100
    assert found.counts.compared + found.counts.unknown == found.counts.common == found.counts.frames_a
    assert not found.settings
    assert not found.frames
    assert all((t.difference, t.low, t.high, t.points_low, t.points_high) == (0, 0, 0, 0, 0) for t in found.times)
    assert all(row.overlap == pytest.approx(1) and row.share == 1 for row in found.characters)
    assert lines(found)[-1] == UNCHANGED
    assert found.plain()["unchanged"] is True


def test_rows_that_are_new_gone_renamed_or_read_differently_are_counted(tmp_path: Path) -> None:
    found = compare_runs(*pair_of_runs(tmp_path), resamples=200)
    assert not found.unchanged
    assert (found.counts.common, found.counts.compared, found.counts.differing) == (24, 24, 6)
    rows = {row.character: row for row in found.characters}
    bunny, frank, every = rows["Bunny"], rows["Frank"], rows["*"]
    assert (bunny.rows_a, bunny.rows_b, bunny.same, bunny.gone, bunny.new) == (24, 22, 22, 1, 0)
    assert (bunny.renamed_from, bunny.renamed_to, bunny.emotion) == (1, 0, 3)
    assert (frank.rows_a, frank.rows_b, frank.same, frank.gone, frank.new) == (12, 14, 12, 0, 1)
    assert (frank.renamed_from, frank.renamed_to, frank.emotion) == (0, 1, 0)
    assert (every.rows_a, every.rows_b, every.same, every.gone, every.new, every.renamed_from) == (36, 36, 34, 1, 1, 1)
    assert bunny.share == pytest.approx(19 / 22)
    assert bunny.distance == pytest.approx(3 / 22 * 0.85)  # .9 and .05 of each other's emotion
    assert found.counts.names == {("Bunny", "Frank"): 1}
    assert found.counts.emotions["Bunny", "Happy", "Sad"] == 3
    text = "\n".join(lines(found))
    assert "24 frames of 1 film compared, 6 differ" in text
    assert "renamed: Bunny -> Frank, 1 row\n" in text
    assert "read as: Bunny Happy -> Sad, 3 rows" in text
    assert f"pack digest: {'c3' * 32} -> {'d4' * 32}" in text
    assert "0:03.8 frame 92: Frank Sad new" in text


def test_seconds_and_shares_are_those_of_the_rows(tmp_path: Path) -> None:
    found = compare_runs(*pair_of_runs(tmp_path), resamples=200)
    times = {(t.character, t.emotion): t for t in found.times}
    assert set(times) == {
        ("Bunny", "Happy"),
        ("Bunny", "Sad"),
        ("Frank", "Angry"),
        ("Frank", "Happy"),
        ("Frank", "Sad"),
    }
    happy = times["Bunny", "Happy"]
    assert happy.seconds_a == pytest.approx(24 * STEP)
    assert happy.seconds_b == pytest.approx(19 * STEP)
    assert happy.difference == pytest.approx(-5 * STEP)
    assert (happy.share_a, happy.share_b) == pytest.approx((1, 19 / 22))
    assert happy.points == pytest.approx(100 * (19 / 22 - 1))
    assert (happy.shots, happy.differing) == (8, 2)
    assert (happy.low, happy.high) == (None, None), "two shots say too little"
    # In frame 16 B has two of the name Frank, who share its time.
    angry = times["Frank", "Angry"]
    assert (angry.seconds_a, angry.seconds_b) == pytest.approx((12 * STEP, 11.5 * STEP))
    assert (angry.share_a, angry.share_b) == pytest.approx((1, 11.5 / 13))
    assert [times["Frank", e].difference for e in ("Happy", "Sad")] == pytest.approx([0.5 * STEP, STEP])
    assert (angry.shots, angry.differing, angry.points_low) == (5, 1, None)


def test_seconds_agree_with_those_of_the_analysis(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", crops=False), write_run(tmp_path / "b", crops=False, seed=8)
    found = compare_runs(a, b, resamples=100)
    for run, side in ((a, "seconds_a"), (b, "seconds_b")):
        analyse_run(run, resamples=100)
        seconds: Counter[tuple[str, str]] = Counter()
        for row in pq.read_table(run / "analysis/screen.parquet").to_pylist():
            seconds[row["character"], row["emotion"]] += row["seconds"]
        assert {(t.character, t.emotion): getattr(t, side) for t in found.times if getattr(t, side)} == pytest.approx(
            dict(seconds)
        )
    every = found.characters[-1]
    assert every.same + every.gone + every.renamed_from == every.rows_a
    assert every.same + every.new + every.renamed_to == every.rows_b


def test_a_figure_is_known_again_by_its_mask() -> None:
    ring = np.zeros((36, 64), np.uint8)
    cv2.circle(ring, (20, 18), 14, 1, -1)
    disk = np.zeros((36, 64), np.uint8)
    cv2.circle(disk, (20, 18), 8, 1, -1)
    ring -= disk
    box = (6, 4, 29, 29)
    a = [figure(box, ring, "Bunny"), figure(box, disk, "Frank")]
    b = [figure(box, disk, "Bunny"), figure(box, ring, "Frank")]
    pairs = match(a, b)
    assert [(p.a.character, p.b.character, round(p.overlap, 3)) for p in pairs if p.a and p.b] == [
        ("Bunny", "Frank", 1.0), ("Frank", "Bunny", 1.0),
    ]  # fmt: skip
    assert all(pair.renamed and pair.change(False) == 1 for pair in pairs)


def test_without_masks_boxes_tell_and_far_figures_are_others() -> None:
    a = [figure(LEFT, mask_rle=None), figure(RIGHT, mask_rle=None)]
    near = (26, 2, 16, 16)
    pairs = match(a, [figure(near, mask_rle=None), figure(FAR, mask_rle=None)])
    assert [(p.a and p.a.box[0], p.b and p.b.box[0]) for p in pairs] == [(24, 26), (2, None), (None, 44)]
    assert pairs[0].overlap == pytest.approx(14 / 18)
    assert match([], []) == []
    assert [p.change(False) for p in match([], [figure(LEFT)])] == [1.0]


def test_the_best_match_is_that_of_all_together() -> None:
    # Greedily the first would take the middle one, and the second would get nothing.
    one, two = figure((10, 2, 20, 20)), figure((16, 2, 20, 20))
    middle, left = figure((13, 2, 20, 20)), figure((6, 2, 20, 20))
    pairs = match([one, two], [middle, left])
    assert [(p.a and p.a.box[0], p.b and p.b.box[0]) for p in pairs] == [(10, 6), (16, 13)]


def test_of_equal_overlaps_the_same_name_wins() -> None:
    a = [figure(LEFT, name="Bunny"), figure(LEFT, name="Frank")]
    pairs = match(a, [figure(LEFT, name="Frank"), figure(LEFT, name="Bunny")])
    assert not any(pair.renamed for pair in pairs)


def test_kappa_is_cohens() -> None:
    # po = (20 + 15) / 50, pe = .5 * .6 + .5 * .4
    table = Counter({("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15})
    assert kappa(table) == pytest.approx((0.7 - 0.5) / 0.5)
    assert kappa(Counter({("yes", "yes"): 9})) is None
    assert kappa(Counter()) is None


def test_runs_of_different_sampling_are_compared_where_both_looked(tmp_path: Path) -> None:
    rows = [Row(n, "Bunny", "Happy", LEFT) for n in range(96)]
    a = write_tables(tmp_path / "a", made_up(rows=[r for r in rows if not r.ordinal % 4]))
    b = write_tables(tmp_path / "b", made_up(rows=[r for r in rows if not r.ordinal % 6], every=6))
    found = compare_runs(a, b, resamples=100)
    assert (found.counts.frames_a, found.counts.frames_b, found.counts.common) == (24, 16, 8)
    assert found.counts.differing == 0
    assert found.times[0].difference == pytest.approx(0)
    assert not found.unchanged
    text = "\n".join(lines(found))
    assert "A looked at 24, B at 16, both at 8" in text
    assert "from all frames that a run looked at (24 in A, 16 in B), figures are compared in the 8 common ones" in text
    assert "sampling of a1.mp4: every:4 -> every:6" in text


def test_frames_that_failed_in_one_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [Row(n, "Bunny", "Happy", LEFT) for n in range(0, 96, 4)]
    a = write_tables(tmp_path / "a", made_up(rows=rows))
    failed = {n: ("failed", "decode: damaged") for n in (8, 12)}
    b = write_tables(tmp_path / "b", made_up(rows=[r for r in rows if r.ordinal not in failed], status=failed))
    found = compare_runs(a, b, resamples=100)
    assert (found.counts.compared, found.counts.unknown, found.counts.differing) == (22, 2, 0)
    assert (found.unknown_a, found.unknown_b) == pytest.approx((0, 2 * STEP))
    assert not found.unchanged
    text = "\n".join(lines(found))
    assert "2 left out that failed in one" in text
    assert "labelled in A, failed in B: 2 frames" in text
    assert "failed frames hide 0.0 s in A and 0.3 s in B" in text


def test_a_duplicate_shows_what_it_repeats(tmp_path: Path) -> None:
    rows = [Row(n, "Bunny", "Happy", LEFT) for n in range(0, 24, 4)]
    a = write_tables(tmp_path / "a", made_up(frames=24, rows=rows))
    repeats = {8: ("dropped", "duplicate_of:4")}
    b = write_tables(tmp_path / "b", made_up(frames=24, rows=[r for r in rows if r.ordinal != 8], status=repeats))
    found = compare_runs(a, b, resamples=100)
    assert (found.counts.compared, found.counts.differing) == (6, 0)
    assert found.times[0].difference == 0
    assert "labelled in A, dropped in B: 1 frame\n" in "\n".join(lines(found))


def test_films_of_one_run_only_are_named_and_not_compared(tmp_path: Path) -> None:
    rows = [Row(0, "Bunny", "Happy", LEFT)]
    first, second, third = (made_up(digest, 24, rows=rows) for digest in ("a1", "b2", "c3"))
    a = write_tables(tmp_path / "a", first, second)
    b = write_tables(tmp_path / "b", second, third)
    found = compare_runs(a, b, resamples=100)
    assert [facts.film for facts in found.films] == [second.film]
    text = "\n".join(lines(found))
    assert f"only in A, not compared: a1.mp4 ({first.film})" in text
    assert f"only in B, not compared: c3.mp4 ({third.film})" in text
    assert not found.unchanged
    lonely = write_tables(tmp_path / "c", third)
    with pytest.raises(UsageError, match=r"no film in common: a1.mp4 \(a1a1.*, b2.mp4 .* here, c3.mp4"):
        compare_runs(a, lonely)
    with pytest.raises(OutputError, match="nothing is there"):
        compare_runs(a, tmp_path / "nowhere")


def test_films_without_anybody_can_be_compared(tmp_path: Path) -> None:
    a = write_tables(tmp_path / "a", made_up(frames=24))
    b = write_tables(tmp_path / "b", made_up(frames=24, rows=[Row(4, "Bunny", "Happy", LEFT)]))
    assert compare_runs(a, a, resamples=100).unchanged
    found = compare_runs(a, b, resamples=100)
    assert found.characters[0].new == 1
    assert (found.times[0].seconds_a, found.times[0].share_a, found.times[0].points) == (0, None, None)


def test_the_most_changed_frame_of_a_shot_stands_for_it(tmp_path: Path) -> None:
    found = compare_runs(*pair_of_runs(tmp_path), resamples=100, most=2)
    # Shot 1 lost a figure in 12 and has one by another name in 16, shot 7 has a new one; shot 0 changed emotion.
    assert [(frame.ordinal, frame.shot, frame.change) for frame in found.frames] == [(12, 1, 1.0), (92, 7, 1.0)]
    assert found.changed_shots == 3
    last = compare_runs(*pair_of_runs(tmp_path / "again"), resamples=100).frames[-1]
    assert (last.ordinal, last.shot) == (0, 0)
    assert last.change == pytest.approx((1 + 0.85) / 2)


def test_emotions_of_tracks_can_be_compared_instead(tmp_path: Path) -> None:
    a = write_tables(tmp_path / "a", made_up(frames=24, rows=[Row(0, "Bunny", "Happy", LEFT, fused="Sad")]))
    b = write_tables(tmp_path / "b", made_up(frames=24, rows=[Row(0, "Bunny", "Happy", LEFT, fused="Angry")]))
    assert compare_runs(a, b, resamples=100).counts.emotions == {("Bunny", "Happy", "Happy"): 1}
    found = compare_runs(a, b, resamples=100, fused=True)
    assert found.counts.emotions == {("Bunny", "Sad", "Angry"): 1}
    assert [(t.emotion, t.difference) for t in found.times] == [("Angry", pytest.approx(4 / 24)),
                                                                ("Sad", pytest.approx(-4 / 24))]  # fmt: skip


def test_shots_are_those_that_both_runs_cut(tmp_path: Path) -> None:
    rows = [Row(n, "Bunny", "Happy", LEFT) for n in range(0, 96, 4)]
    a = write_tables(tmp_path / "a", made_up(rows=rows, cuts=(24, 48, 72)))
    b = write_tables(tmp_path / "b", made_up(rows=rows, cuts=(20, 48, 80)))
    found = compare_runs(a, b, resamples=100)
    assert found.shots == 2
    assert found.times[0].shots == 2


def test_the_interval_is_paired_and_holds_the_difference() -> None:
    rng = np.random.default_rng(0)
    length = rng.uniform(1, 9, 60)
    share = rng.beta(0.5, 0.5, 60)
    counts = draws(60, generator(0, "x"), 2000)
    # Every shot loses a tenth of its time: the difference is the same whatever is drawn.
    constant = difference_interval(share * length, length, (share - 0.1) * length, length, counts, 60)
    assert (constant.low, constant.high) == pytest.approx((-0.1, -0.1), abs=1e-6)
    less = np.where(np.arange(60) % 2, 0.2, 0.1)
    found = difference_interval(share * length, length, (share - less) * length, length, counts, 60)
    truth = -float((less * length).sum() / length.sum())
    assert found.low < truth < found.high
    assert -0.2 < found.low < found.high < -0.1, "far narrower than shares of such shots are known"
    assert difference_interval(share, length, share, length, counts, 0) == type(found)(0.0, 0.0, 60)
    assert difference_interval(share, length, share, length, counts, 4) == type(found)(None, None, 60)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Films of 40 shots in which B reads a share of the shots differently: 95 % of 200, give or take."""
    rng = np.random.default_rng(1)
    held = 0
    for film in range(200):
        length = rng.gamma(2, 3, 40)
        before = rng.beta(0.6, 0.9, 40)
        changed = rng.random(40) < 0.6
        after = np.where(changed, before * rng.uniform(0.2, 1.0, 40), before)
        found = difference_interval(
            before * length, length, after * length, length, draws(40, generator(film, "x"), 400), 40
        )
        # In the population: 60 % of shots lose two fifths on average of 0.6 / 1.5.
        held += found.low <= -0.6 * 0.4 * 0.4 <= found.high
    assert 180 <= held <= 198


# The page and the command.


def test_the_page_shows_both_readings_side_by_side(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 24, lambda number: np.full((72, 128, 3), 128, np.uint8))
    box = (40, 30, 40, 30)
    a = write_tables(tmp_path / "a", table_of(film, rows=[Row(4, "Bunny", "Happy", box)]))
    b = write_tables(tmp_path / "b", table_of(film, rows=[Row(4, "Bunny", "Angry", box)]))
    out = tmp_path / "diff.html"
    done = CliRunner().invoke(app, ["diff", str(a), str(b), "--html", str(out), "--resamples", "100"])
    assert done.exit_code == 0, done.output
    assert f"page: {out}" in done.output
    page = Page(out.read_text())
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 2
    pictures = [cv2.imdecode(np.frombuffer(base64.b64decode(s.split(",")[1]), np.uint8), 1)[..., ::-1] for s in sources]
    middle = [picture[52, 60].astype(int) for picture in pictures]
    assert middle[0][2] < middle[1][2] or middle[0][1] > middle[1][1], "yellow for happy, red for angry"
    assert all(np.abs(picture[68, 120].astype(int) - 128).max() < 8 for picture in pictures)
    assert "Bunny Happy → Angry" in page.text
    times = next(rows for caption, rows in page.tables.items() if caption.startswith("Seconds of each character"))
    assert times
    film.unlink()
    assert "No pictures of film.mp4" in render_page(compare_runs(a, b, resamples=100))


def test_names_on_the_page_are_text_and_nothing_is_loaded(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    rows = [Row(0, evil, "Happy", LEFT)]
    a = write_tables(tmp_path / "a", made_up(frames=24, rows=rows), configuration={evil: evil})
    b = write_tables(tmp_path / "b", made_up(frames=24, rows=[Row(0, "Frank", evil, LEFT)]))
    html = render_page(compare_runs(a, b, resamples=100))
    page = Page(html)
    assert evil not in html
    assert evil in page.text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if "href" in attrs]
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")
    assert "Nothing changed" in render_page(compare_runs(a, a, resamples=100))


def test_the_command_prints_words_or_json_that_steer_nothing(tmp_path: Path) -> None:
    name = "a\x1b]0;owned\x07\u202eb"
    a = write_tables(tmp_path / "a", made_up(frames=24, rows=[Row(0, name, "Happy", LEFT)]))
    b = write_tables(tmp_path / "b", made_up(frames=24, rows=[Row(0, name, "Sad", LEFT)]))
    for given in ([], ["--json"]):
        done = CliRunner().invoke(app, ["diff", str(a), str(b), "--resamples", "100", *given])
        assert done.exit_code == 0, done.output
        assert "owned" in done.output
        assert not set("\x1b\x07\u202e") & set(done.output)
        assert len(done.stderr.splitlines()) <= 1
    found = json.loads(done.stdout)
    assert found["characters"][0]["emotion"] == 1
    assert found["changed_most"][0]["figures"][0]["a"]["emotion"] == "Happy"
    assert [(t["emotion"], round(t["difference"], 4)) for t in found["times"]] == [("Happy", -0.1667), ("Sad", 0.1667)]


def test_a_large_random_pair_is_consistent(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", FILMS, crops=False)
    b = write_run(tmp_path / "b", FILMS, crops=False, seed=3)
    found = compare_runs(a, b, resamples=100, most=100)
    assert len({(frame.film, frame.shot) for frame in found.frames}) == len(found.frames) == found.changed_shots
    assert [frame.change for frame in found.frames] == sorted((f.change for f in found.frames), reverse=True)
    for frame in found.frames:
        for pair in frame.pairs:
            if pair.a and pair.b:
                one, other = (decode_rle(f.mask_rle or "", f.mask_h, f.mask_w) for f in (pair.a, pair.b))
                assert pair.overlap == pytest.approx((one & other).sum() / (one | other).sum())
    assert re.search(r"varying rate.mkv \d:\d\d\.\d frame \d+: ", "\n".join(lines(found)))
