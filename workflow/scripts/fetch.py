"""A published checkpoint -> a local file; needs the internet, so it runs where Snakemake runs."""

from pathlib import Path

from detpretrain import hub, jobs, leaves, study
from detpretrain.errors import exit_on_input_error

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--init", required=True, help="entry of config/inits.yaml")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    chosen = study.load(arguments.config, ROOT)
    defining = leaves.fetch(chosen, arguments.init)
    jobs.check_recipe("fetch", defining, arguments.recipe)
    hub.fetch(defining["checkpoint"], arguments.output)


if __name__ == "__main__":
    exit_on_input_error(main)
