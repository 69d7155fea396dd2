"""The pictures of an evaluation show the figures they are given."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from insideout.datasets.labelled import CropList, LabelledCrop
from insideout.errors import DataError
from insideout.evaluation.calibration import certainty_of, ece, reliability, risk_coverage
from insideout.evaluation.intervals import Interval
from insideout.evaluation.pictures import (
    DPI,
    character_picture,
    confusion_picture,
    png,
    reliability_picture,
    risk_picture,
    worst_picture,
)
from insideout.evaluation.predictions import Predictions

CLASSES = ("Angry", "Happy", "$ad$")


def drawn(figure: Figure) -> np.ndarray:
    """The figure as it is written, RGB; matplotlib's warnings are errors here."""
    picture = cv2.imdecode(np.frombuffer(png(figure), np.uint8), cv2.IMREAD_COLOR)
    width, height = figure.get_size_inches() * DPI
    assert picture.shape[:2] == pytest.approx((height, width), abs=1)
    assert (picture[0, 0] == 255).all()
    return picture[:, :, ::-1]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def blot(shade: int) -> bytes:
    return cv2.imencode(".png", np.full((20, 10, 3), shade, np.uint8))[1].tobytes()


def rows(told: list[tuple[str, str, str, float]]) -> Predictions:
    """Predictions from (shot, truth, guess, logit of the guess); crop i is of shade 100 + i."""
    crops = tuple(
        LabelledCrop(f"{i}.png", blot(100 + i), truth, shot=shot, character="Bun")
        for i, (shot, truth, _, _) in enumerate(told)
    )
    logits = np.array([[sure * (name == guess) for name in CLASSES] for _, _, guess, sure in told], np.float32)
    return Predictions(CropList(CLASSES, crops), logits)


def test_confusion_shows_counts_and_shares_of_the_row() -> None:
    figure = confusion_picture(np.array([[6, 2, 0], [0, 5, 0], [0, 0, 0]]), CLASSES, "title")
    drawn(figure)
    assert [t for t in texts(figure) if t != "·"] == ["6", "75%", "2", "25%", "5", "100%"]
    shades = figure.axes[0].images[0].get_array()
    assert np.asarray(shades).tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Angry (8)", "Happy (5)", r"\$ad\$ (0)"]


def test_reliability_has_a_panel_per_temperature() -> None:
    predictions = rows([("1", "Angry", "Angry", 1.0), ("1", "Happy", "Angry", 1.0), ("2", "Happy", "Happy", 4.0)])
    panels = {f"T = {t}": (reliability(predictions, t), ece(*certainty_of(predictions, t))) for t in (1, 2)}
    figure = reliability_picture(panels, "title")
    drawn(figure)
    top = figure.axes[:2]
    assert [axes.get_title(loc="left") for axes in top] == [
        f"T = {t}: ECE {ece(*certainty_of(predictions, t)):.3f}" for t in (1, 2)
    ]
    # The numbers over the bars below: two crops in one bin, one in another.
    assert sorted(texts(figure)) == ["1", "1", "2", "2"]
    assert [round(bar.get_height(), 3) for bar in top[0].patches] == [0.5, 1.0]


def test_risk_coverage_draws_every_curve() -> None:
    certainty, right = np.array([0.9, 0.8, 0.7]), np.array([True, False, True])
    flat = risk_coverage(np.full(3, 0.5), right)
    figure = risk_picture({"pack": (risk_coverage(certainty, right), 0.28), "same": (flat, 0.33)}, "title")
    drawn(figure)
    line, point = figure.axes[0].lines[:2]
    assert line.get_xdata().tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert line.get_ydata().tolist() == pytest.approx([0, 1 / 2, 1 / 3])
    assert point.get_marker() == "o"  # a single point would be invisible as a line
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "pack: AURC 0.280", "same: AURC 0.330",
    ]  # fmt: skip


def test_characters_with_and_without_an_interval() -> None:
    figure = character_picture(
        {"": (Interval(0.5, None, None), 3, 1), "B$n": (Interval(0.25, 0.1, 0.7), 9, 4)}, "title"
    )
    drawn(figure)
    axes = figure.axes[0]
    assert [round(bar.get_width(), 6) for bar in axes.patches] == [0.25, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "B\\$n\n9 crops, 4 shots", "(unknown)\n3 crops, 1 shots",
    ]  # fmt: skip
    assert axes.lines[0].get_xdata().tolist() == [0.1, 0.7]
    assert len(axes.lines) == 3  # the interval and its two ends; none for the other


def test_worst_errors_surest_first_and_one_of_those_that_look_alike() -> None:
    figure = worst_picture(
        rows(
            [
                ("1", "Angry", "Angry", 9.0),
                ("1", "Angry", "Happy", 2.0),
                ("2", "Happy", "$ad$", 3.0),
                ("1", "Angry", "Happy", 2.5),
            ]
        ),
        "title",
    )
    assert figure is not None
    drawn(figure)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["Happy\n→ \\$ad\\$", "Angry\n→ Happy"]
    assert [np.asarray(axes.images[0].get_array()).max() for axes in shown] == [102, 103]
    sure = [np.exp(x) / (np.exp(x) + 2) for x in (3.0, 2.5)]
    assert texts(figure) == [f"{sure[0]:.0%} sure\nBun shot 2", f"{sure[1]:.0%} sure, 1 more\nBun shot 1"]
    assert "3 of 3 wrong crops" in figure.get_suptitle()
    assert worst_picture(rows([("1", "Angry", "Angry", 1.0)]), "title") is None


def test_a_crop_that_cannot_be_read_is_named() -> None:
    crops = CropList(CLASSES, (LabelledCrop("lost.png", b"no picture", "Angry"),))
    with pytest.raises(DataError, match=r"lost\.png"):
        worst_picture(Predictions(crops, np.array([[0, 1, 0]], np.float32)), "title")
