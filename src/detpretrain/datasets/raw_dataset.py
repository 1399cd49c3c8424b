"""What a public data set's module offers: which cases a download holds, what is wrong with it, and how one case is converted.

The engine around it (``conversion``) does what is the same for all: it stops on an incomplete download, converts the cases in
parallel, goes on where an interrupted run stopped, and writes the canonical task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from detpretrain import splits
from detpretrain.geometry import Geometry
from detpretrain.task_validation import Problem
from detpretrain.tasks import CROSS_VALIDATION


@dataclass(frozen=True)
class AverageScan:
    """A data set's scans on average, roughly: only to estimate room on the disk before anything is prepared.

    ``shape`` in voxels and ``spacing`` in mm, both z, y, x.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    channels: int = 1


@dataclass(frozen=True)
class Published:
    """What is public about a data set.

    Attributes:
        cases: number of cases per test set ("cv" for those that are split into folds).
        licence: its name, as its publisher writes it.
        citation: authors, title, venue, year.
        download: where to get it.
        scan: None where nobody can say.
    """

    cases: Mapping[str, int]
    licence: str
    citation: str
    download: str
    scan: AverageScan | None = None


@dataclass(frozen=True)
class RawCase:
    """One case of a download, before anything of it is converted; must pickle.

    Attributes:
        case: path-safe id without dots.
        patient: decides which cases stay together in the splits.
        source_id: the case's name in the download.
        files: whatever ``convert`` needs to know: paths, lines of a sheet.
        columns: more columns of the case's line in cases.csv.
    """

    case: str
    patient: str
    source_id: str
    files: Any
    session: str = ""
    test_set: str = CROSS_VALIDATION
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """What a download holds.

    Attributes:
        cases: in a fixed order.
        problems: everything that is missing or contradictory, found from names, headers and sheets alone. A problem that names
            a case in ``case`` goes away when the configuration excludes the case; any other one stops the preparation.
        folds: the official split, over case ids; None = seeded folds over patients.
        found: cases of the download per test set, where the arguments choose only some of them as ``cases``.
        missing: names of files that the download's own sheets list and it lacks; like other counts than published, they stop
            the preparation unless a partial download is accepted.
        official: files of the publisher that the evaluation needs, name -> path; copied to ``official/`` of the task folder.
    """

    cases: Sequence[RawCase]
    problems: Sequence[Problem] = ()
    folds: splits.Folds | None = None
    found: Mapping[str, int] | None = None
    missing: Sequence[str] = ()
    official: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Converted:
    """One converted case; arguments as of ``case_files.write_case``.

    A case of an unlabelled corpus has images only, and a geometry if they are arrays.

    Attributes:
        notes: what was repaired or dropped, for the log.
        check_voxels: False = only the headers of the images are read; for corpora so large that reading them all once more,
            before preprocessing does, would take days. Labelled cases are always checked.
    """

    images: Sequence[np.ndarray | Path]
    geometry: Geometry | None = None
    instances: np.ndarray | Path | None = None
    classes: Mapping[int, int] | None = None
    boxes: Mapping[int, Sequence[float]] | None = None
    ignored: Iterable[int] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    check_voxels: bool = True


@runtime_checkable
class RawDataset(Protocol):
    """``labels`` (class names, none for a corpus) and ``modalities`` (one per channel) may depend on the constructor's
    arguments.
    """

    labels: Sequence[str]
    modalities: Sequence[str]
    published: Published

    def layout(self, raw: Path) -> Layout:
        """Looks at the download without reading voxels; raises nothing for what it can put into ``problems``."""

    def convert(self, case: RawCase) -> Converted:
        """Reads and converts one case, in any process; ``InputError`` names the bad file."""
