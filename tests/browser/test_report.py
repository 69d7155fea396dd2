"""The report of a run in a real browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from insideout.report import write_report
from tests.runs import write_run


def test_the_report_opens_without_complaint(page: Page, tmp_path: Path) -> None:
    page.goto(Path(write_report(write_run(tmp_path))).as_uri())
    assert page.get_by_role("heading", level=1).inner_text() == "2 films"
