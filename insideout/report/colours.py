"""One colour per emotion, the same in the style of the page and in its charts."""

from __future__ import annotations

from collections.abc import Iterable

from insideout.stats.screen import UNCERTAIN

#: After Okabe and Ito: told apart with any common colour vision. A name always stands beside them.
PALETTE = ("#cc79a7", "#d55e00", "#f0c808", "#b9b4a6", "#2f8fd0", "#009e73", "#6a51c7", "#8c5a2b")
#: Of letters on each of them.
ON = ("#16120f", "#16120f", "#16120f", "#16120f", "#0b0d10", "#08110d", "#ffffff", "#ffffff")
DOUBT = "#8a8f99"


class Colours:
    """The colour of an emotion, by its place in the order of the page; further ones take them again, striped."""

    def __init__(self, emotions: Iterable[str]) -> None:
        names = [name for name in dict.fromkeys(emotions) if name != UNCERTAIN]
        self._places = {name: place for place, name in enumerate(names)}

    def style(self, emotion: str) -> str:
        """The style classes of an emotion."""
        if emotion not in self._places:
            return "eu"
        again, place = divmod(self._places[emotion], len(PALETTE))
        return f"e{place}" + (f" p{min(again, 2)}" if again else "")

    def hex(self, emotion: str) -> str:
        """The colour of an emotion in charts."""
        return PALETTE[self._places[emotion] % len(PALETTE)] if emotion in self._places else DOUBT
