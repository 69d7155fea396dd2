"""The run folder of a segmenter: what it is for, how far it has come, what came out.

    OUT/recipe.yaml    the recipe, the digest of the data and the starting weights: what the run is for
    OUT/metrics.jsonl  a line for each epoch whose checkpoint is whole
    OUT/run/           ultralytics' own folder; weights/best.pt and weights/last.pt
    OUT/result.json    written last: the best epoch, and whether training stopped early

Ultralytics writes its checkpoints in place, so that a kill at the wrong moment leaves half of one.
A whole copy of each is kept beside it (`*.kept.pt`) until the run is done, and resuming starts there.
"""

from __future__ import annotations

import csv
import fcntl
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from insideout.errors import OutputError, TrainingError
from insideout.recipes.base import Recipe

EpochReport = Callable[[int, dict[str, float]], None]
Tell = Callable[[str], None]

RECIPE, METRICS, RESULT = "recipe.yaml", "metrics.jsonl", "result.json"
_LOCK = "training.lock"
_WAIT_S = 90.0

#: Ours by ultralytics' name. B is the box, M the mask.
_SCORES = {
    "mask_map50": "metrics/mAP50(M)",
    "mask_map50_95": "metrics/mAP50-95(M)",
    "box_map50": "metrics/mAP50(B)",
    "box_map50_95": "metrics/mAP50-95(B)",
}


def claim(out: Path, recipe: Recipe, data: str, start: str, *, resume: bool = False) -> None:
    """Write what this folder is for, or refuse a folder that is for something else.

    `data` is the digest of the export, `start` names the starting weights. `resume` accepts a run
    whose folder does not say what it is for. Raises OutputError.
    """
    path = out / RECIPE
    text = f"# data: {data}\n# start: {start}\n{yaml.safe_dump(recipe.model_dump(), sort_keys=False)}"
    if not path.exists():
        if (out / "run" / "weights").exists() and not resume:
            raise OutputError(f"{out}: holds a training of unknown recipe and data; choose another --out, or --resume")
        write_whole(path, text)
    before = path.read_text().splitlines()
    other = [line.removeprefix("# ").partition(":")[0] for line in text.splitlines() if line not in before]
    if other or path.read_text() != text:
        raise OutputError(
            f"{path}: this folder has a training with other settings ({', '.join(other) or 'fewer'}); choose another"
            " --out, or give what it was begun with"
        )


@contextmanager
def alone(out: Path, tell: Tell, wait_s: float = _WAIT_S) -> Iterator[None]:
    """Hold the folder's lock, which the system frees when its process dies, and write the process id there.

    Waits for a process that is about to end, as the worker of a killed driver is. Raises OutputError
    when another training still holds it after `wait_s` seconds.
    """
    with (out / _LOCK).open("a+") as file:
        began = time.monotonic()
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() - began > wait_s:
                    raise OutputError(f"{out}: another training runs in this folder; choose another") from error
                if not waiting:
                    tell(f"waiting for another training in {out} to end")
                waiting = True
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def rewind(out: Path, tell: Tell) -> dict[str, Any] | None:
    """Bring the folder back to its last whole checkpoint and return that; None where there is none.

    Lines of metrics.jsonl and results.csv beyond it are dropped, since these epochs are done again.
    Raises OutputError for a run that ultralytics has already wound up.
    """
    from ultralytics.nn.tasks import torch_safe_load

    weights = out / "run" / "weights"
    for name in ("best", "last"):
        kept = weights / f"{name}.kept.pt"
        if kept.is_file():
            _copy_whole(kept, weights / f"{name}.pt")
    last = weights / "last.pt"
    content: dict[str, Any] | None = None
    if last.is_file():
        try:
            content, _ = torch_safe_load(str(last), safe_only=True)
        except Exception as error:  # ultralytics has no error of its own for this
            tell(f"{last} is not whole ({' '.join(str(error).split())[:100]}); training begins anew")
    done = content["epoch"] + 1 if content else 0
    if content and not done:  # as ultralytics leaves it at the end
        raise OutputError(f"{out}: holds a finished training, {weights / 'best.pt'}; choose another --out")
    rows = [row for row in read_metrics(out) if row["epoch"] <= done]
    write_whole(out / METRICS, "".join(f"{json.dumps(row)}\n" for row in rows))
    table = out / "run" / "results.csv"
    if table.is_file() and done:
        with table.open(newline="") as file:
            header, *lines = list(csv.reader(file)) or [[]]
        write_whole(table, "".join(",".join(line) + "\n" for line in [header, *lines] if _is_done(line, done)))
    return content


