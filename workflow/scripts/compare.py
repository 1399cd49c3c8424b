"""Matches of all rows -> scores, spread over folds, differences to scratch."""

from pathlib import Path

from detpretrain import jobs, leaves, selector
from detpretrain.comparison.compare import compare
from detpretrain.errors import exit_on_input_error
from detpretrain.files import read_json

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--only", help="a part of the study, as in `snakemake --config only=...`")
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="matches.parquet of every row")
    parser.add_argument("--leakage", type=Path, nargs="*", default=[], help="what the leakage guard found")
    parser.add_argument("--output", type=Path, required=True, help="COMPARISON/scores.csv")
    arguments = parser.parse_args()
    chosen = selector.load(arguments.config, ROOT, arguments.only)
    jobs.check_recipe("compare", leaves.compare(chosen), arguments.recipe)
    found = [read_json(path) for path in arguments.leakage]
    overlaps = {(record["dataset"], record["init"]): len(record["patients"]) for record in found}
    compare(arguments.rows, arguments.output.parent, chosen.config["comparison"], overlaps, leaves.kinds(chosen))


if __name__ == "__main__":
    exit_on_input_error(main)
