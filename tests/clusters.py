"""Ray clusters of several nodes on this machine's loopback, for tests that lose some of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
others = [cluster.add_node(num_cpus=1) for _ in range(int(sys.argv[1]) - 1)]
print("address", cluster.address, flush=True)
for wish in sys.stdin:
    if wish.strip() == "add":
        others.append(cluster.add_node(num_cpus=1))
    else:
        cluster.remove_node(others.pop(0), allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""


class Nodes:
    """Nodes with a CPU each; the head cannot be lost."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._read("address")

    def lose(self) -> None:
        """Kill the processes of the oldest node that is not the head."""
        self._wish("lose")

    def add(self) -> None:
        """Start one more node."""
        self._wish("add")

    def _wish(self, wish: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{wish}\n")
        self._process.stdin.flush()
        self._read("done")

    def _read(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.split()[-1]
        raise AssertionError(f"the cluster ended before it said {word}")


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    """Yield a cluster, the head among its `count` nodes.

    In a process of its own: what Ray's cluster for tests leaves open is not the test's to close.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _NODES, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            yield Nodes(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the address of a cluster of two nodes, and what kills the one that is not the head."""
    with nodes(2) as cluster:
        yield cluster.address, cluster.lose
