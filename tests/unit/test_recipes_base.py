"""A recipe that cannot be read is named, whatever stands in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from insideout.errors import RecipeError
from insideout.recipes.base import Recipe


class Tea(Recipe):
    minutes: int = 3


def test_a_recipe_is_read_and_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "tea.yaml"
    path.write_text("# grüner Tee\nminutes: 2\n", encoding="utf-8")
    assert Tea.read(path).minutes == 2
    assert Tea.read(path, minutes=5).minutes == 5
    assert Tea.read(path, minutes=None).minutes == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such recipe; the shipped ones are in configs/"),
        ("folder", "not readable as a recipe .*directory.*give a YAML file; the shipped ones are in configs/"),
        ("unreachable", "not readable as a recipe"),
        (b"\xff\xd8\xff\xe0 a picture", "not readable as a recipe .*not text.*give a YAML file"),
        (b"\x00\x01\x02", "not YAML"),
        (b"minutes: [", "not YAML"),
        (b"- minutes", "a recipe is a map of settings, found list"),
        (b"minutes: long", "minutes: Input should be a valid integer"),
        (b"hours: 1", "hours: Extra inputs are not permitted"),
        (b"1: 2", "1: "),
        (b"[1, 2]: 3", "not YAML"),
        (b"2026-01-01: 3", "Keys should be strings"),
    ],
)
def test_what_is_no_recipe_is_named(tmp_path: Path, content: bytes | str | None, says: str) -> None:
    path = tmp_path / "tea.yaml"
    if content == "folder":
        path.mkdir()
    elif content == "unreachable":
        path = tmp_path / "file" / "tea.yaml"
        path.parent.write_text("in the way")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=says) as refused:
        Tea.read(path)
    assert str(refused.value).startswith(f"{path}: ")
