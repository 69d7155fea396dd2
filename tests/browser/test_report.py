"""The report of a run in a real browser: it draws, every figure opens its own frames, and names are text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, expect

from insideout.report import write_report
from insideout.stats.run import analyse_run
from tests.pages import data_of
from tests.runs import FilmSpec, write_run

EVIL = "<img src=x onerror=alert(1)>"
FILM = FilmSpec(f"films/{EVIL}.mp4", "a1" * 32, shots=60, shot_frames=16)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), (FILM,), characters=("Bunny", f"Frank {EVIL}"))
    analyse_run(folder, resamples=200)
    return folder


@pytest.fixture(scope="session")
def report(run: Path) -> Path:
    return Path(write_report(run))


@pytest.fixture(scope="session")
def data(report: Path) -> dict[str, Any]:
    film: dict[str, Any] = data_of(report.read_text(encoding="utf-8"))["films"][0]
    return film


@pytest.fixture
def drawn(page: Page, report: Path) -> Page:
    """The report with its charts drawn; the test fails if it asks for anything, or opens an alert."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-drawn]")
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    return page


def _ordinals(page: Page) -> list[int]:
    """The frames that the dialog shows; each picture of it is really there."""
    pictures = page.locator("#frames-body .frames img")
    loaded = pictures.evaluate_all(
        "async all => (await Promise.all(all.map(i => i.decode().then(() => i.naturalWidth))))"
    )
    texts = page.locator("#frames-body .frames .when").all_inner_texts()
    assert len(loaded) == len(texts) > 0
    assert min(loaded) >= 64
    return [int(text.rpartition("frame ")[2].replace(",", "")) for text in texts]


def test_a_click_on_a_cell_shows_its_frames_and_where_they_come_from(
    drawn: Page, run: Path, data: dict[str, Any]
) -> None:
    rows = pd.read_parquet(run / f"characters/film={FILM.film}")
    own = rows[(rows.character == "Bunny") & (rows.emotion == "Neutral")]
    drawn.locator(".matrix").get_by_role("button", name=re.compile("^Bunny, Neutral")).click()
    dialog = drawn.get_by_role("dialog", name="Bunny, read as Neutral")
    expect(dialog).to_be_visible()
    shown = _ordinals(drawn)
    assert set(shown) <= set(own.ordinal)
    assert len(shown) == min(24, len(own)) == len(set(shown))
    figure = next(f for f in data["figures"] if f[0] == "Bunny, read as Neutral")
    assert f"{len(shown)} of {figure[3]} frames are shown" in dialog.inner_text()
    assert dialog.locator("code").inner_text() == figure[4]
    for probability in own[own.ordinal == shown[0]].probabilities.iloc[0]:  # also those at 0
        assert probability[0] in dialog.locator(".chances").first.inner_text()
    dialog.locator("summary").click()
    stretches = dialog.locator("tbody tr")
    assert stretches.count() == own.track.nunique()
    stretches.first.get_by_role("button").click()
    expect(drawn.locator("#frames-title")).to_have_text(re.compile(r"^Bunny, shot \d+, "))
    tracks = rows[rows.ordinal.isin(_ordinals(drawn)) & (rows.character == "Bunny")].track
    assert own.track.min() in set(tracks)


def test_cells_and_pictures_open_by_keyboard_and_give_the_focus_back(drawn: Page) -> None:
    drawn.keyboard.press("Tab")
    expect(drawn.get_by_role("link", name="Skip to the content")).to_be_focused()
    dialog = drawn.locator("#frames")
    for button, key in ((drawn.locator(".cell").first, "Enter"), (drawn.locator(".gallery button").first, "Space")):
        button.focus()
        drawn.keyboard.press(key)
        expect(dialog).to_be_visible()
        expect(drawn.locator("#frames-title")).to_be_focused()
        _ordinals(drawn)
        drawn.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(button).to_be_focused()


