"""Can a detector learn four volumes by heart? Trains at demo size and is scored on the volumes it was trained on.

    make bench-overfit
    python benchmarks/overfit.py --detector retina_unet_resenc --steps 1200

Everything is the study's own: generated volumes are prepared, planned and preprocessed, the cell is fine-tuned, and scored
through tiles, mirrors and the default post-processing. Of the recipe only the number of steps is replaced, in four epochs:
learning rate, its shape and the augmentation stay. Deformable DETR's demo entry was itself chosen with this script
(config/detectors.yaml says how), so that its result here is of the best of several settings, not of an untouched one.

Asked for: AP@0.10 of at least 0.95 within 10 minutes on one thread, and of Deformable DETR, which has no suppression, no
two confident boxes on one object in any tile. A training that would take longer is stopped. Exit status 1 when missed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cells import ROOT, demo_study, match_cases, scratch_cell
from torch import nn

from detpretrain import study
from detpretrain.datasets.prepare import prepare
from detpretrain.detectors.contract import Detections
from detpretrain.detectors.deformable_detr import DeformableDETR
from detpretrain.errors import exit_on_input_error
from detpretrain.files import read_json, read_yaml, write_json
from detpretrain.inference.model import load
from detpretrain.inference.scoring import scores_by_test_set
from detpretrain.models import box_ops
from detpretrain.preprocessing.plan import plan_task
from detpretrain.preprocessing.run import preprocess_task
from detpretrain.tasks import CROSS_VALIDATION, read_splits
from detpretrain.training.finetune import finetune
from detpretrain.training.loop import Stopped
from detpretrain.training.runtime import Runtime

DATASET = "phantom_nodules"
ENTRIES = read_yaml(ROOT / "config" / "detectors.yaml")
DETECTORS = [name for name, entry in ENTRIES.items() if "demo" in entry["sizes"]]
EPOCHS = 4
STEPS = {"retina": 1800, "centre": 1800, "deformable": 2400}  # by the first word of an entry's name
TARGET_AP, MINUTES = 0.95, 10.0
CONFIDENT, SAME_OBJECT = 0.3, 0.5  # score and IoU


class PairFinder(nn.Module):
    """A detector that keeps, over all tiles, the pairs of confident boxes of one class that overlap like one object's."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector, self.pairs = detector, []

    def predict(self, images: torch.Tensor) -> list[Detections]:
        found = self.detector.predict(images)
        self.pairs += [pair for tile in found for pair in duplicates(tile)]
        return found


def duplicates(found: Detections) -> list[dict[str, Any]]:
    """Pairs of one tile (both scores above 0.3, one class, IoU above 0.5), with what tells where they come from."""
    confident = found.scores > CONFIDENT
    boxes, labels, scores = found.boxes[confident], found.labels[confident], found.scores[confident]
    overlap = box_ops.iou(boxes, boxes)
    same = ((overlap > SAME_OBJECT) & (labels[:, None] == labels)).triu(diagonal=1)
    return [
        {
            "scores": [round(float(scores[i]), 2), round(float(scores[j]), 2)],
            "iou": round(float(overlap[i, j]), 2),
            "boxes": [[round(edge, 1) for edge in boxes[k].tolist()] for k in (i, j)],
        }
        for i, j in same.nonzero().tolist()
    ]


def preprocessed(chosen: study.Study, plan: str, volumes: int, folder: Path) -> Path:
    """The preprocessed volumes for a plan; their task's only fold trains on all of them but one, its validation.

    A fold that validates on what it trains on would be refused as a leak, rightly.
    """
    task, output = folder / "task", folder / plan
    if not task.exists():
        prepare(DATASET, {**chosen.entry("datasets", DATASET), "cases": volumes + 1}, task)
        cases = sorted(case for fold in read_splits(task / "splits.json") for case in fold["val"])
        write_json(task / "splits.json", {"folds": [{"train": cases[:-1], "val": cases[-1:]}]})
    if not output.exists():
        plan_task(task, DATASET, plan, chosen.plan_spec(plan), folder / f"{plan}.json")
        preprocess_task(task, read_json(folder / f"{plan}.json"), output)
    return output


def overfit(chosen: study.Study, detector: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trains and scores one detector; the minutes include both, not the preparation of the data."""
    steps = arguments.steps or STEPS[detector.split("_")[0]]
    length = {"epochs": EPOCHS, "steps_per_epoch": steps // EPOCHS}
    cell = scratch_cell(chosen, DATASET, detector, recipe=arguments.recipe, **length)
    data = preprocessed(chosen, cell.detector["plan"], arguments.volumes, folder)
    task, output = folder / "task", folder / detector
    runtime = Runtime(device=arguments.device, budget_minutes=arguments.minutes)
    started = time.monotonic()
    result: dict[str, Any] = {"detector": detector, "recipe": cell.recipe_name, "steps": steps}
    try:
        finetune(cell, data, task / "splits.json", output, output / "model.pth", output / "log.csv", runtime)
    except Stopped:
        return {**result, "reached": False, "missed": f"training was stopped after {arguments.minutes:g} minutes"}
    trained = time.monotonic()
    device = runtime.prepare(cell.recipe.get("threads", 1))
    model = load(output / "model.pth", device)
    finder = PairFinder(model.detector)
    cases = read_splits(task / "splits.json")[0]["train"]
    table = match_cases(replace(model, detector=finder), cell, data, task, cases, device)
    scores = scores_by_test_set(table, model.plan["classes"])[CROSS_VALIDATION]
    minutes = (time.monotonic() - started) / 60
    result |= {
        "minutes": round(minutes, 2),
        "step_seconds": round((trained - started) / steps, 4),
        "AP@0.10": round(scores["AP@0.10"], 4),
        "AP@0.50": round(scores["AP@0.50"], 4),
    }
    reached = scores["AP@0.10"] >= TARGET_AP and minutes <= arguments.minutes
    if isinstance(model.detector, DeformableDETR):  # the others suppress such pairs
        result["duplicate_pairs"] = finder.pairs
        reached = reached and not finder.pairs
    return {**result, "reached": reached}


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    chosen = demo_study(DATASET, arguments.detector)
    with tempfile.TemporaryDirectory(prefix="overfit-") as folder, ProcessPoolExecutor(arguments.processes) as pool:
        for plan in {chosen.entry("detectors", name)["plan"] for name in arguments.detector}:
            preprocessed(chosen, plan, arguments.volumes, Path(folder))
        futures = [pool.submit(overfit, chosen, name, arguments, Path(folder)) for name in arguments.detector]
        results = []
        for future in futures:
            results.append(future.result())
            print(json.dumps(results[-1]), flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--detector", nargs="*", default=DETECTORS, help="entries with a demo size; default all of them"
    )
    parser.add_argument("--steps", type=int, help=f"instead of the recipe's; default {STEPS}")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--volumes", type=int, default=4, help="at least 2")
    parser.add_argument("--recipe", help="entry of config/recipes.yaml instead of the detector's own")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="limit of each training and of the whole run of it"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    results = measure(arguments)
    if arguments.json:
        write_json(arguments.json, results)
    return int(not all(result["reached"] for result in results))


if __name__ == "__main__":
    exit_on_input_error(main)
