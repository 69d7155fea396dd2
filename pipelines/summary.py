"""The lines that the command line prints about a plan, a run and its ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from insideout.assemble import FilmSummary
from insideout.messages import shown


def ledger_line(summary: FilmSummary) -> str:
    """`360 sampled = 300 labelled + 58 dropped (no_character 58) + 2 failed (decode 2)`."""
    return (
        f"{summary.sampled} sampled = {summary.labelled} labelled"
        f" + {summary.dropped.total()} dropped{_reasons(summary.dropped)}"
        f" + {summary.failed.total()} failed{_reasons(summary.failed)}"
    )


def _reasons(counter: Counter[str]) -> str:
    if not counter:
        return ""
    return " (" + ", ".join(f"{name} {count}" for name, count in counter.most_common()) + ")"


def run_lines(manifest: dict[str, Any]) -> Iterable[str]:
    """What `insideout label` says when it is done."""
    counts, timings = manifest["counts"], manifest["timings"]
    for summary in manifest["summaries"]:
        yield f"film {summary.film}: {ledger_line(summary)}"
        yield f"  {summary.characters} characters in {summary.shots} shots, {summary.tracks} tracks"
        yield from _emotion_table(summary.emotions)
    if not manifest["changed"]:
        yield "all of it was done before; nothing has changed"
        return
    yield (
        f"{counts['frames']} frames of {counts['films']} film(s) in {timings['seconds']:.1f} s,"
        f" {timings['frames_per_second']:.1f} frames/s with start-up"
    )
    stages = timings["stages"]
    if stages:
        total = sum(stages.values())
        spent = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in stages.items())
        yield f"where the time went: {spent} of {total:.1f} s over all processes"


def _emotion_table(emotions: dict[str, Counter[str]]) -> Iterable[str]:
    columns = sorted({name for counter in emotions.values() for name in counter}, key=lambda n: (n == "uncertain", n))
    if not columns:
        return
    width = max(len(name) for name in emotions)
    yield "  " + " " * width + "".join(f"{name:>11}" for name in columns)
    for character in sorted(emotions):
        yield f"  {character:<{width}}" + "".join(f"{emotions[character][name]:>11}" for name in columns)


def status_lines(status: dict[str, Any]) -> Iterable[str]:
    """What `insideout status` says."""
    for film, facts in status["films"].items():
        summary: FilmSummary | None = facts["summary"]
        if summary:
            yield f"film {film}: done, {ledger_line(summary)}  {shown(facts['path'])}"
        else:
            yield (
                f"film {film}: {facts['spans_done']} of {facts['spans']} spans committed,"
                f" {facts['samples']} frames sampled  {shown(facts['path'])}"
            )
    left = "unless a run is going on, run the same `insideout label` again to do the missing spans"
    yield "done" if status["done"] else f"not done: {left}"
