"""The report of a sweep: one HTML file that works offline, with its charts drawn by Vega."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from insideout.store import Store
from tune import charts
from tune.results import BEST, TrialResult, best_trial, read_trials
from tune.search import STUDENT, trial_recipe
from tune.settings import Sweep
from tune.space import Space

REPORT = "report.html"


def write_report(store: Store, sweep: Sweep, space: Space) -> str:
    """Write report.html into the folder of a sweep, also while it runs, and return its path.

    Raises OutputError where no trial has reported a score yet.
    """
    trials = read_trials(store)
    best = best_trial(trials)
    shown: list[tuple[str, str, Any]] = [
        (
            "How the best score grew",
            "Every dot is an epoch of a trial; the line is the best until then, the dashed one the student's recipe.",
            charts.progress(trials),
        ),
        (
            "Every trial",
            "A line goes through the settings that all trials have. Bright lines scored high.",
            charts.parallel(trials, space),
        ),
        (
            "Which settings mattered",
            "Share of the score's variance that a setting explains over the whole space (fANOVA). With so few trials it"
            " is a hint.",
            charts.importance(charts.importances(trials, space)),
        ),
    ]
    for field, chart in charts.marginals(trials, space).items():
        shown.append(
            (f"Score by {field}", "A dot is a trial; trials that were stopped early count with what they had.", chart)
        )
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["digest"] = _digest
    template = environment.from_string((resources.files("tune") / "report.html.j2").read_text("utf-8"))
    bundle = Markup(vl_convert.javascript_bundle())
    drawn = [(title, text, chart) for title, text, chart in shown if chart is not None]
    scripts = [Markup(_script(i, chart)) for i, (_, _, chart) in enumerate(drawn, 1)]
    page = template.render(
        bundle=bundle,
        scripts=[bundle, *scripts],
        headline=_headline(best),
        lead=_lead(trials, sweep, space),
        metric=f"{sweep.judged_by} on {_scored_on(sweep)}",
        charts=[
            {"title": title, "text": text, "script": script}
            for (title, text, _), script in zip(drawn, scripts, strict=True)
        ],
        trials=[_row(trial, best) for trial in sorted(trials, key=lambda t: -t.score)],
        recipe=store.read(BEST).decode() if store.exists(BEST) else "",
        of=sweep.of,
    )
    store.write(REPORT, page.encode())
    return store.path(REPORT)


def _scored_on(sweep: Sweep) -> str:
    if sweep.of == "segmenter":
        return "val"
    return f"{sweep.folds} folds by scene of train" if sweep.folds else "valid"


def _script(place: int, chart: Any) -> str:
    """What draws a chart; its JSON cannot end the script it stands in. Expressions are interpreted, not evaluated."""
    spec = json.dumps(chart.to_dict()).replace("<", "\\u003c")
    return f'vegaEmbed("#chart{place}", {spec}, {{actions: false, renderer: "svg", ast: true}});'


def _digest(script: str) -> Markup:
    """What a Content-Security-Policy calls a script by: no other runs on the page."""
    return Markup("'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'")


def _headline(best: TrialResult) -> str:
    if best.student:
        return f"No trial beat the student's recipe: {best.score:.3f}"
    return f"The best recipe scores {best.score:.3f}"


def _lead(trials: list[TrialResult], sweep: Sweep, space: Space) -> str:
    done = sum(len(trial.epochs) for trial in trials)
    full = sum(max(1, int(trial_recipe(space, trial.config).model_dump()["epochs"])) for trial in trials)
    student = next((trial for trial in trials if trial.student and trial.epochs), None)
    failed = sum(bool(trial.error) for trial in trials)
    text = f"{len(trials)} trials, drawn by {sweep.algorithm}, trained {done} epochs; all of them in full are {full}."
    if done < full:
        text += f" Stopping early ({sweep.rule}) saved {1 - done / full:.0%}."
    if student is not None:
        text += f" The student's recipe scored {student.score:.3f}."
    return text + (f" {failed} failed." if failed else "")


def _row(trial: TrialResult, best: TrialResult) -> dict[str, str]:
    drawn = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.config.items()
    )
    about = "the student's recipe" if trial.config.get(STUDENT) else drawn
    return {
        "name": trial.name,
        "score": f"{trial.score:.3f}" if trial.epochs else "-",
        "epochs": str(len(trial.epochs)),
        "about": f"{about}; failed: {trial.error}" if trial.error else about,
        "kind": "best" if trial is best else "failed" if trial.error else "",
    }
