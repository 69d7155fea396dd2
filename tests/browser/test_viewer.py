"""The viewer in a real browser: the frame on screen, by the number burnt into it, is the frame that is named."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from insideout.film import Film
from tests.films import EXACT
from tests.media import Picture, number_in, write_film
from tests.viewers import MASK_TOP, label_film, left_of, served

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def view(page: Page) -> Iterator[Callable[..., str]]:
    """Serve a run and open it; returns the address without its token."""
    with ExitStack() as stack:

        def opener(run: Path, **options: Path) -> str:
            address = stack.enter_context(served(run, **options))  # type: ignore[arg-type]
            page.goto(address)
            page.wait_for_selector("#stage[data-counted=yes][data-drawn]")
            return address.partition("?")[0]

        yield opener
        page.goto("about:blank")


def _stage(page: Page, name: str) -> str | None:
    return page.get_attribute("#stage", f"data-{name}")


def _screen(page: Page) -> Picture:
    """What a person sees of the picture itself: a screenshot without the overlay."""
    page.evaluate("document.querySelector('#overlay').style.visibility = 'hidden'")
    data = page.locator("#screen").screenshot()
    page.evaluate("document.querySelector('#overlay').style.visibility = ''")
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found.astype(np.uint8)


def _drawn_left(page: Page, film: Film) -> int | None:
    """The left edge of what the overlay draws of the first character, in pixels of the stored picture."""
    found = page.evaluate(
        """(share) => {
          const c = document.querySelector('#overlay'), copy = document.createElement('canvas');
          [copy.width, copy.height] = [c.width, c.height];
          const g = copy.getContext('2d', { willReadFrequently: true });
          g.drawImage(c, 0, 0);
          const data = g.getImageData(0, Math.round(c.height * share), c.width, 1).data;
          for (let x = 0; x < c.width; x++) if (data[4 * x + 3] > 100) return x / c.width;
          return null;
        }""",
        (MASK_TOP + 12) / film.height,
    )
    return None if found is None else round(found * film.width)


def _go(page: Page, ordinal: int) -> None:
    """Step to a frame by the arrow keys."""
    now = int(_stage(page, "ordinal") or 0)
    for _ in range(abs(ordinal - now)):
        page.keyboard.press("ArrowRight" if ordinal > now else "ArrowLeft")
    _wait(page, ordinal)


def _wait(page: Page, ordinal: int) -> None:
    page.wait_for_selector(f"#stage[data-ordinal='{ordinal}'][data-drawn]:not([data-drawn=waiting])")


def _labelled(ordinal: int) -> int:
    """The labelled frame that stands for a frame of `label_film`, worked out by hand."""
    return {0: 0, 1: 4, 2: 4, 3: -2, 4: -1}.get(ordinal // 4, ordinal // 4 * 4)


def _check_agreement(page: Page, film: Film, first_number: int = 0, turns: int = 0) -> int:
    """The picture, the ordinal that is named, and what is drawn on top are of one frame; returns its ordinal."""
    ordinal = int(_stage(page, "ordinal") or -1)
    assert number_in(np.rot90(_screen(page), turns)) == first_number + ordinal
    assert _stage(page, "drawn") == str(_labelled(ordinal))
    left = _drawn_left(page, film)
    if _labelled(ordinal) < 0:
        assert left is None
    else:
        assert left == pytest.approx(left_of(_labelled(ordinal), film.width), abs=1)
    return ordinal


def _varying(at: Path) -> Path:
    pts = 20_000 + np.cumsum(np.random.default_rng(7).integers(10, 90, 60))
    return write_film(at / "f.mp4", 60, pts=pts.tolist(), time_base=Fraction(1, 1000))


def _turned(at: Path) -> Path:
    return write_film(at / "f.mp4", 40, rotation=-90, aspect=Fraction(16, 11))


@pytest.mark.parametrize(
    ("make", "mode", "first_number", "turns"),
    [
        (_varying, "video", 0, 0),  # B-frames, a frame rate that varies, a start after 20 seconds
        (EXACT["edit-list"], "video", 5, 0),  # its first five frames are cut away
        (_turned, "video", 0, 1),  # on its side, and pixels that are not square
        (EXACT["open-gop"], "stills", 0, 0),  # Chromium gives up on it
    ],
    ids=["varying", "edit-list", "turned", "open-gop"],
)
def test_picture_number_and_overlay_are_of_one_frame(
    page: Page, view: Callable[..., str], tmp_path: Path, make: Callable[[Path], Path], mode: str, first_number: int,
    turns: int,
) -> None:  # fmt: skip
    film = label_film(tmp_path / "run", make(tmp_path))
    view(tmp_path / "run")
    page.focus("#stage")
    for ordinal in (5, 9, 13, 24, 23):
        _go(page, ordinal)
        assert _check_agreement(page, film, first_number, turns) == ordinal
    page.keyboard.press("End")
    _wait(page, film.frames - 1)
    assert _check_agreement(page, film, first_number, turns) == film.frames - 1
    page.keyboard.press("Shift+ArrowLeft")
    _wait(page, (film.frames - 2) // 24 * 24)
    assert _stage(page, "mode") == mode
    if mode == "stills":
        assert "single pictures" in page.inner_text("#notice")
    shown = page.evaluate("(e => e.clientWidth / e.clientHeight)(document.querySelector('#screen'))")
    aspect = film.width / film.height * (11 / 16 if turns else 1)
    assert shown == pytest.approx(aspect, rel=0.01)


def test_playing_and_seeking_end_at_the_frame_that_is_named(
    page: Page, view: Callable[..., str], tmp_path: Path
) -> None:
    film = label_film(tmp_path / "run", EXACT["b-frames"](tmp_path))
    view(tmp_path / "run")
    lanes = page.locator("#lanes")
    box = lanes.bounding_box()
    assert box is not None
    for share in (0.7, 0.2):
        lanes.click(position={"x": 92 + share * (box["width"] - 92), "y": 30})
        expected = round(share * film.frames)
        near = re.compile(f"^({expected - 1}|{expected}|{expected + 1})$")
        expect(page.locator("#stage")).to_have_attribute("data-ordinal", near)
        page.wait_for_timeout(200)
        assert near.match(str(_check_agreement(page, film)))
    page.keyboard.press("Space")
    page.wait_for_selector("#stage[data-playing=yes]")
    expect(page.locator("#stage")).to_have_attribute("data-ordinal", re.compile(r"^(2[5-9]|[3-9]\d)$"), timeout=15_000)
    page.keyboard.press("Space")
    page.wait_for_selector("#stage[data-playing=no]")
    page.wait_for_timeout(200)
    assert _check_agreement(page, film) >= 25


def test_a_correction_is_saved_survives_reload_and_meets_those_of_another_tab(
    page: Page, view: Callable[..., str], tmp_path: Path
) -> None:
    film = label_film(tmp_path / "run", EXACT["b-frames"](tmp_path))
    kept = tmp_path / "kept" / "a.csv"
    kept.parent.mkdir()
    address = view(tmp_path / "run", annotations=kept)

    def rows() -> dict[tuple[str, str], dict[str, str]]:
        with kept.open(newline="") as file:
            return {(row["ordinal"], row["track"]): row for row in csv.DictReader(file)}

    page.focus("#stage")
    _go(page, 29)
    page.keyboard.press("2")
    expect(page.locator("#saved")).to_have_text("Saved: Bunny is Angry (frame 28).")
    assert {key: (row["emotion"], row["annotator"]) for key, row in rows().items()} == {("28", "2"): ("Angry", "Ada")}
    other = page.context.new_page()
    other.goto(f"{address}#{film.film}/33")
    other.wait_for_selector("#stage[data-ordinal='33'][data-drawn='32']")
    other.keyboard.press("t")
    other.keyboard.press("f")
    expect(other.locator("#saved")).to_have_text("Saved: Bunny is Frank (track 2, 6 frames).")
    assert [row["as_character"] for row in rows().values()] == ["Frank"] * 6
    assert rows()["28", "2"]["emotion"] == "Angry", "the other tab has not lost it"
    other.close()
    page.reload()
    page.wait_for_selector("#stage[data-ordinal='29'][data-drawn='28']")
    expect(page.locator("#figures [role=radio]")).to_contain_text("Frank")
    expect(page.locator("#figures [role=radio]")).to_contain_text("Angry")
    page.keyboard.press("x")
    expect(page.locator("#figures [role=radio]")).to_contain_text("not a character")
    assert rows()["28", "2"]["as_character"] == "-"
    page.keyboard.press("u")
    expect(page.locator("#figures [role=radio]")).to_contain_text("Frank")
    assert (rows()["28", "2"]["as_character"], rows()["28", "2"]["emotion"]) == ("Frank", "Angry")


def test_names_with_html_are_text(page: Page, view: Callable[..., str], tmp_path: Path) -> None:
    path = write_film(tmp_path / "<b onclick=1>&amp;.mp4", 48)
    label_film(tmp_path / "run", path, names=(EVIL, "</script>"))
    view(tmp_path / "run")
    page.focus("#stage")
    _go(page, 24)
    assert page.inner_text("#title") == "<b onclick=1>&amp;.mp4"
    expect(page.locator("#figures [role=radio]").first).to_contain_text(EVIL)
    expect(page.locator("#figures [role=radio]").nth(1)).to_contain_text("</script>")
    assert page.locator("#names .choice span").first.inner_text() == EVIL
    assert EVIL in page.locator("#filter-character option").all_inner_texts()
    page.locator("#lanes").hover(position={"x": 700, "y": 30})
    expect(page.locator("#tip")).to_contain_text(EVIL)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    assert page.locator("img").count() == 1, "the page's own, for single pictures"
    assert page.evaluate("document.scripts.length") == 1


def test_the_filter_leads_from_match_to_match(page: Page, view: Callable[..., str], tmp_path: Path) -> None:
    label_film(tmp_path / "run", EXACT["b-frames"](tmp_path))
    view(tmp_path / "run")
    page.select_option("#filter-character", "Frank")
    expect(page.locator("#match-count")).to_have_text("3 stretches")  # the shots from frame 49 on: 52, 72 and 96
    page.focus("#stage")
    for ordinal, text in ((52, "1 of 3"), (72, "2 of 3"), (96, "3 of 3"), (52, "1 of 3")):
        page.keyboard.press("n")
        _wait(page, ordinal)
        expect(page.locator("#match-count")).to_have_text(text)
    page.keyboard.press("Shift+N")
    _wait(page, 96)


def test_the_two_ends_of_the_certainty_stay_in_order(page: Page, view: Callable[..., str], tmp_path: Path) -> None:
    label_film(tmp_path / "run", EXACT["b-frames"](tmp_path))
    view(tmp_path / "run")
    page.focus("#stage")
    page.keyboard.press("n")
    expect(page.locator("#saved")).to_have_text("Choose a character, an emotion or a certainty first.")
    page.fill("#filter-most", "20")
    page.fill("#filter-least", "80")
    expect(page.locator("#range-text")).to_have_text(re.compile("^20.20 %$"))
    expect(page.locator("#match-count")).to_have_text("no stretches")


def test_a_film_opens_at_its_first_label_and_plays_again_from_its_end(
    page: Page, view: Callable[..., str], tmp_path: Path
) -> None:
    film = label_film(tmp_path / "run", EXACT["b-frames"](tmp_path), empty=range(0, 20))
    view(tmp_path / "run")
    _wait(page, 20)
    assert _check_agreement(page, film) == 20
    page.focus("#stage")
    page.keyboard.press("End")
    _wait(page, film.frames - 1)
    page.keyboard.press("Space")
    expect(page.locator("#stage")).to_have_attribute("data-ordinal", re.compile(r"^[1-4]?\d$"))
    page.keyboard.press("Space")


def test_single_pictures_are_paused_by_a_key_and_begin_again_at_their_end(
    page: Page, view: Callable[..., str], tmp_path: Path
) -> None:
    film = label_film(tmp_path / "run", EXACT["mpeg2-ts"](tmp_path))
    view(tmp_path / "run")
    page.wait_for_selector("#stage[data-mode=stills]")
    page.focus("#stage")
    page.keyboard.press("End")
    _wait(page, film.frames - 1)
    page.keyboard.press("Space")
    expect(page.locator("#stage")).to_have_attribute("data-ordinal", re.compile(r"^[1-4]?\d$"))
    page.keyboard.press("2")
    expect(page.locator("#stage")).to_have_attribute("data-playing", "no")
    page.wait_for_timeout(500)
    expect(page.locator("#saved")).to_contain_text("nothing is saved yet")


def test_a_correction_goes_to_the_figure_that_was_chosen(page: Page, view: Callable[..., str], tmp_path: Path) -> None:
    film = label_film(tmp_path / "run", EXACT["b-frames"](tmp_path))
    kept = tmp_path / "a.csv"
    view(tmp_path / "run", annotations=kept)
    page.focus("#stage")
    _go(page, 29)
    stage, saved = page.locator("#stage"), page.locator("#saved")
    box = page.locator("#overlay").bounding_box()
    assert box is not None
    page.locator("#overlay").click(position={"x": box["width"] - 3, "y": box["height"] - 3})
    page.wait_for_timeout(300)
    assert _stage(page, "playing") != "yes", "a click beside everybody plays nothing"
    page.focus("#stage")
    page.keyboard.press("Space")
    expect(stage).to_have_attribute("data-playing", "yes")
    page.keyboard.press("2")
    expect(stage).to_have_attribute("data-playing", "no")
    expect(saved).to_contain_text("nothing is saved yet")
    page.keyboard.press("Space")
    expect(stage).to_have_attribute("data-playing", "yes")
    page.focus("#other")
    expect(stage).to_have_attribute("data-playing", "no")
    assert not kept.exists()
    # A name that is half typed is for nobody else.
    page.keyboard.type("Gamera")
    page.evaluate("document.querySelector('#next-shot').click()")
    expect(saved).to_contain_text("Not saved: 'Gamera' was for Bunny in frame")
    expect(page.locator("#other")).to_have_value("")
    page.locator("#other-name button").click()
    expect(saved).to_have_text("Type a name first.")
    page.focus("#stage")
    page.keyboard.press("9")
    expect(saved).to_have_text("No emotion has the digit 9.")
    # 'Whole track' is of one track.
    page.keyboard.press("t")
    assert page.is_checked("input[value=track]")
    _go(page, int(_stage(page, "ordinal") or 0) + 4)
    assert page.is_checked("input[value=track]")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("input[value=frame]")).to_be_checked()
    # A tick is beside what was said.
    page.wait_for_timeout(300)
    page.fill("#other", "Gamera")
    page.press("#other", "Enter")
    card = page.locator("#figures [aria-checked=true]")
    expect(card.locator("b.said")).to_have_text("Gamera")
    expect(card.locator("span.said")).to_have_count(0)
    expect(saved).to_contain_text("is Gamera (frame")
    _go(page, int(_stage(page, "ordinal") or 0) + 8)
    expect(saved).to_have_text("")
    assert film.frames > 0


def test_labels_of_another_film_are_not_drawn_over_this_one(
    page: Page, view: Callable[..., str], tmp_path: Path
) -> None:
    path = write_film(tmp_path / "f.mp4", 48, muxing={"movflags": "faststart"})
    label_film(tmp_path / "run", path)
    changed = bytearray(path.read_bytes())
    changed[-200] ^= 0xFF
    path.write_bytes(changed)
    view(tmp_path / "run")
    expect(page.locator("#notice.alarm")).to_contain_text("the labels do not belong to it")
    expect(page.locator("#video")).to_be_hidden()
    expect(page.locator("#frozen")).to_be_hidden()
