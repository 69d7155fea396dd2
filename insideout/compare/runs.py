"""Compare two finished runs over the same films."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from insideout.compare.films import CharacterChange, FrameChange, RowCounts, compare_film
from insideout.compare.rows import Pair
from insideout.compare.times import Sums, TimeChange, common_shots, order_of, sums_of, time_changes
from insideout.errors import UsageError
from insideout.report.tables import FilmFacts, Run, open_run
from insideout.shown import Shown
from insideout.stats.clusters import RESAMPLES
from insideout.stats.run import film_table
from insideout.stats.screen import Screen, screen_of

MOST = 12
"""Frames that are shown of those that changed most."""
_SETTINGS = ("insideout", "schema", "configuration", "pack", "versions")
_TINY = 1e-9


@dataclass(frozen=True)
class Setting:
    """What the two manifests say differently; None where one does not say it."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Comparison:
    """What changed from run A to run B.

    `films` are in both, `only_a` and `only_b` in one. `settings` differ. `counts` and `characters` are of the frames
    that both looked at, `times` of all the time on screen (`unknown_a`, `unknown_b` seconds are of failed frames);
    `shots` were drawn for its intervals. `frames` are the most changed, at most one of a shot; `changed_shots` in all.
    """

    a: Run = field(repr=False)
    b: Run = field(repr=False)
    films: tuple[FilmFacts, ...]
    only_a: tuple[FilmFacts, ...]
    only_b: tuple[FilmFacts, ...]
    settings: tuple[Setting, ...]
    counts: RowCounts
    characters: tuple[CharacterChange, ...]
    times: tuple[TimeChange, ...]
    unknown_a: float
    unknown_b: float
    shots: int
    frames: tuple[FrameChange, ...]
    changed_shots: int
    fused: bool
    seed: int
    resamples: int

    @property
    def unchanged(self) -> bool:
        """Whether the label tables say the same, whatever the settings were."""
        return not (
            self.only_a
            or self.only_b
            or self.counts.differing
            or self.counts.frames_a != self.counts.frames_b
            or self.counts.frames_a != self.counts.common
            or any(one != other for one, other in self.counts.statuses)
            or any(abs(time.difference) > _TINY for time in self.times)
        )

    def plain(self) -> dict[str, Any]:
        """Everything as JSON has it, but for the masks."""
        return {
            "a": _run(self.a),
            "b": _run(self.b),
            "unchanged": self.unchanged,
            "films": [_film(facts) for facts in self.films],
            "only_a": [_film(facts) for facts in self.only_a],
            "only_b": [_film(facts) for facts in self.only_b],
            "settings": [asdict(setting) for setting in self.settings],
            "emotion_of": "track" if self.fused else "frame",
            "frames": {
                "sampled_a": self.counts.frames_a,
                "sampled_b": self.counts.frames_b,
                "in_both": self.counts.common,
                "failed_in_one": self.counts.unknown,
                "compared": self.counts.compared,
                "differing": self.counts.differing,
                "statuses": [{"a": a, "b": b, "frames": n} for (a, b), n in sorted(self.counts.statuses.items())],
            },
            "characters": [asdict(character) for character in self.characters],
            "names": [{"a": a, "b": b, "rows": n} for (a, b), n in self.counts.names.most_common()],
            "emotions": [
                {"character": who, "a": a, "b": b, "rows": n} for (who, a, b), n in self.counts.emotions.most_common()
            ],
            "times": [asdict(time) for time in self.times],
            "unknown_seconds": {"a": self.unknown_a, "b": self.unknown_b},
            "shots": self.shots,
            "changed_shots": self.changed_shots,
            "changed_most": [_frame(frame) for frame in self.frames],
            "seed": self.seed,
            "resamples": self.resamples,
        }


def compare_runs(
    a: str | Path,
    b: str | Path,
    *,
    fused: bool = False,
    most: int = MOST,
    seed: int = 0,
    resamples: int = RESAMPLES,
    begin: Callable[[int], None] | None = None,
    tell: Callable[[int], None] | None = None,
) -> Comparison:
    """Compare the films that two finished runs share, by film id.

    `fused` compares the emotions of tracks instead of those of single frames. `begin` is called with how many frames
    there are to compare at most, `tell` with 1 for each. Raises UsageError where they share no film, OutputError for a
    folder that is no finished run.
    """
    run_a, run_b = open_run(a), open_run(b)
    in_b = {facts.film: facts for facts in run_b.films}
    films = tuple(facts for facts in run_a.films if facts.film in in_b)
    only_a = tuple(facts for facts in run_a.films if facts.film not in in_b)
    only_b = tuple(facts for facts in run_b.films if facts.film not in {film.film for film in films})
    if not films:
        raise UsageError(
            f"{a} and {b} have no film in common: {_names(only_a)} here, {_names(only_b)} there; label the same files"
        )
    both = [(Shown(run_a, facts), Shown(run_b, in_b[facts.film])) for facts in films]
    if begin is not None:
        begin(sum(len(np.intersect1d(one.ordinals, other.ordinals)) for one, other in both))
    counts, frames = RowCounts(), list[FrameChange]()
    for one, other in both:
        frames += compare_film(one, other, counts, fused, tell)
    frames.sort(key=lambda frame: (-frame.change, frame.film, frame.ordinal))
    times, unknown, shots = _times(both, fused, seed, resamples)
    return Comparison(
        a=run_a,
        b=run_b,
        films=films,
        only_a=only_a,
        only_b=only_b,
        settings=tuple(_settings(run_a, run_b, films, in_b)),
        counts=counts,
        characters=tuple(counts.characters()),
        times=tuple(times),
        unknown_a=unknown[0],
        unknown_b=unknown[1],
        shots=shots,
        frames=tuple(frames[:most]),
        changed_shots=len(frames),
        fused=fused,
        seed=seed,
        resamples=resamples,
    )


