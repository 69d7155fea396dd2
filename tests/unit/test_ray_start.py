"""A local Ray that does not start on a busy machine is tried again, and told of in one line."""

from __future__ import annotations

from typing import Any

import pytest

from insideout.errors import UsageError
from pipelines.cluster import connected

# As Ray 2.60 says it of a dashboard that does not answer in time: an empty line, then the end of its log.
DASHBOARD = (
    "\nThe last 20 lines of /tmp/ray/dashboard.log (it contains the error message from the dashboard): \nINFO a\nINFO b"
)


@pytest.mark.parametrize(
    ("text", "tries"),
    [(DASHBOARD, 4), ("The current node timed out during startup", 4), ("out of file handles", 1)],
    ids=["dashboard", "node", "other"],
)
def test_a_ray_that_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, text: str, tries: int) -> None:
    tried = []

    def start(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise Exception(text)

    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError) as raised, connected():
        pass
    assert len(tried) == tries
    first = text.strip().splitlines()[0].strip()
    assert str(raised.value) == f"Ray cannot be started on this machine: {first}; run the same command again"