def test_marks_of_the_charts_open_their_frames_and_the_timeline_zooms(drawn: Page, data: dict[str, Any]) -> None:
    timeline = drawn.locator("[data-chart=timeline]")
    marks = timeline.locator("svg g.mark-rect").nth(1).locator("path")
    assert marks.count() == len(data["tracks"])
    last = len(data["tracks"]) - 1

    def widest() -> float:
        paths: list[str] = marks.evaluate_all("all => all.map(one => one.getAttribute('d'))")
        return max(float(width) for path in paths for width in re.findall(r"h([\d.]+)", path))

    before = widest()
    marks.nth(0).click()
    expect(drawn.locator("#frames-title")).to_contain_text(f"shot {data['tracks'][0][2]}, ")
    assert set(_ordinals(drawn)) == {f[0] for f in data["frames"] if f[3] == data["tracks"][0][0]}
    drawn.get_by_role("button", name="Close", exact=True).click()
    drawn.get_by_role("button", name="Closer").click()
    expect(drawn.locator(".range")).to_contain_text(" to ")
    drawn.get_by_role("button", name="Earlier").click()
    expect(drawn.locator(".range")).to_contain_text("0:00.0 to ")
    expect(timeline).to_have_attribute("data-seen", re.compile("^0 "))
    assert widest() == pytest.approx(2 * before, rel=0.01)
    drawn.get_by_role("button", name="Whole film").click()
    expect(drawn.locator(".range")).to_be_empty()
    expect(marks).to_have_count(len(data["tracks"]))
    marks.nth(last).hover()
    told = re.search(r"shot (\d+)", drawn.locator("#tip").inner_text())
    assert told is not None
    marks.nth(last).click()
    expect(drawn.locator("#frames-title")).to_contain_text(f"shot {told[1]}, ")
    drawn.get_by_role("button", name="Close", exact=True).click()
    drawn.locator("[data-chart=shares] g.mark-rect path").nth(3).click(force=True)
    expect(drawn.locator("#frames-title")).to_have_text("Bunny, read as Neutral")
    drawn.get_by_role("button", name="Close", exact=True).click()
    drawn.locator("[data-chart=arc] g.mark-symbol path").nth(8).click(force=True)
    expect(drawn.locator("#frames-title")).to_contain_text("around ")
    told = re.search(r"(\d+) of (\d+) frames|All (\d+)", drawn.locator("#frames-count").inner_text())
    assert told is not None
    assert int(told[2] or told[3]) >= int(told[1] or told[3]) == len(_ordinals(drawn))


def test_names_with_markup_are_shown_as_text(drawn: Page) -> None:
    assert drawn.get_by_role("heading", level=1).inner_text() == f"{EVIL}.mp4"
    drawn.locator(".matrix").get_by_role("button", name=re.compile("^Frank <img.*uncertain")).click()
    expect(drawn.locator("#frames-title")).to_have_text(f"Frank {EVIL}, read as uncertain")
    assert drawn.locator("img[src=x]").count() == 0
    assert f"Frank {EVIL}" in (drawn.locator("[data-chart=timeline] svg").text_content() or "")


def test_charts_follow_light_dark_and_print_and_fit_a_telephone(drawn: Page) -> None:
    label = drawn.locator("[data-chart=shares] .role-axis-label text").first

    def colours() -> tuple[str, str]:
        ink: str = label.evaluate("node => getComputedStyle(node).fill")
        return ink, drawn.evaluate("getComputedStyle(document.body).backgroundColor")

    light = colours()
    drawn.emulate_media(color_scheme="dark")
    dark = colours()
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    drawn.emulate_media(media="print")
    assert colours()[1] == "rgb(255, 255, 255)"
    expect(drawn.locator(".tools")).to_be_hidden()
    expect(drawn.locator(".matrix")).to_be_visible()
    assert len(drawn.pdf(print_background=False)) > 50_000
    drawn.emulate_media(media="screen", color_scheme="light")
    drawn.set_viewport_size({"width": 390, "height": 844})
    assert drawn.evaluate("document.documentElement.scrollWidth") <= 390
    drawn.set_viewport_size({"width": 390, "height": 844})
    matrix = drawn.locator(".scroll:has(> .matrix)")
    assert matrix.evaluate("node => node.scrollWidth <= node.clientWidth")  # stacked, so that nothing is cut off
    cells = drawn.locator(".matrix td[data-emotion]")
    assert cells.first.evaluate("node => getComputedStyle(node, '::before').content") == '"Afraid"'


def test_uncertain_is_striped_in_charts_as_in_their_legend(drawn: Page, data: dict[str, Any]) -> None:
    assert data["readings"][-1] == "uncertain"
    doubtful = sum(track[5] == len(data["readings"]) - 1 for track in data["tracks"])
    blocks = drawn.locator("[data-chart=timeline] path[fill='url(#fill-eu)']")
    assert blocks.count() == doubtful > 0
    assert "gradient" in drawn.locator(".timeline figcaption .swatch.eu").evaluate(
        "node => getComputedStyle(node).backgroundImage"
    )
    assert drawn.locator("#fill-eu rect").count() == 2
    drawn.locator(".cell.eu").first.click()
    assert drawn.locator("#frames-body .swatch.eu").count() > 0
    legend = drawn.locator(".legend").inner_text().split()
    assert legend == data["readings"][:-1]


def test_without_scripts_tables_and_pictures_are_there_and_no_other_script_runs(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    expect(page.get_by_text("Without scripts")).to_be_visible()
    expect(page.locator(".matrix")).to_contain_text("uncertain")
    expect(page.locator(".gallery img").first).to_be_visible()
    context.close()
    page = browser.new_page()
    page.goto(report.as_uri())
    ran = """() => {
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
        const holder = document.createElement("div");
        holder.innerHTML = "<img src=x onerror='window.ran = true'>";
        document.body.append(holder);
        setTimeout("window.ran = true");
    }"""
    page.evaluate(ran)
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    page.close()
