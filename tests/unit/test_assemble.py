"""Spans to tables: shots numbered, tracks linked, ledger added up, whatever the cut into spans."""

from __future__ import annotations

import hashlib
import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from insideout import schema
from insideout.assemble import (
    assemble,
    characters_prefix,
    frames_key,
    is_assembled,
    read_summaries,
    read_summary,
    shots_key,
)
from insideout.errors import FilmError, IncompleteError, OutputError
from insideout.film import Film
from insideout.label import LABELLED, SpanLabels
from insideout.manifest import run_status, write_films, write_manifest
from insideout.masks import Mask
from insideout.packs import EmotionSpec, Pack, SegmenterSpec
from insideout.parts import part_bytes, read_part
from insideout.plan import FilmPlan, LabelSettings, fingerprint, open_output
from insideout.shots import change
from insideout.spans import Span, plan_reels
from insideout.store import Store

EMOTIONS = ("Angry", "Happy")
FRAMES = 96
CUT = 40  # a cut in the middle of the film, not at a border of spans of any division below
DARK, BRIGHT = np.full((36, 64, 3), 20, np.uint8), np.full((36, 64, 3), 230, np.uint8)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    weights = tmp_path / "weights"
    return Pack(
        path=tmp_path,
        name="test",
        segmenter=SegmenterSpec(
            "yolov8n-seg", weights, "0" * 64, 320, ("Bunny", "Frank", "head"), ("head",), 0.25, 0.6
        ),
        emotion=EmotionSpec(
            "resnet50", weights, "0" * 64, 96, ("whole",), EMOTIONS, "head", 0.08, (0.5,) * 3, (0.25,) * 3, 1.0, 0.6
        ),
        digest="d" * 64,
        metrics={},
    )


def film_of(frames: int = FRAMES, key_every: int = 24) -> Film:
    digest = hashlib.sha256(str(frames).encode()).hexdigest()
    return Film(
        path="film.mp4", film=digest[:16], sha256=digest, bytes=1, width=64, height=48, rotation=0,
        time_base=Fraction(1, 1000), fps=Fraction(25), codec="h264",
        pts=np.arange(frames, dtype=np.int64) * 40 + 80, keyframes=np.arange(0, frames, key_every, dtype=np.int32),
    )  # fmt: skip


def plan_of(film: Film, reel_samples: int) -> FilmPlan:
    samples = np.arange(0, film.frames, 4, dtype=np.int32)
    reels = plan_reels(film, samples, reel_samples=reel_samples)
    return FilmPlan(film, samples, tuple(s for reel in reels for s in reel.spans), "f" * 16)


def labels_of(plan: FilmPlan, span: Span) -> SpanLabels:
    """What labelling would say: Bunny slides from left to right, Frank joins after the cut."""
    ordinals = plan.samples[(plan.samples >= span.start) & (plan.samples < span.end)]
    pictures = [DARK if o < CUT else BRIGHT for o in range(span.start, span.end)]
    changes = [np.nan] + [change(a, b) for a, b in itertools.pairwise(pictures)]
    rows, outcomes = [], []
    for i, ordinal in enumerate(ordinals.tolist()):
        if ordinal in (8, 60):
            outcomes.append(("dropped", "black") if ordinal == 8 else ("failed", "decode: lost"))
            continue
        outcomes.append(LABELLED)
        for name, x in [("Bunny", ordinal / 4)] + ([("Frank", 40.0)] if ordinal >= CUT else []):
            mask = Mask(np.ones((10, 10), bool), int(x), 5, 64, 48)
            happy = 0.9 if name == "Bunny" else 0.55
            rows.append(
                {"frame": i, "character": name, "score": 0.9, "box_x": x, "box_y": 5.0, "box_w": 10.0, "box_h": 10.0}
                | {"mask_rle": mask.rle(), "mask_h": 48, "mask_w": 64, "crop": None}
                | dict.fromkeys(("head_x", "head_y", "head_w", "head_h"))
                | {"probabilities": np.array([1 - happy, happy], np.float32)}
            )
    return SpanLabels(
        span, ordinals, plan.film.pts[ordinals], tuple(outcomes), np.array(changes, np.float32),
        np.stack([pictures[0], pictures[-1]]), tuple(rows), np.zeros((0, 96, 96, 3), np.uint8), {"decode": 1.0},
    )  # fmt: skip


def commit(store: Store, plan: FilmPlan) -> None:
    for span in plan.spans:
        store.write(plan.span_key(span), part_bytes(labels_of(plan, span), plan.fingerprint))


def test_a_span_is_read_back_as_it_was_written() -> None:
    plan = plan_of(film_of(), 1)
    labels = labels_of(plan, plan.spans[2])
    part = read_part(part_bytes(labels, "abc"), "here")
    assert part.fingerprint == "abc"
    assert part.seconds == {"decode": 1.0}
    assert np.array_equal(part.changes, labels.changes, equal_nan=True)
    assert np.array_equal(part.edges, labels.edges)
    assert [f["ordinal"] for f in part.frames] == labels.ordinals.tolist()
    assert sum(len(f["characters"]) for f in part.frames) == len(labels.rows)
    assert part.frames[0]["characters"][0]["head_x"] is None


