"""A data set that is preprocessed by several jobs: each writes the cases of one shard, a last one joins their lists.

Shard i of n holds the cases i, i + n, i + 2n, ...: cases of one source lie beside each other, and so every shard gets its part of
the large ones. The arrays are those of a single job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detpretrain.errors import InputError
from detpretrain.files import read_json, write_json
from detpretrain.preprocessing.run import INDEX, jobs_of_task, preprocess_jobs


def preprocess_shard(
    task_root: Path | str,
    plan: Mapping[str, Any],
    output: Path | str,
    shard: int,
    shards: int,
    file: Path,
    workers: int = 1,
) -> None:
    """Preprocesses the cases of one shard into ``output`` and lists them in ``file``, written last.

    Args and errors as of ``run.preprocess_task``.

    Raises:
        InputError: there is no such shard.
    """
    if not 0 <= shard < shards:
        raise InputError(f"{file}: no shard {shard} of {shards}: they are numbered from 0")
    jobs = jobs_of_task(task_root, plan, output)[shard::shards]
    write_json(file, {"cases": preprocess_jobs(jobs, workers), "plan": dict(plan)})


def join_shards(task_root: Path | str, plan: Mapping[str, Any], output: Path | str, files: Sequence[Path]) -> None:
    """Writes the index of all cases from the lists of the shards.

    Raises:
        InputError: a list is of another plan, or they do not hold every case of the task once.
    """
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for file in files:
        content = read_json(file)
        if content["plan"] != plan:
            raise InputError(f"{file}: made with another plan: preprocess the shard again")
        for entry in content["cases"]:
            if entries.setdefault((entry["test_set"], entry["case"]), entry) is not entry:
                raise InputError(f"{file}: case {entry['case']} is in another shard too: preprocess the shards again")
    wanted = [(job.files.test_set, job.files.case) for job in jobs_of_task(task_root, plan, output)]
    different = set(wanted) ^ set(entries)
    if different:
        raise InputError(f"{output}: case {min(different)[1]} is in the task or in a shard only: preprocess again")
    write_json(Path(output) / INDEX, {"cases": [entries[key] for key in wanted], "plan": dict(plan)})
