"""The readers' XML of LIDC-IDRI, in the two forms that TCIA has published.

A CT reading is a ``LidcReadMessage``; an ``IdriReadMessage`` (another namespace) belongs to a chest radiograph. Each
``readingSession`` is one of the four anonymous readers; each ``unblindedReadNodule`` one nodule of his, with a ``roi`` per slice
whose ``edgeMap`` points (xCoord = column, yCoord = row) are the first pixels outside the nodule. A nodule below 3 mm is one
single point, a ``nonNodule`` mark is none of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from detpretrain.errors import InputError

CT_READING = "LidcReadMessage"
AGAIN = "download the annotation again"


@dataclass(frozen=True)
class Contour:
    """One outline in one slice.

    Attributes:
        image: SOP instance uid of the slice.
        z: its position as the XML says, mm; None where it says none.
        inclusion: False = what is inside does not belong to the nodule (a cavity).
        points: [N, 2], (x, y) = (column, row).
    """

    image: str
    z: float | None
    inclusion: bool
    points: NDArray[np.int64]


@dataclass(frozen=True)
class Mark:
    """One nodule of at least 3 mm as one reader has outlined it; ``reader``: number of the session, from 1."""

    reader: int
    nodule: str
    contours: Sequence[Contour]


def annotated_series(path: Path) -> str | None:
    """Series instance uid of the CT that a file annotates; None for the XML of a radiograph and for any other XML.

    Raises:
        InputError: damaged, without series uid, or without a reading session.
    """
    root = _root(path)
    if _name(root) != CT_READING:
        return None
    for name in ("SeriesInstanceUid", "CTSeriesInstanceUid"):
        uid = (root.findtext(f"{{*}}ResponseHeader/{{*}}{name}") or "").strip()
        if uid:
            if root.find("{*}readingSession") is None:
                raise InputError(f"{path}: no readingSession in it: {AGAIN}")
            return uid
    raise InputError(f"{path}: names no SeriesInstanceUid: {AGAIN}")


def read_marks(path: Path) -> list[Mark]:
    """All outlined nodules of all readers; ``InputError`` when something is missing or no number."""
    marks = []
    for reader, session in enumerate(_root(path).iterfind("{*}readingSession"), start=1):
        for nodule in session.iterfind("{*}unblindedReadNodule"):
            name = (nodule.findtext("{*}noduleID") or "").strip()
            contours = [_contour(path, reader, name, roi) for roi in nodule.iterfind("{*}roi")]
            if any(contour.inclusion and len(contour.points) > 1 for contour in contours):
                marks.append(Mark(reader, name, contours))
    return marks


def _contour(path: Path, reader: int, nodule: str, roi: ElementTree.Element) -> Contour:
    where = f"{path}: reader {reader}, nodule {nodule}"
    image, z = (roi.findtext(f"{{*}}{name}") for name in ("imageSOP_UID", "imageZposition"))
    inclusion = (roi.findtext("{*}inclusion") or "").strip().upper()
    if inclusion not in ("TRUE", "FALSE"):
        raise InputError(f"{where}: inclusion is {inclusion!r}, not TRUE or FALSE: {AGAIN}")
    try:
        points = [
            [int(edge.findtext(f"{{*}}{name}") or "") for name in ("xCoord", "yCoord")]
            for edge in roi.iterfind("{*}edgeMap")
        ]
        position = float(z) if z and z.strip() else None
    except ValueError as error:
        raise InputError(f"{where}: {error}: {AGAIN}") from None
    if not points:
        raise InputError(f"{where}: a roi without edgeMap points: {AGAIN}")
    return Contour((image or "").strip(), position, inclusion == "TRUE", np.array(points, np.int64))


def _root(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, UnicodeError, ValueError) as error:
        raise InputError(f"{path}: not a readable XML file ({error}): {AGAIN}") from None


def _name(element: ElementTree.Element) -> str:
    """The tag without its namespace."""
    return element.tag.rpartition("}")[2]
