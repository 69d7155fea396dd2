from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.errors import DataError, UsageError
from insideout.evaluation.fusion import (
    METHODS,
    forward_backward,
    fuse_tracks,
    fusion_table,
    learn_stay,
    short_segments,
    without_time,
)
from insideout.evaluation.intervals import Interval
from insideout.evaluation.predictions import Predictions

CLASSES = ("Angry", "Happy", "Neutral")
A, H, N = range(3)


def track(
    labels: Sequence[int], guesses: Sequence[int], name: str = "1", sure: float = 0.7, step: int = 12
) -> tuple[list[LabelledCrop], list[list[float]]]:
    """A track of crops half a second apart; each guess has the probability `sure`."""
    crops = [
        LabelledCrop(f"{name}/{i}", b"", CLASSES[label], shot="4", track=name, ordinal=100 + step * i)
        for i, label in enumerate(labels)
    ]
    logs = np.log(np.where(np.eye(3)[list(guesses)] > 0, sure, (1 - sure) / 2))
    return crops, logs.tolist()


def together(*tracks: tuple[list[LabelledCrop], list[list[float]]], temperature: float = 1.0) -> Predictions:
    crops = CropList(CLASSES, tuple(itertools.chain.from_iterable(crops for crops, _ in tracks)))
    logits = np.array(list(itertools.chain.from_iterable(logs for _, logs in tracks)), np.float32)
    return Predictions(crops, logits * temperature, temperature)


def test_flicker_is_repaired_by_every_way_of_smoothing() -> None:
    predictions = together(track([H] * 7, [H, H, A, H, H, N, H]))
    found = {method: fuse_tracks(predictions, method=method, stay=0.9).guesses.tolist() for method in METHODS}
    assert found["frame"] == [H, H, A, H, H, N, H]
    assert found["majority"] == found["mean_log"] == found["hmm"] == [H] * 7


def test_a_short_expression_is_wiped_out_by_majority_and_kept_by_the_hmm_when_it_is_clear() -> None:
    """One clear crop of Surprise in a track is real; a doubtful one beside it is flicker: the HMM tells them apart."""
    crops, logs = track([H, H, H, A, H, H, H, H], [H, H, H, A, H, H, N, H])
    logs[3] = np.log([0.98, 0.01, 0.01]).tolist()
    predictions = together((crops, logs))
    found = {method: fuse_tracks(predictions, method=method, stay=0.8).guesses.tolist() for method in METHODS}
    assert found["majority"] == found["mean_log"] == [H] * 8
    assert found["hmm"] == [H, H, H, A, H, H, H, H]
    table = fusion_table(predictions, 0.8)
    assert list(table) == list(METHODS)
    assert [table[m]["short_recall"].value for m in METHODS] == [1, 0, 0, 1]
    assert {table[m]["short_segments"] for m in METHODS} == {1}
    assert [table[m]["accuracy"] for m in METHODS] == [Interval(share, None, None) for share in (7 / 8,) * 3 + (1,)]
    # F1 of frame: Angry 1, Happy 2 * 1 * (6/7) / (1 + 6/7), Neutral is guessed and never true.
    assert table["frame"]["macro_f1"].value == pytest.approx((1 + 12 / 13 + 0) / 3)
    assert table["frame"]["nll"].value == pytest.approx(-(6 * np.log(0.7) + np.log(0.15) + np.log(0.98)) / 8, rel=1e-5)
    assert (table["hmm"]["crops"], table["hmm"]["tracks"]) == (8, 1)


def test_nothing_reaches_across_a_track_and_crops_without_one_stay_alone() -> None:
    one, two = track([H] * 3, [H, H, A], "1"), track([A] * 3, [A, A, A], "2")
    alone = ([LabelledCrop("x", b"", "Neutral", shot="4", ordinal=112)], [[0.0, 0.0, 3.0]])
    same_name = [LabelledCrop(f"y{i}", b"", "Neutral", shot="5", track="1", ordinal=i) for i in range(2)]
    other_shot = (same_name, track([N] * 2, [N, N])[1])
    mixed = together(one, two, alone, other_shot)
    order = np.random.default_rng(0).permutation(len(mixed))
    for method in METHODS:
        whole = fuse_tracks(mixed.take(order), method=method, stay=0.9)
        assert [c.name for c in whole.crops.crops] == [mixed.crops.crops[i].name for i in order]
        logs = np.log(whole.probabilities()[np.argsort(order)])
        for part, rows in ((one, slice(0, 3)), (two, slice(3, 6)), (alone, slice(6, 7)), (other_shot, slice(7, 9))):
            apart = fuse_tracks(together(part), method=method, stay=0.9)
            np.testing.assert_allclose(logs[rows], np.log(apart.probabilities()), rtol=1e-5)
        np.testing.assert_allclose(logs[6], np.log(mixed.probabilities()[6]), rtol=1e-5)


