"""Clusters: strangers are refused; machines that come, go and lose their link leave the table as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from insideout.store import Store
from tests.clusters import nodes
from tests.conftest import ROOT
from tests.labelling import INSIDEOUT, TABLES, insideout, table
from tests.machines import network, why_not
from tests.media import patterned, remux, write_film

pytestmark = pytest.mark.ray

BIN = Path(sys.executable).parent
EVERY = ("--every", "12", "--no-report")
#: A machine that does not answer is given up after 15 seconds instead of a minute.
IMPATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}
takes_networks = pytest.mark.skipif(bool(why_not()), reason=why_not())


# --- Who may come in


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@dataclass(frozen=True)
class Head:
    """A head started by the command in configs/cluster-local.yaml, its home folder and its token."""

    url: str
    home: Path
    token: str

    def answer(self, path: str, token: str | None = None, post: dict[str, str] | None = None) -> tuple[int, str]:
        """The status and the body of a request; 0 while nobody listens."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        body = json.dumps(post).encode() if post else None
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers), timeout=10) as got:
                return got.status, got.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def client(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as somebody whose home folder holds the token."""
        ours = {name: os.environ[name] for name in os.environ if not name.startswith("RAY_")}
        environment = ours | {"HOME": str(self.home), "RAY_AUTH_MODE": "token"}
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, env=environment)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    token, port = os.urandom(32).hex(), _free_port()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(token)
    (tmp_path / "insideout").mkdir()
    (tmp_path / "insideout" / ".venv").symlink_to(BIN.parent)
    command = yaml.safe_load((ROOT / "configs" / "cluster-local.yaml").read_text())["head_start_ray_commands"][-1]
    command = command.replace("--port=6379", f"--port={_free_port()}").partition("--autoscaling-config")[0]
    command += f" --block --num-cpus=1 --dashboard-port={port} --ray-client-server-port={_free_port()}"
    # In a short path: those of sockets have 107 bytes at most.
    sockets = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    command += f" --dashboard-agent-listen-port={_free_port()} --temp-dir={sockets}"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "YOLO_OFFLINE": "1"}
    ray: subprocess.Popen[bytes] | None = None
    log = tmp_path / "head.log"
    try:
        # Ray gives itself 30 seconds, which a machine that is busy otherwise may not keep.
        for _ in range(4):
            with log.open("w") as said:
                ray = subprocess.Popen(["bash", "-c", command], stdout=said, stderr=said, env=environment, cwd=tmp_path)
            while ray.poll() is None and "Ray runtime started" not in log.read_text():
                time.sleep(0.2)
            if ray.poll() is None or "timed out during startup" not in log.read_text():
                break
        assert ray is not None
        assert ray.poll() is None, log.read_text()[-2000:]
        started = Head(f"http://127.0.0.1:{port}", tmp_path, token)
        while started.answer("/api/jobs/", token)[0] != 200:
            assert ray.poll() is None, log.read_text()[-2000:]
            time.sleep(0.2)
        yield started
    finally:
        if ray is not None and ray.poll() is None:
            # All at once: asked politely, Ray waits half a minute for its nodes to drain.
            for process in [*psutil.Process(ray.pid).children(recursive=True), ray]:
                process.kill()
            ray.wait(60)
        shutil.rmtree(sockets, ignore_errors=True)


def test_a_stranger_is_refused_and_the_token_runs_a_job(head: Head, tmp_path: Path) -> None:
    mark = tmp_path / "a stranger was here"
    for token, status in ((None, 401), ("0" * 64, 403)):
        assert head.answer("/api/jobs/", token)[0] == status
        assert head.answer("/api/jobs/", token, {"entrypoint": f"touch '{mark}'"})[0] == status
    assert json.loads(head.answer("/api/jobs/", head.token)[1]) == [], "no job has come of that"

    port = int(head.url.rpartition(":")[2])
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}

    film = write_film(tmp_path / "pattern.mp4", 48, patterned())
    done = head.client(str(BIN / "ray"), "job", "submit", f"--address={head.url}", "--working-dir=.", "--",
                       "python", "-m", "pipelines.cli", "plan", str(film))  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "12 frames to look at" in done.stdout
    assert [job["status"] for job in json.loads(head.answer("/api/jobs/", head.token)[1])] == ["SUCCEEDED"]
    assert not mark.exists()


@pytest.mark.chaos
def test_make_submit_labels_on_a_cluster(head: Head, tmp_path: Path) -> None:
    film, out = write_film(tmp_path / "pattern.mp4", 48, patterned()), tmp_path / "out"
    submit = ("make", "submit", "INSTALLED=", f"BIN={BIN}", f"ADDRESS={head.url}", f"OUT={out}")
    done = head.client(*submit, f"FILMS={film}", "OPTIONS=--every 12")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "4 sampled = " in done.stdout
    assert table(out, "frames")["ordinal"].to_pylist() == [0, 12, 24, 36]
    assert (out / "report.html").exists()
    failed = head.client(*submit, f"FILMS={film}.mov")
    assert failed.returncode != 0
    assert "no such file; check the path" in failed.stdout
    assert "Traceback" not in failed.stdout


# --- Machines that come and go


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, excerpt: Path) -> Path:
    """A folder of four films: the excerpt thrice, shifted in time so that each has its own digest, and a small one."""
    folder = tmp_path_factory.mktemp("films")
    for shift in range(3):
        remux(excerpt, folder / f"excerpt{shift}.mp4", shift)
    write_film(folder / "pattern.mp4", 120, patterned(shot=40))
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, films: Path, pack: Path) -> Path:
    """The same films labelled on a local Ray."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = insideout("label", films, "--pack", pack, "--out", out, *EVERY, timeout=600)
    assert done.returncode == 0, done.stderr
    count = len(list(films.iterdir()))
    assert f"looking at films: {count}/{count} films" in done.stderr
    return out


def rows(out: Path, name: str) -> pa.Table:
    """All rows of a table of several films, film by film."""
    whole = table(out, name)
    whole = whole.set_column(whole.column_names.index("film"), "film", whole["film"].cast(pa.string()))
    keys = [key for key in ("film", "ordinal", "track", "score", "shot") if key in whole.column_names]
    return whole.sort_by([(key, "ascending") for key in keys])


def assert_same(out: Path, undisturbed: Path) -> None:
    """Row for row the same, no frame twice, and the ledger adds up."""
    assert (out / "_SUCCESS").exists()
    for name in TABLES:
        assert rows(out, name).equals(rows(undisturbed, name)), name
    frames = rows(out, "frames").select(["film", "ordinal", "status"]).to_pylist()
    assert len({(row["film"], row["ordinal"]) for row in frames}) == len(frames) == 3 * 97 + 10
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert counts["failed"] == {}
    assert counts["labelled"] + sum(counts["dropped"].values()) == counts["frames"] == len(frames)


class Run:
    """A run of `label` in a process of its own, watched through its output folder."""

    def __init__(self, command: list[str], out: Path) -> None:
        self.out, self.log = out, out.with_suffix(".log")
        with self.log.open("w") as log:
            self.driver = subprocess.Popen(command, stdout=log, stderr=log)

    def until(self, spans: int) -> None:
        """Wait until so many spans are committed, while the run goes on."""
        deadline = time.monotonic() + 300
        while len(Store(self.out).list("spans", ".parquet")) < spans:
            assert self.driver.poll() is None, f"ended too early: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def end(self) -> str:
        """Wait for a good end; return what the run said."""
        try:
            code = self.driver.wait(600)
        finally:
            self.driver.kill()
        said = self.log.read_text()
        assert code == 0, said[-3000:]
        assert "Traceback" not in said
        return said


@takes_networks
@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_what_befalls_machines_changes_no_row(films: Path, undisturbed: Path, pack: Path, tmp_path: Path) -> None:
    """Three workers: one is switched off, one loses its link for long, one for a moment; a fourth joins."""
    out = tmp_path / "out"
    with network(tmp_path / "network") as net:
        head = net.add("--num-cpus=0", "--include-dashboard=false", **IMPATIENT)
        net.wait(head)
        lost, cut, shaken = (net.add("--num-cpus=1") for _ in range(3))
        net.wait(head, lost, cut, shaken)
        arguments = ["label", films, "--pack", pack, "--out", out, *EVERY, "--address", net.ray]
        run = Run(head.command(*INSIDEOUT, *arguments), out)
        run.until(spans=1)
        shaken.cut()
        time.sleep(3)
        shaken.mend()
        run.until(spans=3)
        lost.switch_off()
        cut.cut()
        joined = net.add("--num-cpus=1")
        net.wait(head, shaken, joined)
        assert run.driver.poll() is None, "the machines were lost too late to prove anything"
        cut.mend()
        run.end()
        # It is told that it was given up, and stops rather than work beside those that took over.
        assert cut.process.wait(60) == 1
        assert net.alive() == sorted((head.address, shaken.address, joined.address))
    assert_same(out, undisturbed)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_nodes_that_are_killed_and_added_change_no_row(
    films: Path, undisturbed: Path, pack: Path, tmp_path: Path
) -> None:
    """The same on loopback, which needs no rights: of three nodes two are lost, one joins."""
    out = tmp_path / "out"
    with nodes(3) as cluster:
        command = ["label", films, "--pack", pack, "--out", out, *EVERY, "--address", cluster.address]
        run = Run([*INSIDEOUT, *map(str, command)], out)
        run.until(spans=2)
        cluster.lose()
        run.until(spans=4)
        cluster.lose()
        cluster.add()
        assert run.driver.poll() is None, "the nodes were lost too late to prove anything"
        run.end()
    assert_same(out, undisturbed)


def autoscaling(folder: Path, gcs: str) -> Path:
    """cluster.yaml with a CPU for each GPU machine, to be started as nodes of this machine; returns the file."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    types = config["available_node_types"]
    small = {name: types[name] | {"resources": {"CPU": 1}, "node_config": {}} for name in types if name != "head"}
    small["gpu_spot"]["max_workers"], small["gpu_on_demand"]["max_workers"] = 2, 1
    # Ray's provider for its own tests; by its short name it looks for a file that is not in the wheel.
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    kept = ("cluster_name", "upscaling_speed", "max_workers")
    # Nothing is copied to or run on a node but Ray.
    nothing = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands",
               "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")  # fmt: skip
    (folder / "autoscaling.json").write_text(
        json.dumps(
            {name: config[name] for name in kept}
            | {name: [] for name in nothing}
            | {
                "auth": {},
                "file_mounts": {},
                "file_mounts_sync_continuously": False,
                "idle_timeout_minutes": 0.2,
                "provider": {
                    "type": "external", "module": provider, "gcs_address": gcs, "head_node_id": FAKE_HEAD_NODE_ID,
                    "launch_multiple": True, "disable_node_updaters": True, "disable_launch_config_check": True,
                },
                "head_node_type": "ray.head.default",
                "available_node_types": small
                | {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}},
            }
        )
    )  # fmt: skip
    return folder / "autoscaling.json"


@takes_networks
@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_a_cluster_grows_from_nothing_and_shrinks_again(
    films: Path, undisturbed: Path, pack: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    environment = {
        "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }  # fmt: skip
    with network(tmp_path / "network") as net:
        config = autoscaling(tmp_path, net.ray)
        head = net.add("--num-cpus=0", "--include-dashboard=false", f"--autoscaling-config={config}", **environment)
        net.wait(head)
        arguments = ["label", films, "--pack", pack, "--out", out, *EVERY, "--address", net.ray]
        refused = head.run(*INSIDEOUT, *arguments, timeout=200)
        assert refused.returncode == 2, refused.stderr
        assert "the cluster has no worker yet; say with --gpus or --cpus how many" in refused.stderr
        run = Run(head.command(*INSIDEOUT, *arguments, "--cpus", "2"), out)
        most = 0
        while run.driver.poll() is None:
            most = max(most, len(net.alive()))
            time.sleep(0.5)
        run.end()
        # A head and the two that were asked for; Ray Data may ask for one more. cluster.yaml says where it ends.
        assert most in (3, 4)
        deadline = time.monotonic() + 120
        while net.alive() != [head.address]:
            assert time.monotonic() < deadline, net.alive()
            time.sleep(0.5)
    assert_same(out, undisturbed)


@takes_networks
@pytest.mark.chaos
def test_other_machines_reach_neither_the_dashboard_nor_ray_without_the_token(tmp_path: Path) -> None:
    with network(tmp_path / "network") as net:
        head = net.add("--num-cpus=0", "--dashboard-host=127.0.0.1")
        net.wait(head)
        other = net.add("--num-cpus=1")
        net.wait(head, other)
        ask = (
            "import sys, urllib.request, urllib.error\n"
            "try: print(urllib.request.urlopen(sys.argv[1], timeout=5).status)\n"
            "except urllib.error.HTTPError as error: print(error.code)\n"
            "except OSError as error: print(error.reason)\n"
        )
        assert head.run(sys.executable, "-c", ask, "http://127.0.0.1:8265/api/jobs/").stdout == "401\n"
        answer = other.run(sys.executable, "-c", ask, f"http://{head.address}:8265/api/jobs/").stdout
        assert "Connection refused" in answer
        # What every node offers to the dashboard asks for the token as well.
        agent = f"http://{head.address}:52365/api/job_agent/jobs/some/logs"
        assert other.run(sys.executable, "-c", ask, agent).stdout == "401\n"
        connect = ["-c", f"import ray; ray.init('{net.ray}', logging_level=50); print(len(ray.nodes()))"]
        assert other.run(sys.executable, *connect).stdout.splitlines()[-1] == "2"
        stranger = other.run("env", "RAY_AUTH_MODE=disabled", "RAY_AUTH_TOKEN=", sys.executable, *connect, timeout=120)
        assert stranger.returncode == 1
        assert re.search("Unauthenticated|authentication token", stranger.stderr)
