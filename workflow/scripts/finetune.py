"""One cell: a detector on one fold of one data set, from one initialisation."""

from pathlib import Path

from detpretrain import jobs, leaves, study
from detpretrain.errors import exit_on_input_error
from detpretrain.training import distributed
from detpretrain.training.finetune import Cell, finetune
from detpretrain.training.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    jobs.add_runtime(parser)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--detector", required=True, help="entry of config/detectors.yaml")
    parser.add_argument("--init", required=True, help="entry of config/inits.yaml")
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--index", type=Path, required=True, help="PREPROCESSED/index.json")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="pre-trained encoder; none = from scratch")
    parser.add_argument("--work", type=Path, required=True, help="folder of the resumable state")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    chosen = study.load(arguments.config, ROOT)
    distributed.relaunch(**jobs.processes(arguments, chosen))
    defining = leaves.finetune(chosen, arguments.detector, arguments.init, arguments.fold, arguments.seed)
    jobs.check_recipe("finetune", defining, arguments.recipe)
    detector = chosen.entry("detectors", arguments.detector)
    cell = Cell(
        name=study.Cell(arguments.dataset, arguments.detector, arguments.init, arguments.fold, arguments.seed).path,
        detector=detector,
        backbone=defining["backbone"],
        recipe=defining["recipe"],
        recipe_name=detector["recipe"],
        fold=arguments.fold,
        seed=arguments.seed,
        checkpoint=arguments.checkpoint,
        signature=arguments.recipe,
        stem=defining.get("stem"),
        neck=defining.get("neck", False),
        identities=leaves.identities(chosen, arguments.dataset),
    )
    runtime = Runtime.of(jobs.runtime_settings(arguments, chosen))
    finetune(cell, arguments.index.parent, arguments.splits, arguments.work, arguments.model, arguments.log, runtime)


if __name__ == "__main__":
    exit_on_input_error(main)
