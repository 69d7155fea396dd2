"""The files that start a cluster, held against Ray's own schema, command line, scheduler and packaging."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from packaging.requirements import Requirement
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.runtime_env import RuntimeEnv
from ray.scripts.scripts import start as ray_start

from pipelines.cli import app
from tests.conftest import ROOT

CLUSTERS = [ROOT / "cluster.yaml", ROOT / "configs" / "cluster-local.yaml"]
RAYJOB = yaml.safe_load((ROOT / "configs" / "rayjob.yaml").read_text())
RAY_OPTIONS = {option.removeprefix("--") for parameter in ray_start.params for option in parameter.opts}

# Field names of KubeRay's API reference (ray.io/v1, 1.7), as far as configs/rayjob.yaml could use them: its
# own schema is a Kubernetes resource that no package registry has.
JOB_FIELDS = {
    "activeDeadlineSeconds", "backoffLimit", "entrypoint", "entrypointNumCpus", "entrypointNumGpus", "metadata",
    "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig",
    "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
}  # fmt: skip
CLUSTER_FIELDS = {
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec", "rayVersion", "suspend",
    "workerGroupSpecs",
}  # fmt: skip
HEAD_FIELDS = {"enableIngress", "headService", "rayStartParams", "serviceType", "template"}
WORKER_FIELDS = {"groupName", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas", "template"}
AUTOSCALER_FIELDS = {"env", "idleTimeoutSeconds", "image", "resources", "securityContext", "upscalingMode", "version"}


def ray_version() -> str:
    """The version of Ray this project is tested with."""
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")]
    return next(iter(Requirement(pins[0]).specifier)).version


def accepts(command: list[str]) -> dict[str, Any]:
    """Parse the words of an `insideout` command as the command line does; raises where it would refuse them."""
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group) or hasattr(root, "commands")
    verb = root.commands[command[0]]  # type: ignore[union-attr]
    return dict(verb.make_context(command[0], list(command[1:])).params)


# --- cluster.yaml and configs/cluster-local.yaml


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda p: p.name)
def test_ray_accepts_the_cluster(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="Additional properties"):
        validate_config(prepare_config(config | {"max_worker": 3}))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda p: p.name)
def test_every_node_asks_for_the_token_and_dashboards_stay_on_loopback(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for kind in ("head", "worker"):
        begin = config[f"{kind}_start_ray_commands"][-1]
        words = shlex.split(begin)
        assert "RAY_AUTH_MODE=token" in words
        assert "RAY_USAGE_STATS_ENABLED=0" in words
        options = {word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")}
        assert options <= RAY_OPTIONS, "no such option of `ray start`"
        assert ("dashboard-host" in options) == (kind == "head")
        assert kind == "worker" or "--dashboard-host=127.0.0.1" in words


def scheduled(gpus: float, **availability: Any) -> dict[str, int]:
    """How many machines of which kind Ray's autoscaler starts for half-GPU actors on `gpus` GPUs, from none."""
    config = AutoscalingConfig(prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text())), True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_worker_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make({"GPU": 0.5}) for _ in range(int(gpus * 2))]
        ),
        **availability,
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_machines_come_with_the_work_spot_first() -> None:
    assert scheduled(0) == {}
    assert scheduled(1) == {"gpu_spot": 1}
    assert scheduled(8) == {"gpu_spot": 8}
    assert scheduled(12) == {"gpu_spot": 8, "gpu_on_demand": 4}
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    assert types["gpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["gpu_on_demand"]["node_config"]
    assert types["head"]["resources"] == {"CPU": 0}, "the head does no work"


def test_on_demand_machines_come_where_no_spot_is_to_be_had() -> None:
    refused = {"gpu_spot": 0.0}
    assert scheduled(
        2, recoverable_resource_availabilities=refused, cloud_resource_availabilities=refused
    ) == {"gpu_on_demand": 2}  # fmt: skip


# --- Images


def test_images_are_of_the_ray_and_python_that_are_tested() -> None:
    tag = f"rayproject/ray:{ray_version()}-py311"
    assert yaml.safe_load((ROOT / "cluster.yaml").read_text())["docker"]["image"] == f"{tag}-gpu"
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"ARG RAY_IMAGE={tag}-gpu\nFROM ${{RAY_IMAGE}}\n" in dockerfile
    assert f"RAY_IMAGE={tag}-cpu" in dockerfile
    assert sys.version_info >= (3, 10)


def instructions() -> list[tuple[str, list[str]]]:
    """The instructions of the Dockerfile with their words."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, shlex.split(rest)) for name, rest in lines]


def copied() -> dict[str, str]:
    """What the Dockerfile copies, and where to below its folder."""
    found = {}
    for name, words in instructions():
        if name == "COPY":
            *sources, target = [word for word in words if not word.startswith("--")]
            for source in sources:
                found[source] = target if source.endswith("/") else f"{target.rstrip('/')}/{Path(source).name}"
    return found


def sent(path: str) -> bool:
    """Whether .dockerignore lets a path through: the last of its patterns that fits the path or a parent decides."""
    through = True
    parts = path.rstrip("/").split("/")
    parents = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").rstrip("/")
        if not line or line.startswith("#"):
            continue
        anywhere = pattern.removeprefix("**/")
        names = parents if pattern == anywhere else parts
        # `*` stays inside one folder.
        if any(fnmatch.fnmatchcase(n, anywhere) and n.count("/") == anywhere.count("/") for n in names):
            through = line.startswith("!")
    return through


def test_the_image_gets_what_it_copies_and_nothing_else() -> None:
    for source in copied():
        assert (ROOT / source).exists(), source
        assert sent(source), f".dockerignore keeps {source} back"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    for path in filter(None, tracked):
        wanted = any(path == source or (source.endswith("/") and path.startswith(source)) for source in copied())
        assert sent(path) == wanted, path
    for path in (".git/config", ".env", "films/f.mp4", "runs/a/b", "data/exports/x.png", "insideout/__pycache__/a.pyc"):
        assert not sent(path), path


def test_the_image_runs_as_a_user_and_holds_no_secret() -> None:
    users = [words for name, words in instructions() if name == "USER"]
    assert users[-1] == ["ray"]
    for name, words in instructions():
        if name in {"ARG", "ENV"}:
            assert not [word for word in words if re.search(r"TOKEN|SECRET|PASSW|KEY", word.partition("=")[0], re.I)]


def test_the_image_and_the_cluster_install_the_libraries_that_opencv_needs() -> None:
    wanted = ["libgl1", "libglib2.0-0", "libsm6", "libxcb1", "libxext6"]
    apt = next(words for name, words in instructions() if name == "RUN" and "apt-get" in words)
    setup = yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"][0].split()
    for words in (apt, setup):
        assert [word for word in words if word.startswith("lib")] == wanted


def test_what_the_image_copies_installs_to_the_whole_program(tmp_path: Path) -> None:
    """Lays the files out as the Dockerfile does and builds the wheel that its `pip install .` would."""
    for source, target in copied().items():
        if (ROOT / source).is_dir():
            shutil.copytree(
                ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
            )
        else:
            (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, tmp_path / target)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "wheel", "."],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheel").glob("insideout-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for package in ("insideout", "pipelines", "tune"):
        ours = {
            str(p.relative_to(ROOT)) for p in (ROOT / package).rglob("*") if p.suffix in {".py", ".j2", ".css", ".json"}
        }
        assert ours <= inside
    assert (tmp_path / "packs" / "bbb" / "pack.json").exists()


# --- configs/rayjob.yaml


def test_the_rayjob_has_the_fields_of_kuberay() -> None:
    spec = RAYJOB["spec"]
    cluster = spec["rayClusterSpec"]
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")
    assert set(spec) <= JOB_FIELDS
    assert set(cluster) <= CLUSTER_FIELDS
    assert set(cluster["headGroupSpec"]) <= HEAD_FIELDS
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER_FIELDS
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
    assert cluster["rayVersion"] == ray_version()
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKER_FIELDS
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", group["groupName"])


def test_the_rayjob_starts_ray_with_options_that_ray_has() -> None:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        parameters = group["rayStartParams"]
        assert set(parameters) <= RAY_OPTIONS
        assert all(isinstance(value, str) for value in parameters.values()), "KubeRay takes strings only"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_rayjob_is_a_command_of_ours_in_an_environment_ray_accepts() -> None:
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "pipelines.label"]
    given = accepts(["label", *words[3:]])
    assert given["gpus"] == RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    folder = next(words[0] for name, words in instructions() if name == "WORKDIR")
    assert str(given["pack"]) == f"{folder}/packs/bbb", "where the image has it"
    environment = RuntimeEnv(**yaml.safe_load(RAYJOB["spec"]["runtimeEnvYAML"]))
    assert environment["env_vars"]["YOLO_OFFLINE"] == "1"


def test_the_rayjob_asks_for_the_token_scales_from_zero_and_is_no_root() -> None:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["enableInTreeAutoscaling"] is True
    assert RAYJOB["spec"]["shutdownAfterJobFinishes"] is True
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == 0
    assert "nvidia.com/gpu" in workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["image"].endswith(f":{ray_version()}")
        (memory,) = pod["volumes"]
        assert memory["emptyDir"]["medium"] == "Memory"
        assert container["volumeMounts"] == [{"name": memory["name"], "mountPath": "/dev/shm"}]


# --- make submit


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make without installing anything first."""
    # A make that runs these tests tells those below it to say where they enter and leave.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", "INSTALLED=", *arguments], cwd=ROOT, capture_output=True, text=True, env=env)


def test_make_submit_sends_a_command_of_ours_with_the_token() -> None:
    done = make("-n", "submit", "FILMS=s3://b/films/ s3://c/f.mp4", "OUT=s3://b/labels", "OPTIONS=--gpus 8 --every 8")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.replace("\\\n", " ").splitlines()[-1])
    split = words.index("--")
    assert words[:4] == ["RAY_AUTH_MODE=token", ".venv/bin/ray", "job", "submit"]
    assert words[words.index("--address") + 1] == "http://127.0.0.1:8265"
    assert words[words.index("--working-dir") + 1] == "."
    assert words[split + 1 : split + 4] == ["python", "-m", "pipelines.label"]
    given = accepts(["label", *words[split + 4 :]])
    assert given["films"] == ["s3://b/films/", "s3://c/f.mp4"]
    assert (given["out"], given["gpus"], given["every"], str(given["pack"])) == ("s3://b/labels", 8, 8, "packs/bbb")


