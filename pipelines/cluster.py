"""Connect to Ray: a local one by default, a running cluster by address."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# Ray prints an error for every pool of actors that takes arguments (ray-project/ray#57733).
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from insideout.errors import UsageError

#: Starts of a local Ray before it is an error.
_ATTEMPTS = 4


@dataclass(frozen=True)
class Resources:
    """What there is to work with; nothing on a cluster that has no worker yet."""

    cpus: int
    gpus: float
    local: bool = False
    """Whether it is a Ray that we started, which never grows."""
    most_cpus: int | None = None
    """The CPUs that were asked for; None where nothing was said."""

    def asked(self, cpus: int | None, gpus: float | None) -> Resources:
        """What is to be used: so many in all where said, to which a cluster may grow; else what is there.

        Raises UsageError where a local Ray has fewer, and where nothing is there and nothing said.
        """
        for option, asked, there in (("--cpus", cpus, self.cpus), ("--gpus", gpus, self.gpus)):
            if self.local and asked is not None and asked > there:
                raise UsageError(f"{option} {asked:g}: this machine has {there:g}; give --address for a cluster")
        if not self.cpus and not self.gpus and cpus is None and gpus is None:
            raise UsageError("the cluster has no worker yet; say with --gpus or --cpus how many it is to grow to")
        there = max(1, self.cpus) if cpus is None else cpus
        return Resources(there, self.gpus if gpus is None else gpus, self.local, cpus)


@contextmanager
def _unheard() -> Iterator[None]:
    """Drop what Ray's C++ side says about its own log level while it starts; errors are exceptions."""
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def name_our_ray() -> None:
    """In each worker of a local Ray: say which Ray it is of, where several run on the machine.

    The actor that frees the workers of a training that was stopped asks the dashboard, which it finds
    by this; where it finds two, it frees nothing, and what waits for the CPUs waits for ever.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def _told(target: str, error: Exception) -> str:
    if target != "local":
        return f"no Ray cluster at {target}: {error}; start one, or leave out --address"
    if "AF_UNIX path length" in str(error):
        return (
            f"Ray cannot be started: its folder for temporary files has too long a name ({error}); set RAY_TMPDIR=/tmp"
        )
    # Ray adds the end of a log, twenty lines of it.
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
    return f"Ray cannot be started on this machine: {said}; run the same command again"


@contextmanager
def connected(address: str | None = None, *, training: bool = False, dashboard: bool = False) -> Iterator[Resources]:
    """Connect, yield what there is, disconnect.

    `address` None takes RAY_ADDRESS where it is set (as inside a submitted job), else starts a local
    Ray. `training` prints what the workers print and starts the dashboard (on loopback), which Ray
    Train asks about its workers; `dashboard` starts that alone. A Ray that is already connected in this process is
    used and left as it is. Raises UsageError when nothing answers at the address, or none can be started.
    """
    ours = not ray.is_initialized()
    if ours:
        target = address or os.environ.get("RAY_ADDRESS") or "local"
        local: dict[str, object] = {}
        if target == "local":
            local["include_dashboard"] = training or dashboard
            if dashboard:
                local["runtime_env"] = {"worker_process_setup_hook": name_our_ray}
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with _unheard():
                    ray.init(target, logging_level=logging.ERROR, log_to_driver=training, **local)
                break
            except Exception as error:  # Ray has no error of its own here; a slow start is a bare Exception
                ray.shutdown()
                # A busy machine may not start a Ray, or its dashboard, in the time that Ray gives itself.
                slow = "timed out" in str(error) or "dashboard" in str(error)
                if target != "local" or attempt == _ATTEMPTS or not slow:
                    raise UsageError(_told(target, error)) from error
    # A process that dies is told of by what becomes of its frames, not by Ray's traceback of it.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        found = ray.cluster_resources()
        yield Resources(int(found.get("CPU", 0)), float(found.get("GPU", 0)), ours and target == "local")
    finally:
        if ours:
            ray.shutdown()
