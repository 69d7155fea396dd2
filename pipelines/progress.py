"""Show how a run goes: a bar in a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from insideout.messages import printable

_LOG_EVERY_S = 10.0


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Say what is being done, in one line of a terminal that goes when it is done; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    with Console(stderr=True).status("") as line:
        yield lambda what: line.update(escape(printable(what)))


class Tally:
    """Counts frames, or films, towards a total, on standard error."""

    def __init__(self, what: str, unit: str = "frames") -> None:
        self._what, self._unit, self._done, self._total = what, unit, 0, 0
        self._start = self._said = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()
        elif self._total and self._done != self._total:
            self._say()

    def start(self, total: int) -> None:
        """Begin counting towards `total`."""
        self._total = total
        self._start = self._said = time.monotonic()
        if self._bar and total:
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=total, rate=0.0)

    def advance(self, more: int) -> None:
        """Count what is done."""
        self._done += more
        now = time.monotonic()
        rate = self._done / max(1e-6, now - self._start)
        if self._bar:
            self._bar.update(self._task, completed=self._done, rate=rate)
            if self._done == self._total:
                self._bar.stop()  # there can be one bar at a time, and another count may follow
        elif now - self._said >= _LOG_EVERY_S or self._done == self._total:
            self._said = now
            self._say()

    def _say(self) -> None:
        rate = self._done / max(1e-6, time.monotonic() - self._start)
        of = f"{self._done}/{self._total} {self._unit}"
        print(f"{self._what}: {of}, {rate:.1f} {self._unit}/s", file=sys.stderr, flush=True)
