"""Comparison tables -> main table, figures and report.html."""

from pathlib import Path

from detpretrain import jobs, leaves, selector
from detpretrain.errors import InputError, exit_on_input_error

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    from detpretrain.study_report import write_report  # here, since processes that render figures import this file too

    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--only", help="a part of the study, as in `snakemake --config only=...`")
    parser.add_argument("--comparison", type=Path, required=True, help="COMPARISON/scores.csv, which compares all rows")
    parser.add_argument("--output", type=Path, required=True, help="REPORT/report.html")
    parser.add_argument("--processes", type=int, default=1, help="that render the figures")
    arguments = parser.parse_args()
    chosen = selector.load(arguments.config, ROOT, arguments.only)
    jobs.check_recipe("report", leaves.compare(chosen), arguments.recipe)
    missing = write_report(
        chosen, ROOT, arguments.comparison.parent, chosen.rows, arguments.output.parent, arguments.processes
    )
    if missing:
        raise InputError(
            f"{arguments.output.parent}: {missing[0]} is missing: use `detpretrain report` for a part of a study"
        )


if __name__ == "__main__":
    exit_on_input_error(main)
