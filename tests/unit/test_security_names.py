"""Names from films, packs and data sets: never a path, a markup, a command to the terminal.

The report of a run has `test_names_with_html_in_them_are_text` and
`test_the_page_loads_nothing_and_runs_its_own_scripts_only` in test_report.py.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from insideout.datasets.labelled import LabelledCrop
from insideout.errors import FilmError
from insideout.evaluation.report import evaluate
from insideout.film import Sampling
from insideout.isolate import Trouble, quarantine
from insideout.messages import fault_of_name, in_markdown, printable, shown
from insideout.packs import load_pack
from insideout.plan import LabelSettings, fingerprint, plan_film
from insideout.store import Store
from pipelines.cli import app
from pipelines.summary import status_lines
from tests.media import write_film
from tests.pages import Page
from tests.sweeps import write_sweep
from tune.report import write_report
from tune.sweep import read_space, read_sweep, write_results

EVIL = "</script><script>alert(1)</script>"


def test_places_in_the_output_are_named_by_digest(tmp_path: Path, pack: Path) -> None:
    (tmp_path / "films").mkdir()
    path = write_film(tmp_path / "films" / "up%2f..%2f<b>\n'x'.mp4", 24)
    loaded, settings = load_pack(pack, verify=False), LabelSettings()
    plan = plan_film(f"{tmp_path}/films/../films/{path.name}", settings, fingerprint(loaded, settings))
    reel = plan.reels(Sampling.parse("every:4"), {0})[0]
    store = Store(tmp_path / "out")
    for stage in ("decode", "segment"):
        quarantine(store, Trouble(stage, 4, None, "why"), reel, loaded)
    folder = f"quarantine/film={plan.film.film}"
    assert store.list("") == [f"{folder}/000004-decode.json", f"{folder}/000004-segment.json",
                              f"{folder}/000004-segment.png"]  # fmt: skip
    assert re.fullmatch(r"spans/film=[0-9a-f]{16}/[0-9a-f]{16}/000000\.parquet", plan.span_key(plan.spans[0]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["films", "out"]


def test_a_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    name = "a\x1b]0;owned\x07\x1b[2J\u202e4pm.mkv"
    path = write_film(tmp_path / name, 12)
    done = CliRunner().invoke(app, ["plan", str(path)])
    assert done.exit_code == 0
    assert r"a\x1b]0;owned\x07\x1b[2J\u202e4pm.mkv" in done.output
    path.write_bytes(b"")
    done = CliRunner().invoke(app, ["plan", str(path)])
    assert isinstance(done.exception, FilmError)
    facts = {"summary": None, "spans_done": 0, "spans": 1, "samples": 1, "path": f"/{name}\nfilm 00: done"}
    status = list(status_lines({"films": {"f": facts}, "done": False}))
    assert len(status) == 2
    for text in (done.output, str(done.exception), *status):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def test_what_has_a_shape_is_left_as_it_is() -> None:
    for name in ("Bing Bong", "Тревога", "喜び", "Ennui 🙄", "👩‍👧", "O'Brien & <Co>", "{{ 7*7 }}", "%s", "../up"):
        assert printable(name) == shown(name) == name
        assert fault_of_name(name) == ""
    assert printable("two\nlines\tand") == "two\nlines\tand"
    assert shown("two\nlines") == r"two\nlines"
    for name in ("", " ", "=1+1", "@SUM(A1)", "-2", "+x", "a\rb", "a\u2028b", "a\x9bb", "n" * 101):
        assert fault_of_name(name)


def test_the_report_of_a_sweep_runs_its_own_scripts_only(tmp_path: Path) -> None:
    sgd = {"batch": 4, "label_smoothing": 0.1, "optimizer": "sgd", "optimizer.sgd.lr": 0.01,
           "optimizer.sgd.momentum": 0.8}  # fmt: skip
    trials = [({"student": True}, [0.2, 0.25]), (sgd, [0.1]), (sgd | {"batch": 8}, [0.3])]
    store = Store(write_sweep(tmp_path, trials, failed={1: f"Error: {EVIL}"}))
    (tmp_path / "trials/trial-2").rename(tmp_path / "trials/trial-<img src=x onerror=alert(1)>")
    sweep = read_sweep(store)
    write_results(store, sweep, read_space(sweep))
    html = Path(write_report(store, sweep, read_space(sweep))).read_text()
    page = Page(html)
    assert EVIL in page.text
    assert not any(tag in ("img", "link", "iframe", "object", "embed") for tag, _ in page.tags)
    assert not any(name.startswith("on") or value.startswith(("http:", "https:", "//"))
                   for _, attributes in page.tags for name, value in attributes.items())  # fmt: skip
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'"
    assert "unsafe" not in parts["script-src"]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert parts["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(scripts) >= 3
    assert all("ast: true" in script for script in scripts[1:])  # else Vega evaluates expressions, which is not allowed


def test_names_in_a_table_of_markdown_are_text(tmp_path: Path, pack: Path) -> None:
    assert in_markdown("a|b <script>\n# c &lt;") == r"a\|b &lt;script>\n# c &amp;lt;"
    random = np.random.default_rng(0)
    spec = load_pack(pack, verify=False).emotion
    import cv2

    def crop(i: int, character: str) -> LabelledCrop:
        picture = cv2.imencode(".png", random.integers(0, 255, (48, 48, 3), np.uint8))[1].tobytes()
        return LabelledCrop(f"{i}", picture, spec.classes[i % 2], shot=str(i), character=character)

    evil = "Bunny|<script>alert(1)</script>\n# Big"
    evaluate(
        spec, [crop(i, evil) for i in range(6)], [crop(i, evil) for i in range(6, 12)], tmp_path, resamples=20,
        title=f"{evil} on valid",
    )  # fmt: skip
    table = (tmp_path / "table.md").read_text()
    assert "<script>" not in table
    assert "\n# Big" not in table
    assert r"| Bunny\|&lt;script>alert(1)&lt;/script>\n# Big |" in table


@pytest.mark.parametrize("split", ["../../up", "valid/../..", "a\0b"])
def test_a_split_is_no_path(tmp_path: Path, pack: Path, split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.exports import write_export

    monkeypatch.chdir(tmp_path)
    export = write_export(tmp_path / "export")
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["evaluate", str(pack), "--data", str(export), "--split", split])
    assert "there is no split called" in str(done.exception)
    assert sorted(tmp_path.rglob("*")) == before
