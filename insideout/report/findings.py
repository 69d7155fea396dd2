"""The figures of the page: those of `insideout analyse` where they are of this run, else computed here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from insideout.errors import OutputError
from insideout.packs import ERRORS
from insideout.report.tables import Run
from insideout.report.words import percent
from insideout.stats.always import Always, usual_emotion
from insideout.stats.analysis import Analysis, analyse
from insideout.stats.answers import interval, said_of
from insideout.stats.arc import ArcPoint
from insideout.stats.association import Association, Residual
from insideout.stats.confusion import ErrorCounts, Support, read_errors
from insideout.stats.screen import Screen
from insideout.stats.shares import Share, by_screen_time
from insideout.stats.together import Together
from insideout.stats.transitions import Dwell, Transition

KEPT = "analysis/analysis.json"
#: Of each interval where the page computes it; `insideout analyse` draws five times as many. A film of many shots gets
#: fewer, so that resamples times shots stay below `AT_MOST`: its intervals hang less on chance.
RESAMPLES, LEAST_RESAMPLES, AT_MOST = 2000, 500, 1_000_000
_KINDS = {
    "shares": Share,
    "always": Always,
    "association": Association,
    "residuals": Residual,
    "transitions": Transition,
    "dwell": Dwell,
    "arc": ArcPoint,
    "together": Together,
    "support": Support,
}


@dataclass(frozen=True)
class Verdict:
    """What is found on one character: its usual emotion, the test of 'always', and whether that is supported."""

    character: str
    usual: Share
    always: Always
    support: Support
    shares: list[Share]

    @property
    def tested(self) -> str:
        """What the test of 'always' says."""
        return said_of(self.always)

    @property
    def held(self) -> str:
        """For how much of its time the character is read as its usual emotion."""
        low, high = self.usual.widest
        return percent(self.usual.share) if low is None else interval(low, high)


class Findings:
    """The analyses of a run, film by film.

    `note` says where the figures come from, once all films were asked for. Raises OutputError for an
    `analysis.json` that is none.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._kept: dict[str, Any] = {}
        self.scenes: str | None = None
        self.labels: str | None = None
        self.notes: list[str] = []
        self._drawn: set[int] = set()
        self._source = ""
        emotions = tuple(str(name) for name in (run.manifest.get("pack") or {}).get("emotions") or ())
        self.errors: ErrorCounts | None = None
        if run.store.exists(ERRORS):
            self.errors = read_errors(run.store.read_table(ERRORS), emotions)
        if run.store.exists(KEPT):
            self._read(run.store.read_json(KEPT))

    def _read(self, content: Any) -> None:
        if not isinstance(content, dict) or content.get("run") != self._run.state():
            self._source = "what insideout analyse left in this folder is of an earlier state of the run"
            return
        try:
            json.dumps(content, allow_nan=False)
            for name, kind in _KINDS.items():
                rows: list[Any] = TypeAdapter(list[kind]).validate_python(content.get(name, []))  # type: ignore[valid-type]
                self._kept[name] = rows
            self._resamples, self._seed = int(content["resamples"]), int(content["seed"])
            self.notes = TypeAdapter(list[str]).validate_python(content.get("notes", []))
            self._answers = TypeAdapter(dict[str, dict[str, list[str]]]).validate_python(content.get("answers", {}))
            names = TypeAdapter(list[str | None]).validate_python([content.get("scenes"), content.get("labels")])
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            where = self._run.store.path(KEPT)
            raise OutputError(
                f"{where}: not an analysis of this version; run `insideout analyse {self._run.store.root}` again"
            ) from error
        self.scenes, self.labels = names
        self._source = f"those of insideout analyse, {self._resamples:,} resamples, seed {self._seed}"

    def of(self, screen: Screen) -> Analysis:
        """The analysis of one film: the one in the folder if its seconds are those of the screen, else a new one."""
        if self._kept and (found := self._of_folder(screen)):
            return found
        self._say("computing intervals")
        resamples = min(RESAMPLES, max(LEAST_RESAMPLES, AT_MOST // max(1, len(screen.shot_units))))
        self._drawn.add(resamples)
        return analyse(screen, self.errors, resamples=resamples)

    @property
    def note(self) -> str:
        """Where the figures come from, in words."""
        if not self._drawn:
            return self._source
        counts = " or ".join(f"{count:,}" for count in sorted(self._drawn))
        computed = f"computed for this page with {counts} resamples (insideout analyse draws 10,000)"
        return f"{self._source}; {computed}" if self._source else computed

    def _of_folder(self, screen: Screen) -> Analysis | None:
        tables = {
            name: [row for row in rows if row.film == screen.film]
            for name, rows in self._kept.items()
            if name != "support"
        }
        seconds = {(row.character, row.emotion): row.seconds for row in tables["shares"]}
        ours: dict[tuple[str, str], float] = {
            (who, emotion): 0.0 for who in screen.characters for emotion in screen.readings
        }
        for who, emotion, length in zip(
            screen.character.tolist(), screen.reading.tolist(), screen.seconds.tolist(), strict=True
        ):
            ours[screen.characters[who], screen.readings[emotion]] += length
        supports = {row.character: row for row in self._kept["support"]}
        if set(seconds) != set(ours) or any(abs(seconds[key] - ours[key]) > 1e-3 for key in ours):
            return None
        tested = {(row.character, row.emotion) for row in tables["always"]}
        if not set(screen.characters) <= set(supports) or any(
            (who, emotion) not in tested for who in screen.characters for emotion in screen.emotions
        ):
            return None
        return Analysis(
            film=screen.film,
            seed=self._seed,
            resamples=self._resamples,
            screen=screen,
            supports={name: supports[name] for name in by_screen_time(screen)},
            answers=self._answers.get(screen.film, {}),
            **tables,
        )


def verdicts(analysis: Analysis) -> list[Verdict]:
    """One verdict per character, the one longest on screen first."""
    found = []
    for name in by_screen_time(analysis.screen):
        own = [row for row in analysis.shares if row.character == name]
        usual = usual_emotion(own)
        found.append(
            Verdict(
                character=name,
                usual=next(row for row in own if row.emotion == usual),
                always=next(row for row in analysis.always if (row.character, row.emotion) == (name, usual)),
                support=analysis.supports[name],
                shares=own,
            )
        )
    return found


def headline(found: list[Verdict]) -> str:
    """The answer in one or two sentences: who is not always one thing, who is read as what, of whom nothing is known.

    Who is not shown to be not always so is given with the share: the test does not show that it is always so.
    """
    if not found:
        return "Nobody was found in this film."
    groups: dict[str, list[Verdict]] = {"not": [], "maybe": [], "blind": [], "untested": []}
    for one in found:
        if one.support.supported is False:
            groups["blind"].append(one)
        elif one.always.p is None:
            groups["untested"].append(one)
        else:
            groups["not" if one.always.refuted else "maybe"].append(one)
    said = []
    if groups["not"]:
        first, *others = groups["not"]
        said.append(
            listed(
                [f"{first.character} is not always {first.usual.emotion}"]
                + [f"{one.character} not always {one.usual.emotion}" for one in others]
            )
            + "."
        )
    if groups["maybe"]:
        first, *others = groups["maybe"]
        said.append(
            listed(
                [f"{first.character} is read as {first.usual.emotion} for {first.held} of the time"]
                + [f"{one.character} as {one.usual.emotion} for {one.held}" for one in others]
            )
            + "; the classifier\u2019s errors are too large to say more."
        )
    if groups["untested"]:
        first, *others = groups["untested"]
        said.append(
            listed(
                [f"{first.character} is most often read as {first.usual.emotion}"]
                + [f"{one.character} as {one.usual.emotion}" for one in others]
            )
            + "; \u201calways\u201d is not tested."
        )
    if groups["blind"]:
        who = listed([one.character for one in groups["blind"]])
        said.append(f"Of {who} the model cannot tell.")
    return " ".join(said)


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
