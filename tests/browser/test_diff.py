"""The page of a comparison in a real browser: nothing is loaded, pictures are there, a telephone can show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from insideout.compare import compare_runs
from insideout.compare.page import render_page
from tests.media import write_film
from tests.tables import Row, table_of, write_tables


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_shows_its_pictures_and_asks_for_nothing(page: Page, tmp_path: Path, width: int) -> None:
    film = write_film(tmp_path / "film.mp4", 24, lambda number: np.full((72, 128, 3), 128, np.uint8))
    box = (40, 30, 40, 30)
    a = write_tables(tmp_path / "a", table_of(film, rows=[Row(4, "Bunny", "Happy", box)]))
    b = write_tables(tmp_path / "b", table_of(film, rows=[Row(4, "Bunny", "Angry", box)]))
    path = tmp_path / "diff.html"
    path.write_text(render_page(compare_runs(a, b, resamples=100)), encoding="utf-8")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(path.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [128, 128]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("h1").inner_text() == "What changed"
