"""Unlabelled corpora: a list of images -> the layout of their download. Images are linked; only names and headers are read."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detpretrain.datasets.raw_dataset import Layout, RawCase
from detpretrain.datasets.raw_layout import path_safe
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem

LONGEST_ID = 150  # characters; a file name may have 255, and temporary names are longer
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
POINTER, POINTER_BYTES = b"version https://git-lfs", 1024


@dataclass(frozen=True)
class CorpusImage:
    """One volume of a corpus.

    Attributes:
        source_id: its name in the download, unique.
        modality: what the download calls it; a column of cases.csv, while the task's channel has one name for all.
        columns: more columns of cases.csv.
    """

    path: Path
    source_id: str
    patient: str
    session: str = ""
    modality: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A random subset of patients.

    Attributes:
        max_cases: at most this many images; None = all.
        seed: of the order of patients: with one seed, a smaller subset is part of every larger one.
    """

    max_cases: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_cases is not None and (not isinstance(self.max_cases, int) or self.max_cases < 2):
            raise InputError(f"max_cases: {self.max_cases!r} is not a whole number from 2")

    def of(self, images: Sequence[CorpusImage]) -> list[CorpusImage]:
        """All images of the first patients of a random order, as many as fit; in the order of ``images``."""
        if self.max_cases is None or len(images) <= self.max_cases:
            return list(images)
        count = defaultdict(int)
        for image in images:
            count[image.patient] += 1
        patients, left = sorted(count), self.max_cases
        chosen = set()
        for number in np.random.default_rng(self.seed).permutation(len(patients)):
            left -= count[patients[number]]
            if left < 0:
                break
            chosen.add(patients[number])
        if len(chosen) < 2:
            raise InputError(f"max_cases: {self.max_cases} images are fewer than those of two patients: raise it")
        return [image for image in images if image.patient in chosen]


def corpus_layout(
    images: Sequence[CorpusImage],
    choice: Choice,
    problems: Sequence[Problem] = (),
    found: int | None = None,
    missing: Sequence[str] = (),
) -> Layout:
    """The cases of a corpus.

    Args:
        images: what the arguments of the data set select.
        problems: what the data set found.
        found: what of the download counts against the published number; default the images.
        missing: see ``Layout``.
    """
    problems = list(problems)
    chosen = [] if problems and not images else choice.of(images)
    cases, owners = [], {}
    for image in chosen:
        case = case_id(image.source_id)
        if case in owners:
            problem = f"case id {case} is that of {owners[case]} too"
            problems.append(Problem("", str(image.path), problem, "remove or rename one of them"))
            continue
        owners[case] = image.path
        wrong = _incomplete(image.path)
        if wrong:
            problems.append(Problem(case, str(image.path), wrong, "download it again, or exclude the case"))
        columns = {"modality": image.modality, **image.columns}
        cases.append(RawCase(case, image.patient, image.source_id, image.path, image.session, columns=columns))
    return Layout(cases, problems, found={"cv": len(images) if found is None else found}, missing=missing)


def case_id(source_id: str) -> str:
    """A path-safe id of a name in a download; a long one is cut and ends in a hash of the whole."""
    suffix = next((suffix for suffix in SUFFIXES if source_id.endswith(suffix)), "")
    case = path_safe(source_id.removesuffix(suffix))
    if len(case) <= LONGEST_ID:
        return case
    return f"{case[:LONGEST_ID]}_{hashlib.sha256(source_id.encode()).hexdigest()[:8]}"


def _incomplete(path: Path) -> str | None:
    """What says without reading it that a file was not downloaded."""
    size = path.stat().st_size
    if size == 0:
        return "empty file"
    if size <= POINTER_BYTES:
        with path.open("rb") as handle:
            if handle.read(len(POINTER)) == POINTER:
                return "a Git LFS pointer instead of the volume (git lfs pull was not run)"
    return None
