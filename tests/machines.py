"""Machines for a Ray cluster, on this one: each with its own address, process ids, name and Ray folder.

Linux namespaces joined by a switch, made with iproute2 and util-linux, which takes root. A machine can be
switched off without a farewell, and its cable pulled and put back. They share this machine's disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT

PORT = 6379
#: What a machine does first: take a Ray folder of its own and its name; then comes the command, as process 1.
_BOOT = 'mount --bind "$1" /tmp/ray && hostname "$2" && shift 2 && exec "$@"'
#: Prints which addresses Ray takes for alive, whenever that changes. Ray prints other lines in between.
_WATCH = """
import sys, time, ray
ray.init(sys.argv[1], logging_level=50, log_to_driver=False)
said = None
while True:
    alive = sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])
    if alive != said:
        print("alive", *alive, flush=True)
        said = alive
    time.sleep(0.5)
"""


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Machine:
    """One machine on a network; `process` is what runs Ray on it."""

    def __init__(self, network: Network, number: int, command: list[str], environment: dict[str, str]) -> None:
        self.address, self.name = network.address(number), f"{network.name}-{number}"
        self._cable = ("-n", network.name, "link", "set", f"port{number}")
        folder = network.folder / self.name
        folder.mkdir(parents=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "add", "eth0", "type", "veth", "peer", f"port{number}", "netns", network.name)
        _ip(*self._cable, "master", "switch", "up")
        _ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.name, "link", "set", device, "up")
        # By its route to the world a program finds out which address is its own.
        _ip("-n", self.name, "route", "add", "default", "dev", "eth0")
        self.log = network.folder / f"{self.name}.log"
        self._environment = os.environ | environment
        self._start = [
            "ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child",
            "--mount-proc", "sh", "-c", _BOOT, "sh", str(folder), self.name,
            *command, f"--node-ip-address={self.address}",
        ]  # fmt: skip
        self.process = self._boot()

    def _boot(self) -> subprocess.Popen[bytes]:
        with self.log.open("w") as log:
            return subprocess.Popen(
                self._start, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, cwd=ROOT
            )

    def boot_again_if_too_slow(self) -> None:
        """Start it once more where Ray gave up: it gives itself 30 seconds, which a busy machine may not keep."""
        if self.process.poll() is not None:
            assert "timed out" in self.log.read_text().lower(), self.log.read_text()[-2000:]
            self.process = self._boot()

    def command(self, *words: object) -> list[str]:
        """What runs a command on this machine, in the folder of the project."""
        while not (first := self._children()):
            self.boot_again_if_too_slow()
            time.sleep(0.05)
        inside = ["nsenter", "--target", first[0], "--mount", "--uts", "--net", "--pid"]
        return [*inside, "env", f"--chdir={ROOT}", *map(str, words)]

    def _children(self) -> list[str]:
        """Process ids, as this machine sees them, of what was started in the namespaces."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return listed.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return []

    def run(self, *words: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine to its end."""
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=timeout)

    def cut(self) -> None:
        """Pull its cable."""
        _ip(*self._cable, "down")

    def mend(self) -> None:
        """Put its cable back."""
        _ip(*self._cable, "up")

    def switch_off(self) -> None:
        """End all its processes at once; nobody is told, since the cable is pulled first."""
        self.cut()
        self.end()

    def end(self) -> None:
        """End all its processes."""
        self.process.kill()
        self.process.wait(30)


class Network:
    """A switch with machines on it; the first is the head of the cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"ray{uuid.uuid4().hex[:6]}"
        self.machines: list[Machine] = []
        self._watch: subprocess.Popen[str] | None = None
        self._watched = folder / f"{self.name}.txt"
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "add", "switch", "type", "bridge")
        _ip("-n", self.name, "link", "set", "switch", "up")

    @staticmethod
    def address(number: int) -> str:
        """The address of a machine, 1 for the head."""
        return f"10.77.0.{number}"

    @property
    def head(self) -> Machine:
        """The machine that was added first."""
        return self.machines[0]

    @property
    def ray(self) -> str:
        """Where drivers find the cluster."""
        return f"{self.address(1)}:{PORT}"

    def add(self, *options: str, **environment: str) -> Machine:
        """Add a machine and start Ray on it, with more options of `ray start`."""
        join = [f"--address={self.ray}"] if self.machines else ["--head", f"--port={PORT}"]
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats"]
        machine = Machine(self, len(self.machines) + 1, [*ray, *join, *options], environment)
        self.machines.append(machine)
        return machine

    def alive(self) -> list[str]:
        """The addresses of the nodes that Ray takes for alive, the head among them."""
        if self._watch is None or self._watch.poll() is not None:
            with self._watched.open("w") as told:
                command = self.head.command(sys.executable, "-c", _WATCH, self.ray)
                self._watch = subprocess.Popen(command, stdout=told, stderr=subprocess.DEVNULL, text=True)
        lines = [line for line in self._watched.read_text().splitlines() if line.startswith("alive ")]
        return lines[-1].split()[1:] if lines else []

    def wait(self, *machines: Machine, seconds: float = 180) -> None:
        """Wait until Ray takes just these for alive; raises AssertionError when it does not come to that."""
        wanted = sorted(machine.address for machine in machines)
        deadline = time.monotonic() + seconds
        while (found := self.alive()) != wanted:
            assert time.monotonic() < deadline, f"{found} are alive, not {wanted}; see {self.folder}/*.log"
            for machine in machines:
                machine.boot_again_if_too_slow()
            time.sleep(0.5)

    def close(self) -> None:
        """End all processes and take the network away."""
        for machine in self.machines:
            machine.end()
            _ip("netns", "delete", machine.name)
        if self._watch is not None:
            self._watch.wait(30)
        _ip("netns", "delete", self.name)


def why_not() -> str:
    """Why this machine cannot make networks; empty where it can."""
    missing = [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not found; Debian has them in iproute2 and util-linux"
    name = f"ray{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not permitted: {made.stderr.strip()}"
    _ip("netns", "delete", name)
    return ""


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """Yield a network without machines; all of it is gone at the end."""
    made = Network(folder)
    try:
        yield made
    finally:
        made.close()