def test_the_hmm_follows_the_ordinals_not_the_rows() -> None:
    crops, logs = track([A, A, H, H], [A, A, H, H], sure=0.6)
    shuffled = [2, 0, 3, 1]
    found = fuse_tracks(together(([crops[i] for i in shuffled], [logs[i] for i in shuffled])), method="hmm", stay=0.9)
    assert found.guesses.tolist() == [H, A, H, A]
    straight = fuse_tracks(together((crops, logs)), method="hmm", stay=0.9)
    np.testing.assert_allclose(found.logits, straight.logits[shuffled], rtol=1e-6)


def test_forward_backward_is_the_sum_over_all_paths() -> None:
    random = np.random.default_rng(0)
    start, change = random.dirichlet(np.ones(3)), random.dirichlet(np.ones(3), 3)
    emissions = random.uniform(0.1, 1, (5, 3))
    expected = np.zeros((5, 3))
    for path in itertools.product(range(3), repeat=5):
        weight = start[path[0]] * emissions[0, path[0]]
        for t in range(1, 5):
            weight *= change[path[t - 1], path[t]] * emissions[t, path[t]]
        for t, state in enumerate(path):
            expected[t, state] += weight
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(forward_backward(np.log(emissions), np.log(start), np.log(change))), expected)


def test_the_hmm_divides_by_the_prior_that_the_classifier_has() -> None:
    """Three doubtful crops in a row count the prior once, not three times."""
    prior = np.array([0.2, 0.6, 0.2])
    logs = np.log([[0.3, 0.55, 0.15]] * 3).tolist()
    crops, _ = track([A] * 3, [A] * 3)
    predictions = together((crops, logs))
    found = fuse_tracks(predictions, method="hmm", stay=1.0, prior=prior)
    expected = prior * (np.array([0.3, 0.55, 0.15]) / prior) ** 3
    np.testing.assert_allclose(found.probabilities()[1], expected / expected.sum(), rtol=1e-5)
    assert found.guesses.tolist() == [A] * 3
    assert fuse_tracks(predictions, method="hmm", stay=0.9).guesses.tolist() == [H] * 3


def test_the_hmm_at_its_ends_is_the_product_and_each_crop_by_itself() -> None:
    predictions = together(track([A] * 3, [A, A, H], sure=0.6))
    always = fuse_tracks(predictions, method="hmm", stay=1.0).probabilities()
    product = np.array([0.6 * 0.6 * 0.2, 0.2 * 0.2 * 0.6, 0.2**3])
    np.testing.assert_allclose(always, np.tile(product / product.sum(), (3, 1)), rtol=1e-5)
    by_chance = fuse_tracks(predictions, method="hmm", stay=1 / 3).probabilities()
    np.testing.assert_allclose(by_chance, predictions.probabilities(), rtol=1e-5)


def test_the_mean_is_taken_at_the_temperature_given() -> None:
    crops, logs = track([A, A], [A, H])
    logs[1] = np.log([0.2, 0.75, 0.05]).tolist()
    hot = together((crops, logs), temperature=3.0)
    for predictions, temperature in ((together((crops, logs)), None), (hot, None), (replace(hot, temperature=1), 3.0)):
        found = fuse_tracks(predictions, temperature, "mean_log")
        expected = np.sqrt([0.7 * 0.2, 0.15 * 0.75, 0.15 * 0.05])
        np.testing.assert_allclose(found.probabilities(), np.tile(expected / expected.sum(), (2, 1)), rtol=1e-5)
        frame = fuse_tracks(predictions, temperature, "frame")
        np.testing.assert_allclose(frame.probabilities(), np.exp(logs), rtol=1e-5)


def test_a_tied_vote_goes_to_the_more_probable_class_and_shares_are_smoothed() -> None:
    crops, logs = track([A, A], [A, H])
    logs[1] = np.log([0.05, 0.9, 0.05]).tolist()
    found = fuse_tracks(together((crops, logs)), method="majority")
    assert found.guesses.tolist() == [H, H]
    found = fuse_tracks(together(track([A] * 3, [A, A, A])), method="majority")
    mean = np.array([0.7, 0.15, 0.15])
    np.testing.assert_allclose(found.probabilities()[0], (np.array([3, 0, 0]) + (mean + 1 / 3) / 2) / 4, rtol=1e-5)


def test_stay_is_the_share_of_equal_neighbours_inside_tracks() -> None:
    crops = [*track([H, H, A, A, A], [H] * 5, "1")[0], *track([N, N], [H] * 2, "2")[0]]
    crops += [LabelledCrop("loose", b"", "Angry", shot="4")]
    copies = [
        LabelledCrop(f"copy {c.name}", b"", c.emotion, shot="4", track="2", ordinal=c.ordinal) for c in crops[5:7]
    ]
    random = np.random.default_rng(1).permutation(len(crops))
    # Pairs: HH, HA, AA, AA in one track, NN in the other: four of five are equal.
    assert learn_stay(CropList(CLASSES, tuple(crops[i] for i in random))) == 4 / 5
    assert learn_stay(CropList(CLASSES, (*crops, *copies))) == 4 / 5
    with pytest.raises(DataError, match="no track has two labelled crops"):
        learn_stay(CropList(CLASSES, tuple(crops[7:])))


