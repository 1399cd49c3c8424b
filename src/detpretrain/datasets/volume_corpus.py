"""An unlabelled corpus out of any folder: every matching volume is a case of one channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from detpretrain.datasets.raw_layout import path_safe, required
from detpretrain.errors import InputError
from detpretrain.task_writer import TaskWriter


class VolumeCorpus:
    """Files below the raw folder that match one of the glob patterns.

    The volumes of one folder belong to one patient (several sequences of a session, say), so that they are never on
    both sides of a split; where a single folder holds all patients, ``patient`` says which part of the path names one.

    Args:
        patterns: globs relative to the raw folder, ``**`` allowed.
        modality: name of the channel; "CT" only when all volumes are CT, because it selects CT normalisation.
        patient: regular expression with one group, searched in the path relative to the raw folder; default the folder,
            and the file itself for files whose folder is matched by no wildcard.
    """

    def __init__(self, *, patterns: Sequence[str], modality: str = "MR", patient: str | None = None) -> None:
        if not patterns:
            raise InputError("patterns: empty: name at least one glob such as '**/*.nii.gz'")
        self.patterns = list(patterns)
        self.modality = modality
        self.patient = re.compile(patient) if patient else None

    def write(self, raw: Path | None, writer: TaskWriter) -> None:
        raw = required(raw)
        writer.describe(labels=[], modalities=[self.modality])
        patients: dict[Path, str] = {}
        for pattern in self.patterns:
            found = sorted(path for path in raw.glob(pattern) if path.is_file())
            if not found:
                raise InputError(f"{raw / pattern}: no file matches: correct patterns: or complete the raw data")
            for path in found:
                patients.setdefault(path, self._patient(path.relative_to(raw), pattern))
        for path, patient in sorted(patients.items()):
            source = path.relative_to(raw)
            case = path_safe(
                source.as_posix().removesuffix(".gz").removesuffix(source.with_suffix("").suffix or ".nii")
            )
            writer.add_case(case, [path], patient=patient, source_id=source.as_posix())

    def _patient(self, source: Path, pattern: str) -> str:
        if self.patient:
            match = self.patient.search(source.as_posix())
            if not match:
                raise InputError(f"{source}: names no patient by {self.patient.pattern!r}: correct patient:")
            return match[1]
        folder = pattern.rpartition("/")[0]
        return path_safe(source.parent.as_posix() if "*" in folder else source.name.split(".")[0])
