"""The mark of results that were computed elsewhere and imported: ``imported.json`` beside them.

It names the origin and holds a digest of every file. It counts only while the file that the results are judged by is still the
imported one: results that were made again here are no longer imported, although the mark may still lie beside them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.study import Study

NAME = "imported.json"
CELL_JUDGED, PRETRAINING_JUDGED = "metrics.json", "assessment.json"


@dataclass(frozen=True)
class Imported:
    """``origin``: name of the folder they came from; ``study``: as they call it, empty where they do not; ``date``: of the
    import, ISO 8601.
    """

    origin: str
    study: str
    date: str
    content: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.origin} (study {self.study})" if self.study else self.origin


def content(origin: str, study: str, date: str, stages: dict[str, Any], same_bytes: bool | None) -> dict[str, Any]:
    """A mark without its digests.

    Args:
        stages: commit, dirty flag and source hash of each stage, as recorded there.
        same_bytes: whether the scored cases were preprocessed from the very bytes and plan that are here; None = unknown.
    """
    return {"origin": origin, "study": study, "date": date, "stages": stages, "same_bytes": same_bytes}


def of_cell(folder: Path) -> Imported | None:
    return _read(folder, CELL_JUDGED)


def of_pretraining(folder: Path) -> Imported | None:
    return _read(folder, PRETRAINING_JUDGED)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def marks(study: Study) -> str:
    """A digest of all marks that count among the study's cells, empty without any: a report shows them."""
    found = {cell.path: of_cell(study.folder / "cells" / cell.path) for cell in study.cells}
    texts = [f"{path} {mark} {mark.date}" for path, mark in found.items() if mark is not None]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12] if texts else ""


def _read(folder: Path, judged: str) -> Imported | None:
    path = folder / NAME
    if not path.exists():
        return None
    found = read_json(path)
    try:
        mark = Imported(str(found["origin"]), str(found["study"]), str(found["date"]), found)
        expected = found["sha256"][judged]
    except (KeyError, TypeError):
        raise InputError(
            f"{path}: not a mark of detpretrain import: remove it if the results were computed here"
        ) from None
    return mark if (folder / judged).exists() and digest(folder / judged) == expected else None
