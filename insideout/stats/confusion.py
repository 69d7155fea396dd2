"""How often an emotion is read as which: counts on crops of scenes that the judging network had not seen.

`train emotion --calibrate` keeps such predictions; `pack build` counts them into the pack, by shot and
character, so that a correction can be made for each character and knows how uncertain it is itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from insideout import schema
from insideout.errors import DataError
from insideout.evaluation.intervals import TAIL
from insideout.evaluation.metrics import confusion_metrics
from insideout.report.words import plural
from insideout.stats.clusters import LEAST, RESAMPLES, Floats, Ints, draws, generator

if TYPE_CHECKING:
    from insideout.evaluation.predictions import Predictions

#: The row of an emotion, for one character, is joined by so many crops spread as those of all characters are.
BORROWED = 2.0


@dataclass(frozen=True)
class ErrorCounts:
    """Crops by shot and character, of true emotion, most probable emotion, and whether that was answered.

    Arrays int64 [n]: `shot` numbers the shots of the labelled data from 0, `character` and `emotion`
    and `guess` are indices, `reading` is `guess` or, where the classifier abstained, the number of
    emotions; `crops` is how many.
    """

    emotions: tuple[str, ...]
    characters: tuple[str, ...]
    shot: Ints
    character: Ints
    emotion: Ints
    guess: Ints
    reading: Ints
    crops: Ints

    @property
    def shots(self) -> int:
        """How many shots the crops are of."""
        return int(self.shot.max()) + 1 if len(self.shot) else 0

    def by_shot(self, character: str | None = None, *, abstaining: bool = True) -> Floats:
        """Counts by shot, true emotion and reading, float64 [shots, k, k + 1].

        Of one character, or of all. Without `abstaining` by most probable emotion: [shots, k, k].
        """
        k = len(self.emotions)
        seen, width = (self.reading, k + 1) if abstaining else (self.guess, k)
        chosen = np.ones(len(self.crops), bool)
        if character is not None:
            named = self.characters.index(character) if character in self.characters else -1
            chosen = self.character == named
        cell = (self.shot * k + self.emotion) * width + seen
        counts = np.bincount(cell[chosen], self.crops[chosen], self.shots * k * width).astype(np.float64)
        return counts.reshape(self.shots, k, width)


@dataclass(frozen=True)
class Support:
    """Whether the classifier tells one character's emotions apart at all.

    `kappa` is Cohen's, 0 for whoever goes by the character alone, with its 95 % percentile interval
    over shots; `accuracy` is over all crops, `usual` what always naming the character's most
    frequent emotion would have. `supported` where the lower end of kappa is above 0 and accuracy is
    at least `usual`; None where there are too few labelled crops to say. `why` is the reason in words.
    """

    character: str
    supported: bool | None
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    accuracy: float | None
    usual: float | None
    crops: int
    shots: int
    why: str


def count_errors(predictions: Predictions, uncertain_below: float) -> pa.Table:
    """Count predictions at their temperature into a table of `schema.CONFUSION`.

    They must be of crops that the networks had not seen. Raises DataError without any crop.
    """
    if not len(predictions):
        raise DataError("no predictions to count errors of; train with --calibrate")
    answered = predictions.probabilities().max(1) >= uncertain_below
    found = Counter(
        (crop.film, crop.scene, crop.shot, crop.character, crop.emotion, predictions.classes[guess], bool(sure))
        for crop, guess, sure in zip(predictions.crops.crops, predictions.guesses.tolist(), answered, strict=True)
    )
    names = schema.CONFUSION.names
    rows = [dict(zip(names, (*key, crops), strict=True)) for key, crops in sorted(found.items())]
    return pa.Table.from_pylist(rows, schema=schema.stamp(schema.CONFUSION, ""))


def read_errors(table: pa.Table, emotions: tuple[str, ...]) -> ErrorCounts:
    """The counts in a table of `schema.CONFUSION`; `emotions` are the pack's.

    Raises DataError: other columns, an emotion that is not the pack's.
    """
    if missing := sorted(set(schema.CONFUSION.names) - set(table.column_names)):
        raise DataError(f"the table of the classifier's errors has no column {missing[0]}; build the pack again")
    rows = table.to_pylist()
    if odd := sorted({row[key] for row in rows for key in ("emotion", "guess")} - set(emotions)):
        raise DataError(f"the table of the classifier's errors names {odd[0]}, the pack {', '.join(emotions)}")
    index = {name: i for i, name in enumerate(emotions)}
    characters = tuple(sorted({row["character"] for row in rows}))
    shots: dict[tuple[str, str], int] = {}
    for row in rows:
        shots.setdefault((row["film"], row["shot"]), len(shots))
    guess = np.array([index[row["guess"]] for row in rows], np.int64)
    return ErrorCounts(
        emotions=emotions,
        characters=characters,
        shot=np.array([shots[row["film"], row["shot"]] for row in rows], np.int64),
        character=np.array([characters.index(row["character"]) for row in rows], np.int64),
        emotion=np.array([index[row["emotion"]] for row in rows], np.int64),
        guess=guess,
        reading=np.where([row["answered"] for row in rows], guess, len(emotions)),
        crops=np.array([row["crops"] for row in rows], np.int64),
    )


def error_rates(own: Floats, pooled: Floats, fallback: Floats | None = None) -> Floats:
    """Share of the readings of each true emotion: float64 [..., k, k + 1], rows of sum 1, or NaN.

    `own` are counts of one character, `pooled` those of all, both [..., k, k + 1]. To each row of
    `own` come `BORROWED` crops spread like the row of `pooled`, so that a row with few crops leans
    on the other characters. A row that is empty in both is taken from `fallback`, else it is NaN.
    """
    total = pooled.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shares = np.where(total > 0, pooled / np.where(total > 0, total, 1), np.nan if fallback is None else fallback)
    found: Floats = (own + BORROWED * shares) / (own.sum(-1, keepdims=True) + BORROWED)
    return found


def support(errors: ErrorCounts | None, character: str, seed: int = 0, resamples: int = RESAMPLES) -> Support:
    """Say whether the classifier beats whoever knows only who the character is."""
    if errors is None:
        return _unknown(character, 0, 0, "the pack has no table of its classifier's errors")
    counts = errors.by_shot(character, abstaining=False)
    counts = counts[counts.sum((1, 2)) > 0]
    crops, shots = int(counts.sum()), len(counts)
    if shots < LEAST:
        return _unknown(
            character,
            crops,
            shots,
            f"{plural(crops, 'labelled crop')} of {plural(shots, 'shot')}: too few to say",
        )
    total = counts.sum(0)
    metrics = {name: float(value) for name, value in confusion_metrics(total).items()}
    usual = float(total.sum(1).max() / total.sum())
    drawn = draws(shots, generator(seed, "support", character), resamples)
    spread = confusion_metrics(np.tensordot(drawn, counts, 1))["kappa"]
    low, high = (float(value) for value in np.nanquantile(spread, [TAIL, 1 - TAIL]))
    supported = bool(low > 0 and metrics["accuracy"] >= usual)
    if supported:
        why = "tells its emotions apart on scenes it had not seen"
    elif low <= 0:
        why = "is not shown to do better than going by the character alone"
    else:
        why = "is right less often than always naming the character's most frequent emotion"
    return Support(character, supported, metrics["kappa"], low, high, metrics["accuracy"], usual, crops, shots, why)


def _unknown(character: str, crops: int, shots: int, why: str) -> Support:
    return Support(character, None, None, None, None, None, None, crops, shots, why)
