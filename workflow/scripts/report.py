"""Comparison tables -> main table, figures and report.html."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from detpretrain import jobs, leaves, selector, status, study
from detpretrain.comparison.settings import CompareSettings
from detpretrain.errors import exit_on_input_error
from detpretrain.files import read_json
from detpretrain.report.cost import JobCost, of_record
from detpretrain.report.report import report

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--only", help="a part of the study, as in `snakemake --config only=...`")
    parser.add_argument("--comparison", type=Path, required=True, help="COMPARISON/scores.csv")
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="matches.parquet of every row")
    parser.add_argument("--logs", type=Path, nargs="+", required=True, help="log.csv of every cell")
    parser.add_argument(
        "--pretrained", type=Path, nargs="*", default=[], help="assessment.json of every pre-training of the study"
    )
    parser.add_argument("--output", type=Path, required=True, help="REPORT/report.html")
    arguments = parser.parse_args()
    chosen = selector.load(arguments.config, ROOT, arguments.only)
    jobs.check_recipe("report", leaves.compare(chosen), arguments.recipe)
    tasks = {row.dataset: chosen.results / "data" / row.dataset / "task" for row in chosen.rows}
    states = status.cell_states(chosen)
    margin = CompareSettings.of(chosen.config["comparison"]).margin
    settings = {
        "margin": margin,
        "provenance": status.summary(states),
        "citations": given_citations(chosen, states),
        "costs": [*cell_costs(chosen, states), *pretraining_costs(arguments.pretrained)],
    }
    report(
        arguments.comparison.parent,
        arguments.rows,
        arguments.logs,
        tasks,
        arguments.output.parent,
        settings,
        [path.parent for path in arguments.pretrained],
    )


def training_seconds(log: Path) -> float:
    """Of all epochs, those before an interruption too."""
    return float(pd.read_csv(log)["seconds"].sum())


def cell_costs(chosen: study.Study, states: list[status.CellState]) -> Iterator[JobCost]:
    for state in states:
        if state.recorded:
            cell, log = state.cell, chosen.folder / "cells" / state.cell.path / "log.csv"
            recorded = {stage: state.recorded.get(stage, {}) for stage in ("finetune", "predict")}
            yield of_record("fine-tuning", cell.detector, cell.init, recorded["finetune"], training_seconds(log))
            yield of_record("prediction", cell.detector, cell.init, recorded["predict"])


def pretraining_costs(assessments: list[Path]) -> Iterator[JobCost]:
    for path in assessments:
        found = read_json(path)
        seconds = training_seconds(path.with_name("log.csv"))
        yield of_record("pre-training", found["backbone"], found["init"], found["provenance"], seconds)


def given_citations(chosen: study.Study, states: list[status.CellState]) -> dict[str, list[dict]]:
    """What the cells recorded of checkpoints that this study did not train."""
    recorded = {state.cell.init: state.recorded["pretrain"].get("citations", []) for state in states if state.recorded}
    return {init: citations for init, citations in recorded.items() if chosen.checkpoint(init)}


if __name__ == "__main__":
    exit_on_input_error(main)
