"""Pictures of a sweep: how the best score grew, what each trial was, and which settings mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import optuna
import pandas as pd

from tune.results import TrialResult
from tune.space import SEPARATOR, Choice, Range, Space

#: Fewer trials than this say nothing about what mattered.
LEAST = 8
_WIDTH = 640
_SCORE = alt.Scale(scheme="viridis")


def progress(trials: Sequence[TrialResult]) -> alt.Chart | alt.LayerChart:
    """Score of every epoch over the epochs spent on the sweep so far, the best until then, and the student's."""
    reports = sorted(
        ((float(report["timestamp"]), trial, report) for trial in trials for report in trial.epochs),
        key=lambda item: item[0],
    )
    rows, best = [], float("-inf")
    for spent, (_, trial, report) in enumerate(reports, start=1):
        best = max(best, float(report["score"]))
        rows.append(
            {"epochs": spent, "score": report["score"], "best": best, "trial": trial.name, "student": trial.student}
        )
    base = alt.Chart(pd.DataFrame(rows)).encode(alt.X("epochs:Q", title="epochs trained, all trials together"))
    points = base.mark_circle(opacity=0.5).encode(
        alt.Y("score:Q", scale=alt.Scale(zero=False)),
        alt.Color("student:N", title="student's recipe"),
        tooltip=["trial:N", "score:Q", "epochs:Q"],
    )
    line = base.mark_line(interpolate="step-after", color="black").encode(alt.Y("best:Q", title="score"))
    layers = [points, line]
    scores = [trial.score for trial in trials if trial.student and trial.epochs]
    if scores:
        rule = alt.Chart(pd.DataFrame({"student": scores}))
        layers.append(rule.mark_rule(strokeDash=[6, 4], color="#d55e00").encode(alt.Y("student:Q")))
    return alt.layer(*layers).properties(width=_WIDTH, height=260)


def shared_settings(trials: Sequence[TrialResult]) -> dict[str, list[Any]]:
    """The settings that every drawn trial has, by their last name, with the values in the order of the trials.

    A learning rate that each optimizer draws from a range of its own is one setting here.
    """
    drawn = [{name.rsplit(SEPARATOR, 1)[-1]: value for name, value in trial.config.items()} for trial in trials]
    common = [field for field in (drawn[0] if drawn else {}) if all(field in values for values in drawn)]
    return {field: [values[field] for values in drawn] for field in common if len({str(v[field]) for v in drawn}) > 1}


def parallel(trials: Sequence[TrialResult], space: Space) -> alt.Chart | alt.LayerChart | None:
    """A line for each drawn trial through the settings that all of them have, coloured by score; None for too few."""
    found = [trial for trial in trials if not trial.student and trial.epochs]
    settings = shared_settings(found)
    if len(found) < 2 or not settings:
        return None
    columns: dict[str, list[Any]] = {**settings, "score": [trial.score for trial in found]}
    rows = []
    for field, values in columns.items():
        for trial, value, place in zip(found, values, _places(values, _is_log(field, space)), strict=True):
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            rows.append({"trial": trial.name, "setting": field, "place": place, "value": text, "score": trial.score})
    frame = pd.DataFrame(rows)
    x = alt.X("setting:N", sort=list(columns), title=None, axis=alt.Axis(labelAngle=0, grid=True))
    y = alt.Y("place:Q", axis=None)
    lines = alt.Chart(frame).mark_line(opacity=0.6).encode(
        x, y, alt.Color("score:Q", scale=_SCORE), detail="trial:N", tooltip=["trial:N", "score:Q"]
    )  # fmt: skip
    # Every name of a choice is written, of numbers the ends.
    grouped = frame.sort_values("place").groupby("setting")
    numbers = [field for field, values in columns.items() if not any(isinstance(value, str) for value in values)]
    ends = pd.concat([grouped.head(1), grouped.tail(1), frame[~frame["setting"].isin(numbers)]])
    labels = (
        alt.Chart(ends.drop_duplicates(["setting", "place"]))
        .mark_text(align="left", dx=5, fontSize=10)
        .encode(x, y, text="value:N")
    )
    return alt.layer(lines, labels).properties(width=_WIDTH, height=300)


