"""A part of a film as it is written: `00:01:30-00:02:00`, `90-120`, `1:30.5-`, `-30`."""

from __future__ import annotations

import re
from fractions import Fraction

from insideout.errors import UsageError

_TIME = r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d+)?)"
_CLIP = re.compile(rf"(?:{_TIME})?\s*-\s*(?:{_TIME})?")

Clip = tuple[Fraction, Fraction | None]
"""Begin and end in seconds after the first frame; the end is not in it, None is the film's."""


def parse_clip(text: str) -> Clip:
    """Read begin and end, in seconds, minutes and seconds, or hours too; a missing one is the film's.

    Raises UsageError for anything else, and for an end that is not behind its begin.
    """
    found = _CLIP.fullmatch(text.strip())
    begin = _seconds(found.groups()[:3]) if found else None
    end = _seconds(found.groups()[3:]) if found else None
    if begin is None and end is None:
        raise UsageError(f"--clip '{text}' is not understood; write 00:01:30-00:02:00, 90-120, 90- or -30")
    if end is not None and end <= (begin or 0):
        raise UsageError(f"--clip {text}: ends before it begins")
    return begin or Fraction(0), end


def _seconds(parts: tuple[str | None, ...]) -> Fraction | None:
    hours, minutes, seconds = parts
    if seconds is None:
        return None
    return 3600 * Fraction(hours or 0) + 60 * Fraction(minutes or 0) + Fraction(seconds)
