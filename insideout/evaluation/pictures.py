"""Pictures of how a classifier does, as PNG: confusion, reliability, risk, characters, worst errors.

Colours are Okabe & Ito's, which colour-blind readers tell apart; every value that a colour carries is
also written or drawn. Figures are built on their own canvas, so that no drawing shares state.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from insideout.crops import resize, square
from insideout.evaluation.calibration import Reliability, RiskCoverage
from insideout.evaluation.intervals import Interval
from insideout.evaluation.predictions import Predictions

DPI = 150
BLUE, ORANGE, INK, SOFT, LINE = "#0072b2", "#d55e00", "#1d1f24", "#5b606b", "#dedbd3"
#: Colours of lines in their order, each with its own dashes.
_LINES = (
    (BLUE, "-"), (ORANGE, "--"), ("#009e73", "-."), ("#cc79a7", ":"), ("#5b606b", (0, (3, 1, 1, 1))),
    ("#56b4e9", (0, (6, 1))), ("#e69f00", (0, (1, 1))), ("#1d1f24", (0, (5, 1, 1, 1, 1, 1))),
)  # fmt: skip
_COLUMNS, _MOST, _SIDE = 6, 24, 160


def png(figure: Figure) -> bytes:
    """The figure as PNG at 150 dots per inch on white."""
    sink = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(sink, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return sink.getvalue()


def confusion_picture(confusion: npt.NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Confusion counts [k, k], rows are the truth: crops in each cell, shaded by their share of the row."""
    k = len(classes)
    side = 2.4 + 0.62 * k
    figure, axes = _figure(side + 0.5, side, title)
    support = confusion.sum(1)
    share = confusion / np.maximum(support, 1)[:, None]
    axes.grid(visible=False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(k):
        for column in range(k):
            count, part = int(confusion[row, column]), float(share[row, column])
            shade, weight = ("white" if part > 0.65 else INK), ("bold" if row == column else "normal")
            if not count:
                axes.text(column, row, "·", ha="center", va="center", color=SOFT)
                continue
            axes.text(column, row - 0.1, str(count), ha="center", va="center", color=shade, size=12, weight=weight)
            axes.text(column, row + 0.26, f"{part:.0%}", ha="center", va="center", color=shade, size=7.5)
    names = [_plain(name) for name in classes]
    axes.set_xticks(range(k), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), [f"{name} ({n})" for name, n in zip(names, support, strict=True)])
    axes.set_xlabel("guess")
    axes.set_ylabel("truth (crops)")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    return figure


def reliability_picture(panels: Mapping[str, tuple[Reliability, float]], title: str) -> Figure:
    """Certainty against accuracy, a panel per name, given with its expected calibration error.

    Bars below are the number of crops in each bin; the gap to the diagonal is what is too sure or
    not sure enough.
    """
    figure = _empty(0.6 + 4.1 * len(panels), 5.2, title)
    grid = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=[3.2, 1])
    for i, (name, (bins, error)) in enumerate(panels.items()):
        top, below = grid[0][i], grid[1][i]
        _dress(top)
        _dress(below)
        width, some = np.diff(bins.edges), bins.crops > 0
        centre = bins.edges[:-1] + width / 2
        top.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--", label="as sure as right")
        top.bar(centre[some], bins.accuracy[some], width[some] * 0.92, color=BLUE, alpha=0.35, label="share right")
        for x, y in zip(bins.certainty[some], bins.accuracy[some], strict=True):
            top.plot([x, x], [x, y], color=ORANGE, linewidth=1.5)
        top.plot(
            bins.certainty[some], bins.accuracy[some], "o", color=ORANGE, markersize=4.5, label="mean of a bin, its gap"
        )
        top.set_title(f"{name}: ECE {error:.3f}", size=10, loc="left")
        top.set_xlim(0, 1)
        top.set_ylim(0, 1.04)
        below.bar(centre, bins.crops, width * 0.92, color=SOFT)
        for x, n in zip(centre[some], bins.crops[some], strict=True):
            below.text(x, n, str(n), ha="center", va="bottom", size=6.5, color=INK)
        below.set_ylim(0, max(1, *(other.crops.max() for other, _ in panels.values())) * 1.25)
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        below.set_xlabel("certainty")
    grid[0][0].set_ylabel("share right")
    grid[1][0].set_ylabel("crops")
    grid[0][0].legend(loc="upper left", frameon=False, fontsize=8)
    return figure


