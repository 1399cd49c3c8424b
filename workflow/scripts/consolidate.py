"""Raw boxes of all folds of a row -> post-processing, pooled metrics and matches: what the tables use."""

from pathlib import Path

from detpretrain import jobs, leaves, provenance
from detpretrain.errors import exit_on_input_error
from detpretrain.evaluation import matches, raw_boxes
from detpretrain.files import write_json
from detpretrain.inference.scoring import FoldBoxes, Truth, consolidate, luna16_score, scores_by_test_set
from detpretrain.tasks import CROSS_VALIDATION, read_splits


def main() -> None:
    parser = jobs.parser(__doc__)
    for name in ("study", "dataset", "detector", "init"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folds", type=int, nargs="+", required=True)
    parser.add_argument("--raw-boxes", type=Path, nargs="+", required=True, help="one file per fold, in order")
    parser.add_argument(
        "--faithful-sweep", action="store_true", help="nnDetection's sweep on the scored cases themselves"
    )
    parser.add_argument("--task", type=Path, required=True, help="TASK/cases.csv")
    parser.add_argument("--splits", type=Path, required=True, help="TASK/splits.json")
    for name in ("metrics", "matches", "postprocessing"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    jobs.check_recipe("consolidate", leaves.consolidate(arguments.faithful_sweep, arguments.folds), arguments.recipe)
    raw = [raw_boxes.read(path) for path in arguments.raw_boxes]
    splits = read_splits(arguments.splits)
    folds = [FoldBoxes.of(fold, one, splits) for fold, one in zip(arguments.folds, raw, strict=True)]
    run = matches.Run(arguments.study, arguments.dataset, "", arguments.detector, arguments.init, arguments.seed)
    task = arguments.task.parent
    table, post = consolidate(folds, Truth.read(task), run, arguments.faithful_sweep)
    scores = scores_by_test_set(table, raw[0].classes)
    challenge = luna16_score(table, task, arguments.metrics.parent)
    if challenge is not None:
        scores[CROSS_VALIDATION]["luna16"] = challenge
    write_json(arguments.postprocessing, post)
    matches.write(arguments.matches, table)
    facts = {
        "cells": {str(fold.fold): fold.raw.provenance for fold in folds},
        "consolidate": provenance.record(arguments.recipe, ["detpretrain.inference.scoring"]),
    }
    write_json(arguments.metrics, {"test_sets": scores, "provenance": facts})


if __name__ == "__main__":
    exit_on_input_error(main)
