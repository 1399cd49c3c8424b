"""Task + plan -> preprocessed arrays, by this package or by an engine; or the lists of their shards -> one index."""

import logging
from pathlib import Path

from detpretrain import jobs
from detpretrain.engines import nndet_prepare
from detpretrain.errors import exit_on_input_error
from detpretrain.files import read_json
from detpretrain.preprocessing.run import preprocess_task
from detpretrain.preprocessing.shards import join_shards


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--task", type=Path, required=True, help="TASK/dataset.json")
    parser.add_argument("--plan", type=Path, required=True, help="plan.json")
    parser.add_argument("--output", type=Path, required=True, help="PREPROCESSED/index.json")
    parser.add_argument("--shards", type=Path, nargs="*", default=[], help="lists of preprocess_shard.py, to be joined")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    jobs.check_recipe("preprocess", {}, arguments.recipe)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    task, plan, output = arguments.task.parent, read_json(arguments.plan), arguments.output.parent
    if "engine" in plan:
        nndet_prepare.preprocess_task(task, plan, output, arguments.threads)
    elif arguments.shards:
        join_shards(task, plan, output, arguments.shards)
    else:
        preprocess_task(task, plan, output, arguments.threads)


if __name__ == "__main__":
    exit_on_input_error(main)
