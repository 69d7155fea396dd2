"""Sweeps that are hit: their driver, a trial, a node; and a sweep whose folder is on object storage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import s3fs
from ray import tune

from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.store import Store
from tests.clusters import two_nodes
from tests.exports import write_export
from tests.object_storage import BUCKET, s3_server
from tune.results import read_trials
from tune.settings import Share, Sweep
from tune.sweep import run

pytestmark = pytest.mark.ray

SPACE = """
of: emotion
base: {backbone: mobilenet_v2, size: 32, epochs: 5, precision: fp32, augment: none}
search:
  batch: {choice: [4, 8]}
  lr: {log: [0.001, 0.1]}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("data"), shots=(1, 2, 3, 4))


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


def _epochs(out: Path) -> dict[str, int]:
    """Epochs that each trial has reported so far."""
    files = (out / "trials").glob("trial-*/result.json")
    return {file.parent.name: file.read_text().count("\n") for file in files}


@pytest.mark.chaos
@pytest.mark.parametrize("victim", ["driver", "trial", "interrupted driver"])
def test_a_killed_sweep_goes_on_with_its_trials(
    victim: str, data: Path, space: Path, tmp_path: Path, root: Path
) -> None:
    import psutil

    out = tmp_path / "out"
    command = [sys.executable, "-m", "tune.sweep", "emotion", "--data", str(data), "--space", str(space)]
    command += ["--out", str(out), "--trials", "3", "--scheduler", "none", "--max-concurrent", "1", "--no-winner"]
    log = tmp_path / "log"
    environment = os.environ | {"TUNE_GLOBAL_CHECKPOINT_S": "0"}
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=root, stdout=file, stderr=file, start_new_session=True, env=environment)
        try:
            deadline = time.monotonic() + 240
            # The first trial is done and the second has begun.
            while len(_epochs(out)) < 2 or min(_epochs(out).values()) < 1:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            done = {name: n for name, n in _epochs(out).items() if n == 5}
            assert len(done) == 1
            if victim == "driver":
                os.kill(process.pid, signal.SIGKILL)
            elif victim == "interrupted driver":
                os.kill(process.pid, signal.SIGINT)
                assert process.wait(240) == 130, log.read_text()
                assert not (out / "best.yaml").exists()
            else:
                children = psutil.Process(process.pid).children(recursive=True)
                named = [child for child in children if "ImplicitFunc" in " ".join(child.cmdline())]
                assert len(named) == 1, [child.cmdline()[:1] for child in children]
                pid = named[0].pid
                os.kill(pid, signal.SIGKILL)
                assert process.wait(240) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
    (finished,) = done
    stamp = (out / "trials" / finished / "result.json").stat().st_mtime_ns
    if victim != "trial":
        assert not (out / "results.parquet").exists()
        resumed = [sys.executable, "-m", "tune.sweep", "resume", str(out), "--no-winner"]
        subprocess.run(resumed, cwd=root, check=True, timeout=300)
    trials = read_trials(Store(str(out)))
    assert len(trials) == 3
    assert {trial.error for trial in trials} == {""}
    for trial in trials:
        assert [report["epoch"] for report in trial.epochs] == [1, 2, 3, 4, 5], trial.name
    assert (out / "trials" / finished / "result.json").stat().st_mtime_ns == stamp
    assert (out / "best.yaml").exists()


class Unable(tune.Callback):
    """A logger that does not come up, as that of a service nobody is logged in to."""

    def setup(self, *_: object, **__: object) -> None:
        raise RuntimeError("not logged in")


@pytest.mark.chaos
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_that_ended_before_its_first_trial_begins_anew(data: Path, space: Path, tmp_path: Path) -> None:
    sweep = Sweep("emotion", (str(data),), None, space.read_text().replace("epochs: 5", "epochs: 1"), 2, rule="none")
    with pytest.raises(RuntimeError, match="not logged in"):
        run(sweep, str(tmp_path / "out"), Share(), [Unable()])
    run(sweep, str(tmp_path / "out"), Share())
    trials = read_trials(Store(str(tmp_path / "out")))
    assert [len(trial.epochs) for trial in trials] == [1, 1]


@pytest.mark.chaos
def test_a_trial_goes_on_elsewhere_when_its_node_is_lost(data: Path, space: Path, tmp_path: Path, root: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    space.write_text(SPACE.replace("epochs: 5", "epochs: 100"))
    with two_nodes() as (address, lose), log.open("w") as file:
        command = [sys.executable, "-m", "tune.sweep", "emotion", "--data", str(data), "--space", str(space)]
        command += ["--out", str(out), "--trials", "2", "--scheduler", "none", "--address", address, "--no-winner"]
        process = subprocess.Popen(command, cwd=root, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 240
            while len(epochs := _epochs(out)) < 2 or min(epochs.values()) < 1:  # one on each node
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            lose()
            assert process.wait(240) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
    trials = read_trials(Store(str(out)))
    assert [trial.error for trial in trials] == [""] * 2
    for trial in trials:
        assert [report["epoch"] for report in trial.epochs] == list(range(1, 101)), trial.name
    pids = {report["pid"] for trial in trials for report in trial.epochs}
    assert len(pids) > 2, "no trial changed its process: the kill came too late to prove anything"


@pytest.mark.chaos
def test_a_sweep_lives_on_s3(data: Path, space: Path, tmp_path: Path, root: Path) -> None:
    out = f"s3://{BUCKET}/sweeps/emotion"
    command = [sys.executable, "-m", "tune.sweep", "emotion", "--data", str(data), "--space", str(space)]
    command += ["--out", out, "--trials", "2", "--scheduler", "median", "--no-winner"]
    with s3_server(tmp_path / "weed") as environment:
        env = os.environ | environment
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"recipe: {out}/best.yaml" in done.stdout
        fs = s3fs.S3FileSystem(
            key=env["FSSPEC_S3_KEY"], secret=env["FSSPEC_S3_SECRET"], endpoint_url=env["FSSPEC_S3_ENDPOINT_URL"]
        )
        found = {path.removeprefix(f"{BUCKET}/sweeps/emotion/") for path in fs.find(f"{BUCKET}/sweeps/emotion")}
        assert {"sweep.json", "results.parquet", "best.yaml", "report.html"} <= found
        assert sum(name.startswith("trials/trial-") and name.endswith("/0/state.pt") for name in found) == 2
        recipe = EmotionRecipe.from_yaml(fs.cat_file(f"{BUCKET}/sweeps/emotion/best.yaml").decode(), "best.yaml")
        assert (recipe.backbone, recipe.epochs) == ("mobilenet_v2", 5)
