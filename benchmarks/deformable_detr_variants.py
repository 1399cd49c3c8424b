"""What Deformable DETR needs to learn in the demo: its settings changed one at a time, on the demo's folds.

    make demo                                            # or at least its data: results/data/phantom_nodules
    python benchmarks/deformable_detr_variants.py --json variants.json
    python benchmarks/deformable_detr_variants.py --variant demo "100 queries"

Each variant is trained from scratch on every fold and scored on the held-out cases as the study does it (tiles, mirrors, default
post-processing); printed are the pooled AP@0.10, the AP of the validation patches after every epoch (mean of the folds), and
seconds per step. The same cases choose and score, so that differences tell what learns at all, not what is best.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cells import demo_study, match_cases, scratch_cell

from detpretrain.errors import InputError, exit_on_input_error
from detpretrain.files import write_json
from detpretrain.inference.model import load
from detpretrain.inference.scoring import scores_by_test_set
from detpretrain.tasks import CROSS_VALIDATION, read_splits
from detpretrain.training.finetune import finetune
from detpretrain.training.runtime import Runtime

DATASET, DETECTOR, DENOISING = "phantom_nodules", "deformable_detr_resenc", "deformable_detr_resenc_dn"

# name -> (detector entry, changes of it, changes of the recipe, changes of its schedule)
VARIANTS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "demo": (DETECTOR, {}, {}, {}),
    "denoising": (DENOISING, {"refined_positions": False, "ranked_content": False}, {}, {}),
    "refined positions": (DETECTOR, {"refined_positions": True}, {}, {}),
    "ranked contents": (DETECTOR, {"ranked_content": True}, {}, {}),
    "both (DINO's queries)": (DETECTOR, {"refined_positions": True, "ranked_content": True}, {}, {}),
    "both and denoising": (DENOISING, {}, {}, {}),
    "100 queries": (DETECTOR, {"queries": 100, "candidates": 100}, {}, {}),
    "300 queries": (DETECTOR, {"queries": 300, "candidates": 100}, {}, {}),
    "published proposal size 0.05": (DETECTOR, {"object_scale": 0.05}, {}, {}),
    "published number of layers (3, 6)": (DETECTOR, {"encoder_layers": 3, "decoder_layers": 6}, {}, {}),
    "published classification loss": (DETECTOR, {"alpha": 0.75, "classification_weight": 1.0}, {}, {}),
    "published temperature 10,000": (DETECTOR, {"temperature": 10_000.0}, {}, {}),
    "published learning rate 3e-4": (DETECTOR, {}, {}, {"lr": 3e-4}),
    "no warm-up": (DETECTOR, {}, {}, {"warmup_steps": 0}),
    "200 steps of warm-up": (DETECTOR, {}, {}, {"warmup_steps": 200}),
    "half the steps": (DETECTOR, {}, {"steps_per_epoch": 30}, {}),
    "twice the steps": (DETECTOR, {}, {"steps_per_epoch": 120}, {}),
}


def run(name: str, fold: int, data: Path) -> tuple[pd.DataFrame, list[float], float]:
    """Matches of the fold's held-out cases, validation AP per epoch, seconds per step."""
    detector, changes, recipe, schedule = VARIANTS[name]
    cell = scratch_cell(demo_study(DATASET, [detector]), DATASET, detector, fold, **recipe)
    schedule = {**cell.recipe["schedule"], **schedule}
    cell = replace(cell, detector={**cell.detector, **changes}, recipe={**cell.recipe, "schedule": schedule})
    task, preprocessed = data / "task", data / cell.detector["plan"] / "preprocessed"
    runtime = Runtime(device="cpu")
    with tempfile.TemporaryDirectory(prefix="variant-") as folder:
        model, log = Path(folder) / "model.pth", Path(folder) / "log.csv"
        started = time.monotonic()
        finetune(cell, preprocessed, task / "splits.json", Path(folder), model, log, runtime)
        seconds = time.monotonic() - started
        device = runtime.prepare(1)
        held_out = read_splits(task / "splits.json")[fold]["val"]
        table = match_cases(load(model, device), cell, preprocessed, task, held_out, device)
        steps = cell.recipe["epochs"] * cell.recipe["steps_per_epoch"]
        return table, list(pd.read_csv(log)["val_ap"]), seconds / steps


def summary(name: str, results: list[tuple[pd.DataFrame, list[float], float]]) -> dict[str, Any]:
    tables, curves, seconds = zip(*results, strict=True)
    scores = scores_by_test_set(pd.concat(tables), 1)[CROSS_VALIDATION]
    return {
        "variant": name,
        "AP@0.10": round(scores["AP@0.10"], 3),
        "AP@0.50": round(scores["AP@0.50"], 3),
        "validation AP per epoch": [round(value, 2) for value in np.mean(curves, axis=0)],
        "step_seconds": round(float(np.mean(seconds)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--data", type=Path, default=Path("results/data") / DATASET)
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    splits = arguments.data / "task" / "splits.json"
    if not splits.exists():
        raise InputError(f"{splits}: not there: run `make demo` first, or name its data with --data")
    folds = range(len(read_splits(splits)))
    results = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        futures = {name: [pool.submit(run, name, fold, arguments.data) for fold in folds] for name in arguments.variant}
        for name, of_name in futures.items():
            results.append(summary(name, [future.result() for future in of_name]))
            print(json.dumps(results[-1]), flush=True)
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    exit_on_input_error(main)
