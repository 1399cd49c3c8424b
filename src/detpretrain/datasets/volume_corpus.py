"""An unlabelled corpus out of any folder: every matching volume is a case of one channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from detpretrain.datasets.corpus import Choice, CorpusImage, corpus_layout
from detpretrain.datasets.raw_dataset import Converted, Layout, Published, RawCase
from detpretrain.datasets.raw_layout import path_safe
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem


class VolumeCorpus:
    """Files below the raw folder that match one of the glob patterns.

    The volumes of one folder belong to one patient (several sequences of a session, say), so that they are never on
    both sides of a split; where a single folder holds all patients, ``patient`` says which part of the path names one.

    Args:
        patterns: globs relative to the raw folder, ``**`` allowed.
        modality: name of the channel; "CT" only when all volumes are CT, because it selects CT normalisation.
        patient: regular expression with one group, searched in the path relative to the raw folder; default the folder,
            and the file itself for files whose folder is matched by no wildcard.
        max_cases: a random subset of patients with at most this many images, drawn with ``seed``.
        check_voxels: read every volume before the task is used; False = only the headers, for a very large corpus.
    """

    labels = ()
    published = Published({}, licence="", citation="", download="")

    def __init__(
        self,
        *,
        patterns: Sequence[str],
        modality: str = "MR",
        patient: str | None = None,
        max_cases: int | None = None,
        seed: int = 0,
        check_voxels: bool = True,
    ) -> None:
        if not patterns:
            raise InputError("patterns: empty: name at least one glob such as '**/*.nii.gz'")
        self.patterns = list(patterns)
        self.modalities = (modality,)
        self.patient = re.compile(patient) if patient else None
        self.choice, self.check_voxels = Choice(max_cases, seed), check_voxels

    def layout(self, raw: Path) -> Layout:
        patients: dict[Path, str] = {}
        problems = []
        for pattern in self.patterns:
            found = sorted(path for path in raw.glob(pattern) if path.is_file())
            if not found:
                remedy = "correct patterns: or complete the raw data"
                problems.append(Problem("", str(raw / pattern), "no file matches", remedy))
            for path in found:
                patients.setdefault(path, self._patient(path.relative_to(raw), pattern, problems))
        images = [CorpusImage(path, path.relative_to(raw).as_posix(), name) for path, name in sorted(patients.items())]
        return corpus_layout(images, self.choice, problems)

    def convert(self, case: RawCase) -> Converted:
        return Converted([case.files], check_voxels=self.check_voxels)

    def _patient(self, source: Path, pattern: str, problems: list[Problem]) -> str:
        if self.patient:
            match = self.patient.search(source.as_posix())
            if not match:
                problem = f"names no patient by {self.patient.pattern!r}"
                problems.append(Problem("", source.as_posix(), problem, "correct patient:"))
            return match[1] if match else ""
        folder = pattern.rpartition("/")[0]
        return path_safe(source.parent.as_posix() if "*" in folder else source.name.split(".")[0])