def take_amp(out: Path, checkpoint: dict[str, Any], amp: bool | str, tell: Tell) -> None:
    """Have `last.pt`, which `checkpoint` was read from, go on with this hardware's mixed precision.

    `amp` is ultralytics' setting. It takes that of the checkpoint, here and in the processes of
    several GPUs: bfloat16 where there is none, or none where there is.
    """
    import torch

    begun = checkpoint["train_args"].get("amp")
    if begun == amp:
        return
    tell(f"this hardware computes otherwise than what the run was begun on: amp {amp} instead of {begun}")
    checkpoint["train_args"]["amp"] = amp
    last = out / "run" / "weights" / "last.pt"
    part = last.with_name(f".{last.name}.part")
    torch.save(checkpoint, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(last)


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one for each finished epoch, in order; none where there is no such file."""
    path = out / METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def finish(out: Path, epochs: int) -> dict[str, Any]:
    """Write result.json from metrics.jsonl and return it; `epochs` is how many the recipe asks for.

    Holds `epochs` (trained), `best_epoch`, `stopped_early`, `best` (path of the checkpoint inside
    OUT) and `scores` of the best epoch. Raises TrainingError when there is no checkpoint.
    """
    best = out / "run" / "weights" / "best.pt"
    rows = {row["epoch"]: row for row in read_metrics(out)}
    if not best.is_file() or not rows:
        raise TrainingError(f"{best}: training ended without a checkpoint; see {out / 'run' / 'results.csv'}")
    last = rows[max(rows)]
    scores = rows.get(last["best_epoch"], last)
    result = {
        "epochs": last["epoch"],
        "best_epoch": last["best_epoch"],
        "stopped_early": last["epoch"] < epochs,
        "best": str(best.relative_to(out)),
        "scores": {name: scores[name] for name in _SCORES},
    }
    write_whole(out / RESULT, json.dumps(result, indent=2) + "\n")
    for name in ("best", "last"):
        (best.parent / f"{name}.kept.pt").unlink(missing_ok=True)
    return result


def read_result(out: Path) -> dict[str, Any] | None:
    """What result.json holds; None while the run is not done."""
    path = out / RESULT
    if not path.is_file() or not (out / "run" / "weights" / "best.pt").is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def result_line(result: dict[str, Any]) -> str:
    """The outcome of a run in one line."""
    figures = "  ".join(f"{name} {value:.3f}" for name, value in result["scores"].items() if value is not None)
    ended = f"stopped early after epoch {result['epochs']}" if result["stopped_early"] else f"{result['epochs']} epochs"
    return f"{ended}, the best was epoch {result['best_epoch']}: {figures}"


class EpochRecorder:
    """Ultralytics' callbacks that keep the run folder.

    With several GPUs they run in processes that ultralytics starts, to which this object travels by
    cloudpickle: whatever it holds must be importable there.
    """

    def __init__(self, out: Path, on_epoch: EpochReport | None, tell: Tell) -> None:
        self.out, self.on_epoch, self.tell = out, on_epoch, tell
        self.owner = os.getpid()
        self.batch: int | None = None

    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        """The callback of each event of ultralytics."""
        return {
            "on_pretrain_routine_start": self.start,
            "on_train_epoch_start": self.check_batch,
            "on_train_batch_end": self.check_owner,
            "on_val_batch_end": self.check_owner,
            "on_train_epoch_end": self.check_loss,
            "on_model_save": self.record,
        }

    def start(self, trainer: Any) -> None:
        """Note the batch, and keep ultralytics from downloading a network to try mixed precision with."""
        from ultralytics.engine import trainer as engine

        engine.check_amp = lambda _model: True
        self.batch = trainer.batch_size

    def check_batch(self, trainer: Any) -> None:
        """Stop where ultralytics begins an epoch again with half the batch, as it does when memory is short.

        The run folder, a pack and the score of a trial would still claim the recipe's batch.
        """
        if self.batch is None or trainer.batch_size == self.batch:
            return
        kept = f"the checkpoint of epoch {trainer.epoch} is kept; " if trainer.epoch else ""
        raise TrainingError(
            f"{self.out}: a batch of {self.batch} does not fit into the memory of this device; {kept}lower batch, to"
            f" {trainer.batch_size} perhaps, in another folder, or train where there is more memory"
        )

    def check_owner(self, _trainer: Any) -> None:
        """End with the process that began the training: another may go on in its place, in this folder."""
        if os.getpid() == self.owner:
            return
        try:
            os.kill(self.owner, 0)
        except ProcessLookupError as error:
            raise TrainingError(f"{self.out}: the process that began this training is gone") from error

    def check_loss(self, trainer: Any) -> None:
        """Stop where ultralytics would save broken weights over good ones; tell where it recovers.

        Ultralytics goes back to the last checkpoint up to three times in a row, but not in the first
        epoch after a start.
        """
        from ultralytics.utils import RANK

        if RANK not in (-1, 0) or trainer.loss is None or bool(trainer.loss.detach().isfinite()):
            return
        epoch = trainer.epoch + 1
        advice = "try a lower lr0, a longer warmup or precision: fp32, in another folder"
        if trainer.epoch == trainer.start_epoch:
            kept = f"; the checkpoint of epoch {epoch - 1} is kept" if trainer.epoch else ""
            raise TrainingError(f"{self.out}: the loss is not finite in epoch {epoch}{kept}; {advice}")
        attempt = trainer.nan_recovery_attempts + 1
        if attempt > 3:
            raise TrainingError(
                f"{self.out}: the loss is not finite in epoch {epoch} after three attempts; the checkpoint of epoch"
                f" {epoch - 1} is kept; {advice}"
            )
        self.tell(f"epoch {epoch}: the loss is not finite; back to epoch {epoch - 1} (attempt {attempt} of 3)")

    def record(self, trainer: Any) -> None:
        """Add the epoch to metrics.jsonl, keep whole copies of the checkpoints, report."""
        self.check_owner(trainer)
        row: dict[str, Any] = {
            "epoch": trainer.epoch + 1,
            "epochs": trainer.epochs,
            "seconds": round(time.time() - trainer.epoch_time_start, 3),
            "best_epoch": trainer.stopper.best_epoch,
            "fitness": _number(trainer.fitness),
        }
        row |= {name: _number(trainer.metrics.get(key, math.nan)) for name, key in _SCORES.items()}
        losses = trainer.label_loss_items(trainer.tloss) | {
            key: value for key, value in trainer.metrics.items() if key.startswith("val/")
        }
        row |= {key.replace("/", "_"): _number(value) for key, value in losses.items()}
        row["loss"] = _number(sum(float(value) for value in trainer.tloss.values()))
        path = self.out / METRICS
        # The line first: a resumed run drops lines that have no checkpoint, but cannot make up missing ones.
        write_whole(path, (path.read_text() if path.exists() else "") + json.dumps(row, allow_nan=False) + "\n")
        if trainer.best_fitness == trainer.fitness:
            _copy_whole(trainer.best, trainer.best.with_suffix(".kept.pt"))
        _copy_whole(trainer.last, trainer.last.with_suffix(".kept.pt"))
        if self.on_epoch is not None:
            self.on_epoch(row["epoch"], {name: math.nan if v is None else float(v) for name, v in row.items()})


def write_whole(path: Path, text: str) -> None:
    """Write a file that is seen whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        part = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            part.chmod(0o644)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _copy_whole(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)


def _is_done(line: list[str], epochs: int) -> bool:
    first = line[0].strip() if line else ""
    return first == "epoch" or (first.isdigit() and int(first) <= epochs)


def _number(value: Any) -> float | None:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None
