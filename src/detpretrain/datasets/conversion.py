"""A public data set's download -> its task folder: layout check, counts, cases in parallel, restartable.

Two folders carry the state of an unfinished preparation, both removed at the end: ``.converted/`` holds one small file per
finished case, ``.key.json`` says of what preparation. A run that is started again with the same key converts only the cases
that are left.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detpretrain import volumes
from detpretrain.case_files import CaseRecord, table_rows, write_case
from detpretrain.datasets.raw_dataset import Layout, Published, RawCase, RawDataset
from detpretrain.errors import InputError
from detpretrain.files import atomic_path, read_json, write_json, write_text
from detpretrain.parallel import map_cases
from detpretrain.task_validation import Problem, case_problems, print_problems
from detpretrain.task_writer import TaskWriter
from detpretrain.tasks import OFFICIAL, Task

SHOWN = 3  # missing files in a message
DONE, KEY, LOG = ".converted", ".key.json", "conversion.csv"


def convert_dataset(source: RawDataset, raw: Path, writer: TaskWriter, workers: int, allow_partial: bool) -> None:
    """Converts every case of a download that the configuration does not exclude, and registers it with the writer.

    Raises:
        InputError: an incomplete download (all that is missing in one table), other case counts than published without
            ``allow_partial``, or cases that cannot be converted (the others are kept for the next attempt).
    """
    writer.facts = facts(source.published)
    writer.describe(source.labels, source.modalities)
    layout = without_excluded(source.layout(raw), writer)
    if layout.problems:
        refuse(layout.problems, raw, source.published)
    _check_counts(writer, layout, source.published, raw, allow_partial)
    cases = [case for case in layout.cases if case.case not in writer.exclude_cases]
    jobs = [_Job(source, case, writer.task) for case in cases]
    results = map_cases(_convert, jobs, workers, lambda job: job.case.case, "converted")
    for result in results:
        writer.add_written(CaseRecord(**result["record"]), result["row"], result["objects"])
    writer.official_folds = layout.folds
    for name, path in layout.official.items():
        with atomic_path(writer.root / OFFICIAL / name) as temporary:
            shutil.copyfile(path, temporary)
    _write_log(writer.root, results)


def facts(published: Published) -> dict[str, str]:
    """What dataset.json records of a data set's origin; nothing of what is not known."""
    return {key: value for key, value in asdict(published).items() if key != "cases" and value}


