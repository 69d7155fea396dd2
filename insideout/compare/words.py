"""A comparison in words: lines for a terminal, and the short texts that the page shares with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from insideout.compare.films import FrameChange
from insideout.compare.rows import Pair, emotion
from insideout.compare.runs import Comparison
from insideout.compare.times import TimeChange
from insideout.messages import shown
from insideout.report import words
from insideout.report.tables import Run

UNCHANGED = "nothing changed: the same frames, rows, names, emotions and probabilities"
_EMOTIONS = 8  # changes of emotion that are listed


def lines(found: Comparison) -> list[str]:
    """The comparison for a terminal; no name in it can steer one."""
    counts = found.counts
    told = [f"A  {run_line(found.a)}", f"B  {run_line(found.b)}"]
    told += [f"   {line}" for line in only_lines(found)]
    for setting in found.settings:
        told.append(f"   {setting.name}: {words.plain(setting.a)} -> {words.plain(setting.b)}")
    told += ["", frames_line(found)]
    if found.unchanged:
        return [shown(line) for line in [*told, UNCHANGED]]
    told += [
        f"   {a} in A, {b} in B: {_counted(n, 'frame')}" for (a, b), n in sorted(counts.statuses.items()) if a != b
    ]
    told.append("")
    told += _table(
        ("rows", "A", "B", "same", "new", "gone", "renamed", "same emotion", "kappa", "distance"),
        (
            (
                "all" if row.character == "*" else row.character, row.rows_a, row.rows_b, row.same, row.new, row.gone,
                row.renamed_from + (0 if row.character == "*" else row.renamed_to), _percent(row.share),
                _two(row.kappa), _two(row.distance),
            )
            for row in found.characters
        ),
        left=1,
    )  # fmt: skip
    told += [f"renamed: {a} -> {b}, {_counted(n, 'row')}" for (a, b), n in counts.names.most_common()]
    changes = [(who, a, b, n) for (who, a, b), n in counts.emotions.most_common() if a != b]
    told += [f"read as: {who} {a} -> {b}, {_counted(n, 'row')}" for who, a, b, n in changes[:_EMOTIONS]]
    if len(changes) > _EMOTIONS:
        told.append(f"   and {_counted(len(changes) - _EMOTIONS, 'more change')} of emotion (--json)")
    told += [""]
    told += _table(
        ("on screen", "emotion", "A s", "B s", "B - A s", "95 %", "A", "B", "points", "95 %"),
        (
            (
                time.character, time.emotion, f"{time.seconds_a:.1f}", f"{time.seconds_b:.1f}",
                f"{time.difference:+.1f}",
                interval(time.low, time.high), _percent(time.share_a), _percent(time.share_b),
                "" if time.points is None else f"{time.points:+.1f}", interval(time.points_low, time.points_high),
            )
            for time in found.times
        ),
        left=2,
    )  # fmt: skip
    told.append(times_note(found))
    if found.frames:
        told += ["", f"changed most, one frame of a shot; {_counted(found.changed_shots, 'shot')} of A changed:"]
    told += [f"{where(frame, found)}: {'; '.join(filter(None, map(pair_words, frame_pairs(frame, found))))}"
             for frame in found.frames]  # fmt: skip
    return [shown(line) for line in told]


def run_line(run: Run) -> str:
    """Which run, by which pack, of when."""
    pack = run.manifest.get("pack")
    known = pack if isinstance(pack, dict) else {}
    made = f", made {run.manifest['created']}" if run.manifest.get("created") else ""
    return f"{run.store.root}: pack {known.get('name')} {str(known.get('digest') or '')[:8]}{made}"


def only_lines(found: Comparison) -> list[str]:
    """Films that are in one run only."""
    told = []
    for side, films in (("A", found.only_a), ("B", found.only_b)):
        told += [f"only in {side}, not compared: {facts.name} ({facts.film})" for facts in films]
    return told


def frames_line(found: Comparison) -> str:
    """How many frames were compared, and why not all."""
    counts = found.counts
    films = _counted(len(found.films), "film")
    told = f"{_counted(counts.compared, 'frame')} of {films} compared, {counts.differing} differ"
    told += f"; A looked at {counts.frames_a}, B at {counts.frames_b}, both at {counts.common}"
    return told + (f"; {counts.unknown} left out that failed in one" if counts.unknown else "")


def times_note(found: Comparison) -> str:
    """What the times and intervals are of."""
    of = "tracks" if found.fused else "single frames"
    counts = found.counts
    told = f"emotions of {of}, over all of the films"
    if not counts.common == counts.frames_a == counts.frames_b:
        told += (
            f": time is counted from all frames that a run looked at ({counts.frames_a} in A, {counts.frames_b} in B),"
            f" figures are compared in the {counts.compared} common ones only"
        )
    told += (
        f"; intervals over {_counted(found.shots, 'shot')}, none where fewer than 5 differ: for seconds in these, for"
        " points also in the character's time on screen"
    )
    if found.unknown_a or found.unknown_b:
        told += f"; failed frames hide {found.unknown_a:.1f} s in A and {found.unknown_b:.1f} s in B"
    return told


def where(frame: FrameChange, found: Comparison) -> str:
    """The time of a frame, its number, and its film where there are several."""
    film = ""
    if len(found.films) > 1:
        film = next(facts.name for facts in found.films if facts.film == frame.film) + " "
    return f"{film}{words.timecode(frame.time)} frame {frame.ordinal}"


def frame_pairs(frame: FrameChange, found: Comparison) -> list[tuple[Pair, bool]]:
    """The figures of a frame that changed, most first, each with whether emotions are those of tracks."""
    pairs = [pair for pair in frame.pairs if pair.change(found.fused) > 0.005]
    return [(pair, found.fused) for pair in sorted(pairs, key=lambda pair: -pair.change(found.fused))]


def pair_words(changed: tuple[Pair, bool]) -> str:
    """What became of a figure: `Frank Angry -> uncertain`."""
    pair, fused = changed
    if pair.a is None or pair.b is None:
        one = pair.a or pair.b
        assert one is not None
        return f"{one.character} {emotion(one, fused)} {'gone' if pair.b is None else 'new'}"
    before, after = (f"{f.character} {emotion(f, fused)}" for f in (pair.a, pair.b))
    if pair.renamed:
        return f"{before} -> {after}"
    if pair.differs(fused):
        return f"{before} -> {emotion(pair.b, fused)}"
    was, now = (f"{100 * figure.certainty:.0f}" for figure in (pair.a, pair.b))
    return f"{before} {was} -> {now} %" if was != now else f"{before}, other probabilities"


def interval(low: float | None, high: float | None) -> str:
    """An interval with signs, empty where there is none."""
    return "" if low is None or high is None else f"[{low:+.1f}, {high:+.1f}]"


def clear(time: TimeChange) -> bool:
    """Whether the interval of the difference in seconds leaves out 0."""
    return time.low is not None and time.high is not None and (time.low > 0 or time.high < 0)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _percent(share: float | None) -> str:
    return "" if share is None else words.percent(share).replace("\u00a0", " ")


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]], left: int) -> list[str]:
    """Columns of texts beside each other, the first `left` ones flush left."""
    texts = [head, *(tuple(shown(str(value)) for value in row) for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(head))]
    return [
        "  ".join(value.ljust(width) if i < left else value.rjust(width)
                  for i, (value, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in texts
    ]  # fmt: skip
