"""Corpora -> pre-trained checkpoint, its log, and what was learned."""

from pathlib import Path

from detpretrain import jobs, leaves, study, trainings
from detpretrain.errors import exit_on_input_error
from detpretrain.training import distributed
from detpretrain.training.pretrain import Corpus, Outputs, Pretraining, pretrain
from detpretrain.training.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    jobs.add_runtime(parser)
    parser.add_argument("--init", required=True, help="entry of config/inits.yaml")
    parser.add_argument("--backbone", required=True, help="entry of config/backbones.yaml")
    parser.add_argument("--indices", type=Path, nargs="+", required=True, help="PREPROCESSED/index.json of each corpus")
    parser.add_argument("--tasks", type=Path, nargs="+", required=True, help="TASK/dataset.json of each, in that order")
    parser.add_argument("--work", type=Path, help="folder of the resumable state; the study's by default")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--assessment", type=Path, required=True)
    parser.add_argument("--preview", type=Path, required=True)
    arguments = parser.parse_args()
    chosen = study.load(arguments.config, ROOT)
    work = arguments.work or trainings.of_pretraining(chosen, arguments.init, arguments.backbone).work
    distributed.relaunch(**jobs.processes(arguments, chosen, work))
    defining = leaves.pretrain(chosen, arguments.init, arguments.backbone)
    jobs.check_recipe("pretrain", defining, arguments.recipe)
    job = Pretraining(
        name=f"{arguments.init}/{arguments.backbone}",
        method=defining["method"],
        backbone=defining["backbone"],
        recipe=defining["recipe"],
        recipe_name=defining["method"]["recipe"],
        seed=defining["seed"],
        signature=arguments.recipe,
    )
    corpora = [
        Corpus(task.parent, index.parent, leaves.identities(chosen, name))
        for name, task, index in zip(defining["corpora"], arguments.tasks, arguments.indices, strict=True)
    ]
    runtime = Runtime.of(jobs.runtime_settings(arguments, chosen))
    outputs = Outputs(arguments.checkpoint, arguments.log, arguments.assessment, arguments.preview)
    pretrain(job, corpora, work, outputs, runtime)


if __name__ == "__main__":
    exit_on_input_error(main)
