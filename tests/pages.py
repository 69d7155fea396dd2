"""Read an HTML page back in a test: its tags, its tables and its text."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from insideout.report import write_report

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """All tags with their attributes, all tables as rows of cell texts and values, and the plain text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[list[list[tuple[str, str | None]]]]]] = defaultdict(list)
        self.text = ""
        self.open: list[str] = []
        self.caption: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "caption":
            self.caption = ""
        elif tag == "tr" and self.caption is not None:
            self.tables[self.caption][-1].append([])
        elif tag in ("td", "th") and self.caption is not None:
            self.tables[self.caption][-1][-1].append([])
        elif tag == "li" and self._cell() is not None:
            self._cell().append(("text", " "))
        elif tag == "data" and self._cell() is not None:
            self._cell().append(("value", dict(attrs)["value"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag == "caption":
            self.tables[self.caption or ""].append([])
        elif tag == "table":
            self.caption = None

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.open):
            return
        self.text += data
        if self.open and self.open[-1] == "caption":
            self.caption = (self.caption or "") + data
        elif self._cell() is not None:
            self._cell().append(("text", data))

    def _cell(self) -> list[tuple[str, str | None]] | None:
        if self.caption is None or not self.tables.get(self.caption) or not ({"td", "th"} & set(self.open)):
            return None
        return self.tables[self.caption][-1][-1][-1]

    def pictures(self) -> Iterator[tuple[dict[str, str], npt.NDArray[np.uint8]]]:
        """The pictures in the page, each with its attributes, BGR uint8 [h, w, 3]."""
        for tag, attributes in self.tags:
            if tag == "img":
                kind, data = attributes["src"].split(",", 1)
                assert kind == "data:image/webp;base64"
                yield attributes, decoded(data)

    def grid(self, caption: str, which: int = 0) -> list[list[str]]:
        """The texts of a table, spaces made plain."""
        return [[_text(cell) for cell in row] for row in self.tables[caption][which]]

    def values(self, caption: str, which: int = 0) -> list[list[float | None]]:
        """The machine-readable values of a table; None where a cell has none."""
        return [
            [next((float(v) for kind, v in cell if kind == "value"), None) for cell in row]
            for row in self.tables[caption][which]
        ]


def report_of(folder: Path) -> tuple[str, Page]:
    """Write the report of a run, and read it back."""
    html = Path(write_report(folder)).read_text(encoding="utf-8")
    return html, Page(html)


def decoded(data: str) -> npt.NDArray[np.uint8]:
    """A picture in base64, BGR uint8 [h, w, 3]."""
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data, validate=True), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture.astype(np.uint8, copy=False)


def data_of(html: str) -> dict[str, Any]:
    """The plain data that a report holds for its script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found.group(1))
    return content


def _text(cell: list[tuple[str, str | None]]) -> str:
    return " ".join("".join(v or "" for kind, v in cell if kind == "text").split())
