"""The images of the user's own data set, found by patterns: its cases, their patients, its test sets."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detpretrain import volumes
from detpretrain.datasets.case_patterns import channel_patterns
from detpretrain.datasets.raw_dataset import Published
from detpretrain.datasets.raw_layout import path_safe
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.task_validation import Problem
from detpretrain.tasks import CROSS_VALIDATION

Images = str | Sequence[str]


@dataclass(frozen=True)
class OwnCase:
    """``name`` is what the pattern's ``{case}`` stands for, ``images`` one file per modality."""

    case: str
    name: str
    patient: str
    test_set: str
    images: tuple[Path, ...]


class OwnImages:
    """The cases of an own data set.

    Args:
        images: pattern, or one per modality, of the cases that are split into folds (see ``case_patterns``).
        modalities: name of every channel; "CT" selects CT normalisation.
        patient: regular expression with one group, searched in the path of the first image relative to the raw folder; default
            every case is a patient.
        test_sets: name -> pattern(s) of its images.

    Raises:
        InputError: no modality, a test set whose name cannot be a folder's, a pattern without a case.
    """

    def __init__(
        self,
        images: Images,
        modalities: Sequence[str],
        patient: str | None = None,
        test_sets: Mapping[str, Images] | None = None,
    ) -> None:
        if isinstance(modalities, str) or not modalities:
            raise InputError("modalities: give a list with the name of every channel, [CT] for example")
        for name in test_sets or {}:
            if name == CROSS_VALIDATION or not re.fullmatch(r"\w+", name):
                raise InputError(f"test_sets: {name!r} cannot be the name of one: use letters, digits and _, not cv")
        self.modalities = [str(name) for name in modalities]
        self.patient = _compiled(patient)
        self.patterns = {
            test_set: channel_patterns(given, len(modalities))
            for test_set, given in {CROSS_VALIDATION: images, **(test_sets or {})}.items()
        }

    def find(self, raw: Path) -> tuple[list[OwnCase], list[Problem]]:
        """All cases whose channels are all there; problems: missing channels, ids that are alike, no patient in a path."""
        cases, problems = [], []
        for test_set, patterns in self.patterns.items():
            channels = []
            for pattern in patterns:
                found, wrong = pattern.find(raw)
                channels.append(found)
                problems += wrong
            for name in sorted(set().union(*channels)):
                missing = [p for p, channel in zip(patterns, channels, strict=True) if name not in channel]
                if missing:
                    file = str(missing[0].expected(raw, name))
                    if channels[patterns.index(missing[0])]:  # else the pattern itself was named
                        remedy = "add the file, or exclude the case"
                        problems.append(Problem(path_safe(name), file, "a channel is missing", remedy))
                    continue
                cases.append(self._case(raw, name, test_set, tuple(c[name] for c in channels), problems))
        return cases, [*problems, *_alike(cases)]

    def _case(self, raw: Path, name: str, test_set: str, images: tuple[Path, ...], problems: list[Problem]) -> OwnCase:
        case = patient = path_safe(name)
        if self.patient is not None:
            match = self.patient.search(images[0].relative_to(raw).as_posix())
            if match:
                patient = match[1]
            else:
                problem = f"its path names no patient by {self.patient.pattern!r}"
                problems.append(Problem(case, str(images[0]), problem, "correct patient:, or exclude the case"))
        return OwnCase(case, name, patient, test_set, images)


def own_data(licence: str, citation: str) -> Published:
    """Data that nobody need download: as many cases as the folder holds."""
    return Published({}, licence, citation, download="")


def geometry_of(case: str, path: Path, problems: list[Problem]) -> Geometry | None:
    """From the header; an unreadable file becomes a problem of the case."""
    try:
        return volumes.read_geometry(path)
    except InputError as error:
        problem = str(error).removeprefix(f"{path}: ")
        problems.append(Problem(case, str(path), problem, "replace the file, or exclude the case"))
        return None


def grid_problems(case: str, image: Path, others: Sequence[Path]) -> list[Problem]:
    """Files of a case that lie on another grid than its first image, by their headers."""
    problems: list[Problem] = []
    reference = geometry_of(case, image, problems)
    for path in others:
        geometry = geometry_of(case, path, problems)
        difference = geometry.difference(reference) if geometry and reference else None
        if difference:
            problem = f"geometry differs from {image.name}: {difference}"
            problems.append(Problem(case, str(path), problem, "resample it onto the image, or exclude the case"))
    return problems


def _alike(cases: Sequence[OwnCase]) -> list[Problem]:
    """Names that give the same id ("a.b" and "a_b"), or a case in two test sets."""
    owners = defaultdict(list)
    for case in cases:
        owners[case.case].append(case)
    return [
        Problem(
            "", str(second.images[0]), f"case id {second.case} is that of {first.images[0]} too", "rename one of them"
        )
        for first, *others in owners.values()
        for second in others
    ]


def _compiled(patient: str | None) -> re.Pattern[str] | None:
    if patient is None:
        return None
    try:
        pattern = re.compile(patient)
    except re.error as error:
        raise InputError(f"patient: {patient!r} is not a regular expression ({error}): correct it") from None
    if pattern.groups != 1:
        raise InputError(f"patient: {patient!r} needs one group (...) around the patient's name")
    return pattern
