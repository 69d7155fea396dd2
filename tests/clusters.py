"""A Ray cluster of two nodes on this machine, for tests that lose one of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)
print("address", cluster.address, flush=True)
for _ in sys.stdin:
    cluster.remove_node(other, allow_graceful=False)
    print("lost", flush=True)
cluster.shutdown()
"""


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the address of a cluster of two nodes with a CPU each, and what kills the one that is not the head.

    In a process of its own: what Ray's cluster for tests leaves open is not the test's to close.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None

        def read(word: str) -> str:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(word):
                    return line.split()[-1]
            raise AssertionError(f"the cluster ended before it said {word}")

        def lose() -> None:
            assert process.stdin is not None
            process.stdin.write("lose\n")
            process.stdin.flush()
            read("lost")

        try:
            yield read("address"), lose
        finally:
            process.stdin.close()
            process.wait(60)
