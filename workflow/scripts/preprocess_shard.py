"""Task + plan -> preprocessed arrays of one shard of the cases."""

import logging
from pathlib import Path

from detpretrain import jobs
from detpretrain.errors import exit_on_input_error
from detpretrain.files import read_json
from detpretrain.preprocessing.shards import preprocess_shard


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--task", type=Path, required=True, help="TASK/dataset.json")
    parser.add_argument("--plan", type=Path, required=True, help="plan.json")
    parser.add_argument("--shard", type=int, required=True, help="from 0")
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--preprocessed", type=Path, required=True, help="folder of the arrays")
    parser.add_argument("--output", type=Path, required=True, help="list of the shard's cases")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    jobs.check_recipe("preprocess", {}, arguments.recipe)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    preprocess_shard(
        arguments.task.parent,
        read_json(arguments.plan),
        arguments.preprocessed,
        arguments.shard,
        arguments.shards,
        arguments.output,
        arguments.threads,
    )


if __name__ == "__main__":
    exit_on_input_error(main)
