"""Corpus -> pre-trained checkpoint."""

from pathlib import Path

from detpretrain import jobs, leaves, study
from detpretrain.errors import exit_on_input_error
from detpretrain.training.pretrain import Pretraining, pretrain
from detpretrain.training.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    jobs.add_runtime(parser)
    parser.add_argument("--init", required=True, help="entry of config/inits.yaml")
    parser.add_argument("--backbone", required=True, help="entry of config/backbones.yaml")
    parser.add_argument("--index", type=Path, required=True, help="PREPROCESSED/index.json of the corpus")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the resumable state")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    chosen = study.load(arguments.config, ROOT)
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
    runtime = Runtime.of(jobs.runtime_settings(arguments, chosen))
    preprocessed = arguments.index.parent
    pretrain(job, preprocessed, arguments.splits, arguments.work, arguments.checkpoint, arguments.log, runtime)


if __name__ == "__main__":
    exit_on_input_error(main)