def importances(trials: Sequence[TrialResult], space: Space) -> Mapping[str, float]:
    """Share of the score's variance that each shared setting explains, by Optuna's fANOVA; empty for too few trials.

    Hutter et al., An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
    """
    found = [trial for trial in trials if not trial.student and trial.epochs]
    settings = shared_settings(found)
    if len(found) < LEAST or not settings or len({trial.score for trial in found}) == 1:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {field: _distribution(field, values, space) for field, values in settings.items()}
    for place, trial in enumerate(found):
        parameters = {field: values[place] for field, values in settings.items()}
        study.add_trial(optuna.trial.create_trial(params=parameters, distributions=distributions, value=trial.score))
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))


def importance(shares: Mapping[str, float]) -> alt.Chart | None:
    """Bars of `importances`; None where there are none."""
    if not shares:
        return None
    frame = pd.DataFrame({"setting": list(shares), "importance": list(shares.values())})
    return (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            alt.X("importance:Q", title="share of the variance"), alt.Y("setting:N", sort="-x", title=None),
            tooltip=["setting:N", alt.Tooltip("importance:Q", format=".2f")],
        )
        .properties(width=_WIDTH, height=22 * len(frame))
    )  # fmt: skip


def marginals(trials: Sequence[TrialResult], space: Space) -> dict[str, alt.LayerChart]:
    """For each choice at the top of the space: the scores of the trials that drew each option."""
    found = [trial for trial in trials if not trial.student and trial.epochs]
    charts = {}
    for field, search in space.search.items():
        if not isinstance(search, Choice) or not found:
            continue
        frame = pd.DataFrame({field: [str(t.config[field]) for t in found], "score": [t.score for t in found]})
        best_first = alt.EncodingSortField("score", "max", "descending")
        base = alt.Chart(frame).encode(
            alt.X("score:Q", scale=alt.Scale(zero=False)), alt.Y(f"{field}:N", sort=best_first, title=None)
        )
        height = 34 * frame[field].nunique()
        charts[field] = alt.layer(
            base.mark_boxplot(opacity=0.35), base.mark_circle(color="black", opacity=0.6)
        ).properties(width=_WIDTH, height=height)
    return charts


def _is_log(field: str, space: Space) -> bool:
    return all(search.kind == "log" for search in _ranges(field, space)) and bool(_ranges(field, space))


def _ranges(field: str, space: Space) -> list[Range]:
    """Every range that a setting is drawn from, under whichever option."""

    def below(search: Mapping[str, Any]) -> list[Range]:
        found: list[Range] = []
        for name, inner in search.items():
            if name == field and isinstance(inner, Range):
                found.append(inner)
            if isinstance(inner, Choice):
                for _, options in inner.options:
                    found += below(options)
        return found

    return below(space.search)


def _places(values: Sequence[Any], log: bool) -> list[float]:
    """Where values are between 0 and 1: numbers by size, others in the order of their names."""
    import math

    if all(type(value) in (int, float) for value in values):
        numbers = [math.log(value) if log else float(value) for value in values]
    else:
        names = sorted({str(value) for value in values})
        numbers = [float(names.index(str(value))) for value in values]
    low, high = min(numbers), max(numbers)
    return [(number - low) / (high - low) if high > low else 0.5 for number in numbers]


def _distribution(field: str, values: Sequence[Any], space: Space) -> optuna.distributions.BaseDistribution:
    if ranges := _ranges(field, space):
        low, high = min(r.low for r in ranges), max(r.high for r in ranges)
        if all(r.kind == "int" for r in ranges):
            return optuna.distributions.IntDistribution(int(low), int(high))
        return optuna.distributions.FloatDistribution(low, high, log=_is_log(field, space))
    return optuna.distributions.CategoricalDistribution(sorted(set(values), key=str))
