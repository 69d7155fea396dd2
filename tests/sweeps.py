"""The folder of a sweep as Ray Tune leaves it, with scores that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tune.settings import Sweep

SPACE = """
of: emotion
base: {backbone: mobilenet_v2, size: 32, epochs: 3}
search:
  batch: {choice: [4, 8]}
  label_smoothing: {uniform: [0.0, 0.2]}
  optimizer:
    choice:
      sgd: {lr: {log: [0.001, 0.1]}, momentum: {uniform: [0.5, 0.9]}}
      adamw: {lr: {log: [0.0001, 0.01]}}
"""


def write_sweep(
    out: Path, trials: Sequence[tuple[Mapping[str, Any], Sequence[float]]], failed: Mapping[int, str] | None = None
) -> Path:
    """Write a trial for each configuration, with the scores of its epochs; `failed` gives reasons by place."""
    failed = failed or {}
    states, clock = [], 1000.0
    for place, (config, scores) in enumerate(trials):
        folder = out / "trials" / f"trial-{place}"
        folder.mkdir(parents=True)
        (folder / "params.json").write_text(json.dumps(config))
        lines = []
        for epoch, score in enumerate(scores, start=1):
            clock += 1
            figures = {key: score for key in ("score", "macro_f1", "balanced_accuracy", "accuracy")}
            lines.append(
                json.dumps(figures | {"epoch": epoch, "nll": 1.0, "loss": 1.0, "seconds": 1, "timestamp": clock})
            )
        if lines:
            (folder / "result.json").write_text("\n".join(lines) + "\n")
        if place in failed:
            (folder / "error.txt").write_text(f"Traceback\n  somewhere\n{failed[place]}\n")
        status = "ERROR" if place in failed else "TERMINATED"
        states.append([json.dumps({"relative_logdir": folder.name, "status": status}), "{}"])
    (out / "trials" / "experiment_state-2026.json").write_text(json.dumps({"trial_data": states}))
    (out / "sweep.json").write_text(json.dumps(asdict(Sweep("emotion", ("data",), None, SPACE, len(trials)))))
    return out
