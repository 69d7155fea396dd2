"""The findings on a character in plain words, one screen for a film."""

from __future__ import annotations

from insideout.report.words import p_value, percent, timecode
from insideout.stats.always import LEVEL, Always
from insideout.stats.association import Association, Residual
from insideout.stats.confusion import Support
from insideout.stats.screen import UNCERTAIN
from insideout.stats.shares import Share

_SHOWN = 0.02  # an emotion with a smaller share is in the tables only


def answer(shares: list[Share], always: Always, support: Support) -> list[str]:
    """What is found on one character, in lines of text.

    `shares` are its rows, `always` the test of its usual emotion. Emotions are displayed expressions,
    as annotators would name them.
    """
    first = shares[0]
    where = f"{first.shots} shots" + (f" of {first.scenes} scenes" if first.scenes else "")
    mark = "; NOT SUPPORTED, see below" if support.supported is False else ""
    lines = [f"{first.character}: {first.on_screen:.0f} s on screen, in {where}{mark}", "  " + _main(shares, always)]
    lines.append("  as read     " + _list([(r.emotion, r.share, *r.widest) for r in shares]))
    for label, values in (
        ("corrected", [(r.emotion, r.corrected, r.corrected_low, r.corrected_high) for r in shares]),
        ("by labels", [(r.emotion, r.powered, r.powered_low, r.powered_high) for r in shares]),
    ):
        known = [(emotion, value, low, high) for emotion, value, low, high in values if value is not None]
        if known:
            lines.append(f"  {label:<11} " + _list(known))
    lines.append(f"  {_supported(support)}")
    return lines


def overall(associations: list[Association], residuals: list[Residual]) -> list[str]:
    """Whether the characters of a film differ, in lines of text: over scenes where they are known, else shots."""
    lines = []
    unit = "scenes" if any(one.unit == "scenes" for one in associations) else "shots"
    for one in associations:
        if one.unit != unit:
            continue
        who = ", ".join(one.characters)
        if one.v is None or one.p is None:
            lines.append(f"{who}: whether they differ is not tested: {one.why}")
            continue
        verdict = "differ" if one.p < LEVEL else "are not shown to differ"
        cells = [
            f"{cell.character} {'more' if cell.residual > 0 else 'less'} {cell.emotion}"
            for cell in residuals
            if cell.differs and cell.unit == unit and cell.film == one.film and cell.among == one.characters
        ]
        lines.append(
            f"{who} {verdict} in the emotions read: {p_value(one.p)} by permutation of whole {unit},"
            f" V {one.v:.2f} [{one.low:.2f}, {one.high:.2f}]"
            + (f"; {', '.join(cells)} than by chance" if cells else "")
            + ("" if one.supported else "; NOT SUPPORTED for all of them")
        )
    return lines


def interval(low: float | None, high: float | None) -> str:
    """`31-47 %`, or that there is none."""
    if low is None or high is None:
        return "no interval"
    return f"{100 * low:.0f}\u2013{100 * high:.0f}\u00a0%"


def _main(shares: list[Share], always: Always) -> str:
    row = next(row for row in shares if row.emotion == always.emotion)
    low, high = row.widest
    said = f"is read as {always.emotion} for "
    said += f"{percent(row.share)} of that time" if low is None else f"{interval(low, high)} of that time"
    if row.powered is not None:
        said += f" ({interval(row.powered_low, row.powered_high)} corrected by labels)"
    elif row.corrected is not None:
        said += f" ({interval(row.corrected_low, row.corrected_high)} corrected for the classifier's errors)"
    if always.p is None:
        said += f"; \u201calways\u201d is not tested: {always.why}"
    else:
        said += f"; \u201calways\u201d is {'' if always.refuted else 'not '}refuted: {p_value(always.p)}"
    if always.start_s is not None and always.end_s is not None:
        stretch = f"{timecode(always.start_s)}\u2013{timecode(always.end_s)}"
        said += f"; the longest stretch without it is {stretch}"
    return said


def _list(values: list[tuple[str, float, float | None, float | None]]) -> str:
    ranked = sorted(values, key=lambda value: (value[0] == UNCERTAIN, -value[1]))
    return ", ".join(
        f"{emotion} {percent(share)}"
        + ("" if low is None or high is None else f" [{100 * low:.0f}\u2013{100 * high:.0f}]")
        for emotion, share, low, high in ranked
        if share >= _SHOWN or emotion == UNCERTAIN
    )


def _supported(support: Support) -> str:
    if support.supported is None:
        return f"not corrected, and not known whether supported: {support.why}"
    kappa = f"kappa {support.kappa:.2f} [{support.kappa_low:.2f}, {support.kappa_high:.2f}]"
    verdict = "supported" if support.supported else "not supported, so not corrected"
    return (
        f"{verdict}: the classifier {support.why} ({kappa}, right {percent(support.accuracy or 0)},"
        f" always its usual emotion {percent(support.usual or 0)}, {support.crops} crops of {support.shots} shots)"
    )