def risk_picture(curves: Mapping[str, tuple[RiskCoverage, float]], title: str) -> Figure:
    """Share wrong among the surest crops, a line per name, given with the area under it (AURC)."""
    figure, axes = _figure(6.4, 4.4, title)
    highest = 0.1
    for i, (name, (curve, area)) in enumerate(curves.items()):
        colour, dashes = _LINES[i % len(_LINES)]
        # From the first crop on, not from coverage 0, where there is nothing to be wrong about.
        axes.plot(
            curve.coverage, curve.risk, color=colour, linestyle=dashes, linewidth=2 if i == 0 else 1.5,
            label=f"{_plain(name)}: AURC {area:.3f}", marker="o" if len(curve.coverage) == 1 else None,
        )  # fmt: skip
        highest = max(highest, float(curve.risk.max()))
    axes.axhline(0.1, color=SOFT, linewidth=0.8, linestyle=":")
    axes.text(1.0, 0.1, "90 % right", size=8, color=SOFT, va="bottom", ha="right")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, min(1.0, highest * 1.08))
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("crops answered, surest first")
    axes.set_ylabel("wrong among them")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, fontsize=8, ncols=2)
    return figure


def character_picture(scores: Mapping[str, tuple[Interval, int, int]], title: str) -> Figure:
    """Macro-F1 of each character with its interval, most crops first.

    `scores` maps a name to its value (without ends where it is in one shot only), crops and shots.
    """
    ordered = sorted(scores, key=lambda name: (-scores[name][1], name))
    figure, axes = _figure(6.4, 1.5 + 0.5 * len(ordered), title)
    for row, name in enumerate(ordered):
        found, _, _ = scores[name]
        axes.barh(row, found.value, 0.6, color=BLUE, alpha=0.8)
        end = found.value
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [row, row], color=INK, linewidth=1.6, solid_capstyle="butt")
            for edge in (found.low, found.high):
                axes.plot([edge, edge], [row - 0.12, row + 0.12], color=INK, linewidth=1.6)
            end = max(end, found.high)
        axes.text(end + 0.015, row, f"{found.value:.2f}", va="center", size=9, color=INK)
    axes.set_yticks(
        range(len(ordered)),
        [f"{_plain(name) or '(unknown)'}\n{scores[name][1]} crops, {scores[name][2]} shots" for name in ordered],
    )
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.set_xlim(0, 1.1)
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.set_xlabel("macro-F1 over the emotions it shows, 95 % interval over shots")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return figure


def worst_picture(predictions: Predictions, title: str, temperature: float | None = None) -> Figure | None:
    """The wrong crops of which the classifier is surest, with truth, guess and certainty; at most 24.

    Crops of a character in one shot with the same truth and guess look alike: the surest stands for
    them, with their number. None when there is no wrong crop. Raises DataError for a picture that
    cannot be read.
    """
    certainty = predictions.probabilities(temperature).max(1)
    wrong = np.flatnonzero(predictions.guesses != predictions.labels)
    alike: dict[tuple[object, ...], list[int]] = {}
    for i in wrong[np.argsort(-certainty[wrong], kind="stable")].tolist():
        crop = predictions.crops.crops[i]
        kind = (crop.shot_key or crop.name, crop.character, crop.emotion, int(predictions.guesses[i]))
        alike.setdefault(kind, []).append(i)
    shown = list(alike.values())[:_MOST]
    if not shown:
        return None
    columns = min(_COLUMNS, max(3, len(shown)))
    rows = -(-len(shown) // columns)
    told = f"{title}: {sum(map(len, shown))} of {len(wrong)} wrong crops"
    figure = _empty(1.62 * columns, 2.3 * rows + 0.5, told)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for axes, (i, *more) in zip(grid.ravel(), shown, strict=False):
        crop = predictions.crops.crops[i]
        guess = predictions.classes[predictions.guesses[i]]
        axes.imshow(resize(square(crop.read()), _SIDE))
        axes.set_title(f"{_plain(crop.emotion)}\n→ {_plain(guess)}", size=8.5, color=INK, pad=3)
        where = " ".join(part for part in (crop.character, f"shot {crop.shot}" if crop.shot else "") if part)
        below = f"{certainty[i]:.0%} sure" + (f", {len(more)} more" if more else "") + f"\n{_plain(where)}"
        axes.text(0.5, -0.04, below, transform=axes.transAxes, size=7.5, ha="center", va="top", color=SOFT)
    return figure


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = _empty(width, height, title)
    axes = figure.subplots()
    _dress(axes)
    return figure, axes


def _empty(width: float, height: float, title: str) -> Figure:
    """A figure of this size in inches with its title at the left."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(_plain(title), x=0.01, ha="left", size=11, weight="bold", color=INK)
    return figure


def _dress(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=LINE, linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=9)


def _plain(text: str) -> str:
    """A name as it is: matplotlib reads dollar signs as mathematics."""
    return text.replace("$", r"\$")
