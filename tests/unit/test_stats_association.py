"""Characters by emotions: no effect where there is none, the size that was put in, and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from scipy.stats.contingency import association as scipy_association

from insideout.stats.association import associations, bergsma, deal, holm, phi_squared
from insideout.stats.confusion import Support
from insideout.stats.simulated import Population, simulated_cast

SHARES = (0.5, 0.3, 0.2)
NAMES = ("Anger", "Joy", "Sadness")


def supports(supported: dict[str, bool | None] | None = None) -> dict[str, Support]:
    states = supported or dict.fromkeys(NAMES, True)
    return {name: Support(name, state, 0.5, 0.4, 0.6, 0.7, 0.5, 100, 20, "") for name, state in states.items()}


def test_phi_squared_is_that_of_pearson() -> None:
    table = np.array([[10, 20, 30], [6, 9, 17], [3, 0, 8]])
    assert np.sqrt(phi_squared(table.astype(float)) / 2) == pytest.approx(scipy_association(table, method="cramer"))
    empty = np.array([[10.0, 0, 5], [0, 0, 0], [3, 0, 9]])
    assert phi_squared(empty) == pytest.approx(phi_squared(np.array([[10.0, 5], [3, 9]])))


def test_bergsmas_correction_by_hand() -> None:
    # phi2 = .1 from 50 observations of a 2 x 3 table: .1 - 2/49 over min(2 - 1/49, 3 - 4/49) - 1
    expected = np.sqrt((0.1 - 2 / 49) / (1 - 1 / 49))
    assert bergsma(np.array(0.1), 2, 3, 50) == pytest.approx(expected)
    assert bergsma(np.array(0.03), 2, 3, 50) == 0


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1, never falling: .04 .06 .06 .06
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1, 1])


def test_shots_are_dealt_whole_and_only_to_shots_with_as_many_characters() -> None:
    cluster = np.array([0, 0, 1, 1, 2, 3])
    row = np.array([0, 1, 0, 1, 0, 1])
    profile = np.diag([1.0, 2, 4, 8, 16, 32])
    tables = deal(cluster, row, profile, 2, np.random.default_rng(0), 200)
    assert np.allclose(tables.sum(1), [1, 2, 4, 8, 16, 32])
    pairs = tables[:, :, :4]
    # Blocks of the two shots with two characters: who has the one has not the other of the same block.
    assert np.allclose(pairs[:, 0, 0] + pairs[:, 0, 1] / 2, 1)
    assert np.allclose(pairs[:, 0, 2] / 4 + pairs[:, 0, 3] / 8, 1)
    assert {tuple(t) for t in (tables[:, 0, 4:] > 0).tolist()} == {(True, False), (False, True)}
    assert len({tuple(t.ravel()) for t in tables}) == 8


def test_where_characters_do_not_matter_little_is_found() -> None:
    """A mood that all characters of a shot share is no association; tests of frames would find one nearly always."""
    rejected = cells = 0
    values, raw = [], []
    for seed in range(80):
        film, _ = simulated_cast({n: Population(SHARES) for n in NAMES}, 30, np.random.default_rng(seed), mood=True)
        (one,), residuals = associations(film, supports(), seed, 199)
        rejected += one.p < 0.05
        cells += any(cell.differs for cell in residuals)
        values.append(one.v)
        raw.append(one.raw_v)
    most = binom.ppf(0.999, 80, 0.05)
    assert rejected <= most
    assert cells <= most
    assert np.mean(values) < 0.06 < 0.12 < np.mean(raw)


def test_the_association_that_was_put_in_is_found_with_its_size() -> None:
    shares = {"Anger": (0.8, 0.1, 0.1), "Joy": (0.1, 0.8, 0.1), "Sadness": (0.2, 0.3, 0.5)}
    truth = float(np.sqrt(phi_squared(np.array(list(shares.values()))) / 2))
    values, holds, found = [], 0, 0
    for seed in range(60):
        film, _ = simulated_cast({n: Population(s) for n, s in shares.items()}, 50, np.random.default_rng(seed))
        (one,), residuals = associations(film, supports(), seed, 199)
        values.append(one.v)
        holds += one.low <= truth <= one.high
        cell = next(cell for cell in residuals if (cell.character, cell.emotion) == ("Joy", "emotion1"))
        found += one.p < 0.05 and cell.residual > 0 and cell.differs
    assert np.mean(values) == pytest.approx(truth, abs=0.05)
    assert holds >= binom.ppf(0.001, 60, 0.93)
    assert found >= 55


def test_an_association_with_a_doubtful_character_is_marked_and_made_again_without() -> None:
    film, _ = simulated_cast({n: Population(SHARES) for n in NAMES}, 30, np.random.default_rng(0))
    marked, residuals = associations(film, supports({"Anger": True, "Joy": True, "Sadness": False}), 0, 99)
    assert [sorted(one.characters) for one in marked] == [["Anger", "Joy", "Sadness"], ["Anger", "Joy"]]
    assert [one.supported for one in marked] == [False, True]
    assert {cell.supported for cell in residuals if cell.character == "Sadness"} == {False}
    alone, _ = associations(film.of("Joy"), supports(), 0, 99)
    assert alone[0].v is None
    assert "fewer than two characters" in alone[0].why
