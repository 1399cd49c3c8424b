"""Writes a canonical task folder: cases one by one, then the tables, dataset.json last.

``finish`` reads the label maps back, so that what the tables say is what the files hold. A folder without dataset.json
is not a task: nothing reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detpretrain import splits
from detpretrain.case_files import BOX_COLUMNS, CaseRecord, table_rows, write_case
from detpretrain.errors import InputError
from detpretrain.files import write_json, write_text
from detpretrain.geometry import Geometry
from detpretrain.tasks import CROSS_VALIDATION, IMAGE_NAME, Task, folder_suffix

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
OBJECT_COLUMNS = ["case", "truth", "class", *BOX_COLUMNS, "ignored"]


@dataclass
class TaskWriter:
    """Collects the cases of one task under ``root`` (which should be a temporary folder: see ``datasets.prepare``).

    Attributes:
        root: folder to write to.
        dataset: the task's name.
        folds: number of folds over patients; 1 = one train/validation split. A corpus always has one.
        seed: of the splits.
        exclude_cases: case -> reason; ``add_case`` and ``adopt`` leave them out.
        official_folds: set by a data set that has official splits; replaces the seeded ones.
        facts: more keys of dataset.json: licence, citation, download.
    """

    root: Path
    dataset: str
    folds: int = 5
    seed: int = 12345
    exclude_cases: Mapping[str, str] = field(default_factory=dict)
    official_folds: splits.Folds | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    _records: dict[str, CaseRecord] = field(default_factory=dict, init=False)
    _excluded: set[str] = field(default_factory=set, init=False)
    _task: Task | None = field(default=None, init=False)
    _rows: dict[str, tuple[dict, list[dict]]] = field(default_factory=dict, init=False)  # of written cases

    def describe(
        self,
        labels: Sequence[str],
        modalities: Sequence[str],
        regions: Mapping[str, Sequence[int]] | None = None,
        unannotated: Sequence[int] = (),
    ) -> None:
        """Names the classes (none for an unlabelled corpus) and the channels; once, before the first case.

        ``regions`` and ``unannotated``: see ``tasks.Task``.
        """
        self._task = Task(
            self.root,
            self.dataset,
            dict(enumerate(labels)),
            dict(enumerate(modalities)),
            {name: list(members) for name, members in (regions or {}).items()},
            list(unannotated),
        )

    @property
    def task(self) -> Task:
        """The task as written so far, for validation before ``finish``."""
        if self._task is None:
            raise RuntimeError(f"{self.dataset}: the data set did not describe its labels and modalities")
        return replace(self._task)  # without what it has cached of the folder

    def excluded(self, case: str) -> bool:
        """Whether the configuration leaves this case out: ask before an expensive conversion."""
        if case in self.exclude_cases:
            self._excluded.add(case)
        return case in self.exclude_cases

    def add_case(
        self,
        case: str,
        images: Sequence[np.ndarray | Path],
        geometry: Geometry | None = None,
        *,
        instances: np.ndarray | Path | None = None,
        classes: Mapping[int, int] | None = None,
        patient: str | None = None,
        session: str = "",
        source_id: str | None = None,
        test_set: str = CROSS_VALIDATION,
        boxes: Mapping[int, Sequence[float]] | None = None,
        ignored: Iterable[int] = (),
    ) -> None:
        """Writes one case.

        Args:
            case: path-safe id without dots.
            images: one per modality: arrays [D, H, W], or files; a ``.nii.gz`` file is linked, another is converted.
            geometry: of the arrays; not needed when everything is a file.
            instances: instance map [D, H, W], 0 background, 1..N; None for a corpus.
            classes: instance id -> class.
            patient: default the case itself.
            source_id: the case's name in the raw data; default the case id.
            boxes: instance id -> box in index coordinates, for data sets annotated with boxes only.
            ignored: ids of objects that count neither as missed nor as found.

        Raises:
            InputError: an id that is not path-safe or was there before.
        """
        if self.excluded(case):
            return
        record = CaseRecord(case, patient or case, source_id or case, session, test_set)
        self._register(record)
        write_case(
            self.task, record, images, geometry, instances=instances, classes=classes, boxes=boxes, ignored=ignored
        )

    def add_written(self, record: CaseRecord, row: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> None:
        """Adds a case whose files another process has put into this folder, with its lines of the tables."""
        self._register(record)
        self._rows[record.case] = (dict(row), [dict(line) for line in objects])

    def adopt(self, source: Task, records: Mapping[str, CaseRecord]) -> None:
        """Links every file of a task that has this layout already; ``records`` names the origin of its cases."""
        self.describe(
            list(source.labels.values()), list(source.modalities.values()), source.regions, source.unannotated
        )
        for test_set in source.test_sets:
            for case in source.cases(test_set):
                if not self.excluded(case):
                    self._register(records.get(case) or CaseRecord(case, case, case, "", test_set), check_id=False)
            for kind in ("images", "labels"):
                name = kind + folder_suffix(test_set)
                target = self.root / "raw_splitted" / name
                target.mkdir(parents=True, exist_ok=True)
                folder = source.raw / name
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    match = IMAGE_NAME.fullmatch(path.name) if kind == "images" else None
                    stem = path.name.removesuffix(".nii.gz").removesuffix(".json")
                    if not self.excluded(match["case"] if match else stem):
                        (target / path.name).symlink_to(path.resolve())

    def patients(self) -> dict[str, str]:
        """Case -> patient of the cases that are split into folds."""
        return {case: r.patient for case, r in self._records.items() if r.test_set == CROSS_VALIDATION}

    def finish(self) -> None:
        """Writes cases.csv, objects.csv, splits.json and, last, dataset.json.

        Raises:
            InputError: no cases, an excluded case that does not exist, more folds than patients, a leaking split, a patient
                of the folds in a test set.
        """
        task = self.task
        if not self._records:
            raise InputError(f"{self.dataset}: no cases found: check raw: and exclude_cases:")
        missing = sorted(set(self.exclude_cases) - self._excluded)
        if missing:
            raise InputError(f"{self.dataset}: exclude_cases names {', '.join(missing)}: no such case: correct the id")
        folds = self._folds(task)
        self._refuse_shared_patients()
        cases, objects = [], []
        for case in sorted(self._records):
            row, lines = self._rows.get(case) or table_rows(task, self._records[case])
            objects += lines
            cases.append(row)
        write_text(self.root / "cases.csv", pd.DataFrame(cases).to_csv(index=False))
        write_text(self.root / "objects.csv", pd.DataFrame(objects, columns=OBJECT_COLUMNS).to_csv(index=False))
        write_json(self.root / "splits.json", {"folds": folds})
        write_json(
            self.root / "dataset.json",
            {
                "task": self.dataset,
                "name": self.dataset,
                "dim": 3,
                "target_class": None,
                "test_labels": task.labelled and len(task.test_sets) > 1,
                "labels": {str(key): name for key, name in task.labels.items()},
                "modalities": {str(key): name for key, name in task.modalities.items()},
                "excluded_cases": dict(self.exclude_cases),
                **self.facts,
                **({"regions": task.regions} if task.regions else {}),
                **({"unannotated": task.unannotated} if task.unannotated else {}),
            },
        )

    def _register(self, record: CaseRecord, check_id: bool = True) -> None:
        if check_id and not CASE_ID.fullmatch(record.case):
            raise InputError(f"{self.dataset}: case id {record.case!r}: use letters, digits, - and _ only")
        if record.case in self._records:
            raise InputError(f"{self.dataset}: case {record.case} comes twice: case ids must differ")
        self._records[record.case] = record

    def _refuse_shared_patients(self) -> None:
        """A model of any fold may be scored on the test sets."""
        divided = set(self.patients().values())
        for case, record in sorted(self._records.items()):
            if record.test_set != CROSS_VALIDATION and record.patient in divided:
                raise InputError(
                    f"{self.dataset}: {case} of test set {record.test_set}: patient {record.patient} is in the folds too: "
                    "leave one of them out with exclude_cases"
                )

    def _folds(self, task: Task) -> splits.Folds:
        patients = self.patients()
        if self.official_folds is not None:
            kept = [{part: [c for c in fold[part] if c not in self._excluded] for part in fold}
                    for fold in self.official_folds]  # fmt: skip
            wrong = splits.problems(kept, patients)
            if wrong:
                raise InputError(f"{self.dataset}: official splits: {wrong[0]}: correct the split")
            return kept
        if not task.labelled or self.folds == 1:
            return splits.held_out(patients, self.seed)
        return splits.k_fold(patients, self.folds, self.seed)
