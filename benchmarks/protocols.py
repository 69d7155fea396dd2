r"""Measure emotion recipes the way docs/results.md shows them: two protocols, several seeds, intervals.

    python -m benchmarks.protocols train configs/emotion-student.yaml --run runs/film --found runs/found.csv
    python -m benchmarks.protocols train configs/emotion-finetune.yaml --pretrained WEIGHTS --run runs/film \
      --labels runs/labels.csv --protocol scenes
    python -m benchmarks.protocols train configs/emotion-finetune.yaml --pretrained WEIGHTS --protocol scenes \
      --pairs --seeds 0
    python -m benchmarks.protocols table

    valid   train on train, score on valid, as the export has them
    scenes  five folds by scene over train and valid together: no choice was made on what is scored
    frames  five folds over single frames: neighbours on both sides, as the student project split

Each training writes its predictions to `benchmarks/predictions/RECIPE/PROTOCOL-seedS-foldF.parquet`
and is skipped where they are. With `--found` each network also judges the heads that the segmenter
found by itself (`-found.parquet`), as far as they have a label. With `--also` it judges its fold after
those epochs as well (`-epochN.parquet`), which tells what the rest of a long training brings.
Temperatures come from crops that are not scored: with `--pairs` a network is trained without each two
folds (`PROTOCOL-seedS-pairIJ.parquet`), and what such networks say of fold J calibrates those that are
scored on fold I, whose crops neither has seen; without pairs, from the other folds; that of valid from
`valid-unseen.parquet`, a copy of what `train emotion --calibrate` writes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch

from insideout.datasets.crop_table import read_crop_table
from insideout.datasets.labelled import CropList
from insideout.evaluation.predictions import Predictions
from insideout.recipes.crops import CropData, read_crops
from insideout.recipes.emotion import EmotionTraining
from insideout.recipes.emotion_recipe import EmotionRecipe
from insideout.splits import gather, split_crops

PREDICTIONS = Path(__file__).parent / "predictions"
#: A long training that is cut off goes on from here; removed when its predictions are written.
CHECKPOINTS = Path("runs/protocols")
FOLDS = {"valid": 1, "scenes": 5, "frames": 5}
DATA = Path("data/exports/classification")


def fold_data(
    data: Path,
    protocol: str,
    fold: int,
    classes: list[str] | None,
    run: Path | None = None,
    labels: Path | None = None,
    second: int | None = None,
) -> CropData:
    """The crops of one training; those of `run` by `labels` are added to train where their scene is not scored.

    With `second` another fold is kept aside too, and scored with the first.
    """
    found = read_crops(data, classes)
    if protocol != "valid":
        crops = gather(data, keep=list(found.classes))
        by = {"scenes": "scene", "frames": "frame"}[protocol]
        parts = split_crops(crops, by, folds=FOLDS[protocol], seed=0)
        aside = [index for k in (fold, second) if k is not None for index in parts[k]["valid"]]
        train = [index for index in parts[fold]["train"] if index not in set(aside)]
        everything = CropList(found.classes, tuple(crops))
        found = replace(found, train=everything.take(train), valid=everything.take(aside))
    if run is not None and labels is not None:
        scored = {crop.scene_key for crop in found.valid.crops}
        more = [
            crop
            for crops in read_crop_table(run, labels).values()
            for crop in crops
            if crop.emotion in found.classes and crop.scene_key not in scored
        ]
        found = replace(found, train=CropList(found.classes, found.train.crops + tuple(more)))
    return found


def found_heads(run: Path, labels: Path, classes: Sequence[str], scenes: set[str]) -> CropList:
    """The heads of these scenes that the segmenter of `run` found, with the annotators' labels."""
    parts = read_crop_table(run, labels).values()
    return CropList(
        tuple(classes), tuple(c for part in parts for c in part if c.emotion in classes and c.scene_key in scenes)
    )