def test_short_segments_last_under_a_second_and_do_not_fill_their_track() -> None:
    labels = [A, H, H, N, N, N, A]  # at 12 ordinals a step: .5, 1, 1.5 and .5 s
    crops = CropList(CLASSES, tuple(track(labels, labels, "1")[0] + track([A], [A], "2")[0]))
    assert [list(s) for s in short_segments(crops)] == [[0], [6]]
    assert [list(s) for s in short_segments(crops, 25)] == [[0], [1, 2], [6]]
    assert [list(s) for s in short_segments(crops, 12)] == []
    alone = CropList(CLASSES, tuple(track([A], [A])[0]))
    assert short_segments(alone) == []
    assert fusion_table(together(track([A], [A])), 0.9)["hmm"]["short_recall"] is None


def timed(crops: list[LabelledCrop], rate: Fraction, film: str = "") -> list[LabelledCrop]:
    """The same crops in a film of so many frames a second, which does not begin at 0."""
    base = 1 / (rate * 1000)
    return [replace(crop, film=film, pts=1000 * crop.ordinal + 77, time_base=base) for crop in crops]


@pytest.mark.parametrize(
    ("rate", "short"),
    [
        (Fraction(12), []),
        (Fraction(24000, 1001), [[0], [6]]),  # two steps of 12 are 1.001 s
        (Fraction(25), [[0], [1, 2], [6]]),
        (Fraction(30), [[0], [1, 2], [6]]),
        (Fraction(60), [[0], [1, 2], [3, 4, 5], [6]]),
    ],
)
def test_a_second_is_one_of_the_film_where_the_crops_know_their_time(rate: Fraction, short: list[list[int]]) -> None:
    labels = [A, H, H, N, N, N, A]
    crops = CropList(CLASSES, tuple(timed(track(labels, labels)[0], rate)))
    assert [list(s) for s in short_segments(crops)] == short
    assert without_time(crops) == 0
    one_without = CropList(CLASSES, (*crops.crops[:3], replace(crops.crops[3], pts=None), *crops.crops[4:]))
    assert [list(s) for s in short_segments(one_without)] == [[0], [6]]
    assert without_time(one_without) == 7


def test_each_film_has_its_own_second_and_frames_that_last_longer_count_as_they_do() -> None:
    labels = [A, H, H, A]
    slow, fast = (timed(track(labels, labels, name)[0], Fraction(rate), name) for name, rate in (("1", 24), ("2", 60)))
    assert [list(s) for s in short_segments(CropList(CLASSES, (*slow, *fast)))] == [[0], [3], [4], [5, 6], [7]]
    # The second H is shown three quarters of a second after the first, not half a second.
    held = [*slow[:2], *(replace(crop, pts=crop.pts + 6000) for crop in slow[2:])]
    assert [list(s) for s in short_segments(CropList(CLASSES, tuple(held)))] == [[0], [3]]
    again = timed(track(labels, labels, "1")[0], Fraction(25), "1")
    assert [list(s) for s in short_segments(CropList(CLASSES, tuple(again)))] == [[0], [1, 2], [3]]
    held = [*again[:2], *(replace(crop, pts=crop.pts + 6000) for crop in again[2:])]
    assert [list(s) for s in short_segments(CropList(CLASSES, tuple(held)))] == [[0], [3]]


def test_without_stay_the_other_methods_are_compared_with_intervals_over_shots() -> None:
    crops, logs = [], []
    for shot in range(8):
        own, of_own = track([H, H, A, H], [H, H, A if shot % 2 else N, H], str(shot))
        crops += [replace(crop, shot=str(shot)) for crop in own]
        logs += of_own
    table = fusion_table(together((crops, logs)), None, resamples=200)
    assert list(table) == ["frame", "majority", "mean_log"]
    frame = table["frame"]
    assert (frame["tracks"], frame["short_segments"], frame["accuracy"].value) == (8, 16, 28 / 32)
    # In each shot a lone A, told in half of the shots, and the H after it.
    for found, value in ((frame["accuracy"], 28 / 32), (frame["short_recall"], 0.75)):
        assert found.value == value
        assert 0 < found.low < value < found.high <= 1
    assert table["mean_log"]["short_recall"] == Interval(0.5, 0.5, 0.5)


def test_bad_input_is_named() -> None:
    predictions = together(track([A, H], [A, H]))
    with pytest.raises(UsageError, match="unknown method 'median'; choose one of frame"):
        fuse_tracks(predictions, method="median")  # type: ignore[arg-type]
    for stay in (None, -0.1, 1.2):
        with pytest.raises(UsageError, match="hmm needs stay"):
            fuse_tracks(predictions, method="hmm", stay=stay)
    with pytest.raises(UsageError, match="3 shares above 0"):
        fuse_tracks(predictions, method="hmm", stay=0.9, prior=np.array([0.5, 0.5, 0.0]))
    lost = CropList(CLASSES, (LabelledCrop("crop 7", b"", "Angry", shot="4", track="1"),))
    with pytest.raises(DataError, match=r"crop 7: is in track /4/1 but has no ordinal"):
        fuse_tracks(Predictions(lost, np.zeros((1, 3), np.float32)), method="mean_log")
