"""The findings on a character in plain words, one screen for a film."""

from __future__ import annotations

from insideout.report.words import p_value, percent, plural, timecode
from insideout.stats.always import LEVEL, Always
from insideout.stats.association import Association, Residual
from insideout.stats.confusion import Support
from insideout.stats.screen import UNCERTAIN
from insideout.stats.shares import Share

#: From this share on, a character is read as one emotion for most of its time, so that it may always show it.
_MOST = 0.5


def answer(shares: list[Share], always: Always, support: Support) -> list[str]:
    """What is found on one character, in lines of text.

    `shares` are its rows, `always` the test of its usual emotion. Emotions are displayed expressions,
    as annotators would name them.
    """
    first = shares[0]
    where = plural(first.shots, "shot") + (f" of {plural(first.scenes, 'scene')}" if first.scenes else "")
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


def said_of(always: Always) -> str:
    """What the test of 'always' says, with what it compares; never that it may be where most of the time is not so."""
    name = "\u201calways\u201d"
    if always.supported is False:
        return "whether that is always so cannot be told: the classifier does not tell this character's emotions apart"
    if always.p is None or always.recall is None:
        return f"{name} is not tested: {always.why}"
    whose = "" if always.by == always.character else " (of all characters)"
    rate = f"{percent(always.recall)} of labelled {always.emotion} crops{whose}"
    if always.refuted:
        return (
            f"{name} is refuted, {p_value(always.p)}: the classifier reads {rate} as {always.emotion}, more than here"
        )
    if always.share >= _MOST:
        return f"that does not rule out {name}, {p_value(always.p)}: the classifier reads {rate} as {always.emotion}"
    return (
        f"whether that is always so cannot be told, the classifier's errors are too large: it reads {rate} as"
        f" {always.emotion}, {p_value(always.p)}"
    )


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
    said += f"; {said_of(always)}"
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
    )


def _supported(support: Support) -> str:
    if support.supported is None:
        return f"not corrected, and not known whether supported: {support.why}"
    kappa = f"kappa {support.kappa:.2f} [{support.kappa_low:.2f}, {support.kappa_high:.2f}]"
    verdict = "supported" if support.supported else "not supported, so not corrected"
    return (
        f"{verdict}: the classifier {support.why} ({kappa}, right {percent(support.accuracy or 0)},"
        f" always its usual emotion {percent(support.usual or 0)}, {plural(support.crops, 'crop')}"
        f" of {plural(support.shots, 'shot')})"
    )