def keep(training: EmotionTraining, folder: Path) -> None:
    """Write a checkpoint to go on from in place of the one in `folder`."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    training.save(part, {})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def train_one(arguments: argparse.Namespace) -> None:
    """One training in this process: the predictions of its fold, written when it is done."""
    torch.set_num_threads(1)
    recipe = EmotionRecipe.read(arguments.recipe, seed=arguments.seed)
    data = fold_data(
        arguments.data, arguments.protocol, arguments.fold, recipe.classes, arguments.run, arguments.labels,
        arguments.second,
    )  # fmt: skip
    scored = {crop.scene_key for crop in data.valid.crops}
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    training = EmotionTraining(recipe, data, pretrained=arguments.pretrained, threads=1)
    kept = CHECKPOINTS / arguments.target.parent.name / arguments.target.stem
    if kept.exists():
        training.restore(kept)
    else:
        training.start()
    while training.epoch < recipe.epochs:
        training.train_epoch()
        keep(training, kept)
        if training.epoch in arguments.also:
            name = f"{arguments.target.stem}-epoch{training.epoch}.parquet"
            Predictions(data.valid, training.predict(data.valid)).write(arguments.target.with_name(name))
    predictions = Predictions(data.valid, training.predict(data.valid))
    if arguments.found is not None:
        heads = found_heads(arguments.run, arguments.found, data.classes, scored)
        name = f"{arguments.target.stem}-found.parquet"
        Predictions(heads, training.predict(heads)).write(arguments.target.with_name(name))
    predictions.write(arguments.target)
    shutil.rmtree(kept, ignore_errors=True)
    right = float((predictions.guesses == predictions.labels).mean())
    print(f"{arguments.target.stem}: accuracy {right:.3f}, {time.monotonic() - began:.0f} s", flush=True)


def train_all(arguments: argparse.Namespace) -> int:
    """Every fold and seed that is not there yet, `--parallel` at a time, each in a process of one thread."""
    folder = PREDICTIONS / (arguments.name or arguments.recipe.stem)
    count = FOLDS[arguments.protocol]
    aside = list(combinations(range(count), 2)) if arguments.pairs else [(fold, None) for fold in range(count)]
    jobs = []
    for seed in arguments.seeds:
        for fold, second in aside:
            kind = f"fold{fold}" if second is None else f"pair{fold}{second}"
            target = folder / f"{arguments.protocol}-seed{seed}-{kind}.parquet"
            if not target.exists():
                jobs.append((seed, fold, second, target))

    def run(job: tuple[int, int, int | None, Path]) -> int:
        seed, fold, second, target = job
        command = [sys.executable, "-m", "benchmarks.protocols", "one", str(arguments.recipe)]
        command += ["--protocol", arguments.protocol, "--seed", str(seed), "--fold", str(fold), "--target", str(target)]
        command += ["--data", str(arguments.data)]
        command += [] if second is None else ["--second", str(second)]
        command += ["--also", *map(str, arguments.also)] if arguments.also else []
        for option in ("pretrained", "run", "labels", "found"):
            if value := getattr(arguments, option):
                command += [f"--{option}", str(value)]
        return subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode

    with ThreadPoolExecutor(arguments.parallel) as pool:
        return max(pool.map(run, jobs), default=0)


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("train", "one"):
        sub = commands.add_parser(command)
        sub.add_argument("recipe", type=Path)
        sub.add_argument("--data", type=Path, default=DATA)
        sub.add_argument("--protocol", choices=sorted(FOLDS), default="valid")
        sub.add_argument("--pretrained", type=Path)
        sub.add_argument("--run", type=Path, help="output of `insideout label --crops`, with --labels")
        sub.add_argument("--labels", type=Path, help="labels of heads in --run to add to the training")
        sub.add_argument(
            "--found", type=Path, help="labels of heads in --run to score, as `insideout data labels` writes"
        )
        sub.add_argument(
            "--also", type=int, nargs="+", default=[], help="epochs after which to score too (-epochN.parquet)"
        )
    commands.choices["train"].add_argument("--name", help="folder of the predictions; the recipe's name by default")
    commands.choices["train"].add_argument(
        "--pairs", action="store_true", help="leave out each two folds, for the temperatures of --protocol scenes"
    )
    commands.choices["train"].add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    commands.choices["train"].add_argument("--parallel", type=int, default=os.cpu_count() or 1)
    commands.choices["one"].add_argument("--seed", type=int, default=0)
    commands.choices["one"].add_argument("--fold", type=int, default=0)
    commands.choices["one"].add_argument("--second", type=int, help="another fold to keep aside")
    commands.choices["one"].add_argument("--target", type=Path, required=True)
    table = commands.add_parser("table")
    table.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    if arguments.command == "train" and arguments.pairs and FOLDS[arguments.protocol] < 2:
        parser.error(f"--pairs needs folds, which --protocol {arguments.protocol} has not; take scenes or frames")
    if arguments.command == "table":
        from benchmarks.protocol_table import write_table

        write_table(PREDICTIONS, arguments.data)
        return 0
    return train_all(arguments) if arguments.command == "train" else train_one(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
