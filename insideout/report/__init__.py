"""The HTML report over one output folder: one page that needs no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def write_report(
    run: Path | str,
    out: Path | None = None,
    *,
    attribution: str | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> str:
    """Write the HTML report over a finished output folder and return its path or URL.

    `run` is the folder; `out` defaults to its `report.html`. `attribution` is the line shown with the
    pictures of every film; without it, films known by their digest bring their own. `say` is told what
    is being done. Raises OutputError when the folder is not a finished run or newer than this version,
    StorageError when the page cannot be written. The page is replaced as a whole or not at all.
    """
    # Imported here: the statistics read their tables by this package, and the page is made from the statistics.
    from insideout.report import page

    return page.write(run, out, attribution=attribution, say=say)


__all__ = ["write_report"]
