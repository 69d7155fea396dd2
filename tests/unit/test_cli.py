"""The command line: help for every command, and bad use answered by one message and an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pipelines.cli import app, main


def insideout(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments], capture_output=True, text=True, timeout=120, cwd=cwd
    )


def _commands() -> list[list[str]]:
    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        found += [[name, sub] for sub in below] if below else [[name]]
    return found


def test_the_verbs_are_the_promised_ones() -> None:
    assert {" ".join(c) for c in _commands()} >= {
        "plan", "label", "status", "report", "train segmenter", "train emotion", "pack show", "pack verify",
    }  # fmt: skip


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_and_option_has_help_that_fits_a_screen(command: list[str]) -> None:
    shown = CliRunner(env={"COLUMNS": "120", "TERM": "dumb"}).invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) <= 50
    found = get_command(app)
    for name in command:
        found = found.commands[name]  # type: ignore[attr-defined]
    assert found.help
    for parameter in found.params:
        assert getattr(parameter, "help", None), f"{' '.join(command)}: {parameter.name} has no help"


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_is_in_the_readme_or_a_page_of_the_documents(command: list[str], root: Path) -> None:
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    assert any(f"insideout {' '.join(command)}" in page.read_text() for page in pages)


def test_plan_says_what_label_would_look_at(excerpt: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(excerpt)])
    assert done.exit_code == 0, done.output
    assert "1280x720 h264, 1159 frames at 24.000/s, 48.3 s" in done.stdout
    assert "every:4: 290 frames" in done.stdout
    done = CliRunner().invoke(app, ["plan", str(excerpt), "--fps", "2"])
    assert "fps:2: 97 frames" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "nowhere.mp4"], "nowhere.mp4"),
        (["plan", "notes.mp4"], "notes.mp4"),
        (["plan", "empty.mp4"], "empty.mp4"),
        (["plan", "*.avi"], "*.avi"),
        (["plan", "s3x://bucket/film.mp4"], "s3x"),
        (["plan", "notes.mp4", "--every", "2", "--keyframes"], "exclude each other"),
        (["plan", "notes.mp4", "--fps", "fast"], "fast"),
        (["label", "notes.mp4", "--pack", "no-pack", "--out", "out"], "no-pack"),
        (
            ["label", "notes.mp4", "--pack", str(Path(__file__).parents[2] / "packs" / "bbb"), "--out", "out"],
            "notes.mp4",
        ),
        (["view", "nothing-here"], "nothing-here"),
        (["status", "nothing-here"], "not an output of `insideout label`"),
        (["report", "nothing-here"], "nothing-here"),
        (["pack", "verify", "nothing-here"], "nothing-here"),
        (["train", "emotion", "--out", "o"], "give --data"),
        (["train", "emotion", "--out", "s3://bucket/o", "--stage", "faces"], "insideout data faces"),
        (["train", "emotion", "--data", "nothing-here", "--out", "o", "--calibrate", "1"], "--calibrate 1"),
        (["split", "nothing-here", "--out", "o"], "nothing-here"),
        (["evaluate", "nothing-here", "--data", "nothing-there"], "nothing-here"),
        (["evaluate", "nothing-here", "--data", "nothing-there", "--device", "0"], "'0' is no name of a device"),
        (["evaluate", "nothing-here", "--data", "nothing-there", "--device", "cuda:77"], "cuda:77 cannot be used"),
        (["data", "labels", "--run", "nothing-here", "--out", "o.csv", "--labels", "no-labels"], "no-labels"),
        (["data", "faces", "--out", "o", "--faces", "nothing-here"], "nothing-here"),
        (["train", "segmenter", "--data", "nothing-here", "--out", "o", "--recipe", "no.yaml"], "no.yaml"),
        (["train", "emotion", "--data", "nothing-here", "--out", "o", "--recipe", "no.yaml"], "no.yaml"),
        (
            ["train", "emotion", "--data", "d", "--out", "o", "--stage", "faces"],
            "leave out --data, or leave out --stage",
        ),
        (["train", "segmenter", "--data", "d", "--out", "s3://bucket/o"], "trained into a local folder"),
    ],
)
def test_bad_use_is_one_message_and_exit_code_2(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: a process for each would import torch and Ray each time."""
    (tmp_path / "notes.mp4").write_text("this is not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["insideout", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    message = [line for line in said.splitlines() if line.startswith("insideout: ")]
    assert len(message) == 1
    assert says in said
    assert {path.name for path in tmp_path.iterdir()} == {"notes.mp4", "empty.mp4"}


def test_a_process_ends_with_the_message_alone(tmp_path: Path) -> None:
    done = insideout("report", "nothing-here", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("insideout: ")
    assert "nothing-here" in line
    assert not done.stdout