def test_make_submit_without_films_says_what_it_needs() -> None:
    done = make("submit", "OUT=s3://b/labels")
    assert done.returncode != 0
    assert "make submit FILMS=… OUT=…" in done.stderr
    assert "ray job submit" not in done.stdout


def test_a_job_takes_the_code_and_the_pack_along_and_no_secret(tmp_path: Path) -> None:
    """Packs the folder as `ray job submit --working-dir .` does."""
    folder = tmp_path / "project"
    shutil.copytree(
        ROOT, folder,
        ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache", "films", "runs", "out", "exports", "predictions"),
    )  # fmt: skip
    for kept in (
        ".env",
        ".env.local",
        "aws.pem",
        "films/f.mp4",
        ".git/config",
        "runs/w.pt",
        "data/exports/i.png",
        ".venv/x",
    ):
        (folder / kept).parent.mkdir(parents=True, exist_ok=True)
        (folder / kept).write_text("stays here")
    package = tmp_path / "package.zip"
    create_package(str(folder), package, include_gitignore=True, excludes=[])
    with zipfile.ZipFile(package) as packed:
        inside = packed.namelist()
        assert not [name for name in inside if packed.read(name) == b"stays here"]
    wanted = {"pipelines/label.py", "insideout/label.py", "tune/sweep.py", "packs/bbb/segmenter.safetensors"}
    assert wanted <= {name.removeprefix("./") for name in inside}
    assert not [name for name in inside if name.startswith(("tests/", "docs/", "benchmarks/"))]
    assert package.stat().st_size < 100 * 1024 * 1024, "Ray refuses 512 MiB, and each job sends it all"
