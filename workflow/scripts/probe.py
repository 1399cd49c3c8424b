"""Pre-trained checkpoint, or random weights without one -> how well a linear classifier reads labels off frozen features."""

from pathlib import Path

from detpretrain import jobs, leaves, study
from detpretrain.errors import exit_on_input_error
from detpretrain.training.probe import Job, probe_baseline, probe_checkpoint
from detpretrain.training.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--backbone", required=True, help="entry of config/backbones.yaml")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--baseline", type=Path, help="what this script made without --checkpoint, to compare with")
    parser.add_argument("--index", type=Path, required=True, help="PREPROCESSED/index.json of the labelled data set")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a JSON file")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; the study's by default")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if (arguments.checkpoint is None) != (arguments.baseline is None):
        parser.error("--checkpoint and --baseline belong together")
    chosen = study.load(arguments.config, ROOT)
    defining = leaves.probe(chosen, arguments.backbone)
    jobs.check_recipe("probe", defining, arguments.recipe)
    settings = {key: value for key, value in defining["probe"].items() if key != "dataset"}
    job = Job(
        backbone=defining["backbone"],
        preprocessed=arguments.index.parent,
        splits=arguments.splits,
        settings=settings,
        seed=0,
        signature=arguments.recipe,
        threads=arguments.threads,
        runtime=Runtime.of(jobs.runtime_settings(arguments, chosen)),
    )
    if arguments.checkpoint:
        probe_checkpoint(job, arguments.checkpoint, arguments.baseline, arguments.output)
    else:
        probe_baseline(job, arguments.output)


if __name__ == "__main__":
    exit_on_input_error(main)
