"""How often the intervals of `insideout analyse` hold the truth, on simulated films whose truth is known.

    python -m benchmarks.coverage            # two to three minutes of CPU; writes benchmarks/coverage.json

Every line of the result is many films drawn from one population (`insideout.stats.simulated`). `holds`
is the share of films whose 95 % interval holds the true share, over all emotions together and for each
by itself; `bias` is the mean estimate minus the truth, the largest over the emotions. Tests are run where
their null hypothesis is true: `rejected` is how often p is below .05.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency

from insideout.stats.always import always
from insideout.stats.association import associations, phi_squared
from insideout.stats.clusters import Floats, Interval, Ints, draws, share_interval, sums
from insideout.stats.confusion import Support
from insideout.stats.correction import adjusted_count, prediction_powered
from insideout.stats.screen import Screen
from insideout.stats.simulated import Population, simulated_cast, simulated_errors, simulated_film, symmetric_rates

RESULTS = Path(__file__).parent / "coverage.json"
SHARES = (0.45, 0.25, 0.15, 0.1, 0.05)
K = len(SHARES)
TRUSTED = Support("", True, None, None, None, None, None, 0, 0, "")


def percentile_interval(top: Floats, bottom: Floats, counts: Floats) -> Interval:
    """The plain percentile interval, to show what it would hold."""
    low, high = np.quantile(counts @ top / (counts @ bottom), [0.025, 0.975])
    return Interval(float(low), float(high), len(bottom))


def share_coverage(
    population: Population, shots: int, films: int, seed: int, resamples: int, by: str = "shots", method: Any = None
) -> dict[str, Any]:
    """Intervals of the shares as read, over shots or scenes, where nothing is misread."""

    def one(rng: np.random.Generator) -> tuple[Floats, list[Interval]]:
        film, _ = simulated_film(population, shots, rng)
        cluster = film.shot if by == "shots" else film.scene
        tops, bottom = _by_emotion(film, cluster), sums(cluster, film.seconds)
        counts = draws(len(bottom), rng, resamples)
        make = method or share_interval
        return tops.sum(0) / bottom.sum(), [make(top, bottom, counts) for top in tops.T]

    return _measured(population, films, seed, one)


def adjusted_coverage(population: Population, shots: int, films: int, seed: int, resamples: int) -> dict[str, Any]:
    """The adjusted count, its errors counted on 40 other shots of 8 crops."""

    def one(rng: np.random.Generator) -> tuple[Floats, list[Interval]] | None:
        film, _ = simulated_film(population, shots, rng)
        errors = simulated_errors(population, 40, 8, rng)
        found = adjusted_count(film.shot, film.reading, film.seconds, errors, "Joy", rng, resamples)
        return None if found.shares is None else (found.shares, list(found.intervals))

    return _measured(population, films, seed, one)


def raw_coverage(population: Population, shots: int, films: int, seed: int, resamples: int) -> dict[str, Any]:
    """The shares as read, uncorrected, where much is misread."""
    return share_coverage(population, shots, films, seed, resamples)


def powered_coverage(
    population: Population, shots: int, films: int, seed: int, resamples: int, labelled: float
) -> dict[str, Any]:
    """Prediction-powered shares, with labels on a random part of the rows."""

    def one(rng: np.random.Generator) -> tuple[Floats, list[Interval]] | None:
        film, truth = simulated_film(population, shots, rng)
        labels = np.where(rng.random(len(truth)) < labelled, truth, -1)
        found = prediction_powered(film.shot, film.reading, labels, film.seconds, K, rng, resamples)
        return None if found.shares is None else (found.shares, list(found.intervals))

    return _measured(population, films, seed, one)


def always_rejections(rates: tuple[tuple[float, ...], ...], films: int, seed: int, resamples: int) -> dict[str, Any]:
    """How often 'always' is refuted of a character that does always show the emotion."""
    rejected = 0
    for rng in _films(films, seed):
        only = Population((1.0, *(0.0,) * (K - 1)), rates=rates)
        film, _ = simulated_film(only, 30, rng)
        errors = simulated_errors(Population(SHARES, rates=rates), 40, 8, rng)
        test = always(film, "Joy", "emotion0", TRUSTED, errors, int(rng.integers(2**31)), resamples)
        rejected += bool(test.refuted)
    return {"films": films, "rejected": rejected / films}


def association_figures(films: int, seed: int) -> dict[str, Any]:
    """The permutation test and Holm's residuals where characters do not matter, V where they do."""
    names = ("Anger", "Joy", "Sadness")
    supports = dict.fromkeys(names, TRUSTED)
    found: dict[str, Any] = {}
    for mood in (False, True):
        tests = cells = frames = 0
        values = []
        for rng in _films(films, seed):
            film, _ = simulated_cast({name: Population(SHARES) for name in names}, 40, rng, mood=mood)
            counts = sums(film.character, np.eye(K)[film.reading])
            frames += chi2_contingency(counts[:, counts.sum(0) > 0]).pvalue < 0.05
            (one,), residuals = associations(film, supports, int(rng.integers(2**31)), 399)
            tests += (one.p or 1) < 0.05
            cells += any(cell.differs for cell in residuals)
            values.append((one.v or 0.0, one.raw_v or 0.0))
        corrected, raw = np.mean(values, axis=0).tolist()
        found["no association, " + ("one mood a shot" if mood else "a mood each")] = {
            "films": films, "rejected": tests / films, "any_residual": cells / films,
            "chi_square_on_frames_rejected": frames / films, "v": corrected, "raw_v": raw,
        }  # fmt: skip
    for effect, apart, shots in (
        ("strong", ((0.7, 0.1, 0.1, 0.05, 0.05), (0.1, 0.6, 0.1, 0.1, 0.1), (0.2,) * K), 30),
        ("strong", ((0.7, 0.1, 0.1, 0.05, 0.05), (0.1, 0.6, 0.1, 0.1, 0.1), (0.2,) * K), 60),
        ("weak", ((0.5, 0.2, 0.1, 0.1, 0.1), (0.3, 0.3, 0.2, 0.1, 0.1), (0.2,) * K), 60),
    ):
        truth = float(np.sqrt(phi_squared(np.array(apart)) / 2))
        holds = tests = 0
        values = []
        for rng in _films(films, seed):
            cast = {name: Population(shares) for name, shares in zip(names, apart, strict=True)}
            film, _ = simulated_cast(cast, shots, rng)
            (one,), _ = associations(film, supports, int(rng.integers(2**31)), 399)
            holds += (one.low or 0) <= truth <= (one.high or 0)
            tests += (one.p or 1) < 0.05
            values.append((one.v or 0.0, one.raw_v or 0.0))
        corrected, raw = np.mean(values, axis=0).tolist()
        found[f"{effect} association, {shots} shots"] = {
            "films": films, "truth": truth, "holds": holds / films, "v": corrected, "raw_v": raw,
            "rejected": tests / films,
        }  # fmt: skip
    return found