@contextmanager
def resumable(folder: Path, key: Mapping[str, Any]) -> Iterator[None]:
    """Keeps what an interrupted preparation of the same ``key`` left in ``folder``, and empties it otherwise.

    On an exception the folder stays for the next attempt; afterwards the traces of the state are gone.

    Raises:
        InputError: another process of this host is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f"{folder.name}.lock")
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another process is preparing this data set: wait for it, or end it") from None
        state = folder / KEY
        if not state.is_file() or read_json(state) != key:
            shutil.rmtree(folder)
            folder.mkdir()
            write_json(state, key)
        yield
        state.unlink()
        shutil.rmtree(folder / DONE, ignore_errors=True)
        lock.unlink()


def without_excluded(layout: Layout, writer: TaskWriter) -> Layout:
    """The layout without the problems of cases that the configuration excludes; those cases are marked as known."""
    known = {case.case for case in layout.cases} | {problem.case for problem in layout.problems}
    excluded = {case for case in known if case and writer.excluded(case)}
    problems = [problem for problem in layout.problems if problem.case not in excluded]
    return replace(layout, problems=problems)


def refuse(problems: Sequence[Problem], raw: Path, published: Published) -> None:
    """Prints all problems in one table and raises the first one."""
    where = f"; the data set is at {published.download}" if published.download else ""
    print_problems(sorted(problems), f"{raw}: {len(problems)} problems{where}")
    first = min(problems)
    raise InputError(f"{first.file}: {first.problem}: {first.remedy} ({len(problems)} problems, see the table)")


def count_differences(layout: Layout, published: Published) -> list[str]:
    """In words, per test set: found cases against published ones; excluded cases count as found. Then missing files."""
    found = Counter(case.test_set for case in layout.cases) if layout.found is None else Counter(layout.found)
    different = [
        f"{'cases' if name == 'cv' else f'cases of test set {name}'}: {found[name]} found, {count} published"
        for name, count in published.cases.items()
        if found[name] != count
    ]
    if layout.missing:
        more = ", ..." if len(layout.missing) > SHOWN else ""
        different.append(f"{len(layout.missing)} listed, not found: {', '.join(layout.missing[:SHOWN])}{more}")
    return different


def _check_counts(writer: TaskWriter, layout: Layout, published: Published, raw: Path, allow_partial: bool) -> None:
    different = count_differences(layout, published)
    if not different:
        return
    message = f"{writer.dataset}: {'; '.join(different)}"
    if not allow_partial:
        raise InputError(
            f"{message}: complete the download ({published.download or raw}), or accept the difference with --allow-partial "
            f"(in a study file, allow_partial: [{writer.dataset}])"
        )
    print(f"{message} (accepted)", flush=True)


@dataclass(frozen=True)
class _Job:
    source: RawDataset
    case: RawCase
    task: Task


@dataclass(frozen=True)
class _TaskOfOneCase(Task):
    """The task as far as one case is concerned. Looking for a case lists its folder: with 10^5 cases, 10^5 times too often."""

    record: CaseRecord | None = None

    @cached_property
    def _test_set_of_case(self) -> dict[str, str]:
        return {self.record.case: self.record.test_set}


def _convert(job: _Job) -> dict[str, Any]:
    """Writes and checks one case, or takes what an earlier attempt has written of it."""
    case, task = job.case, job.task
    done = task.root / DONE / f"{case.case}.json"
    if done.is_file():
        return read_json(done)
    started = time.monotonic()
    record = CaseRecord(case.case, case.patient, case.source_id, case.session, case.test_set)
    content = job.source.convert(case)
    write_case(
        task,
        record,
        content.images,
        content.geometry,
        instances=content.instances,
        classes=content.classes,
        boxes=content.boxes,
        ignored=content.ignored,
    )
    alone = _TaskOfOneCase(task.root, task.name, task.labels, task.modalities, record=record)
    if task.labelled or content.check_voxels:
        problems = case_problems(alone, case.case)
        if problems:
            raise InputError("; ".join(f"{found.file}: {found.problem}: {found.remedy}" for found in problems))
    else:
        _check_headers(alone, case.case)
    row, objects = table_rows(alone, record, content.instances if isinstance(content.instances, np.ndarray) else None)
    row |= case.columns
    notes, seconds = list(content.notes), round(time.monotonic() - started, 1)
    result = {"record": asdict(record), "row": row, "objects": objects, "notes": notes, "seconds": seconds}
    write_json(done, result)
    print(f"{case.case}: {len(objects)} objects, {seconds} s{''.join(f'; {note}' for note in notes)}", flush=True)
    return result


def _check_headers(task: Task, case: str) -> None:
    """The channels of a case lie on one grid. That the first can be opened shows when its line of cases.csv is made."""
    first, *others = task.image_paths(case)
    for path in others:
        difference = volumes.read_geometry(first).difference(volumes.read_geometry(path))
        if difference:
            raise InputError(
                f"{path.resolve()}: geometry differs from channel 0: {difference}: resample it, or exclude the case"
            )


def _write_log(root: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """conversion.csv: case, seconds, notes."""
    lines = [{"case": r["record"]["case"], "seconds": r["seconds"], "notes": "; ".join(r["notes"])} for r in results]
    table = pd.DataFrame(lines, columns=["case", "seconds", "notes"]).sort_values("case")
    write_text(root / LOG, table.to_csv(index=False))
