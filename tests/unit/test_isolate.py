"""Poisoned frames: what kills, hangs or fills a process is found, named, and the rest is labelled as ever."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insideout.decode import decode
from insideout.emotion import EmotionClassifier
from insideout.errors import FilmError
from insideout.faults import ENVIRONMENT, fault
from insideout.film import Sampling, open_film
from insideout.isolate import isolate, quarantine
from insideout.label import SpanLabels, classify_span, crop_span, segment_span
from insideout.packs import Pack, load_pack
from insideout.segment import CharacterSegmenter
from insideout.spans import Reel, Span, plan_reels
from insideout.store import Store


@pytest.fixture(scope="module")
def loaded(pack: Path) -> Pack:
    return load_pack(pack)


@pytest.fixture(scope="module")
def reel(excerpt: Path) -> Reel:
    """A reel of one span of eight sampled frames, with groups of pictures before and behind them."""
    film = open_film(str(excerpt))
    samples = Sampling.parse("every:12").ordinals(film)
    whole = next(r for r in plan_reels(film, samples) if r.start > 0)
    chosen = whole.samples[:8]
    end = int(chosen[-1]) + 1
    return dataclasses.replace(
        whole,
        spans=(Span(5, whole.start, end),),
        samples=chosen,
        pts=whole.pts[: end - whole.start],
        groups=tuple(g for g in whole.groups if g < end),
    )


@pytest.fixture(scope="module")
def usual(reel: Reel, loaded: Pack) -> SpanLabels:
    """The span as the pipeline labels it, all frames together."""
    (frames,) = decode(reel)
    characters, outcomes = segment_span(frames, CharacterSegmenter(loaded.segmenter, "cpu", threads=1))
    labels = crop_span(frames, characters, outcomes, loaded.emotion)
    return classify_span(labels, EmotionClassifier(loaded.emotion, "cpu", threads=1))


def _rows(labels: SpanLabels, without: Collection[int] = ()) -> list[dict[str, Any]]:
    return [
        row | {"probabilities": row["probabilities"].tolist(), "frame": int(labels.ordinals[row["frame"]])}
        for row in labels.rows
        if int(labels.ordinals[row["frame"]]) not in without
    ]


def _check(found: SpanLabels, usual: SpanLabels, lost: set[int]) -> None:
    """All but the lost frames are bit for bit what they are in company."""
    assert found.ordinals.tolist() == usual.ordinals.tolist()
    assert found.pts.tolist() == usual.pts.tolist()
    assert found.span == usual.span
    for ordinal, before, after in zip(usual.ordinals.tolist(), usual.outcomes, found.outcomes, strict=True):
        assert after == before if ordinal not in lost else after[0] == "failed", ordinal
    assert _rows(found) == _rows(usual, lost)


def test_a_frame_that_crashes_the_process_is_named_and_put_in_quarantine(
    reel: Reel, loaded: Pack, usual: SpanLabels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = int(reel.samples[3])
    monkeypatch.setenv(ENVIRONMENT, f"segment:crash:{bad}")
    found, troubles = isolate(reel, loaded)
    _check(found, usual, {bad})
    assert len(found.rows) >= 8
    assert np.array_equal(found.changes, usual.changes, equal_nan=True)
    assert np.array_equal(found.edges, usual.edges)
    assert found.outcomes[3] == ("failed", "segment: the process was ended by SIGSEGV")
    (trouble,) = troubles
    store = Store(tmp_path)
    quarantine(store, trouble, reel, loaded)
    facts = store.read_json(f"quarantine/film={reel.film}/{bad:06d}-segment.json")
    assert (facts["ordinal"], facts["stage"], facts["span"]["index"]) == (bad, "segment", 5)
    assert facts["pts"] == int(reel.pts[bad - reel.start])
    assert facts["pack"]["digest"] == loaded.digest
    assert (tmp_path / f"quarantine/film={reel.film}/{bad:06d}-segment.png").read_bytes()[:4] == b"\x89PNG"


def test_a_decoder_that_crashes_costs_the_rest_of_its_group_of_pictures(
    reel: Reel, loaded: Pack, usual: SpanLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = int(reel.samples[2])
    behind = next((group for group in reel.groups if group > bad), reel.end)
    lost = {int(o) for o in reel.samples if bad <= o < behind}
    monkeypatch.setenv(ENVIRONMENT, f"decode:kill:{bad}")
    found, troubles = isolate(reel, loaded)
    assert [t.ordinal for t in troubles] == [bad]
    _check(found, usual, lost)
    assert found.outcomes[2] == ("failed", "decode: the process was ended by SIGKILL")


def test_a_film_that_is_gone_is_no_frames_fault(reel: Reel, loaded: Pack, tmp_path: Path) -> None:
    with pytest.raises(FilmError, match=r"gone\.mp4"):
        isolate(dataclasses.replace(reel, path=str(tmp_path / "gone.mp4")), loaded)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("asked", "reason", "crop"),
    [
        ("segment:hang", "segment: took longer than 20 s", None),
        ("segment:memory", "segment: MemoryError", None),
        ("classify:crash", "classify: crop 0: the process was ended by SIGSEGV", 0),
        ("decode:hang", "decode: took longer than 20 s", None),
        ("classify:gpu", "classify: crop 0: AcceleratorError: CUDA error: unspecified launch failure", 0),
    ],
)
def test_poison_of_every_kind_is_found(
    asked: str,
    reason: str,
    crop: int | None,
    reel: Reel,
    loaded: Pack,
    usual: SpanLabels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = int(reel.samples[4])
    monkeypatch.setenv(ENVIRONMENT, f"{asked}:{bad}")
    patience = 20 if asked.endswith("hang") else 120
    found, (trouble,) = isolate(reel, loaded, unit_s=patience, memory=4 << 30)
    lost = {bad} if not asked.startswith("decode") else {int(o) for o in reel.samples if _same_group(reel, bad, int(o))}
    _check(found, usual, lost)
    assert found.outcomes[4] == ("failed", reason)
    assert trouble.crop == crop


def _same_group(reel: Reel, bad: int, ordinal: int) -> bool:
    behind = next((group for group in reel.groups if group > bad), reel.end)
    return bad <= ordinal < behind


def test_a_network_that_gives_no_number_fails_its_frame_only(reel: Reel, loaded: Pack, usual: SpanLabels) -> None:
    classifier = EmotionClassifier(loaded.emotion, "cpu", threads=1)
    (frames,) = decode(reel)
    characters, outcomes = segment_span(frames, CharacterSegmenter(loaded.segmenter, "cpu", threads=1))
    labels = crop_span(frames, characters, outcomes, loaded.emotion)
    bad = labels.rows[2]["frame"]

    class Odd:
        """The real classifier, with one crop for which a weight that is no number would give this."""

        def classify(self, crops: np.ndarray) -> np.ndarray:
            found = classifier.classify(crops)
            found[2] = np.nan
            return found

    found = classify_span(labels, Odd())  # type: ignore[arg-type]
    place = [row["frame"] for row in labels.rows[:2]].count(bad)
    assert found.outcomes[bad] == ("failed", f"classify: crop {place}: the network gave no finite number")
    _check(found, usual, {int(labels.ordinals[bad])})


def test_a_fault_hits_where_it_is_asked_to_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "hit"
    monkeypatch.setenv(ENVIRONMENT, f"segment:explode:7:{marker}")
    fault("decode", [7])
    fault("segment", [6, 8])
    assert not marker.exists()
    with pytest.raises(ValueError, match="no action 'explode'"):
        fault("segment", np.array([6, 7], np.int32))
    assert marker.exists()
    fault("segment", [7])
