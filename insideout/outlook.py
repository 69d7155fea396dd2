"""What is left to do of each film, small enough to know it of thousands of films at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from insideout.assemble import FilmSummary, is_assembled, read_summary
from insideout.plan import FilmPlan, FoldedPlan
from insideout.store import Store


@dataclass(frozen=True)
class Outlook:
    """One film: its plan, the spans and sampled frames still to be labelled, its summary once it is assembled."""

    plan: FoldedPlan
    spans: int
    frames: int
    summary: FilmSummary | None


def look_out(plan: FilmPlan, store: Store) -> Outlook:
    """Compare a plan with what is in the output folder."""
    if is_assembled(store, plan):
        return Outlook(plan.fold(), 0, 0, read_summary(store, plan.film.film))
    missing = plan.missing(store)
    return Outlook(plan.fold(), len(missing), plan.samples_in(missing), None)


def distinct(films: Sequence[Outlook]) -> list[Outlook]:
    """Drop films whose bytes were already given under another name, keeping the first."""
    first: dict[str, Outlook] = {}
    for film in films:
        first.setdefault(film.plan.film, film)
    return list(first.values())


def waves(films: Sequence[Outlook], spans: int) -> Iterator[list[Outlook]]:
    """Divide the films that are not assembled into waves, in order.

    A wave is closed when it holds at least so many missing spans, so only its last film exceeds that.
    """
    wave: list[Outlook] = []
    for film in films:
        if film.summary is None:
            wave.append(film)
            if sum(member.spans for member in wave) >= spans:
                yield wave
                wave = []
    if wave:
        yield wave
