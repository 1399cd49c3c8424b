"""Raw data set -> canonical task folder."""

from pathlib import Path

from detpretrain import jobs, leaves, study
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import exit_on_input_error

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--dataset", required=True, help="entry of config/datasets.yaml")
    parser.add_argument("--output", type=Path, required=True, help="TASK/dataset.json")
    parser.add_argument("--allow-partial", action="store_true", help="accept other numbers of cases than published")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    chosen = study.load(arguments.config, ROOT)
    jobs.check_recipe("prepare", leaves.prepare(chosen, arguments.dataset), arguments.recipe)
    entry = chosen.entry("datasets", arguments.dataset)
    if arguments.allow_partial:
        entry["allow_partial"] = True
    prepare(arguments.dataset, entry, arguments.output.parent, workers=arguments.threads)


if __name__ == "__main__":
    exit_on_input_error(main)
