"""Pre-trained checkpoint -> how well a linear classifier reads organ labels off its frozen features."""

from pathlib import Path

from detpretrain import jobs, leaves, study
from detpretrain.errors import exit_on_input_error
from detpretrain.training.probe import probe_checkpoint
from detpretrain.training.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--backbone", required=True, help="entry of config/backbones.yaml")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True, help="PREPROCESSED/index.json of the labelled data set")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="probe.json")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; the study's by default")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    chosen = study.load(arguments.config, ROOT)
    defining = leaves.probe(chosen, arguments.backbone)
    jobs.check_recipe("probe", defining, arguments.recipe)
    settings = {key: value for key, value in defining["probe"].items() if key != "dataset"}
    probe_checkpoint(
        arguments.checkpoint,
        defining["backbone"],
        arguments.index.parent,
        arguments.splits,
        settings,
        seed=0,
        output=arguments.output,
        threads=arguments.threads,
        signature=arguments.recipe,
        runtime=Runtime.of(jobs.runtime_settings(arguments, chosen)),
    )


if __name__ == "__main__":
    exit_on_input_error(main)
