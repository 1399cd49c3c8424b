"""Comparison tables -> main table, figures and report.html."""

from pathlib import Path

from detpretrain import jobs, leaves, selector
from detpretrain.errors import InputError, exit_on_input_error
from detpretrain.study_report import write_report

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--only", help="a part of the study, as in `snakemake --config only=...`")
    parser.add_argument("--comparison", type=Path, required=True, help="COMPARISON/scores.csv, which compares all rows")
    parser.add_argument("--output", type=Path, required=True, help="REPORT/report.html")
    arguments = parser.parse_args()
    chosen = selector.load(arguments.config, ROOT, arguments.only)
    jobs.check_recipe("report", leaves.compare(chosen), arguments.recipe)
    missing = write_report(chosen, ROOT, arguments.comparison.parent, chosen.rows, arguments.output.parent)
    if missing:
        raise InputError(
            f"{arguments.output.parent}: {missing[0]} is missing: use `detpretrain report` for a part of a study"
        )


if __name__ == "__main__":
    exit_on_input_error(main)
