"""Refuse drawings (SVG) that would have their renderer read other files or fill the memory."""

from __future__ import annotations

import re
from itertools import product
from xml.etree import ElementTree

#: The longer side of a drawing by its shorter one at most: a renderer asked for a width makes the height that fits.
_MOST_LONG = 8
_LENGTH = re.compile(r"^\s*(\d*\.?\d+(?:e[+-]?\d+)?)\s*(px|%)?\s*$", re.IGNORECASE)


def check_drawing(svg: bytes) -> None:
    """Raise ValueError for a drawing that is not to be rendered, with the reason.

    It is no XML in UTF-8, has entities (which can grow without limit and hide what follows), refers to
    anything outside of itself, or does not say how wide and high it is, within 1 to 8.
    """
    text = svg.decode()
    if "<!ENTITY" in text:
        raise ValueError("it declares entities")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML ({error})") from error
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in ("href", "src", "base") and not value.strip().startswith("#"):
                raise ValueError(f"it refers to '{value[:60]}', which is outside of it")
    box = [float(number) for number in re.findall(r"[-+.\de]+", root.get("viewBox", ""))][2:4]
    widths, heights = (_sides(root.get(name), box[i : i + 1]) for i, name in enumerate(("width", "height")))
    for width, height in product(widths, heights):
        if not max(width, height) <= _MOST_LONG * min(width, height):
            raise ValueError(f"it is {width:g} wide and {height:g} high; neither may be more than 8 times the other")
    if not widths or not heights:
        raise ValueError("it has no viewBox, and no width and height in pixels")


def _sides(length: str | None, box: list[float]) -> list[float]:
    """What a side may be taken for, by its own attribute or by the box."""
    if length is None:
        return box
    found = _LENGTH.match(length)
    if found is None:
        raise ValueError(f"a side is '{length[:20]}'; give it in pixels")
    number = float(found[1])
    return box + ([number] if found[2] != "%" else [side * number / 100 for side in box])
