"""Whether an initialisation has seen patients that a data set scores: stops the study unless it accepts that."""

from pathlib import Path

from detpretrain import jobs, leakage, leaves, study
from detpretrain.errors import exit_on_input_error
from detpretrain.files import write_json

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = jobs.parser(__doc__)
    jobs.add_study(parser)
    parser.add_argument("--init", required=True, help="entry of config/inits.yaml")
    parser.add_argument("--dataset", required=True, help="the scored data set")
    parser.add_argument("--scored", type=Path, required=True, help="TASK/cases.csv of the scored data set")
    parser.add_argument("--corpora", type=Path, nargs="*", default=[], help="TASK/cases.csv of every corpus")
    parser.add_argument("--checkpoint", type=Path, nargs="?", help="a given checkpoint, which may list its patients")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    chosen = study.load(arguments.config, ROOT)
    defining = leaves.leakage(chosen, arguments.init, arguments.dataset)
    jobs.check_recipe("leakage", defining, arguments.recipe)
    seen = [
        leakage.Identities.of_task(path.parent, leaves.identities(chosen, corpus))
        for path, corpus in zip(arguments.corpora, defining["corpora"], strict=True)
    ]
    if arguments.checkpoint:
        from detpretrain.training import checkpoints  # only here, because it imports torch

        listed = checkpoints.load(arguments.checkpoint).get("patients")
        seen += leakage.Identities.from_checkpoint(listed, arguments.checkpoint)
    if defining["patients"]:
        seen.append(leakage.Identities.of_file(Path(defining["patients"])))
    found = leakage.check(
        arguments.init,
        arguments.dataset,
        seen,
        leakage.Identities.of_task(arguments.scored.parent, leaves.identities(chosen, arguments.dataset)),
        defining["accepted"],
    )
    write_json(
        arguments.output, {**found, "patients": leakage.patients_named(arguments.scored.parent, found["overlap"])}
    )


if __name__ == "__main__":
    exit_on_input_error(main)
