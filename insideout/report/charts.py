"""The charts of the page as Vega-Lite: shares with intervals, the timeline, arcs. Their rows are named data.

The page has one specification of each kind; `page.js` fills in the rows of a film or a character, so that
no row is in the page twice. Letters and lines take the colours of the page by CSS variables, which turn
with light and dark and in print; marks take the colour of their emotion, which each row brings along.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import altair as alt

_HOURS = "floor(datum.value / 3600) > 0 ? floor(datum.value / 3600) + ':' : ''"
_MINUTES = "format(floor(datum.value / 60) % 60, datum.value >= 3600 ? '02d' : 'd')"
#: 83 as 1:23 and 5025 as 1:23:45, as `words.clock` has it.
_CLOCK = f"({_HOURS}) + {_MINUTES} + ':' + format(floor(datum.value % 60), '02d')"
_FIT = alt.AutoSizeParams(type="fit-x", contains="padding")
_Chart = alt.LayerChart | alt.FacetChart
_COLOUR = alt.Color("colour:N", scale=None)


@cache
def specifications() -> dict[str, Any]:
    """The three charts by name, each a Vega-Lite specification without rows and without a theme."""
    found = {}
    for name, chart in (("shares", shares()), ("timeline", timeline()), ("arc", arc())):
        spec = chart.to_dict()
        for key in ("config", "$schema"):  # Altair's default sizes and colours; the page has its own
            spec.pop(key, None)
        found[name] = spec
    return found


def shares() -> _Chart:
    """Shares of screen time of one character with their intervals; faint where they are not supported.

    Rows of `shares`: emotion, colour, share, low, high, strength, figure, and what the tooltip says. The page sets
    the height.
    """
    base = alt.Chart(alt.NamedData("shares")).encode(
        alt.Y("emotion:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8)),
        tooltip=[alt.Tooltip("emotion:N"), alt.Tooltip("said:N", title="share"), alt.Tooltip("time:N")],
    )
    strength = alt.Opacity("strength:Q", scale=None)
    x = alt.X(
        "share:Q",
        title=None,
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(format="%", tickCount=5, values=[0, 0.25, 0.5, 0.75, 1]),
    )
    bars = base.mark_bar(height={"band": 0.72}, cornerRadiusEnd=2, cursor="pointer").encode(
        x, _COLOUR, opacity=strength
    )
    ink = "var(--ink)"
    lines = base.mark_rule(strokeWidth=1.6, color=ink, cursor="pointer").encode(
        alt.X("low:Q"), alt.X2("high:Q"), opacity=strength
    )
    ends = [
        base.mark_tick(thickness=1.6, size=8, color=ink, cursor="pointer").encode(alt.X(f"{end}:Q"), opacity=strength)
        for end in ("low", "high")
    ]
    return alt.layer(bars, lines, *ends).properties(width="container", autosize=_FIT)


def timeline() -> _Chart:
    """Shots by characters: a mark per track, coloured by its emotion, stronger where the model was surer.

    Rows of `shots`: start, end, odd. Rows of `tracks`: start, end, top, bottom (in rows of the chart), colour,
    certainty, track; there may be ten thousand, so the page makes the tooltip of the one that is pointed at. Rows of
    `names`: name, top. The page sets the height, and the signals: `begin` and `finish` to what part of the film is
    seen, `step` to the seconds from mark to mark of the axis, `edge` to the width of the line between blocks.
    """
    begin, finish, step, edge = (
        alt.param(name=name, value=value) for name, value in (("begin", 0), ("finish", 1), ("step", 1), ("edge", 0))
    )
    ticks = alt.ExprRef("sequence(ceil(begin / step) * step, finish + step / 100, step)")
    x = alt.X(
        "start:Q",
        title=None,
        scale=alt.Scale(domainMin=alt.ExprRef("begin"), domainMax=alt.ExprRef("finish"), nice=False, zero=False),
        axis=alt.Axis(labelExpr=_CLOCK, grid=False, values=ticks, labelFlush=True, labelOverlap=True),
    )
    top = alt.Y("top:Q", axis=None, scale=alt.Scale(reverse=True, nice=False, zero=True))
    shots = (
        alt.Chart(alt.NamedData("shots"))
        .mark_rect(clip=True, opacity=0.55)
        .encode(x, alt.X2("end:Q"), fill=alt.condition("datum.odd", alt.value("var(--lane)"), alt.value("var(--card)")))
    )
    tracks = (
        alt.Chart(alt.NamedData("tracks"))
        .mark_rect(clip=True, cursor="pointer", stroke="var(--card)", strokeWidth=alt.ExprRef("edge"))
        .encode(
            x,
            alt.X2("end:Q"),
            top,
            alt.Y2("bottom:Q"),
            _COLOUR,
            opacity=alt.Opacity(
                "certainty:Q", scale=alt.Scale(domain=[0.25, 0.75], range=[0.4, 1], clamp=True), legend=None
            ),
        )
    )
    names = (
        alt.Chart(alt.NamedData("names"))
        .mark_text(align="left", baseline="bottom", dx=4, dy=-3, fontWeight=600, fontSize=13, color="var(--ink)")
        .encode(alt.Y("top:Q"), alt.Text("name:N"), x=alt.value(0))
    )
    return (
        alt.layer(shots, tracks, names)
        .add_params(begin, finish, step, edge)
        .properties(width="container", autosize=_FIT)
    )


def arc() -> _Chart:
    """How the emotions of one character rise and fall over the film, each with its band.

    Rows of `arc`: time, share, low, high (null where there is no value), emotion, colour, strength, and what the
    tooltip says.
    """
    finish, step = alt.param(name="finish", value=1), alt.param(name="step", value=1)
    ticks = alt.ExprRef("sequence(0, finish + step / 100, step)")
    base = alt.Chart(alt.NamedData("arc")).encode(
        alt.X(
            "time:Q",
            title=None,
            scale=alt.Scale(domainMin=0, domainMax=alt.ExprRef("finish"), nice=False),
            axis=alt.Axis(labelExpr=_CLOCK, grid=False, values=ticks, labelFlush=True, labelOverlap=True),
        ),
        _COLOUR,
        detail="emotion:N",
    )
    y = alt.Y("share:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", values=[0, 0.5, 1]))
    strength = alt.Opacity("strength:Q", scale=None)
    bands = base.mark_area(opacity=0.13).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    lines = base.mark_line(strokeWidth=2).encode(y, opacity=strength)
    points = base.mark_point(filled=True, size=90, opacity=0, cursor="pointer").encode(
        y, tooltip=[alt.Tooltip(f"{name}:N") for name in ("emotion", "said", "at", "worth")]
    )
    return (
        alt.layer(bands, lines, points)
        .add_params(finish, step)
        .properties(width="container", height=110, autosize=_FIT)
    )
