"""One cell: a detector on one fold of one data set, from one initialisation; by this package, or by the entry's engine."""

from argparse import Namespace
from pathlib import Path

from detpretrain import jobs, leaves, study, trainings
from detpretrain.engines import nndet_train
from detpretrain.errors import exit_on_input_error
from detpretrain.training import adaptation, distributed
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
    parser.add_argument("--checkpoint", type=Path, nargs="?", help="pre-trained encoder; none = from scratch")
    parser.add_argument("--work", type=Path, help="folder of the resumable state; the study's by default")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    chosen = study.load(arguments.config, ROOT)
    place = study.Cell(arguments.dataset, arguments.detector, arguments.init, arguments.fold, arguments.seed)
    work = arguments.work or trainings.of_cell(chosen, place).work
    if chosen.engine(arguments.detector) is not None:
        return by_engine(arguments, chosen, place, work)
    distributed.relaunch(**jobs.processes(arguments, chosen, work))
    defining = leaves.finetune(chosen, arguments.detector, arguments.init, arguments.fold, arguments.seed)
    jobs.check_recipe("finetune", defining, arguments.recipe)
    detector = chosen.entry("detectors", arguments.detector)
    cell = Cell(
        name=place.path,
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
    finetune(cell, arguments.index.parent, arguments.splits, work, arguments.model, arguments.log, runtime)


def by_engine(arguments: Namespace, chosen: study.Study, place: study.Cell, work: Path) -> None:
    defining = leaves.finetune(chosen, arguments.detector, arguments.init, arguments.fold, arguments.seed)
    jobs.check_recipe("finetune", defining, arguments.recipe)
    cell = nndet_train.NnDetCell(
        name=place.path,
        detector=defining["detector"],
        init=arguments.init,
        fold=arguments.fold,
        seed=arguments.seed,
        checkpoint=arguments.checkpoint,
        pretrained=adaptation.about(arguments.checkpoint) if arguments.checkpoint else None,
        signature=arguments.recipe,
    )
    limits = nndet_train.Limits.of(jobs.runtime_settings(arguments, chosen))
    outputs = (arguments.model, arguments.log)
    nndet_train.finetune(cell, arguments.index.parent, arguments.splits, work, *outputs, limits)


if __name__ == "__main__":
    exit_on_input_error(main)
