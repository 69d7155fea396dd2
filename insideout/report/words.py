"""Numbers and settings as a reader wants to see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from insideout.messages import without_credentials

CROPS = {
    "head": "the head of each, with a margin (the whole figure on black where no head was seen),",
    "mask": "the pixels of each, on black,",
    "box": "the box around each, with its background,",
}
_REASONS = {
    "duplicate": "duplicate (repeats an earlier sampled frame)",
    "no_character": "no character",
    "dropped: no_character": "no character",
    "dropped: black": "black",
}


def clock(seconds: float) -> str:
    """83.6 as `1:23`, 5025 as `1:23:45`; parts of a second are cut off."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def timecode(seconds: float) -> str:
    """83.68 as `1:23.6`: a clock with tenths, cut off and never rounded up to a later frame."""
    # Time stamps are exact fractions made floats; 0.3 must not become 0.2 by a last bit.
    tenths = int(seconds * 10 + 1e-6)
    return f"{clock(tenths // 10)}.{tenths % 10}"


def seconds(value: float, whole: float = 0.0) -> str:
    """A length of time that never breaks: `12.3 s`, from ten minutes on `12:05 min`, from an hour `1:02:03 h`.

    Where it is part of a `whole` of twenty minutes or more, minutes start at one.
    """
    if value < (599.95 if whole < 1200 else 59.95):
        return f"{value:.1f}\u00a0s"
    return f"{clock(round(value))}\u00a0{'h' if round(value) >= 3600 else 'min'}"


def percent(share: float) -> str:
    """0.417 as `42 %`; never `0 %` for something, nor `100 %` for less than all: `<1 %`, `>99 %`."""
    if 0 < share < 0.01:
        return "<1\u00a0%"
    return ">99\u00a0%" if 0.995 <= share < 1 else f"{100 * share:.0f}\u00a0%"


def p_value(p: float) -> str:
    """`p = .03`, `p < .001`."""
    return "p < .001" if p < 0.001 else f"p = {p:.2g}".replace("0.", ".")


def plural(count: int, one: str) -> str:
    """`1 shot`, `2,345 shots`."""
    return f"{count:,} {one}" + ("" if count == 1 else "s")


def number(value: int) -> str:
    """12345 as `12,345`."""
    return f"{value:,}"


def size(value: int) -> str:
    """Bytes as `50.2 MB`."""
    return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.2f} GB"


def rate(value: Fraction) -> str:
    """Frames a second, exact where it is no whole number: `24`, `23.976 (24000/1001)`."""
    return str(value) if value.denominator == 1 else f"{float(value):.3f} ({value})"


def sampling(value: str) -> str:
    """`every:4` as `every 4th frame`, `fps:2` as `2 frames a second`."""
    kind, _, amount = value.partition(":")
    if kind == "every":
        return "every frame" if amount == "1" else f"every {_ordinal(amount)} frame"
    if kind == "fps":
        return f"{amount} frames a second"
    return "key frames" if kind == "keyframes" else value


def reason(value: str) -> str:
    """A reason of the ledger in words."""
    return _REASONS.get(value, value)


def calibration(pack: Mapping[str, Any]) -> str:
    """Say how far the pack's probabilities can be trusted, and when it abstains."""
    told = "calibrated on the pack's own validation pictures, as its model card says."
    if isinstance(pack.get("temperature"), int | float):
        told = f"calibrated with temperature {pack['temperature']:.3g} on the pack's own validation pictures."
    if isinstance(pack.get("uncertain_below"), int | float):
        told += f" Below {percent(pack['uncertain_below'])} the label is \u2018uncertain\u2019."
    return told


def pairs(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a mapping into names and plain values, in its order."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            found += pairs(value, f"{label}: ")
        else:
            found.append((label, plain(value)))
    return found


def plain(value: object) -> str:
    """A setting as text; lists by commas, and nothing that looks like a credential in a URL."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return without_credentials(str(value))


def _ordinal(digits: str) -> str:
    if digits[-2:] in ("11", "12", "13"):
        return digits + "th"
    return digits + {"1": "st", "2": "nd", "3": "rd"}.get(digits[-1:], "th")


FILTERS: dict[str, Callable[..., str]] = {
    "clock": clock,
    "number": number,
    "p_value": p_value,
    "percent": percent,
    "plural": plural,
    "rate": rate,
    "sampling": sampling,
    "seconds": seconds,
    "size": size,
    "timecode": timecode,
    "words": reason,
}
