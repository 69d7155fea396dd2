"""Average precision: known detections by hand, and resamples against pycocotools on frames repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from insideout.evaluation.average_precision import FIGURES, _matched, _resampled, _table, average_precision
from insideout.evaluation.instances import ScoredFrame
from tests.drawn import figure, frame

CLASSES = ("Bunny", "Frank", "head")


def values(frames: Sequence[ScoredFrame]) -> dict[str, dict[str, float | None]]:
    found = average_precision(frames, CLASSES, ["1"] * len(frames))
    return {name: {key: share["value"] for key, share in row.items()} for name, row in found.items()}


def test_average_precision_of_known_detections() -> None:
    bunny, frank = figure("Bunny", 10, 10, 50, 50), figure("Frank", 100, 10, 50, 50)
    perfect = average_precision([frame([bunny], [bunny]), frame([frank], [frank]), frame([], [])], CLASSES, "abc")
    assert list(perfect) == ["Bunny", "Frank", "all"]  # no head is labelled
    assert [(key, share["value"], share["count"]) for key, share in perfect["all"].items()] == [
        (key, pytest.approx(1), 2) for key in FIGURES
    ]
    # One of two found: precision 1 up to recall .5, the first 51 of 101 levels, and 0 after that.
    half = values([frame([bunny], [bunny]), frame([bunny], [])])["Bunny"]
    assert half["mask_map50"] == pytest.approx(51 / 101)
    # A better-scored mistake halves the precision, a worse-scored one costs nothing.
    right, wrong = replace(bunny, score=0.5), figure("Bunny", 200, 100, 50, 50, 0.9)
    assert values([frame([bunny], [right, wrong])])["Bunny"]["mask_map50"] == pytest.approx(0.5)
    wrong = replace(wrong, score=0.1)
    assert values([frame([bunny], [right, wrong])])["Bunny"]["mask_map50"] == pytest.approx(1)
    # Masks of IoU 40/60 = .67 pass four of the ten thresholds, whatever the box says.
    shifted = replace(figure("Bunny", 20, 10, 50, 50), box=bunny.box)
    found = values([frame([bunny], [shifted])])["Bunny"]
    assert (found["mask_map50"], found["mask_map50_95"]) == pytest.approx((1, 0.4))
    assert (found["box_map50"], found["box_map50_95"]) == pytest.approx((1, 1))
    # Right place, wrong name; and the mean is over the classes that are labelled.
    named = values([frame([bunny, frank], [bunny, replace(frank, name="head")])])
    assert (named["Frank"]["mask_map50"], named["all"]["mask_map50"]) == pytest.approx((0, 0.5))
    assert values([frame([bunny], [])])["all"]["box_map50_95"] == 0
    nothing = average_precision([frame([], [bunny])], CLASSES, ["1"])
    assert nothing == {"all": {key: {"value": None, "low": None, "high": None, "count": 0} for key in FIGURES}}


def scattered(seed: int, frames: int) -> list[ScoredFrame]:
    """Frames with up to three labelled figures, detections near and off them, some under a wrong name."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(frames):
        truth, detections = [], []
        # Ties between frames occur; those within one have an order that repeating the frame changes.
        scores = iter(random.permutation(np.arange(1, 9)) / 10)
        for _ in range(random.integers(0, 4)):
            x, y = (int(v) for v in random.integers(0, 150, 2))
            name = CLASSES[random.integers(0, 2)]
            truth.append(figure(name, x, y, 50, 40))
            for _ in range(random.integers(0, 3)):
                dx, dy = (int(v) for v in random.integers(0, 12, 2))
                guess = name if random.random() < 0.8 else CLASSES[random.integers(0, 3)]
                detections.append(figure(guess, x + dx, y + dy, 50, 40, float(next(scores))))
        found.append(frame(truth, detections))
    return found


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_a_resample_has_what_pycocotools_says_of_the_frames_repeated(kind: str) -> None:
    frames = scattered(3, 20)
    drawn = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), 6)
    scorer = _matched(_table([f.truth for f in frames], CLASSES), _table([f.detections for f in frames], CLASSES), kind)
    for category in range(2):
        found = _resampled(scorer, category, drawn)
        assert 0.05 < found[:, 0].mean() < 0.95
        for row, counts in zip(found, drawn, strict=True):
            again = [one for one, times in zip(frames, counts, strict=True) for _ in range(times)]
            other = _matched(
                _table([f.truth for f in again], CLASSES), _table([f.detections for f in again], CLASSES), kind
            )
            expected = other.eval["precision"][:, :, category, 0, 0].mean(1)
            assert row == pytest.approx(expected, abs=1e-9)


def test_intervals_are_over_shots_and_leave_out_resamples_without_the_class() -> None:
    bunny, frank = figure("Bunny", 0, 0, 100, 100), figure("Frank", 100, 100, 50, 50)
    found = [frame([bunny], [bunny])] * 30 + [frame([bunny], [])] * 30 + [frame([frank], [frank])]
    shots = average_precision(found, CLASSES, ["a"] * 30 + ["b"] * 30 + ["c"])
    mask = shots["Bunny"]["mask_map50"]
    # A resample of the shots has the found ones alone, the missed ones alone, or both; or Frank alone.
    assert (mask["value"], mask["low"], mask["high"]) == (pytest.approx(51 / 101), 0, pytest.approx(1))
    # Without him there is no figure of Frank, which is not 0.
    assert shots["Frank"]["mask_map50"] == {key: pytest.approx(1) for key in ("value", "low", "high", "count")}
    apart = average_precision(found, CLASSES, [str(i) for i in range(61)])["Bunny"]["mask_map50"]
    assert apart["low"] == pytest.approx(0.5 - 1.96 * np.sqrt(0.25 / 60), abs=0.03)
    assert apart["high"] == pytest.approx(0.5 + 1.96 * np.sqrt(0.25 / 60), abs=0.03)
    one = average_precision(found, CLASSES, ["a"] * 61)["Bunny"]["box_map50"]
    assert (one["low"], one["high"]) == (None, None)