def measure(films: int = 500, seed: int = 0, resamples: int = 1000) -> dict[str, Any]:
    """All figures, by name."""
    plain = Population(SHARES)
    mixed = Population(SHARES, shot_spread=3.0)
    scenes = Population(SHARES, scene_shots=3.0, scene_spread=1.0, shot_spread=3.0)
    good, weak = (Population(SHARES, rates=symmetric_rates(K, right, 0.15)) for right in (0.65, 0.5))
    found: dict[str, Any] = {}
    for shots in (10, 15, 30, 60):
        found[f"shares, {shots} shots"] = share_coverage(plain, shots, films, seed, resamples)
    found["shares, 30 shots of mixed emotions"] = share_coverage(mixed, 30, films, seed, resamples)
    for shots in (15, 30, 60):
        found[f"percentile interval instead, {shots} shots"] = share_coverage(
            plain, shots, films, seed, resamples, method=percentile_interval
        )
    for shots in (30, 60):
        for by in ("shots", "scenes"):
            found[f"shares, {shots} shots in scenes of 3, interval over {by}"] = share_coverage(
                scenes, shots, films, seed, resamples, by
            )
    for name, population in (("65 % right", good), ("50 % right", weak)):
        found[f"as read, {name}, 40 shots"] = raw_coverage(population, 40, films, seed, resamples)
        found[f"adjusted count, {name}, 40 shots"] = adjusted_coverage(population, 40, films, seed, 400)
        found[f"prediction-powered, {name}, 40 shots, 15 % labelled"] = powered_coverage(
            population, 40, films, seed, resamples, 0.15
        )
    found["always, true of the character, 65 % right"] = always_rejections(
        symmetric_rates(K, 0.65, 0.15), films, seed, resamples
    )
    return found | association_figures(films // 2, seed)


def _measured(population: Population, films: int, seed: int, one: Any) -> dict[str, Any]:
    truth = np.array(population.shares)
    estimates, holds, widths = [], [], []
    for rng in _films(films, seed):
        drawn = one(rng)
        if drawn is None or any(interval.low is None for interval in drawn[1][:K]):
            continue
        estimates.append(drawn[0][:K])
        ends = np.array([(interval.low, interval.high) for interval in drawn[1][:K]])
        holds.append((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
        widths.append(ends[:, 1] - ends[:, 0])
    bias = np.mean(estimates, axis=0) - truth
    return {
        "films": len(holds),
        "holds": float(np.mean(holds)),
        "holds_by_share": dict(zip(map(str, population.shares), np.mean(holds, axis=0).round(3).tolist(), strict=True)),
        "bias": float(bias[np.abs(bias).argmax()]),
        "median_width": dict(
            zip(map(str, population.shares), np.median(widths, axis=0).round(3).tolist(), strict=True)
        ),
    }


def _by_emotion(film: Screen, cluster: Ints) -> Floats:
    return sums(cluster, film.seconds[:, None] * np.eye(K + 1)[film.reading])


def _films(films: int, seed: int) -> Iterator[np.random.Generator]:
    return (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(films))


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=1000)
    given = parser.parse_args()
    start = time.perf_counter()
    found = measure(given.films, given.seed, given.resamples)
    for name, figures in found.items():
        print(name, json.dumps(figures))
    command = f"python -m benchmarks.coverage --films {given.films} --seed {given.seed} --resamples {given.resamples}"
    content = {"command": command, "seconds": round(time.perf_counter() - start), "figures": found}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
