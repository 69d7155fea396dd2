"""Does a character always show one emotion? A test of 'always', and the longest stretch without it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from insideout.report.words import plural
from insideout.stats.clusters import LEAST, RESAMPLES, Floats, draws, generator, jackknife, sums
from insideout.stats.confusion import ErrorCounts, Support
from insideout.stats.screen import UNCERTAIN, Screen
from insideout.stats.shares import Share, quoted
from insideout.tracks import MAX_GAP_S

#: 'Always' is refuted below this p.
LEVEL = 0.05


@dataclass(frozen=True)
class Stretch:
    """The longest time of a character on screen without one emotion.

    From `start_ordinal` to `end_ordinal` (both in it), `start_s` to `end_s` in seconds from the first
    frame; `seconds` of it the character is on screen, `uncertain` seconds of these without an answer.
    """

    start_ordinal: int
    end_ordinal: int
    start_s: float
    end_s: float
    seconds: float
    uncertain: float


@dataclass(frozen=True)
class Always:
    """The test of 'this character always shows this emotion'.

    If it did, it would be read as the emotion as often as labelled crops of the emotion are: `recall`,
    on `crops` crops of `shots` shots. `share` is how often it is. `p` is the one-sided probability of a
    gap as large by chance; None where it cannot be tested, and `why` says why. `by` names whose crops
    gave the recall: the character, or all characters where it has too few of its own.
    """

    film: str
    character: str
    emotion: str
    share: float
    recall: float | None
    by: str
    crops: int
    shots: int
    p: float | None
    refuted: bool | None
    supported: bool | None
    why: str
    start_ordinal: int | None
    end_ordinal: int | None
    start_s: float | None
    end_s: float | None
    seconds: float | None
    uncertain: float | None
    condition: str


def always(
    screen: Screen,
    character: str,
    emotion: str,
    support: Support,
    errors: ErrorCounts | None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Always:
    """Test 'always' for one character and emotion, and find the longest stretch without it."""
    own = screen.of(character)
    at = own.emotions.index(emotion)
    seconds = own.seconds
    share = float(seconds[own.reading == at].sum() / seconds.sum())
    cluster = own.scene if own.has_scenes else own.shot
    top, bottom = sums(cluster, seconds * (own.reading == at)), sums(cluster, seconds)
    hits, crops, by = _recalls(errors, character, at)
    recall = p = None
    why = ""
    if errors is None:
        why = support.why
    elif len(crops) < LEAST:
        why = f"too few labelled crops show {emotion}: {int(crops.sum())} of {plural(len(crops), 'shot')}"
    elif len(bottom) < LEAST:
        why = f"on screen in {plural(len(bottom), 'scene' if own.has_scenes else 'shot')} only"
    if not why:
        recall = float(hits.sum() / crops.sum())
        p = _p_of_gap(hits, crops, top, bottom, generator(seed, "always", screen.film, character, emotion), resamples)
    gap = longest_without(own, at)
    return Always(
        film=screen.film,
        character=character,
        emotion=emotion,
        share=share,
        recall=recall,
        by=by,
        crops=int(crops.sum()),
        shots=len(crops),
        p=p,
        refuted=None if p is None else p < LEVEL,
        supported=support.supported,
        why=why,
        start_ordinal=gap.start_ordinal if gap else None,
        end_ordinal=gap.end_ordinal if gap else None,
        start_s=gap.start_s if gap else None,
        end_s=gap.end_s if gap else None,
        seconds=gap.seconds if gap else None,
        uncertain=gap.uncertain if gap else None,
        condition=f"film = {quoted(screen.film)} AND character = {quoted(character)}"
        + (f" AND ordinal BETWEEN {gap.start_ordinal} AND {gap.end_ordinal}" if gap else " AND false"),
    )


def usual_emotion(rows: list[Share]) -> str:
    """The emotion that a character is read as for longest, the first of equals."""
    return max((row for row in rows if row.emotion != UNCERTAIN), key=lambda row: row.share).emotion


def longest_without(own: Screen, emotion: int) -> Stretch | None:
    """The longest stretch in which no frame of a character is read as an emotion; None where there is none.

    `own` are the rows of one character in order of time. A frame without an answer does not end a
    stretch, but none begins or ends with one; an absence of more than `MAX_GAP_S` ends it, a cut does
    not. Of stretches of one length it is the first.
    """
    best: tuple[float, int, int] | None = None
    frames, first = np.unique(own.ordinal, return_index=True)
    last = np.append(first[1:], len(own.ordinal))
    sees = [own.reading[a:b] for a, b in zip(first, last, strict=True)]
    begin, units = own.begin[first], own.units[first]
    gap = MAX_GAP_S / float(own.time_base)
    start: int | None = None
    end, length, open_length = 0, 0, 0
    for i in range(len(frames)):
        if (sees[i] == emotion).any() or (i and begin[i] - (begin[i - 1] + units[i - 1]) > gap):
            start = None
        if (sees[i] == emotion).any():
            continue
        other = (sees[i] < len(own.emotions)).any()
        if start is None:
            if not other:
                continue
            start, open_length = i, 0
        open_length += int(units[i])
        if other:
            end, length = i, open_length
            if best is None or length > best[0]:
                best = (length, start, end)
    if best is None:
        return None
    length, start, end = int(best[0]), best[1], best[2]
    inside = slice(first[start], last[end])
    doubt = own.seconds[inside][own.reading[inside] == len(own.emotions)].sum()
    base = float(own.time_base)
    return Stretch(
        int(frames[start]),
        int(frames[end]),
        own.time(begin[start]),
        own.time(begin[end] + units[end]),
        length * base,
        float(doubt),
    )


def _recalls(errors: ErrorCounts | None, character: str, emotion: int) -> tuple[Floats, Floats, str]:
    """Crops read rightly and crops, by shot, of one true emotion; of all characters where one has too few."""
    nothing = np.zeros(0)
    if errors is None:
        return nothing, nothing, ""
    for by, name in ((character, character), ("all characters", None)):
        counts = errors.by_shot(name)[:, emotion]
        counts = counts[counts.sum(1) > 0]
        if len(counts) >= LEAST or name is None:
            return counts[:, emotion], counts.sum(1), by
    return nothing, nothing, ""


def _p_of_gap(
    hits: Floats, crops: Floats, top: Floats, bottom: Floats, rng: np.random.Generator, resamples: int
) -> float:
    """One-sided p of recall minus share being 0 or less, by the studentised bootstrap of both."""
    once = [np.ones((1, len(part))) for part in (crops, bottom)]
    drawn = [draws(len(part), rng, resamples) for part in (crops, bottom)]

    def gap(weights: list[Floats]) -> tuple[Floats, Floats]:
        value = weights[0] @ hits / (weights[0] @ crops) - weights[1] @ top / (weights[1] @ bottom)
        error = np.hypot(jackknife(hits, crops, weights[0]), jackknife(top, bottom, weights[1]))
        return value, error

    (value,), (error,) = gap(once)
    if error == 0:
        return 1 / (resamples + 1) if value > 0 else 1.0
    spread, errors = gap(drawn)
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = np.where(errors > 0, (spread - value) / errors, np.sign(spread - value) * np.inf)
    beyond = int((np.nan_to_num(studentised, nan=0.0) >= value / error).sum())
    return (beyond + 1) / (resamples + 1)
