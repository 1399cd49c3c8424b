"""Raw boxes of one cell -> its metrics and matches, with the default post-processing."""

from pathlib import Path

from detpretrain import jobs, provenance
from detpretrain.errors import exit_on_input_error
from detpretrain.evaluation import matches, raw_boxes
from detpretrain.files import write_json
from detpretrain.inference.scoring import FoldBoxes, Truth, score_cell, scores_by_test_set
from detpretrain.tasks import read_splits


def main() -> None:
    parser = jobs.parser(__doc__)
    for name in ("study", "dataset", "detector", "init"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("fold", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--task", type=Path, required=True, help="TASK/cases.csv")
    parser.add_argument("--splits", type=Path, required=True, help="TASK/splits.json")
    parser.add_argument("--raw-boxes", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--matches", type=Path, required=True)
    arguments = parser.parse_args()
    jobs.check_recipe("evaluate", {}, arguments.recipe)
    raw = raw_boxes.read(arguments.raw_boxes)
    run = matches.Run(arguments.study, arguments.dataset, "", arguments.detector, arguments.init, arguments.seed)
    fold = FoldBoxes.of(arguments.fold, raw, read_splits(arguments.splits))
    table = score_cell(fold, Truth.read(arguments.task.parent), run)
    matches.write(arguments.matches, table)
    facts = provenance.record(arguments.recipe, ["detpretrain.inference.scoring"])
    content = {"test_sets": scores_by_test_set(table, raw.classes), "provenance": {**raw.provenance, "evaluate": facts}}
    write_json(arguments.metrics, content)


if __name__ == "__main__":
    exit_on_input_error(main)