def _times(
    both: list[tuple[Shown, Shown]], fused: bool, seed: int, resamples: int
) -> tuple[list[TimeChange], tuple[float, float], int]:
    """The changes over all films, the shots of which stand side by side; seconds unknown in each; number of shots."""
    screens = [(_screen(one), _screen(other)) for one, other in both]
    characters = sorted({name for pair in screens for screen in pair for name in screen.characters})
    emotions = order_of(*(screen.emotions for pair in screens for screen in pair))
    sums: tuple[list[Sums], list[Sums]] = ([], [])
    total = 0
    for (one, other), pair in zip(both, screens, strict=True):
        starts = [{shot.shot: shot.start_pts for shot in shown.shots} for shown in (one, other)]
        shot_a, shot_b, shots = common_shots(*pair, *starts)
        for part, screen, shot in zip(sums, pair, (shot_a, shot_b), strict=True):
            part.append(sums_of(screen, shot, shots, characters, emotions, fused))
        total += shots - 1
    all_a, all_b = (
        Sums(tuple(characters), emotions, np.concatenate([found.seconds for found in part], axis=2)) for part in sums
    )
    unknown = [sum(float(screen.unknown * screen.time_base) for screen in side) for side in zip(*screens, strict=True)]
    return time_changes(all_a, all_b, seed, resamples), (unknown[0], unknown[1]), total


def _screen(shown: Shown) -> Screen:
    frames, characters, shots = (
        film_table(shown.run, kind, shown.facts.film) for kind in ("frames", "characters", "shots")
    )
    pack = shown.run.manifest.get("pack")
    emotions = [str(name) for name in (pack if isinstance(pack, dict) else {}).get("emotions") or ()]
    return screen_of(shown.facts.film, frames, characters, shots, shown.facts.time_base, emotions)


def _settings(a: Run, b: Run, films: tuple[FilmFacts, ...], in_b: Mapping[str, FilmFacts]) -> list[Setting]:
    one, other = _flat(a.manifest), _flat(b.manifest)
    names = list(dict.fromkeys([*one, *other]))
    found = [Setting(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)]
    for facts in films:
        if facts.sampling != in_b[facts.film].sampling:
            found.append(Setting(f"sampling of {facts.name}", facts.sampling, in_b[facts.film].sampling))
    return found


def _flat(manifest: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{name} {key}".strip(), inner)
        else:
            found[name] = value

    for name in _SETTINGS:
        add("" if name in ("configuration", "versions") else name, manifest.get(name))
    return found


def _names(films: tuple[FilmFacts, ...]) -> str:
    return ", ".join(f"{facts.name} ({facts.film})" for facts in films[:5]) + (" …" if len(films) > 5 else "")


def _run(run: Run) -> dict[str, Any]:
    pack = run.manifest.get("pack")
    known = pack if isinstance(pack, dict) else {}
    return {"folder": run.store.root, "pack": known.get("name"), "digest": known.get("digest"),
            "created": run.manifest.get("created")}  # fmt: skip


def _film(facts: FilmFacts) -> dict[str, Any]:
    return {"film": facts.film, "path": facts.path, "frames": facts.frames, "sampling": facts.sampling}


def _frame(frame: FrameChange) -> dict[str, Any]:
    return {
        "film": frame.film,
        "ordinal": frame.ordinal,
        "time_s": frame.time,
        "shot": frame.shot,
        "change": frame.change,
        "figures": [_pair(pair) for pair in frame.pairs],
    }


def _pair(pair: Pair) -> dict[str, Any]:
    plain: dict[str, Any] = {"overlap": pair.overlap}
    for side, figure in (("a", pair.a), ("b", pair.b)):
        names = (
            "ordinal",
            "track",
            "character",
            "score",
            "emotion",
            "certainty",
            "track_emotion",
            "probabilities",
            "box",
        )
        plain[side] = None if figure is None else {name: getattr(figure, name) for name in names}
    return plain
