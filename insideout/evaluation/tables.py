"""The figures of an evaluation as text: metrics.json, table.md, and the lines on the screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from insideout.messages import in_markdown
from insideout.store import Store

#: Rows are called so on the screen and in table.md; those of other packs by the names of these.
NAMES = {
    "pack": "pack",
    "pack_grey": "pack, pictures in grey",
    "majority": "majority",
    "identity": "identity only",
    "colour": "colour histogram",
}
COLUMNS = {
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "kappa": "kappa",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "aurc": "AURC",
}
_MORE = {"ece_adaptive": "adaptive ECE", "coverage_at_90": "coverage at 90 % right"}


def write_tables(store: Store, found: Mapping[str, Any], pictures: Sequence[str]) -> None:
    """Write table.md, then metrics.json, in which a number that is infinite or undefined is null."""
    store.write("table.md", "\n".join(markdown(found, pictures)).encode())
    store.write_json("metrics.json", _finite(found))


def screen_lines(found: Mapping[str, Any], out: Path) -> Iterable[str]:
    """The main rows of the table, what was left out, and where the files are."""
    yield f"{_told(found['crops'], 'crop')} of {_told(found['shots'], 'shot')}; 95 % intervals over shots"
    if found["left_out"]:
        yield f"left out: {_left_out(found)}"
    yield from (f"note: {note}" for note in found["notes"])
    shown = ("macro_f1", "balanced_accuracy", "accuracy", "kappa", "nll", "ece", "aurc")
    width = max(len(_name(name)) for name in found["models"])
    yield " " * width + "".join(f"  {_short(COLUMNS[key]):>19}" for key in shown)
    for name, figures in found["models"].items():
        yield f"{_name(name):<{width}}" + "".join(f"  {_interval(figures[key], 2):>19}" for key in shown)
    for name, gains in found.get("against", {}).items():
        if gains:
            gain = gains["macro_f1"]
            yield (
                f"pack minus {name}: macro-F1 {_interval(gain, 3)},"
                f" {gain['share_not_above']:.1%} of the resamples at 0 or below"
            )
    yield f"written to {out}: table.md, metrics.json, predictions.parquet and pictures"


def markdown(found: Mapping[str, Any], pictures: Sequence[str]) -> Iterable[str]:
    """The lines of table.md."""
    models, looped = found["models"], set(found["bootstrap"]["resamples_of"].values())
    yield f"# {in_markdown(found['title'])}"
    yield ""
    yield (
        f"{_told(found['crops'], 'crop')} of {_told(found['shots'], 'shot')}. In brackets the 95 % percentile interval"
        f" of {found['bootstrap']['resamples']} resamples of whole shots"
        f" ({', '.join(map(str, sorted(looped)))} for AURC and adaptive ECE)."
    )
    if found["left_out"]:
        yield f"Left out: {_left_out(found)}."
    yield ""
    if found["notes"]:
        yield from (*(f"- {note}" for note in found["notes"]), "")
    wide = COLUMNS | _MORE
    yield from _table(
        ["", *wide.values()],
        ([_name(name), *(_interval(figures[key]) for key in wide)] for name, figures in models.items()),
    )
    for name, gains in found.get("against", {}).items():
        yield from _paired(f"Pack minus {in_markdown(name)}", gains)
    yield from _calibration(found["calibration"])
    if found["fusion"]:
        yield from _fusion(found["fusion"])
    yield from ("## Classes", "")
    yield from _table(
        ["class", "precision", "recall", "F1", "crops"],
        (
            [name, *(_interval(s[key]) for key in ("precision", "recall", "f1")), str(s["support"])]
            for name, s in found["per_class"].items()
        ),
    )
    yield from ("## Characters", "", "Macro-F1 over the emotions that each character shows here.", "")
    yield from _table(
        ["character", "macro-F1", "crops", "shots"],
        (
            [name or "(unknown)", _interval(s["macro_f1"]), str(s["crops"]), str(s["shots"])]
            for name, s in found["per_character"].items()
        ),
    )
    if found["counter_stereotype"]:
        yield from _counter(found["counter_stereotype"])
    if pictures:
        yield from ("## Pictures", "")
        for name in pictures:
            yield from (f"![{name.replace('_', ' ')}]({name}.png)", "")


def _calibration(found: Mapping[str, Any]) -> Iterable[str]:
    yield from ("## Temperature", "")
    rows = {"T = 1": "at_1", f"T = {found['temperature']:.3f} (the pack's)": "at_temperature"}
    if found["cross_fitted"]:
        rows["fitted on other shots of this split"] = "cross_fitted"
    yield from _table(
        ["", "NLL", "ECE"],
        ([name, _interval(found[key]["nll"]), _interval(found[key]["ece"])] for name, key in rows.items()),
    )
    yield "The pack's temperature may have been fitted on these crops; that of the last row never saw its own."
    yield ""
    for rate, reached in found["thresholds"].items():
        if reached["certainty"] is None:
            yield f"- {float(rate):.0%} of the answers right: at no certainty"
        else:
            yield (
                f"- {float(rate):.0%} of the answers right, on these crops: at a certainty of"
                f" {reached['certainty']:.3f} or more, which {reached['coverage']:.1%} of them have"
            )
    yield ""


def _fusion(found: Mapping[str, Any]) -> Iterable[str]:
    yield from ("## Fusing the crops of a track", "")
    yield from _table(
        ["method", "macro-F1", "accuracy", "NLL", "recall in short segments"],
        (
            [name, *(_interval(s[key]) for key in ("macro_f1", "accuracy", "nll", "short_recall"))]
            for name, s in found["methods"].items()
        ),
    )
    first = next(iter(found["methods"].values()))
    yield (
        f"{_told(first['tracks'], 'track')} of two crops or more; {_told(first['short_segments'], 'short segment')}:"
        " a label inside a track that lasts under one second."
    )
    yield ""
    yield from _paired("mean_log minus frame", found["mean_log_minus_frame"])


def _paired(title: str, found: Mapping[str, Any] | None) -> Iterable[str]:
    yield from (f"### {title}", "")
    if found is None:
        yield from ("All crops are of one shot: there is no interval.", "")
        return
    yield from _table(
        ["figure", "difference", "resamples at 0 or below"],
        ([name, _interval(found[key]), f"{found[key]['share_not_above']:.1%}"] for key, name in COLUMNS.items()),
    )


def _counter(found: Mapping[str, Any]) -> Iterable[str]:
    yield from ("## Against the stereotype", "")
    usual = ", ".join(f"{name}: {emotion}" for name, emotion in found["usual"].items())
    yield f"Crops whose emotion is not the most frequent one of their character in training ({in_markdown(usual)})."
    if found["unknown_character"]:
        yield f"{_told(found['unknown_character'], 'crop')} of characters that are not in training have no part in it."
    yield ""
    yield from _table(
        ["", f"recall on {_told(found['support'], 'crop')}"],
        ([_name(name), _interval(recall)] for name, recall in found["recall"].items()),
    )
    yield from _table(
        ["character", "emotion", "crops", "recall of the pack"],
        ([c["character"], c["emotion"], str(c["support"]), _interval(c["recall"])] for c in found["cells"]),
    )
    if worst := found["worst"]:
        cell = in_markdown(f"{worst['character']}, {worst['emotion']}")
        yield (
            f"Worst among {found['worst_among']}: {cell}, {_interval(worst['recall'])}."
            " It was chosen for being the worst: on other shots expect it less bad."
        )
        yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """A Markdown table and an empty line; names may hold a bar."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(map(in_markdown, row)) + " |"
    yield ""


def _interval(found: Mapping[str, float | None] | None, digits: int = 3) -> str:
    if found is None:
        return "-"
    value = _number(found["value"], digits)
    if found["low"] is None:
        return value
    return f"{value} [{_number(found['low'], digits)}, {_number(found['high'], digits)}]"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" if math.isfinite(value) else "∞" if value > 0 else "-∞"


def _name(key: str) -> str:
    return NAMES.get(key, key)


def _short(name: str) -> str:
    return name.replace("balanced accuracy", "balanced acc.")


def _left_out(found: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{name} {n}" for name, n in found["left_out"].items())
    total = sum(found["left_out"].values())
    return f"{_told(total, 'crop')} of classes that the model does not have ({counts})"


def _told(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _finite(value: Any) -> Any:
    """The same value with None for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
