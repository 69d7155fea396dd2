"""GPUs that Ray counts and nobody can use, and GPUs that do not come: said in one line, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.data import DataContext

from insideout.errors import IncompleteError
from insideout.plan import FoldedPlan, LabelSettings, plan_film
from insideout.store import Store
from pipelines.cluster import Resources
from pipelines.label import Job, run
from tests.labelling import TABLES, insideout, label, table

pytestmark = [
    pytest.mark.ray,
    pytest.mark.chaos,
    pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that PyTorch can use"),
]
#: What Ray would count on a machine whose GPU PyTorch cannot use: another maker's, an old driver, an old GPU.
A_GPU = {"RAY_OVERRIDE_RESOURCES": '{"GPU": 1}'}


def test_a_gpu_that_pytorch_cannot_use_is_left_alone(usual: Path, excerpt: Path, pack: Path, tmp_path: Path) -> None:
    done = label(excerpt, pack, tmp_path / "out", **A_GPU)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [line for line in done.stderr.splitlines() if line.startswith("no GPU is used: cuda:0 cannot be used: ")]
    assert len(told) == 1, done.stderr
    assert told[0].endswith("; labelling on the CPUs")
    for name in TABLES:
        assert table(tmp_path / "out", name).equals(table(usual, name)), name


def test_a_gpu_that_is_asked_for_and_cannot_be_used_is_refused(excerpt: Path, pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = insideout("label", excerpt, "--pack", pack, "--out", out, "--gpus", "1", **A_GPU)
    assert done.returncode == 2, done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("insideout: --gpus 1: cuda:0 cannot be used: ")
    assert f"PyTorch {torch.__version__}" in said
    assert not (out / "plan.json").exists()


CLUSTER = """
import sys
import ray
ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
from pipelines.cli import main
sys.argv = ["insideout", *sys.argv[1:]]
main()
"""


def test_a_machine_of_a_cluster_whose_gpu_cannot_be_used_is_named(excerpt: Path, pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["label", str(excerpt), "--pack", str(pack), "--out", str(out), "--every", "24", "--cpus", "1"]
    done = subprocess.run([sys.executable, "-c", CLUSTER, *arguments], capture_output=True, text=True, timeout=250)
    assert done.returncode == 2, done.stderr[-3000:]
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("insideout: "))
    assert said.startswith(f"insideout: on machine {os.uname().nodename} cuda cannot be used: ")
    assert "--gpus 0 to label on the CPUs" in said
    assert "Traceback" not in done.stderr
    assert not list(out.rglob("spans/**/*.parquet"))


@pytest.fixture
def waiting(
    ray_cluster: None, excerpt: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[FoldedPlan], Job]:
    """A film to be labelled on GPUs, on a Ray without any, with six seconds for something to move."""
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 6)
    settings = LabelSettings(sampling="every:96")
    job = Job(str(pack), str(tmp_path / "out"), settings, "f" * 16, "cuda")
    return [plan_film(str(excerpt), settings, job.fingerprint).fold()], job


def test_gpus_that_do_not_come_on_a_machine_of_our_own_end_the_run(waiting: tuple[list[FoldedPlan], Job]) -> None:
    plans, job = waiting
    with pytest.raises(IncompleteError, match=r"nothing has moved for 0\.1 minutes, and 1 spans are missing: .* GPUs"):
        list(run(plans, job, Resources(2, 1.0, local=True), 0.5))


def test_machines_that_do_not_come_are_waited_for(
    waiting: tuple[list[FoldedPlan], Job], capfd: pytest.CaptureFixture[str]
) -> None:
    plans, job = waiting
    ended: list[list[dict[str, Any]]] = []
    runner = threading.Thread(target=lambda: ended.append(list(run(plans, job, Resources(2, 8.0), 0.5))), daemon=True)
    runner.start()
    said = ""
    while said.count("nothing has moved for 0.1 minutes: still waiting for machines with a GPU\n") < 2:
        runner.join(0.5)
        assert runner.is_alive()
        said += capfd.readouterr().err
    # Another run on the same folder does what is missing.
    plan = plans[0].unfold()
    for span in plan.spans:
        Store(job.out).write(plan.span_key(span), b"done")
    runner.join(120)
    assert ended == [[]]
