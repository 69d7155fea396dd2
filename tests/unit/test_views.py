from __future__ import annotations

import pytest
import torch
from torch import nn

from insideout.views import INNER, draw, see, show, show_each

SIDE = 100


def _padded() -> torch.Tensor:
    """A red picture twice as wide as high, made square with black."""
    picture = torch.zeros(1, 3, SIDE, SIDE)
    picture[:, 0, 25:75] = 1.0
    return picture


def test_the_oval_is_grey_and_fits_what_is_not_padding() -> None:
    seen = show(_padded(), "oval")[0]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert seen[0, 50, 50] == pytest.approx(0.299)
    lit = seen[0] > 0.15
    rows, columns = lit.any(1).nonzero().flatten(), lit.any(0).nonzero().flatten()
    assert (rows.min(), rows.max()) == (25, 74)
    assert (columns.min(), columns.max()) == (0, 99)
    assert not lit[26, 5]  # a corner of the picture
    # An ellipse covers a quarter of pi of its rectangle.
    assert lit.sum().item() / (50 * 100) == pytest.approx(torch.pi / 4, abs=0.02)


def test_the_oval_of_nothing_is_nothing() -> None:
    assert show(torch.zeros(2, 3, 32, 32), "oval").abs().max() == 0


def test_inner_shows_the_middle_larger() -> None:
    ramp = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE)
    seen = show(ramp, "inner")
    assert seen.shape == ramp.shape
    assert seen[0, 0, 50, 0] == pytest.approx((1 - INNER) / 2, abs=0.01)
    assert seen[0, 0, 50, -1] == pytest.approx((1 + INNER) / 2, abs=0.01)


def test_views_are_drawn_by_seed_and_all_of_them() -> None:
    drawn = draw(3, range(300))
    assert drawn == draw(3, range(300))
    assert min(drawn.count(view) for view in range(3)) > 70
    assert draw(1, range(5)) == [0] * 5


def test_each_picture_is_shown_in_its_own_view() -> None:
    pictures = (torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 255).byte()
    seen = show_each(pictures, ("whole", "inner", "oval"), [2, 0, 1])
    assert torch.equal(seen[1], pictures[1])
    for place, view in ((0, "oval"), (2, "inner")):
        expected = show(pictures[[place]].float() / 255, view)[0] * 255
        assert (seen[place].float() - expected).abs().max() <= 0.5
    assert seen.dtype == torch.uint8


def test_the_mean_takes_each_view_from_its_own_outputs() -> None:
    class Sums(nn.Module):
        """Two classes and two views: outputs 0 and 1 are of `whole`, 2 and 3 of `oval`."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            red, green = inputs[:, 0].mean((1, 2)), inputs[:, 1].mean((1, 2))
            return torch.stack([red, green, 10 * red, 10 * green], 1)

    picture = _padded()
    oval = show(picture, "oval").mean((2, 3))[0, 0].item()
    found = see(Sums(), picture, ("whole", "oval"), lambda shown: 2 * shown)
    assert found.shape == (1, 2)
    assert found[0].tolist() == pytest.approx([(2 * 0.5 + 20 * oval) / 2, 20 * oval / 2], rel=1e-5)