@pytest.mark.parametrize("reel_samples", [1, 7, 1000])
def test_shots_tracks_and_ledger_do_not_depend_on_the_spans(tmp_path: Path, pack: Pack, reel_samples: int) -> None:
    store, plan = Store(tmp_path / "out"), plan_of(film_of(), reel_samples)
    commit(store, plan)
    assert not is_assembled(store, plan)
    summary = assemble(store, plan, pack)
    assert is_assembled(store, plan)
    assert (summary.sampled, summary.labelled, dict(summary.dropped), dict(summary.failed)) == (
        24, 22, {"black": 1}, {"decode": 1},
    )  # fmt: skip
    assert summary.adds_up
    film = plan.film.film
    shots = store.read_table(shots_key(film)).to_pydict()
    assert shots["start_ordinal"] == [0, CUT]
    assert shots["end_ordinal"] == [CUT, FRAMES]
    assert shots["start_pts"] == [80, 80 + CUT * 40]
    assert shots["end_pts"] == [80 + CUT * 40, 80 + FRAMES * 40]
    rows = store.read_table(f"{characters_prefix(film)}/part-00000.parquet")
    assert rows.schema.equals(schema.CHARACTERS, check_metadata=False)
    tracks = {(r["character"], r["shot"]): r["track"] for r in rows.to_pylist()}
    assert tracks == {("Bunny", 0): 0, ("Bunny", 1): 1, ("Frank", 1): 2}
    assert {r["emotion"] for r in rows.to_pylist() if r["character"] == "Bunny"} == {"Happy"}
    assert {r["track_emotion"] for r in rows.to_pylist() if r["character"] == "Frank"} == {"uncertain"}
    ledger = store.read_table(frames_key(film)).to_pydict()
    assert ledger["ordinal"] == plan.samples.tolist()
    assert ledger["shot"] == [0 if o < CUT else 1 for o in plan.samples]
    assert ledger["characters"][ledger["ordinal"].index(60)] == 0
    assert ledger["time_s"][1] == pytest.approx(0.16)
    assert (summary.tracks, summary.shots) == (3, 2)
    assert read_summary(store, film) == summary


def test_a_ledger_without_a_summary_is_counted(tmp_path: Path, pack: Pack) -> None:
    store, plan = Store(tmp_path / "out"), plan_of(film_of(), 1)
    commit(store, plan)
    summary = assemble(store, plan, pack)
    key = frames_key(plan.film.film)
    store.write_table(key, store.read_table(key).replace_schema_metadata(schema.stamp(schema.FRAMES, "old").metadata))
    assert read_summary(store, plan.film.film) == summary
    assert read_summaries(store, ["unknown", plan.film.film]) == {plan.film.film: summary}


def test_assembly_lists_the_spans_of_a_film_once(tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    store, plan = Store(tmp_path / "out"), plan_of(film_of(), 1)
    commit(store, plan)
    listed: list[str] = []
    plain = store.list
    monkeypatch.setattr(store, "list", lambda prefix, suffix="": listed.append(prefix) or plain(prefix, suffix))
    assemble(store, plan, pack)
    assert listed == [plan.folder]


def test_a_missing_span_stops_assembly_and_publishes_nothing(tmp_path: Path, pack: Pack) -> None:
    store, plan = Store(tmp_path / "out"), plan_of(film_of(), 1)
    commit(store, plan)
    store.remove(plan.span_key(plan.spans[1]))
    assert plan.finished(store) == {0, 2, 3}
    with pytest.raises(IncompleteError, match=r"1 of 4 spans are missing \(first: 1\); run the same command again"):
        assemble(store, plan, pack)
    assert not store.exists(frames_key(plan.film.film))


def test_an_output_belongs_to_one_pack_and_settings_but_takes_more_films(tmp_path: Path, pack: Pack) -> None:
    store, settings = Store(tmp_path / "out"), LabelSettings()
    one, two = plan_of(film_of(96), 1), plan_of(film_of(48), 1)
    assert open_output(store, pack, settings, [one.fold()])["films"].keys() == {one.film.film}
    assert open_output(store, pack, settings, [two.fold()])["films"].keys() == {one.film.film, two.film.film}
    with pytest.raises(OutputError, match="belongs to another plan"):
        open_output(store, pack, LabelSettings(sampling="every:8"), [one.fold()])
    with pytest.raises(FilmError, match="no film"):
        open_output(store, pack, settings, [])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        open_output(Store(tmp_path / "full"), pack, settings, [one.fold()])
    assert fingerprint(pack, settings) != fingerprint(pack, LabelSettings(crop_size=64))


def test_status_counts_while_running_and_when_done(tmp_path: Path, pack: Pack) -> None:
    store, plan, settings = Store(tmp_path / "out"), plan_of(film_of(), 1), LabelSettings()
    with pytest.raises(OutputError, match=r"no plan\.json"):
        run_status(store)
    opened = open_output(store, pack, settings, [plan.fold()])
    plan = FilmPlan(plan.film, plan.samples, plan.spans, opened["fingerprint"])
    for span in plan.spans[:2]:
        store.write(plan.span_key(span), part_bytes(labels_of(plan, span), plan.fingerprint))
    status = run_status(store)
    assert not status["done"]
    assert (status["films"][plan.film.film]["spans_done"], status["films"][plan.film.film]["spans"]) == (2, 4)
    commit(store, plan)
    summary = assemble(store, plan, pack)
    write_films(store, [plan.fold()], settings.sampling)
    manifest = write_manifest(store, pack, settings.model_dump(), [summary], {"seconds": 1.0}, "cuda")
    assert (manifest["counts"]["frames"], manifest["device"]) == (24, "cuda")
    status = run_status(store)
    assert status["done"]
    assert status["films"][plan.film.film]["summary"].labelled == 22
    films = store.read_table("films.parquet")
    assert films.schema.equals(schema.FILMS, check_metadata=False)
    assert films["fps_num"].to_pylist() == [25]


def test_a_newer_schema_is_refused() -> None:
    newer = {b"insideout.schema": str(schema.VERSION + 1).encode()}
    with pytest.raises(OutputError, match="newer"):
        schema.read_stamp(newer, "x.parquet")
    with pytest.raises(OutputError, match="not written by insideout"):
        schema.read_stamp(None, "x.parquet")
