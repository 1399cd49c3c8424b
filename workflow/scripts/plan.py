"""Task -> plan.json: spacing, intensities, patch, strides and anchors, each with its reason."""

from pathlib import Path

from detpretrain import jobs, leaves, study
from detpretrain.engines import nndet_prepare
from detpretrain.errors import exit_on_input_error
from detpretrain.preprocessing.plan import plan_task

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--plan", required=True, help="file of config/plans without .yaml")
    parser.add_argument("--task", type=Path, required=True, help="TASK/dataset.json")
    parser.add_argument("--output", type=Path, required=True, help="plan.json")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    chosen = study.load(arguments.config, ROOT)
    jobs.check_recipe("plan", leaves.plan(chosen, arguments.plan), arguments.recipe)
    spec = chosen.plan_spec(arguments.plan)
    about = (arguments.task.parent, arguments.dataset, arguments.plan, spec, arguments.output)
    if "engine" in spec:
        nndet_prepare.plan_task(*about)
    else:
        plan_task(*about, arguments.threads)


if __name__ == "__main__":
    exit_on_input_error(main)
