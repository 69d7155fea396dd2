"""Named points at which a test lets the program die, hang or eat memory; nothing happens unless asked for.

    INSIDEOUT_FAULT=POINT:ACTION[:ORDINAL[:MARKER]]

`ACTION` is `kill` (SIGKILL), `crash` (a segmentation fault), `hang`, `memory`, or `gpu` (raises what PyTorch
raises when CUDA is broken). With an `ORDINAL` only work on that frame of a film is hit. With a `MARKER`, a
file that must not exist yet, it happens once: the file is made before anything else, so that of several
processes one alone is hit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

ENVIRONMENT = "INSIDEOUT_FAULT"
#: Where a run can be hit, in the order in which a span passes.
POINTS = (
    "decode",
    "after-decode",
    "segment",
    "after-segment",
    "classify",
    "before-write",
    "before-rename",
    "after-rename",
    "before-manifest",
    "before-success",
)


def fault(point: str, ordinals: Iterable[int] = ()) -> None:
    """Pass a point while working on these frames, or be hit there."""
    asked = os.environ.get(ENVIRONMENT)
    if not asked:
        return
    where, action, ordinal, marker = (*asked.split(":", 3), "", "")[:4]
    if where != point or (ordinal and int(ordinal) not in set(map(int, ordinals))):
        return
    if marker:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    _act(action)


def _act(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "crash":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    elif action == "hang":
        time.sleep(1e6)
    elif action == "memory":
        held = []
        while True:
            held.append(bytearray(os.urandom(1) * (1 << 28)))
    elif action == "gpu":
        import torch

        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nFor debugging consider …")
    else:
        raise ValueError(f"{ENVIRONMENT}: no action '{action}'")
