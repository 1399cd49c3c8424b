"""One configured data set -> its canonical task folder, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from detpretrain import build
from detpretrain.datasets.conversion import LOG, convert_dataset, resumable
from detpretrain.datasets.raw_dataset import RawDataset
from detpretrain.datasets.raw_layout import required
from detpretrain.datasets.sources import with_class
from detpretrain.errors import InputError
from detpretrain.task_validation import print_problems, validate_cases
from detpretrain.task_writer import TaskWriter
from detpretrain.tasks import OFFICIAL

RESERVED = ("raw", "splits", "exclude_cases", "identities", "allow_partial")
TASK_FILES = {"dataset.json", "cases.csv", "objects.csv", "splits.json", LOG, ".snakemake_timestamp"}
TASK_ENTRIES = {"raw_splitted", OFFICIAL, *TASK_FILES}
VARIABLE = re.compile(r"\$\{(\w+)\}")


class Dataset(Protocol):
    """The simple form of a data set class, for generated and small data; ``RawDataset`` is that of large downloads.

    Keyword-only constructor arguments come from config/datasets.yaml.
    """

    def write(self, raw: Path | None, writer: TaskWriter) -> None:
        """Describes labels and modalities, then adds every case. ``InputError`` names the bad raw file."""


def prepare(dataset: str, entry: Mapping[str, Any], output: Path | str, workers: int = 1) -> None:
    """Builds the data set class of a configuration entry and writes its validated task folder.

    Everything is written under a temporary name beside ``output``, which appears (or is replaced) only when all of it
    is there and valid. A ``RawDataset``'s temporary folder is kept when the preparation fails, for the next attempt.
    Reserved keys of the entry: ``raw`` (folder, may hold ``${VARIABLE}``), ``splits`` (``folds``, ``seed``),
    ``exclude_cases`` (case -> reason), ``identities`` (see ``leakage``), ``allow_partial`` (other numbers of cases than
    published are accepted); ``class``, or ``from`` (see ``sources``), and the rest are for the class.

    Args:
        dataset: its id, for messages and dataset.json.
        output: the task folder.
        workers: processes.

    Raises:
        InputError: an unset variable, a missing raw folder or file, or problems (printed in one table).
    """
    output = Path(output)
    _check_replaceable(output)
    raw = raw_folder(dataset, entry.get("raw"))
    own = {key: value for key, value in entry.items() if key not in RESERVED}
    source = build.build(with_class(dataset, own))
    if isinstance(source, RawDataset):
        _prepare_download(dataset, entry, source, required(raw), output, workers)
    else:
        _prepare_simple(dataset, entry, source, raw, output, workers)


def _prepare_download(
    dataset: str, entry: Mapping[str, Any], source: RawDataset, raw: Path, output: Path, workers: int
) -> None:
    folder = output.with_name(f".unfinished-{output.name}")
    key = {"dataset": dataset, "entry": json.loads(json.dumps(dict(entry), default=str)), "raw": str(raw)}
    with resumable(folder, key):
        writer = _writer(folder, dataset, entry)
        convert_dataset(source, raw, writer, workers, bool(entry.get("allow_partial")))
        writer.finish()
    _replace(output, folder)


def _prepare_simple(
    dataset: str, entry: Mapping[str, Any], source: Dataset, raw: Path | None, output: Path, workers: int
) -> None:
    temporary = output.with_name(f".tmp-{os.getpid()}-{output.name}")
    try:
        temporary.mkdir(parents=True)
        writer = _writer(temporary, dataset, entry)
        source.write(raw, writer)
        problems = validate_cases(writer.task, workers)
        if problems:
            print_problems(problems, f"{dataset}: {len(problems)} problems")
            first = problems[0]
            raise InputError(
                f"{first.file}: {first.problem}: {first.remedy} ({len(problems)} problems, see the table; "
                "a case is left out under exclude_cases with a reason)"
            )
        writer.finish()
        _replace(output, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _writer(folder: Path, dataset: str, entry: Mapping[str, Any]) -> TaskWriter:
    excluded = entry.get("exclude_cases") or {}
    return TaskWriter(folder, dataset, exclude_cases=excluded, **(entry.get("splits") or {}))


def raw_folder(dataset: str, raw: str | None) -> Path | None:
    """The raw folder with ``${VARIABLE}`` filled in; None when the entry names none (generated data).

    Raises:
        InputError: a variable that is not set, or a folder that does not exist.
    """
    if raw is None:
        return None
    for name in VARIABLE.findall(raw):
        if not os.environ.get(name):
            raise InputError(
                f"{dataset}: raw: {raw}: environment variable {name} is not set: set it to the data folder"
            )
    folder = Path(VARIABLE.sub(lambda match: os.environ[match[1]], raw)).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: raw folder of {dataset} not found: download the data, or correct raw:")
    return folder


def _check_replaceable(output: Path) -> None:
    """Only an earlier task may be overwritten: a mistyped path must not delete something else."""
    strangers = (
        sorted(path.name for path in output.iterdir() if path.name not in TASK_ENTRIES) if output.is_dir() else []
    )
    if strangers or (output.exists() and not output.is_dir()):
        what = f"holds {', '.join(strangers[:3])}" if strangers else "is a file"
        raise InputError(f"{output}: {what}, so it is not a task folder: give another output folder")


def _replace(output: Path, temporary: Path) -> None:
    old = output.with_name(f".tmp-{os.getpid()}-old-{output.name}")
    if output.exists():
        output.rename(old)
    temporary.rename(output)
    shutil.rmtree(old, ignore_errors=True)
